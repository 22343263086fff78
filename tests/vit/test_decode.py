"""What files become by each of the rules, next to what Pillow's own functions make of them."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from tests.service.pictures.kinds import CLEAR, FILES, PLAIN, REFUSED, TURNED
from tests.service.pictures.made import noise, png, saved
from vit.decode import (
    DECODINGS,
    TENSORFLOW,
    VIEWER,
    Decoding,
    decode,
    decoding_of,
    look,
    read,
    shown_size,
)
from vit.pictures.errors import ImageError, ImageTooLarge
from vit.preprocess import lines_read, preprocess


def shown(data: bytes) -> np.ndarray:
    """What a viewer shows on white."""
    with Image.open(io.BytesIO(data)) as image:
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I;16"):
            deep = np.asarray(image)
            if (clear := image.info.get("transparency")) is not None:
                deep = np.where(deep == clear, 0xFFFF, deep)
            return np.repeat((deep >> 8).astype(np.uint8)[..., None], 3, -1)
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return np.asarray(Image.alpha_composite(white, image).convert("RGB"))


def stored(data: bytes) -> np.ndarray:
    """What TensorFlow decodes: as stored, without transparency."""
    with Image.open(io.BytesIO(data)) as image:
        if image.mode.startswith("I;16"):
            return np.repeat((np.asarray(image) >> 8).astype(np.uint8)[..., None], 3, -1)
        image.load()
        image.info.pop("transparency", None)
        return np.asarray(image.convert("RGB"))


def three(pixels: np.ndarray) -> np.ndarray:
    assert pixels.dtype == np.uint8 and pixels.shape[2] in (1, 3)
    return np.broadcast_to(pixels, (*pixels.shape[:2], 3))


@pytest.mark.parametrize("name", FILES)
def test_each_file_becomes_what_the_rules_say(name: str) -> None:
    data = FILES[name]
    if name != "runs.bmp":  # Pillow needs more runs than other programs
        assert np.array_equal(three(decode(data)), shown(data))
        assert np.array_equal(three(decode(data, TENSORFLOW)), stored(data))


def test_the_rules_differ_only_where_a_file_is_turned_or_transparent() -> None:
    def differ(data: bytes) -> bool:
        return not np.array_equal(three(decode(data)), three(decode(data, TENSORFLOW)))

    assert [name for name in CLEAR if not differ(CLEAR[name])] == []
    assert [name for name in TURNED if not differ(TURNED[name])] == ["turned 1.jpg"]
    assert [name for name in PLAIN if differ(PLAIN[name])] == []


@pytest.mark.parametrize("rules", DECODINGS)
@pytest.mark.parametrize("name", FILES)
def test_the_lines_that_serving_reads_are_those_of_the_whole(name: str, rules: str) -> None:
    data, decoding = FILES[name], DECODINGS[rules]
    picture, pixels = look(data), decode(data, decoding)
    assert shown_size(picture, decoding) == pixels.shape[:2]
    for size in (1, 8, 24, 100):
        lines = lines_read(*shown_size(picture, decoding), [size])
        part = read(picture, decoding, lines)
        assert np.array_equal(preprocess(part, size, lines), preprocess(pixels, size))


@given(width=st.integers(1, 900), height=st.integers(1, 900), size=st.integers(1, 40))
def test_lines_of_large_pictures_are_those_of_the_whole(width: int, height: int, size: int) -> None:
    data = saved(noise(width, height), "PNG")
    lines = lines_read(height, width, [size])
    part = read(look(data), VIEWER, lines)
    assert np.array_equal(part, decode(data)[lines.rows][:, lines.columns])


@pytest.mark.parametrize("kind", REFUSED)
def test_a_refusal_names_what_was_found(kind: str) -> None:
    data, text = REFUSED[kind]
    for decoding in DECODINGS.values():
        with pytest.raises(ImageError, match=text):
            decode(data, decoding)


def test_the_number_of_pixels_is_bounded_by_the_header() -> None:
    with pytest.raises(ImageTooLarge, match="2000 x 2000 pixels, at most 3999999 are accepted"):
        decode(png(2000, 2000), max_pixels=3_999_999)


def test_pixels_of_zero_and_one_are_scaled_as_those_of_black_and_white() -> None:
    bits = np.random.default_rng(1).integers(0, 2, (9, 7), np.uint8)
    rules = decoding_of({"decoding": "tensorflow", "pixel_scale": 255})
    for stored_as in (bits, bits * 255):
        found = decode(saved(Image.fromarray(stored_as), "PNG"), rules)
        assert np.array_equal(found[..., 0], bits * 255)


def test_a_path_spec_names_the_rules() -> None:
    for decoding in (VIEWER, TENSORFLOW, Decoding("viewer", True, 255, pixel_scale=255)):
        assert decoding_of({"size": 16, **decoding.to_json()}) == decoding
    assert decoding_of({"size": 16}) == VIEWER  # from before it was said


@pytest.mark.parametrize(
    "input", [{"decoding": "other"}, {"decoding": None}, {"decoding": []}, {"pixel_scale": 0},
              {"pixel_scale": 256}, {"pixel_scale": True}, {"pixel_scale": "1"}]
)  # fmt: skip
def test_rules_that_are_not_known_are_refused(input: dict[str, object]) -> None:
    (field,) = input
    with pytest.raises(ValueError, match=f"{field}: expected"):
        decoding_of(input)
