"""Of a JPEG, nothing but its pixels and its orientation count."""

from __future__ import annotations

import contextlib
import io
import struct
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from service.errors import GatewayError, TooLarge
from service.images import File
from tests.service.pictures.made import (
    exif,
    saved,
    with_segments,
)
from tests.service.pictures.small_pictures import (
    FLOAT,
    JPEG,
    LIMIT,
    LONG,
    ORIENTATION,
    PICTURE,
    RATIONAL,
    SHORT,
    pixels,
    same,
    turned,
)
from vit import preprocess
from vit.pictures.jpeg import MAX_SCANS


@settings(deadline=None, max_examples=200)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([*range(0xE1, 0xEE), 0xEF, 0xFE]),
            st.sampled_from([b"", b"Exif\0\0", b"Exif\0\0II*\0\x08\0\0\0", b"MPF\0II*\0",
                             b"ICC_PROFILE\0", b"Photoshop 3.0\0", b"http://ns.adobe.com/xap/1.0/\0"]),
            st.binary(max_size=60),
        ),
        max_size=5,
    )
)  # fmt: skip
def test_no_segment_of_an_application_changes_or_refuses_a_jpeg(
    segments: list[tuple[int, bytes, bytes]],
) -> None:
    data = with_segments(JPEG, [(kind, head + more) for kind, head, more in segments])
    if b"\x12\x01" not in data and b"\x01\x12" not in data:  # no orientation by chance
        assert same(data, JPEG)


@settings(deadline=None, max_examples=200)
@given(
    before=st.lists(
        st.tuples(st.integers(0, 2**16 - 1), st.integers(0, 20), st.integers(0, 2**32 - 1)),
        max_size=6,
    ),
    cut=st.integers(0, 30),
    orientation=st.integers(1, 8),
    order=st.sampled_from("<>"),
)
def test_other_tags_than_the_orientation_are_not_looked_at(
    before: list[tuple[int, int, int]], cut: int, orientation: int, order: str
) -> None:
    """Of any type, count and value, and wherever what they point to would be."""
    others = [(*one, b"\xff\xff\xff\xff") for one in before if one[0] != ORIENTATION]
    value = struct.pack(order + "HH", orientation, 0)
    content = exif((ORIENTATION, SHORT, 1, value), *others, order=order)
    content = content[: max(26, len(content) - cut)]
    found = with_segments(JPEG, [(0xE1, b"Exif\0\0" + content)])
    assert same(found, with_segments(JPEG, [(0xE1, b"Exif\0\0" + turned(orientation))]))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientations_are_those_of_pillow(orientation: int) -> None:
    with Image.open(io.BytesIO(JPEG)) as stored:
        stored.getexif()[ORIENTATION] = orientation
        shown = np.asarray(ImageOps.exif_transpose(stored))
    found = with_segments(JPEG, [(0xE1, b"Exif\0\0" + turned(orientation))])
    for size in (16, 24, 40, 100):
        assert np.array_equal(pixels(found, size), preprocess(shown, size))


@pytest.mark.parametrize(
    "entry",
    [
        (ORIENTATION, FLOAT, 1, struct.pack("<f", 6.0)),
        (ORIENTATION, RATIONAL, 1, bytes(4)),
        (ORIENTATION, SHORT, 2, bytes([6, 0, 6, 0])),
        (ORIENTATION, SHORT, 1, bytes([9, 0, 0, 0])),
        (ORIENTATION, SHORT, 1, bytes(4)),
        (ORIENTATION, LONG, 1, b"\xff\xff\xff\xff"),
        (ORIENTATION, 99, 1, bytes([6, 0, 0, 0])),
    ],
)
def test_an_orientation_that_makes_no_sense_is_upright(entry: tuple[int, int, int, bytes]) -> None:
    assert same(with_segments(JPEG, [(0xE1, b"Exif\0\0" + exif(entry))]), JPEG)


BEHIND = np.random.default_rng(1).bytes(2**20) + b"\xff\xda" * 1000


@pytest.mark.parametrize("options", [{}, {"progressive": True}])
@pytest.mark.parametrize("behind", [BEHIND, JPEG * 100, b"\xff\xda\0\x08" * 100, b"\xff\xd9" * 100])
def test_what_follows_a_jpeg_is_no_part_of_it(behind: bytes, options: dict[str, bool]) -> None:
    """As the video behind a motion photo."""
    data = saved(PICTURE, "JPEG", **options)
    assert same(data + behind, data)


def test_filling_between_segments_is_skipped() -> None:
    assert same(JPEG[:2] + b"\xff" * 1_000_000 + JPEG[2:], JPEG)
    assert same(JPEG[:2] + b"\xff\xfe\0\0\xff\xe1\0\1" + JPEG[2:], JPEG)
    assert same(JPEG[:20] + b"junk" * 1000 + b"\xff\0" * 1000 + JPEG[20:], JPEG)


@pytest.mark.parametrize("size", [2**18 - 30, 2**18 - 29, 2**18, 2**18 + 1, 2**19])
@pytest.mark.parametrize("filling", [b"\xff", b"\xff\0", b"\0"])
def test_markers_are_found_wherever_they_are(size: int, filling: bytes) -> None:
    junk = (filling * size)[:size]
    assert same(JPEG[:20] + junk + JPEG[20:], JPEG)


# Each took minutes, or would, if any step looked at what it looked at before.
LONG_FILES: dict[str, bytes] = {
    "filling": JPEG[:20] + b"\xff" * 4_000_000 + b"\0" + JPEG[20:],
    "escapes": JPEG[:20] + b"\xff\0" * 2_000_000 + JPEG[20:],
    "filling without an end": JPEG[:20] + b"\xff" * 4_000_000,
    "a scan of filling": JPEG[:-2] + b"\xff\xda" * 100 + b"\xff" * 4_000_000,
    "a scan of escapes": saved(PICTURE, "JPEG", progressive=True)[:-2] + b"\xff\xda\0\2" * 40
                         + b"\xff\0" * 2_000_000 + b"\xff\xda" * 20,
}  # fmt: skip


@pytest.mark.parametrize("kind", LONG_FILES)
def test_a_jpeg_is_walked_through_in_proportion_to_its_bytes(kind: str) -> None:
    data = LONG_FILES[kind]
    started = time.thread_time()
    with contextlib.suppress(GatewayError):
        File(data).look(LIMIT)
    assert time.thread_time() - started < 20  # a tenth of a second; some of them took hours


@pytest.mark.parametrize("hidden", [b"", b"\xff\xfe\0\2", b"\xff\xe1\0\4\xff\xd9", b"\xff\xd0"])
def test_scans_are_counted_wherever_they_are(hidden: bytes) -> None:
    data = saved(PICTURE, "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    with pytest.raises(TooLarge, match=f"a JPEG of more than {MAX_SCANS} scans; save it"):
        pixels(data[:-2] + (hidden + data[last:-2]) * MAX_SCANS + b"\xff\xd9")
