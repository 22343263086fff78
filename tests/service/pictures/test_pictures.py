"""What a viewer shows of WEBP, GIF and BMP is answered; what is refused, in every format."""

from __future__ import annotations

import struct
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from service.errors import BadImage, GatewayError, TooLarge
from service.images import decode
from tests.service.pictures.made import (
    bmp_runs,
    chunk,
    noise,
    png,
    saved,
    webp_of_many_groups,
    with_segments,
)
from tests.service.pictures.small_pictures import (
    GIF,
    HEADER,
    JPEG,
    LIMIT,
    PICTURE,
    PNG,
    WEBP,
    pixels,
    same,
    turned,
)
from tests.service.systems import image
from vit import preprocess
from vit.pictures.bmp import MAX_RUNS


def extended(data: bytes, *more: tuple[bytes, bytes], flags: int = 0x2C) -> bytes:
    """A WEBP with further chunks."""
    width, height = PICTURE.size
    head = bytes([flags, 0, 0, 0]) + (width - 1).to_bytes(3, "little")
    chunks = [(b"VP8X", head + (height - 1).to_bytes(3, "little")), *more]
    made = b"WEBP" + data[12:]
    for kind, content in reversed(chunks):
        padded = content + bytes(len(content) & 1)
        made = made[:4] + kind + struct.pack("<I", len(content)) + padded + made[4:]
    return b"RIFF" + struct.pack("<I", len(made)) + made


@pytest.mark.parametrize("size", [0, 5, 100_000])
def test_chunks_of_a_webp_that_are_not_its_picture_are_skipped(size: int) -> None:
    junk = bytes(size)
    found = extended(WEBP, (b"ICCP", junk), (b"EXIF", junk), (b"XMP ", junk), (b"abcd", junk))
    assert same(found, WEBP)


@pytest.mark.parametrize(
    "more", [(b"EXIF", turned(6)), (b"EXIF", b"Exif\0\0" + turned(6, ">")),
             (b"XMP ", b"<tiff:Orientation>6</tiff:Orientation>")]
)  # fmt: skip
def test_orientation_of_a_webp(more: tuple[bytes, bytes]) -> None:
    upright = saved(PICTURE.transpose(Image.Transpose.ROTATE_270), "PNG")
    assert same(extended(WEBP, more), upright)


def test_an_orientation_that_a_webp_does_not_announce_is_not_used() -> None:
    assert same(extended(WEBP, (b"EXIF", turned(6)), flags=0), WEBP)


LAST = b"abcd" + struct.pack("<I", 15) + bytes(16)  # a chunk that nobody reads
TWO = {"save_all": True, "append_images": [PICTURE.rotate(180)]}


def simple(*more: bytes) -> bytes:
    """A WEBP without a chunk VP8X, with further chunks at its end."""
    made = b"".join([WEBP[8:], *more])
    return b"RIFF" + struct.pack("<I", len(made)) + made


@pytest.mark.parametrize(
    "data,picture",
    [
        (simple(LAST), WEBP),
        (extended(WEBP + LAST), WEBP),
        (saved(PICTURE, "WEBP", lossless=True, **TWO), WEBP),
        (saved(PICTURE.quantize(16), "GIF", **TWO), GIF),
    ],
    ids=["simple", "extended", "animated WEBP", "animated GIF"],
)
def test_what_follows_the_picture_may_be_cut_off_anywhere(data: bytes, picture: bytes) -> None:
    """As viewers do, that show what they have of it."""
    for missing in range(1, len(LAST)):
        assert same(data[:-missing], picture)


@pytest.mark.parametrize("format", ["PNG", "WEBP", "GIF"])
def test_of_an_animation_the_first_frame_is_used(format: str) -> None:
    first = noise(24, 40).quantize(16) if format == "GIF" else noise(24, 40)
    others = [image(number, (24, 40)) for number in range(20)]
    options = {"lossless": True} if format == "WEBP" else {}
    found = saved(first, format, save_all=True, append_images=others, disposal=2, **options)
    assert same(found, saved(first, "PNG"))


def test_extensions_of_a_gif_are_skipped() -> None:
    head = 13 + 3 * 2 ** ((GIF[10] & 7) + 1)
    more = b"!\xfe\5hello\0" * 1000 + b"!\xff\x0bNETSCAPE2.0\3\1\0\0\0" + b"!\x01\0"
    assert same(GIF[:head] + more + b"junk" * 100 + GIF[head:], GIF)


def runs(rows: np.ndarray, bits: int, rng: np.random.Generator) -> bytes:
    """BMP's runs, of both kinds, the lowest row first."""
    made = b""
    for row in rows[::-1]:
        x = 0
        while x < len(row):
            count = int(rng.integers(3, 10))
            part = row[x : x + count]
            packed = (
                bytes(part)
                if bits == 8
                else bytes(
                    int(a) << 4 | int(b) for a, b in zip(part[::2], [*part[1::2], 0], strict=False)
                )
            )
            if len(part) >= 3 and rng.random() < 0.5:
                made += bytes([0, len(part)]) + packed + bytes(len(packed) & 1)
                x += len(part)
            else:
                value = int(row[x])
                made += bytes([1, value if bits == 8 else value << 4])
                x += 1
        made += b"\0\0"
    return made + b"\0\1"


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("shape", [(7, 5), (16, 16), (1, 40), (33, 1)])
def test_runs_of_a_bmp(bits: int, shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(bits)
    rows = rng.integers(0, 2**bits, shape, np.uint8)
    data = bmp_runs(shape[1], shape[0], runs(rows, bits, rng), bits)
    shown = np.stack([rows, rows, 255 - rows], -1)[..., ::-1]  # the palette of `made`
    assert np.array_equal(pixels(data), preprocess(np.ascontiguousarray(shown), 16))


def test_what_runs_do_not_reach_has_the_first_colour() -> None:
    found = decode(bmp_runs(16, 16, b"\0\1"), [16], max_pixels=LIMIT)[16].pixels
    assert (found[..., 0] == 1).all() and (found[..., 2] == -1).all()
    moved = decode(bmp_runs(16, 16, b"\0\2\3\2\1\xff\0\1"), [16], max_pixels=LIMIT)[16].pixels
    assert np.argwhere(moved[..., 2] == 1).tolist() == [[13, 3]]


# -- refusals

TOO_MUCH = {
    "pixels": (png(1000, 1000), "1000 x 1000 pixels, at most 100000 .*MUNET_MAX_PIXELS"),
    "runs": (bmp_runs(300, 300, b"\1\1" * (MAX_RUNS + 1)), f"BMP of more than {MAX_RUNS} runs"),
}


@pytest.mark.parametrize("kind", TOO_MUCH)
def test_a_limit_is_named_with_what_lifts_it(kind: str) -> None:
    data, text = TOO_MUCH[kind]
    with pytest.raises(TooLarge, match=text):
        pixels(data)


FORMATS: dict[str, bytes] = {
    "PNG": PNG, "JPEG": JPEG, "WEBP": WEBP, "GIF": GIF, "BMP": saved(PICTURE, "BMP"),
}  # fmt: skip


@pytest.mark.parametrize("format", FORMATS)
def test_a_file_that_is_cut_off_is_named(format: str) -> None:
    """At every byte of its head, and at some of its pixels."""
    data = FORMATS[format]
    for size in [*range(12 if format == "WEBP" else 3, 60), *range(60, len(data) - 100, 97)]:
        with pytest.raises(BadImage, match=rf"\b{format}\b"):
            pixels(data[:size])


def test_what_is_missing_is_named() -> None:
    for data, text in [
        (PNG[:8], r"a PNG that ends after 8 bytes: its header \(chunk IHDR\) is missing"),
        (PNG[:HEADER], r"its pixels \(chunk IDAT\) is missing"),
        (PNG[:16] + b"\1" + PNG[17:], "a PNG whose chunk IHDR has a wrong checksum"),
        (PNG[:HEADER] + chunk(b"tRNS", b"\0") + PNG[HEADER:], "tRNS.* has 1 bytes: expected 6"),
        (JPEG[:20], r"a JPEG that ends after 20 bytes: its frame \(SOF\) is missing"),
        (GIF[:13], "a GIF that ends after 13 bytes: its first frame is missing"),
        (PNG[:-40], "a PNG that ends before the last of its pixels; send the whole file"),
        (JPEG[:-40], "a JPEG that ends before the last of its pixels or the marker of its end"),
        (JPEG[:-2], r"the marker of its end \(EOI\); send the whole file"),
        (GIF[:-40], "a GIF that ends before the last of its pixels; send the whole file"),
        (b"\x89PN", "the first 3 bytes of a PNG"),
        (b"II*\0" + bytes(100), "expected PNG, JPEG, WEBP, BMP, GIF; found a TIFF"),
        (b"\0\0\0\x20ftypavif" + bytes(100), "found an AVIF"),
        (b"<!doctype html>", "found HTML"),
        (b"neither", "found 7 bytes that are none of them"),
    ]:
        with pytest.raises(BadImage, match=text):
            pixels(data)


DEEP = JPEG.replace(b"\xff\xc0\0\x11\x08", b"\xff\xc0\0\x11\x0c", 1)
FRAME: list[tuple[str, Callable[[bytes], bytes], str]] = [
    ("12 bits", lambda d: d.replace(b"\xff\xc0\0\x11\x08", b"\xff\xc0\0\x11\x0c"), "12 bits"),
    ("DNL", lambda d: d.replace(b"\xff\xc0\0\x11\x08\0\x28", b"\xff\xc0\0\x11\x08\0\0"), "24 x 0"),
    ("hierarchical", lambda d: d.replace(b"\xff\xc0\0\x11", b"\xff\xc5\0\x11"), "FFC5"),
    ("two", lambda d: with_segments(d, [(0xC0, b"\x08\0\x08\0\x08\1\1\x11\0")]), "two frames"),
]


@pytest.mark.parametrize("kind,make,text", FRAME, ids=[one[0] for one in FRAME])
def test_jpegs_of_other_kinds_are_refused_by_name(
    kind: str, make: Callable[[bytes], bytes], text: str
) -> None:
    with pytest.raises(BadImage, match=f"a JPEG .*{text}"):
        pixels(make(JPEG))


@pytest.mark.parametrize("format", FORMATS)
@settings(deadline=None, max_examples=100)
@given(st.data())
def test_two_files_spliced_are_answered_or_refused(format: str, data: st.DataObject) -> None:
    """Heads that say one thing and pixels that are another."""
    first, second = FORMATS[format], data.draw(st.sampled_from(sorted(FORMATS.values())))
    at, back = data.draw(st.integers(0, len(first))), data.draw(st.integers(0, len(second)))
    try:
        assert np.isfinite(pixels(first[:at] + second[back:])).all()
    except GatewayError as error:
        assert error.status in (400, 413)


def test_a_webp_of_many_codes_is_answered() -> None:
    assert np.isfinite(pixels(webp_of_many_groups(64, 64))).all()
