"""PNG: of its chunks, the critical ones, the transparency and the orientation are used.

As libpng does: an ancillary chunk with a wrong checksum is as if it were not there.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from vit.pictures import orientation
from vit.pictures.picture import Picture, check_pieces, cut_off, damaged, parts_of, storage

SIGNATURE = b"\x89PNG\r\n\x1a\n"
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
TRANSPARENCY_BYTES = {0: 2, 2: 6}  # of tRNS, by colour type
COLOURS, PALETTE = 256, 3
TEXTS = (b"tEXt", b"zTXt", b"iTXt")
MAX_TEXT_BYTES = 2**18  # of one text, inflated, in which an orientation may stand
MAX_TEXTS = 2  # that are looked into
XMP, EXIF = b"XML:com.adobe.xmp\0", b"Raw profile type exif\0"


def look(data: bytes) -> Picture:
    """Raises UnreadableImage or ImageTooLarge."""
    header = _header(data)
    width, height, depth, colour = header[:4]
    kept: list[tuple[int, int] | bytes] = [(0, 33)]
    found, has_pixels = _Orientation(), False
    for count, (kind, start, stop) in enumerate(_chunks(data)):
        check_pieces("PNG", count)
        if kind == b"IDAT":
            has_pixels = True
        elif kind not in (b"PLTE", b"tRNS"):
            found.take(kind, data, start, stop)
            continue
        elif has_pixels or not _checked(kind, data, start, stop):
            continue
        else:
            _check_colours(kind, stop - start - 12, colour)
            if kind == b"tRNS":
                changed = _transparent(data[start + 8 : stop - 4], depth, colour)
                kept.append(changed or (start, stop))
                continue
        kept.append((start, stop))
    if not has_pixels:
        raise cut_off("PNG", data, "its pixels (chunk IDAT)")
    row = width * CHANNELS[colour] * depth + 7 >> 3
    return Picture(
        "PNG",
        width,
        height,
        storage(width, height, _pixel_bytes(depth, colour)) + 2 * (row + 1),
        parts_of(data, kept),
        orientation.of(found.exif, found.xmp),
    )


@dataclass(slots=True)
class _Orientation:
    """Where it may stand: in a chunk of its own, or in one of two texts."""

    exif: bytes = b""
    xmp: bytes = b""
    texts: int = 0

    def take(self, kind: bytes, data: bytes, start: int, stop: int) -> None:
        """Looks into a chunk, if it is one of these and whole."""
        text = self.texts < MAX_TEXTS and kind in TEXTS
        if not (kind == b"eXIf" or (text and data.startswith((XMP, EXIF), start + 8))):
            return
        if not _sound(data, start, stop):
            return
        content = data[start + 8 : stop - 4]
        if kind == b"eXIf":
            self.exif = content
            return
        self.texts += 1
        if content.startswith(XMP):
            self.xmp = self.xmp or _text(kind, content)
        else:
            self.exif = self.exif or _unhexed(_text(kind, content))


def _header(data: bytes) -> tuple[int, ...]:
    if len(data) < 33:
        raise cut_off("PNG", data, "its header (chunk IHDR)")
    length, kind, *header = struct.unpack_from(">I4sIIBBBBB", data, 8)
    if (length, kind) != (13, b"IHDR"):
        raise damaged("PNG", f"that begins with chunk {_name(kind)}: expected its header, IHDR")
    _checked(b"IHDR", data, 8, 33)
    width, height, depth, colour, *methods = header
    if not width or not height:
        raise damaged("PNG", f"of {width} x {height} pixels")
    if depth not in DEPTHS.get(colour, ()):
        raise damaged("PNG", f"of colour type {colour} with {depth} bits, which is not defined")
    if methods[:2] != [0, 0] or methods[2] > 1:
        raise damaged("PNG", "of an unknown compression, filter or interlacing")
    return tuple(header)


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Name, start and end of each after the header, to the last; only IDAT may be cut off."""
    at = 33
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        stop = at + 12 + length
        if kind == b"IEND" or not kind.isalpha():
            return
        if stop > len(data):
            if kind == b"IDAT":
                yield kind, at, len(data)
            elif kind[0] < ord("a"):
                raise damaged("PNG", f"that ends inside its chunk {_name(kind)}")
            return
        yield kind, at, stop
        at = stop


def _sound(data: bytes, start: int, stop: int) -> bool:
    found = zlib.crc32(memoryview(data)[start + 4 : stop - 4])
    return found == int.from_bytes(data[stop - 4 : stop])


def _checked(kind: bytes, data: bytes, start: int, stop: int) -> bool:
    """Whether to use it; raises UnreadableImage if it cannot be done without."""
    sound = _sound(data, start, stop)
    if not sound and kind[0] < ord("a"):
        raise damaged("PNG", f"whose chunk {_name(kind)} has a wrong checksum")
    return sound


def _check_colours(kind: bytes, length: int, colour: int) -> None:
    if kind == b"PLTE":
        if length % PALETTE or not 0 < length <= COLOURS * PALETTE:
            raise damaged("PNG", f"whose palette (chunk PLTE) has {length} bytes")
    elif length < TRANSPARENCY_BYTES.get(colour, 0) or length > COLOURS:
        expected = TRANSPARENCY_BYTES.get(colour, f"at most {COLOURS}")
        raise damaged(
            "PNG", f"whose transparency (chunk tRNS) has {length} bytes: expected {expected}"
        )


def _transparent(content: bytes, depth: int, colour: int) -> bytes | None:
    """The chunk with its colour as Pillow has pixels of this depth, if that is another.

    Of a value, as many bits count as a pixel has; the others mean nothing.
    """
    if colour not in TRANSPARENCY_BYTES:
        return None
    stated = struct.unpack_from(f">{TRANSPARENCY_BYTES[colour] // 2}H", content)
    values = [value & (2**depth - 1) for value in stated]
    if colour == 0 and depth in (2, 4):
        values = [values[0] * 255 // (2**depth - 1)]
    elif colour == 2 and depth == 16:
        values = [value >> 8 for value in values]
    if values == list(stated):
        return None
    chunk = b"tRNS" + struct.pack(f">{len(values)}H", *values)
    return struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))


def _pixel_bytes(depth: int, colour: int) -> int:
    if colour == 3 or (colour == 0 and depth < 16):
        return 1
    return 2 if colour == 0 else 4


def _text(kind: bytes, content: bytes) -> bytes:
    """What follows the key; empty if it cannot be read."""
    text = content.partition(b"\0")[2]
    packed = kind == b"zTXt"
    if kind == b"iTXt":
        packed = text[:1] == b"\1"
        text = text[2:].split(b"\0", 2)[-1]
    elif packed:
        text = text[1:]
    if not packed:
        return text[:MAX_TEXT_BYTES]
    try:
        return zlib.decompressobj().decompress(text, MAX_TEXT_BYTES)
    except zlib.error:
        return b""


def _unhexed(text: bytes) -> bytes:
    """What ImageMagick writes: a name, a length, then digits in lines."""
    try:
        return bytes.fromhex(b"".join(text.split(b"\n")[3:]).decode())
    except ValueError:
        return b""


def _name(kind: bytes) -> str:
    return kind.decode() if kind.isalpha() else repr(kind)
