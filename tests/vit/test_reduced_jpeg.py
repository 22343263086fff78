"""Large JPEG files at reduced size: never too small, and whole where a path spec says nothing."""

from __future__ import annotations

import io
import struct
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from tests.service.pictures.kinds import FILES, orientation
from tests.service.pictures.made import noise, saved, with_segments
from vit.contract import Contract, Target
from vit.decode import (
    DECODINGS,
    VIEWER,
    decode,
    decoding_of,
    least_side,
    look,
    reduction,
    scale_of,
)

REDUCED = replace(VIEWER, reduced=True)
HALF = (0.5, 0.5, 0.5)
CONTRACTS = [Contract(size, "bicubic", edges, HALF, HALF)
             for size, edges in [(7, 7), (7, 9), (8, (11, 8)), (8, (8, 30))]]  # fmt: skip
targets = st.one_of(st.integers(1, 60), st.sampled_from(CONTRACTS))
sides = st.integers(1, 600)


def resized(height: int, width: int, target: Target) -> tuple[int, int]:
    """What a picture is resized to before it is cut."""
    return (target, target) if isinstance(target, int) else target.resized(height, width)


def turned(flag: int, width: int, height: int, mode: str = "RGB", **options: object) -> bytes:
    """A JPEG of a camera that was held in some way; sides are those of the stored picture."""
    data = saved(noise(width, height).convert(mode), "JPEG", **options)
    return with_segments(data, [(0xE1, b"Exif\0\0" + orientation(flag))])


@given(height=sides, width=sides, target=targets)
def test_no_side_is_reduced_below_twice_what_it_is_resized_to(
    height: int, width: int, target: Target
) -> None:
    scale = reduction(height, width, target)
    assert scale in (1, 2, 4, 8)
    assert scale == reduction(width, height, target)  # however it lies
    if scale > 1:
        smaller = -(-height // scale), -(-width // scale)
        rows, columns = resized(*smaller, target)
        assert smaller[0] >= 2 * rows and smaller[1] >= 2 * columns
    if scale < 8:  # the next one would be too much
        assert min(height, width) < 2 * scale * least_side(target)


@given(
    st.sampled_from([(97, 64), (64, 97), (130, 33), (16, 400)]),
    st.integers(1, 8),
    st.sampled_from(["RGB", "L", "CMYK"]),
    st.booleans(),
    st.sampled_from([4, 8, *CONTRACTS]),
)
def test_a_reduced_picture_is_that_of_pillows_draft_turned(
    stored: tuple[int, int], flag: int, mode: str, progressive: bool, target: Target
) -> None:
    """Grey, four inks, progressive, held in any way: what another program can do as well."""
    data = turned(flag, *stored, mode, progressive=progressive)
    found = decode(data, REDUCED, target)
    side = least_side(target)
    with Image.open(io.BytesIO(data)) as image:
        image.draft(None, (side, side))
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    assert np.array_equal(np.broadcast_to(found, expected.shape), expected)
    scale = scale_of(look(data), REDUCED, target)
    shown = stored if flag > 4 else stored[::-1]
    assert found.shape[:2] == tuple(-(-side // scale) for side in shown)


@pytest.mark.parametrize("rules", DECODINGS)
@pytest.mark.parametrize("name", FILES)
def test_without_the_field_every_file_is_decoded_whole(name: str, rules: str) -> None:
    decoding = DECODINGS[rules]
    assert np.array_equal(decode(FILES[name], decoding, 1), decode(FILES[name], decoding))


def test_only_jpeg_files_are_reduced_and_only_by_rules_that_say_so() -> None:
    reduced = [name for name in FILES if scale_of(look(FILES[name]), REDUCED, 1) > 1]
    assert reduced == [name for name in FILES if name.endswith(".jpg")]
    for name in reduced:
        assert decode(FILES[name], REDUCED, 1).shape[:2] < decode(FILES[name], REDUCED).shape[:2]
    assert not any(scale_of(look(data), VIEWER, 1) > 1 for data in FILES.values())


def test_a_lossless_jpeg_is_decoded_whole() -> None:
    """It has no frequencies, and its decoder no scales."""
    width, height = 64, 40
    frame = struct.pack(">BHHB", 8, height, width, 1) + bytes([1, 0x11, 0])
    table = bytes([0, 1, *[0] * 15, 0])  # one code, of one bit: no difference to what is expected
    scan = bytes([1, 1, 0, 1, 0, 0])
    start = with_segments(b"\xff\xd8", [(0xC3, frame), (0xC4, table), (0xDA, scan)])
    data = start + bytes(width * height // 8) + b"\xff\xd9"
    found = decode(data, REDUCED, 4)
    assert found.shape == (height, width, 1) and (found == 128).all()


def test_decoding_at_reduced_size_needs_less_memory() -> None:
    picture = look(saved(noise(800, 600), "JPEG"))
    needed = [picture.at(scale).memory for scale in (1, 2, 4, 8)]
    assert needed == sorted(needed, reverse=True)
    assert needed[0] - needed[1] > 4 * 800 * 600 * 0.7


def test_a_path_spec_says_whether_jpeg_files_are_reduced() -> None:
    assert REDUCED.to_json() == {"decoding": "viewer", "jpeg": "reduced"}
    for decoding in (REDUCED, VIEWER, replace(REDUCED, pixel_scale=255)):
        assert decoding_of({"size": 16, **decoding.to_json()}) == decoding
    for other in ("full", "", None, True, 2):
        with pytest.raises(ValueError, match="jpeg: expected reduced, or no such field, found"):
            decoding_of({"jpeg": other})
