"""Decoding: every mode becomes what a viewer shows, within limits, and nothing breaks it."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from service.errors import BadImage, GatewayError, TooLarge
from service.images import decode
from tests.service.systems import bomb, encoded, image
from vit import preprocess
from vit.pictures.jpeg import MAX_SCANS, SCAN
from vit.pictures.picture import MAX_PIECES

LIMIT = 10_000


def pixels(data: bytes, size: int = 16) -> np.ndarray:
    return decode(data, [size], max_pixels=LIMIT)[size].pixels


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
        decode(encoded(picture, format), [16], max_pixels=LIMIT)[16].identity
        for format in ("PNG", "BMP")
    }
    assert len(names) == 1
    assert decode(encoded(image(2)), [16], max_pixels=LIMIT)[16].identity not in names


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


def chunk(kind: bytes, data: bytes = b"") -> bytes:
    checksum = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)


def inserted(format: str, at: int, more: bytes) -> bytes:
    data = encoded(image(1).quantize(8) if format == "GIF" else image(1), format)
    return data[:at] + more + data[at:]


def progressive(scans: int) -> bytes:
    buffer = io.BytesIO()
    image(1).save(buffer, "JPEG", progressive=True)
    data = buffer.getvalue()[:-2]
    last = data.rindex(SCAN)
    return data + data[last:] * (scans - data.count(SCAN)) + b"\xff\xd9"


HEADER = 8 + 25  # of a PNG file: signature and IHDR
MANY = MAX_PIECES + 1
LITTLE: dict[str, tuple[bytes, str]] = {
    "png chunks": (inserted("PNG", HEADER, chunk(b"teSt") * MANY), "PNG in more .* pieces"),
    "png texts": (inserted("PNG", HEADER, chunk(b"tEXt", b"a\0b") * MANY), "PNG in more .* pieces"),
    "jpeg segments": (inserted("JPEG", 2, b"\xff\xe5\0\2" * MANY), "JPEG in more .* pieces"),
    "gif comments": (inserted("GIF", 13 + 24, b"!\xfe\0" * MANY), "GIF in more .* pieces"),
    "jpeg scans": (progressive(MAX_SCANS + 1), "scans"),
    "webp canvas": (b"RIFF\x2e\0\0\0WEBPVP8X\x0a\0\0\0\x02\0\0\0\xfe\x3f\0\xfe\x3f\0"
                    + b"ANIM\6\0\0\0" + bytes(6), "decoding"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("kind", LITTLE)
def test_little_that_would_take_long_is_refused(kind: str) -> None:
    """Each of these, as large as a body may be, would keep a thread busy for many seconds."""
    data, reason = LITTLE[kind]
    with pytest.raises(GatewayError, match=reason) as error:
        pixels(data)
    assert error.value.status in (400, 413)


def test_many_scans_and_pieces_are_no_reason_while_they_are_few() -> None:
    assert np.isfinite(pixels(progressive(MAX_SCANS))).all()
    assert np.isfinite(pixels(inserted("PNG", HEADER, chunk(b"teSt") * 5000))).all()


@pytest.mark.parametrize("key", [b"key", b"XML:com.adobe.xmp", b"Raw profile type exif"])
@pytest.mark.parametrize("kind", [b"iCCP", b"zTXt", b"iTXt"])
def test_what_grows_beside_the_pixels_costs_next_to_nothing(kind: bytes, key: bytes) -> None:
    packed = zlib.compress(bytes(50 * 2**20), 9)
    head = key + (b"\0\1\0\0\0" if kind == b"iTXt" else b"\0\0")
    data = inserted("PNG", HEADER, chunk(kind, head + packed) * 5)
    tracemalloc.start()
    try:
        found = pixels(data)
        assert tracemalloc.get_traced_memory()[1] < 10 * 2**20
    finally:
        tracemalloc.stop()
    assert np.array_equal(found, pixels(encoded(image(1))))


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "RGBA", "P", "CMYK", "I;16"])
def test_converting_in_bands_changes_nothing(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if mode == "I;16":
        picture = Image.fromarray(np.random.default_rng(1).integers(0, 2**16, (90, 9), np.uint16))
    else:
        picture = image(1, (9, 90), "RGBA" if mode == "RGBA" else "RGB").convert(mode)
    options = {"transparency": 3} if mode == "P" else {}
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG" if mode == "CMYK" else "PNG", **options)
    whole = pixels(buffer.getvalue())
    monkeypatch.setattr("vit.pictures.reading.BAND_PIXELS", 50)
    monkeypatch.setattr("vit.pictures.reading.GAP_PIXELS", 20)
    assert np.array_equal(pixels(buffer.getvalue()), whole)


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
