"""Decoding: every mode becomes what a viewer shows, within limits, and nothing breaks it."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from service.errors import BadImage, GatewayError, TooLarge
from service.images import decode
from tests.service.systems import bomb, encoded, image
from vit import preprocess

LIMIT = 10_000


def pixels(data: bytes, size: int = 16) -> np.ndarray:
    return decode(data, size=size, max_pixels=LIMIT).pixels


def filled(mode: str, colour: int | tuple[int, ...], format: str = "PNG") -> bytes:
    return encoded(Image.new(mode, (16, 16), colour), format)


@pytest.mark.parametrize("format", ["PNG", "BMP", "WEBP"])
def test_colour_is_preprocessed_as_in_training(format: str) -> None:
    picture = image(1, (20, 10))
    options = {"lossless": True} if format == "WEBP" else {}
    buffer = io.BytesIO()
    picture.save(buffer, format, **options)
    assert np.array_equal(pixels(buffer.getvalue()), preprocess(np.asarray(picture), 16))


def test_grey_is_repeated() -> None:
    picture = image(1, mode="L")
    found = pixels(encoded(picture))
    assert np.array_equal(found, preprocess(np.asarray(picture.convert("RGB")), 16))


MODES: dict[str, tuple[bytes, tuple[float, ...]]] = {
    "white": (filled("1", 1), (1, 1, 1)),
    "black": (filled("1", 0), (-1, -1, -1)),
    "16 bits, light": (filled("I;16", 0xFF00), (1, 1, 1)),
    "16 bits, middle": (filled("I;16", 0x7F00), (0, 0, 0)),
    "opaque": (filled("RGBA", (255, 0, 0, 255)), (1, -1, -1)),
    "transparent": (filled("RGBA", (255, 0, 0, 0)), (1, 1, 1)),  # nothing on white
    "half transparent black": (filled("LA", (0, 128)), (0, 0, 0)),
    "palette": (filled("P", 0), (-1, -1, -1)),
    "four inks": (filled("CMYK", (0, 0, 0, 0), "JPEG"), (1, 1, 1)),
    "animation": (filled("L", 0, "GIF"), (-1, -1, -1)),
}


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_becomes_rgb(mode: str) -> None:
    data, expected = MODES[mode]
    assert pixels(data).reshape(-1, 3).mean(0) == pytest.approx(expected, abs=0.01)


def test_orientation_is_applied() -> None:
    upright = image(1, (8, 16))
    exif = Image.Exif()
    exif[0x0112] = 6  # stored turned by a quarter
    buffer = io.BytesIO()
    upright.transpose(Image.Transpose.ROTATE_90).save(buffer, "PNG", exif=exif)
    assert np.array_equal(pixels(buffer.getvalue()), pixels(encoded(upright)))


def test_equal_pixels_have_equal_names_whatever_the_file() -> None:
    picture = image(1)
    names = {
        decode(encoded(picture, format), size=16, max_pixels=LIMIT).identity
        for format in ("PNG", "BMP")
    }
    assert len(names) == 1
    assert decode(encoded(image(2)), size=16, max_pixels=LIMIT).identity not in names


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no image at all",
        encoded(image(1))[:60],
        encoded(image(1))[:-40],
        encoded(image(1), "JPEG")[:-300],
        encoded(image(1), "TIFF"),  # not among the formats that are accepted
        b"GIF89a",
    ],
)
def test_what_is_not_an_image_is_refused(data: bytes) -> None:
    with pytest.raises(BadImage):
        pixels(data)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [101, 10_000, 14_000])
def test_too_many_pixels_are_refused_by_the_header(side: int) -> None:
    with pytest.raises(TooLarge):
        pixels(bomb(side))


@settings(deadline=None, max_examples=300)
@given(
    format=st.sampled_from(["PNG", "JPEG", "WEBP", "BMP", "GIF"]),
    places=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), min_size=1, max_size=8),
    keep=st.floats(0.1, 1.0),
)
def test_damaged_images_are_decoded_or_refused(
    format: str, places: list[tuple[float, int]], keep: float
) -> None:
    data = bytearray(encoded(image(3), format))
    for where, value in places:
        data[int(where * len(data))] = value
    try:
        found = pixels(bytes(data[: int(keep * len(data))]))
    except GatewayError as error:
        assert error.status in (400, 413)
    else:
        assert found.shape == (16, 16, 3)
        assert np.isfinite(found).all()
