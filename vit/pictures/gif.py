"""GIF: the screen, the colours and the first frame with its transparency are used."""

from __future__ import annotations

import struct

from vit.pictures.picture import Picture, check_pieces, cut_off, storage

FORMAT = "GIF"
SIGNATURES = (b"GIF87a", b"GIF89a")
EXTENSION, FRAME, END = b"\x21", b"\x2c", b"\x3b"
CONTROL = b"\x21\xf9\4"  # the extension that makes one colour transparent
CONTROL_BYTES = 8  # with its introduction and its end
TRANSPARENT = 0x01  # the flag that is used; the others are of an animation


def look(data: bytes) -> Picture:
    """Raises UnreadableImage or ImageTooLarge."""
    if len(data) < 13:
        raise cut_off(FORMAT, data, "its header")
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    start = 13 + _colours(flags)
    at, control = _extensions(data, start)
    if not data.startswith(FRAME, at) or at + 10 > len(data):
        raise cut_off(FORMAT, data, "its first frame")
    left, top, columns, rows = struct.unpack_from("<4H", data, at + 1)
    width, height = max(width, left + columns), max(height, top + rows)
    screen = struct.pack("<HH", width, height)  # a frame may widen it
    parts: tuple[bytes | memoryview, ...] = (data,)
    if data[start:at] != control or data[6:10] != screen:
        parts = (data[:6], screen, data[10:start], control, memoryview(data)[at:])
    return Picture(FORMAT, width, height, storage(width, height, 1), parts)


def _extensions(data: bytes, at: int) -> tuple[int, bytes]:
    """Where they end, and of the one that makes a colour transparent what is used.

    What is no block is skipped, as far as the end of the file.
    """
    control, pieces = b"", 0
    while at < len(data) and not data.startswith((FRAME, END), at):
        if not data.startswith(EXTENSION, at):
            at, pieces = at + 1, pieces + 1
            check_pieces(FORMAT, pieces)
            continue
        if data.startswith(CONTROL, at) and at + CONTROL_BYTES <= len(data):
            block = data[at : at + CONTROL_BYTES]
            control = block[:3] + bytes([block[3] & TRANSPARENT]) + block[4:7] + b"\0"
        at += 2
        while at < len(data) and data[at]:
            at, pieces = at + 1 + data[at], pieces + 1
            check_pieces(FORMAT, pieces)
        at, pieces = at + 1, pieces + 1
        check_pieces(FORMAT, pieces)
    return at, control


def _colours(flags: int) -> int:
    """Bytes of the table of colours that the flags announce."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0
