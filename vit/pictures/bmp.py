"""BMP: runs are laid out as plain rows, for which the decoder's own way is slow."""

from __future__ import annotations

import struct

from vit.pictures.errors import ImageTooLarge
from vit.pictures.picture import Picture, cut_off, damaged, storage

FORMAT = "BMP"
CORE, INFO = 12, 40  # bytes of the oldest and the common header
HEADERS = (CORE, INFO, 52, 56, 64, 108, 124)
RUNS_8, RUNS_4 = 1, 2  # compressions
MAX_RUNS = 1_000_000  # each costs the interpreter about half a microsecond
END_OF_ROW, END, MOVE = 0, 1, 2


def look(data: bytes) -> Picture:
    """Raises UnreadableImage."""
    if len(data) < 18 or len(data) < 14 + min(struct.unpack_from("<I", data, 14)[0], INFO):
        raise cut_off(FORMAT, data, "its header")
    (size,) = struct.unpack_from("<I", data, 14)
    if size not in HEADERS:
        raise damaged(FORMAT, f"with a header of {size} bytes, of a kind that is not decoded here")
    compression = 0
    if size == CORE:
        width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
    else:
        width, height, _, bits, compression = struct.unpack_from("<iiHHI", data, 18)
    if width <= 0 or not height:
        raise damaged(FORMAT, f"whose header states {width} x {height} pixels")
    row = (width * bits + 31 >> 3) & ~3
    memory = storage(width, abs(height), 1 if bits <= 8 else 4) + row
    if compression in (RUNS_8, RUNS_4):
        memory += 4 * (width + 3 & ~3) * abs(height)  # as plain rows, which are read from a file
    return Picture(FORMAT, width, abs(height), memory, (data,))


def plain(data: bytes) -> bytes:
    """The file with its rows as they are, where they are runs; only for a file looked at."""
    offset, size = struct.unpack_from("<II", data, 10)
    if size == CORE:
        return data
    width, height, _, bits, compression = struct.unpack_from("<iiHHI", data, 18)
    if compression not in (RUNS_8, RUNS_4):
        return data
    if bits != {RUNS_8: 8, RUNS_4: 4}[compression] or height < 0:
        raise damaged(FORMAT, f"of runs with {bits} bits a pixel, {height} rows: not defined")
    colours = struct.unpack_from("<I", data, 46)[0] or 1 << bits
    palette = data[14 + size : 14 + size + 4 * min(colours, 256)]
    count = len(palette) // 4
    stride = width + 3 & ~3
    rows = _rows(data, max(offset, 14 + size), width, height, stride, nibbles=bits == 4)
    start = 14 + INFO + 4 * count
    head = struct.pack("<2sIHHI", b"BM", start + len(rows), 0, 0, start)
    head += struct.pack("<IiiHHIIiiII", INFO, width, height, 1, 8, 0, 0, 0, 0, count, 0)
    return b"".join([head, palette[: 4 * count], rows])


def _rows(
    data: bytes, at: int, width: int, height: int, stride: int, *, nibbles: bool
) -> bytearray:
    """The lowest first; what no run reaches has the first colour."""
    rows = bytearray(stride * height)
    x = y = 0
    for _ in range(MAX_RUNS):
        if y >= height or data[at : at + 2] == bytes([0, END]):
            return rows
        if at + 2 > len(data):
            if y < height - 1:
                raise cut_off(FORMAT, data, f"row {y + 1} of {height}")
            return rows
        count, value = data[at], data[at + 1]
        at += 2
        if not count and value == END_OF_ROW:
            x, y = 0, y + 1
        elif not count and value == MOVE:
            x, y = x + data[at], y + data[at + 1]
            at += 2
        else:
            run, at = _run(data, at, count, value, nibbles=nibbles)
            run = run[: max(0, width - x)]
            start = y * stride + x
            rows[start : start + len(run)] = run
            x += len(run)
    raise ImageTooLarge(
        f"decoding the image: a BMP of more than {MAX_RUNS} runs; save it without compression, or "
        "as PNG"
    )


def _run(data: bytes, at: int, count: int, value: int, *, nibbles: bool) -> tuple[bytes, int]:
    """Pixels one byte each, of one value or as they are; and where the next run begins."""
    if count:
        values = bytes([value >> 4, value & 15]) if nibbles else bytes([value])
        return (values * count)[:count], at
    length = (value + 1) // 2 if nibbles else value
    run = data[at : at + length]
    if nibbles:
        run = bytes(half for both in run for half in (both >> 4, both & 15))[:value]
    return run, at + length + (length & 1)
