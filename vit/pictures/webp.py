"""WEBP: the first frame, its transparency and the orientation are used.

What follows the picture may be cut off, also inside a chunk. The file that is decoded is made again
of the chunks that are used, because the decoder refuses one that is shorter than it says.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

from vit.pictures import orientation
from vit.pictures.picture import Picture, check_pieces, cut_off, damaged

FORMAT = "WEBP"
CANVAS_BYTES = 16  # a pixel: two canvases, the answer's bytes, and Pillow's picture
ROW_BYTES = 256  # a pixel of one row, in the decoder of lossy pictures
ALPHA, EXIF, XMP, ANIMATED = 0x10, 0x08, 0x04, 0x02  # flags of an extended file
# A lossless picture has tables for each group of codes, at most one group for 16 pixels, and each
# takes 20 bits of the file at least. A hostile file of 300 KB takes 400 MB with them.
MOST_GROUPS, GROUP_PIXELS, GROUP_BITS = 2**16, 16, 20
GROUP_BYTES, FULL_GROUP_BYTES = 5_900, 20_700  # with the shortest codes, and with the longest
LONGER_CODES_BYTES = 160  # of tables for one byte of the file
Chunk = tuple[bytes, int, int]  # name, start of its content, end of its content


def look(data: bytes) -> Picture:
    """Raises UnreadableImage or ImageTooLarge."""
    if len(data) < 20:
        raise cut_off(FORMAT, data, "its first chunk")
    chunks = _chunks(data, 12, min(len(data), 8 + struct.unpack_from("<I", data, 4)[0]))
    kind, start, stop = first = _whole(data, next(chunks, (b"", 0, 0)))
    if kind != b"VP8X":
        parts = _file(data, [first])
        return _picture(parts, *_size(data, first), tables=_tables(data, [first]))
    if stop - start < 10:
        raise damaged(FORMAT, "whose header (chunk VP8X) is too short")
    canvas = data[start : start + 10]
    width, height = (int.from_bytes(canvas[at : at + 3], "little") + 1 for at in (4, 7))
    used, others = _used(data, chunks)
    flags = bytes([canvas[0] & (ALPHA | ANIMATED)])
    parts = _file(data, used, _chunk(b"VP8X", flags + canvas[1:]))
    exif = others.get(b"EXIF", b"") if canvas[0] & EXIF else b""
    xmp = others.get(b"XMP ", b"") if canvas[0] & XMP else b""
    turned = orientation.of(exif, xmp)
    inner = used
    if used[-1][0] == b"ANMF":
        inner = [_whole(data, one) for one in _chunks(data, used[-1][1] + 16, used[-1][2])]
    return _picture(parts, width, height, turned, tables=_tables(data, inner))


def _used(data: bytes, chunks: Iterator[Chunk]) -> tuple[list[Chunk], dict[bytes, bytes]]:
    """What the first frame needs, and what else is read."""
    used: list[Chunk] = []
    others: dict[bytes, bytes] = {}
    pixels = False
    for count, (kind, start, stop) in enumerate(chunks):
        check_pieces(FORMAT, count)
        if pixels and stop > len(data):
            break
        _whole(data, (kind, start, stop))
        if kind in (b"EXIF", b"XMP ") and kind not in others:
            others[kind] = data[start:stop]
        elif kind in (b"ANIM", b"ALPH", b"ANMF", b"VP8 ", b"VP8L") and not pixels:
            used.append((kind, start, stop))
            pixels = kind in (b"ANMF", b"VP8 ", b"VP8L")
    if not pixels:
        raise cut_off(FORMAT, data, "its picture (chunk VP8, VP8L or ANMF)")
    return used, others


def _picture(
    parts: Sequence[bytes | memoryview], width: int, height: int, turned: int = 1, *, tables: int
) -> Picture:
    memory = width * height * CANVAS_BYTES + width * ROW_BYTES + 8 * height
    return Picture(FORMAT, width, height, memory, parts, turned, tables)


def _size(data: bytes, chunk: Chunk) -> tuple[int, int]:
    """Of a simple file."""
    kind, start, stop = chunk
    if kind == b"VP8 " and stop - start >= 10 and data[start + 3 : start + 6] == b"\x9d\1\x2a":
        width, height = struct.unpack_from("<HH", data, start + 6)
        return width & 0x3FFF, height & 0x3FFF
    if kind == b"VP8L" and stop - start >= 5 and data[start] == 0x2F:
        (bits,) = struct.unpack_from("<I", data, start + 1)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    raise damaged(FORMAT, "whose picture has no readable header")


def _tables(data: bytes, chunks: list[Chunk]) -> int:
    """Bytes that tables of lossless parts can take: the picture, or the transparency of a lossy."""
    most = 0
    pixels = max((_pixels(data, one) for one in chunks), default=0)
    for kind, start, stop in chunks:
        if kind in (b"VP8L", b"ALPH"):
            groups = min(MOST_GROUPS, pixels // GROUP_PIXELS + 1, (stop - start) * 8 // GROUP_BITS)
            longer = groups * GROUP_BYTES + LONGER_CODES_BYTES * (stop - start)
            most = max(most, min(groups * FULL_GROUP_BYTES, longer))
    return most


def _pixels(data: bytes, chunk: Chunk) -> int:
    if chunk[0] not in (b"VP8 ", b"VP8L"):
        return 0
    width, height = _size(data, chunk)
    return (width + 3) * (height + 3)  # of whole blocks


def _chunks(data: bytes, at: int, end: int) -> Iterator[Chunk]:
    """All that begin before `end`; the last may be cut off."""
    while at + 8 <= end:
        kind, length = struct.unpack_from("<4sI", data, at)
        yield kind, at + 8, at + 8 + length
        at += 8 + length + (length & 1)


def _whole(data: bytes, chunk: Chunk) -> Chunk:
    """Raises UnreadableImage for a chunk that is cut off."""
    if chunk[2] > len(data):
        name = chunk[0].decode("latin-1").strip()
        raise damaged(FORMAT, f"that ends after {len(data)} bytes, inside its chunk {name!r}")
    return chunk


def _file(
    data: bytes, chunks: Sequence[Chunk], head: Sequence[bytes | memoryview] = ()
) -> list[bytes | memoryview]:
    """A file of these chunks, after what is in `head`."""
    parts: list[bytes | memoryview] = [b"WEBP", *head]
    for name, begin, end in chunks:
        parts += _chunk(name, memoryview(data)[begin:end])
    return [b"RIFF", struct.pack("<I", sum(len(part) for part in parts)), *parts]


def _chunk(kind: bytes, content: bytes | memoryview) -> list[bytes | memoryview]:
    return [kind + struct.pack("<I", len(content)), content, bytes(len(content) & 1)]
