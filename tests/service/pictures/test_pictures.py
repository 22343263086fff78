"""What a viewer shows is answered: nothing but the pixels and the orientation of a file counts."""

from __future__ import annotations

import contextlib
import io
import struct
import time
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from service.errors import BadImage, GatewayError, TooLarge
from service.images import File, decode
from tests.service.pictures.made import (
    bmp_runs,
    chunk,
    exif,
    noise,
    png,
    saved,
    webp_of_many_groups,
    with_segments,
)
from tests.service.systems import image
from vit import preprocess
from vit.pictures.bmp import MAX_RUNS
from vit.pictures.jpeg import MAX_SCANS

LIMIT = 100_000
SHORT, FLOAT, RATIONAL, LONG = 3, 11, 5, 4  # types of EXIF
ORIENTATION = 0x0112
PICTURE = noise(24, 40)
PNG, JPEG = saved(PICTURE, "PNG"), saved(PICTURE, "JPEG")
WEBP = saved(PICTURE, "WEBP", lossless=True)
GIF = saved(PICTURE.quantize(16), "GIF")
HEADER = 33  # bytes of a PNG to the end of its first chunk


def pixels(data: bytes, size: int = 16) -> np.ndarray:
    return decode(data, [size], max_pixels=LIMIT)[size].pixels


def same(data: bytes, other: bytes) -> bool:
    return bool(np.array_equal(pixels(data), pixels(other)))


def turned(orientation: int, order: str = "<") -> bytes:
    value = struct.pack(order + "HH", orientation, 0)
    return exif((ORIENTATION, SHORT, 1, value), order=order)


# -- PNG

ANCILLARY = st.sampled_from(
    [b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"gAMA", b"cHRM", b"sRGB", b"pHYs", b"bKGD", b"hIST",
     b"tIME", b"sBIT", b"sPLT", b"acTL", b"fcTL", b"fdAT", b"eXIf", b"teSt", b"caBX", b"vpAg"]
)  # fmt: skip


@settings(deadline=None, max_examples=200)
@given(
    chunks=st.lists(st.tuples(ANCILLARY, st.binary(max_size=40), st.booleans()), max_size=5),
    after=st.booleans(),
)
def test_no_ancillary_chunk_of_a_png_changes_or_refuses_it(
    chunks: list[tuple[bytes, bytes, bool]], after: bool
) -> None:
    """Whatever is in it, and whatever its checksum; before the pixels or behind them."""
    more = b"".join(chunk(kind, data, sound=sound) for kind, data, sound in chunks)
    at = len(PNG) - 12 if after else HEADER
    assert same(PNG[:at] + more + PNG[at:], PNG)


def test_transparency_counts_if_its_checksum_is_right() -> None:
    picture = Image.new("RGB", (8, 8), (1, 2, 3))
    data = saved(picture, "PNG")
    clear = struct.pack(">3H", 1, 2, 3)
    white = data[:HEADER] + chunk(b"tRNS", clear) + data[HEADER:]
    assert (pixels(white) == 1).all()
    assert same(data[:HEADER] + chunk(b"tRNS", clear, sound=False) + data[HEADER:], data)


@pytest.mark.parametrize("beyond", [0x0000, 0xFFFF, 0x5A00])
@pytest.mark.parametrize("depth,colour", [(1, 0), (2, 0), (4, 0), (8, 0), (16, 0), (8, 2), (16, 2)])
def test_one_transparent_colour_is_laid_on_white(depth: int, colour: int, beyond: int) -> None:
    """Of every depth, in which the file names it by what its pixels are.

    Bits beyond the depth mean nothing.
    """
    clear, ink = 1, 0
    values = [clear, ink] * 8
    if colour == 2:
        values = [value * 0x101 if depth == 16 else value for value in values for _ in range(3)]
        clear *= 0x101 if depth == 16 else 1
    bits = "".join(f"{value:0{depth}b}" for value in values)
    row = b"\0" + int(bits, 2).to_bytes(len(bits) // 8, "big")
    header = struct.pack(">IIBBBBB", 16, 16, depth, colour, 0, 0, 0)
    named = struct.pack(">H", clear | beyond >> depth << depth) * (3 if colour == 2 else 1)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"tRNS", named)
    found = pixels(data + chunk(b"IDAT", zlib.compress(row * 16)) + chunk(b"IEND"))
    assert (found[:, ::2] == 1).all()
    assert (found[:, 1::2] == -1).all()


def test_a_second_header_is_not_believed() -> None:
    large = png(5000, 5000)[8:HEADER]
    assert same(PNG[:HEADER] + large + PNG[HEADER:], PNG)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", ["eXIf", "XMP", "ImageMagick's"])
def test_orientation_of_a_png(kind: str, packed: bool) -> None:
    xmp = b'<x tiff:Orientation="6"/>'
    hexed = b"\nexif\n%8d\n" % len(turned(6)) + turned(6).hex().encode() + b"\n"
    text = zlib.compress(xmp) if packed else xmp
    head = b"XML:com.adobe.xmp\0" + bytes([packed]) + b"\0\0\0"
    raw = b"Raw profile type exif\0" + (b"\0" + zlib.compress(hexed) if packed else hexed)
    more = {
        "eXIf": chunk(b"eXIf", turned(6, ">" if packed else "<")),
        "XMP": chunk(b"iTXt", head + text),
        "ImageMagick's": chunk(b"zTXt" if packed else b"tEXt", raw),
    }[kind]
    upright = saved(PICTURE.transpose(Image.Transpose.ROTATE_270), "PNG")
    assert same(PNG[:HEADER] + more + PNG[HEADER:], upright)


@pytest.mark.parametrize("tail", [-12, -8, -1])
def test_a_png_without_its_end_is_whole(tail: int) -> None:
    assert same(PNG[:tail], PNG)
    assert same(PNG + b"trailing" * 1000, PNG)


# -- JPEG


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
LONG: dict[str, bytes] = {
    "filling": JPEG[:20] + b"\xff" * 4_000_000 + b"\0" + JPEG[20:],
    "escapes": JPEG[:20] + b"\xff\0" * 2_000_000 + JPEG[20:],
    "filling without an end": JPEG[:20] + b"\xff" * 4_000_000,
    "a scan of filling": JPEG[:-2] + b"\xff\xda" * 100 + b"\xff" * 4_000_000,
    "a scan of escapes": saved(PICTURE, "JPEG", progressive=True)[:-2] + b"\xff\xda\0\2" * 40
                         + b"\xff\0" * 2_000_000 + b"\xff\xda" * 20,
}  # fmt: skip


@pytest.mark.parametrize("kind", LONG)
def test_a_jpeg_is_walked_through_in_proportion_to_its_bytes(kind: str) -> None:
    data = LONG[kind]
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


# -- WEBP, GIF, BMP


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
