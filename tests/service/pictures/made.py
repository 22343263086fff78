"""Files of pictures, made byte by byte where no program would write them."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence

import numpy as np
from PIL import Image

CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of PNG's colour types
PASSES = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2),
          (0, 1, 1, 2)]  # fmt: skip


def chunk(kind: bytes, data: bytes = b"", *, sound: bool = True) -> bytes:
    """Of a PNG."""
    checksum = zlib.crc32(kind + data) ^ (not sound)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)


def png(
    width: int,
    height: int,
    depth: int = 8,
    colour: int = 2,
    *,
    interlaced: bool = False,
    more: bytes = b"",
) -> bytes:
    """All black, and small: some kilobytes for millions of pixels; `more` before its pixels."""
    packer = zlib.compressobj(9)
    packed = []
    for left, top, across, down in PASSES if interlaced else [(0, 0, 1, 1)]:
        columns, rows = -(-(width - left) // across), -(-(height - top) // down)
        if columns > 0 and rows > 0:
            line = bytes(1 + (columns * CHANNELS[colour] * depth + 7 >> 3))
            many = max(1, 2**16 // len(line))
            for start in range(0, rows, many):
                packed.append(packer.compress(line * min(many, rows - start)))
    packed.append(packer.flush())
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    palette = chunk(b"PLTE", bytes(range(256)) * 3) if colour == 3 else b""
    return b"".join([
        b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", header), palette, more,
        chunk(b"IDAT", b"".join(packed)), chunk(b"IEND"),
    ])  # fmt: skip


def saved(picture: Image.Image, format: str, **options: object) -> bytes:
    """As Pillow writes it."""
    buffer = io.BytesIO()
    picture.save(buffer, format, **options)
    return buffer.getvalue()


def jpeg(width: int, height: int, mode: str = "RGB", **options: object) -> bytes:
    """Of one colour."""
    return saved(Image.new(mode, (width, height)), "JPEG", **options)


def with_segments(data: bytes, segments: Sequence[tuple[int, bytes]]) -> bytes:
    """A JPEG with these after its beginning: marker and content."""
    made = [struct.pack(">BBH", 0xFF, kind, len(one) + 2) + one for kind, one in segments]
    return data[:2] + b"".join(made) + data[2:]


def exif(*entries: tuple[int, int, int, bytes], order: str = "<") -> bytes:
    """A TIFF header with one directory: tag, type, count and four bytes of value of each."""
    mark = b"II*\0" if order == "<" else b"MM\0*"
    made = b"".join(struct.pack(order + "HHI", *entry[:3]) + entry[3] for entry in entries)
    return mark + struct.pack(order + "IH", 8, len(entries)) + made + struct.pack(order + "I", 0)


def bmp_runs(width: int, height: int, runs: bytes, bits: int = 8) -> bytes:
    """A BMP whose rows are runs."""
    palette = bytes(value for i in range(1 << bits) for value in (i, i, 255 - i, 0))
    start = 14 + 40 + len(palette)
    head = struct.pack("<2sIHHI", b"BM", start + len(runs), 0, 0, start)
    compression = {8: 1, 4: 2}[bits]
    head += struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, 0, 0, 0, 0, 0)
    return head + palette + runs


class Bits:
    """Numbers of some bits, the lowest first."""

    def __init__(self) -> None:
        self._value = self._count = 0
        self._parts: list[bytes] = []

    def put(self, value: int, count: int) -> None:
        self._value |= value << self._count
        self._count += count
        if self._count > 4096:
            whole = self._count // 8
            self._parts.append((self._value & ((1 << 8 * whole) - 1)).to_bytes(whole, "little"))
            self._value >>= 8 * whole
            self._count -= 8 * whole

    def done(self) -> bytes:
        return b"".join(self._parts) + self._value.to_bytes(self._count // 8 + 1, "little")


def riff(kind: bytes, content: bytes) -> bytes:
    """A WEBP of one chunk."""
    content += bytes(len(content) & 1)
    made = b"WEBP" + kind + struct.pack("<I", len(content)) + content
    return b"RIFF" + struct.pack("<I", len(made)) + made


def webp_of_many_groups(width: int, height: int) -> bytes:
    """A lossless WEBP that has codes of its own for each block of 4 x 4 pixels.

    The format's lossless bitstream: header, no transform, no cache, an image that names each
    block's group, five codes of one symbol a group; pixels take no bits.
    """
    bits = Bits()
    for value, count in ((0x2F, 8), (width - 1, 14), (height - 1, 14), (0, 4), (0, 2), (1, 1),
                         (0, 3), (0, 1)):  # fmt: skip
        bits.put(value, count)
    for symbols in (280, 256):  # green and red: 256 codes of 8 bits
        bits.put(0, 1)
        bits.put(8, 4)
        for place in range(12):
            bits.put(place in (2, 11), 3)
        bits.put(0, 1)
        for symbol in range(symbols):
            bits.put(symbol < 256, 1)
    for _ in range(3):
        bits.put(1, 4)  # one symbol, 0
    blocks = -(-width // 4) * -(-height // 4)
    for block in range(blocks):
        for half in (block & 0xFF, block >> 8 & 0xFF):
            bits.put(int(f"{half:08b}"[::-1], 2), 8)  # codes have their first bit first
    for _ in range(min(blocks, 65536)):
        bits.put(0x11111, 20)
    return riff(b"VP8L", bits.done() + bytes(64))


def noise(width: int, height: int, mode: str = "RGB") -> Image.Image:
    """Reproducible, and in blocks of 8 x 8 so that it is quick to make."""
    channels = len(Image.new(mode, (1, 1)).getbands())
    shape = (-(-height // 8), -(-width // 8), channels)
    small = np.random.default_rng(width).integers(0, 256, shape, np.uint8)
    picture = Image.fromarray(small[..., 0] if channels == 1 else small)
    return picture.resize((width, height), Image.Resampling.NEAREST)
