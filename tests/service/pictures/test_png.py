"""Of a PNG, nothing but its pixels, its transparency and its orientation count."""

from __future__ import annotations

import struct
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from service.errors import BadImage
from tests.service.pictures.made import (
    chunk,
    png,
    saved,
)
from tests.service.pictures.small_pictures import HEADER, PICTURE, PNG, pixels, same, turned

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
    """With any content and any checksum; before the pixels or behind them."""
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


@pytest.mark.parametrize("colour,expected", [(3, "at most 256"), (2, "6")])
def test_transparency_has_a_byte_for_each_of_256_colours_at_most(
    colour: int, expected: str
) -> None:
    def picture(length: int) -> bytes:
        return png(8, 8, 8, colour, more=chunk(b"tRNS", b"\xff" * length))

    assert same(picture(256), png(8, 8, 8, colour))
    with pytest.raises(BadImage, match=f"tRNS.* has 257 bytes: expected {expected}$"):
        pixels(picture(257))


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
