"""The heads of gRPC's calls, counted before gRPC has them.

gRPC keeps every field of a head until its call is refused, even fields beyond its limit of bytes.
Each takes a hundred bytes. As one byte can repeat a field, a head of 16 KiB would take 1.6 MB.

Law: no part of a head of more than MAX_FIELDS fields, MAX_HEAD bytes or MAX_FRAMES frames reaches
gRPC.
"""

from __future__ import annotations

MAX_FIELDS = 100
MAX_HEAD = 32 << 10  # bytes, with those of its frames
MAX_FRAMES = 8  # a client needs two for a head that is as large as gRPC takes it
FRAME = 9  # bytes in front of a frame's content (RFC 9113, 4.1)
HEADERS, CONTINUATION = 1, 9
END_HEADERS, PADDED, PRIORITY = 0x04, 0x08, 0x20


class TooManyFields(Exception):
    """The connection cannot go on."""


class Heads:
    """The heads in the bytes that one connection's client sends."""

    def __init__(self, skip: int) -> None:
        """`skip` bytes come before the first frame."""
        self._skip = skip  # bytes of the content of a frame that is no part of a head
        self._held = bytearray()  # a head, or the front of a frame, that has not come to its end
        self._awaited = 0  # bytes of it, before which a look tells nothing new

    def passed(self, data: bytes) -> bytes:
        """What may go on to gRPC now, whole heads only. Raises TooManyFields."""
        if self._held:
            self._held += data
            if len(self._held) < self._awaited:
                return b""
            data, self._held = bytes(self._held), bytearray()
        at = self._skip
        while at < len(data):
            end, whole = _end(data, at)
            if not whole:
                self._skip, self._awaited = 0, end - at
                self._held += data[at:]
                return data[:at]
            at = end
        self._skip = at - len(data)
        return data


def _end(data: bytes, at: int) -> tuple[int, bool]:
    """The end of the frame, or of the head, that begins here, and True.

    If the end is not known yet: how much data is needed before it may be, and False. A frame that
    is no part of a head may end behind the data. Raises TooManyFields.
    """
    start, block = at, b""
    for _ in range(MAX_FRAMES):
        if at + FRAME > len(data):
            return at + FRAME, False
        kind, flags = data[at + 3], data[at + 4]
        end = at + FRAME + (data[at] << 16 | data[at + 1] << 8 | data[at + 2])
        if kind not in (HEADERS, CONTINUATION):  # inside a head it ends the connection
            return (end if at == start else at), True
        if end - start > MAX_HEAD:
            raise TooManyFields
        if end > len(data):
            return end, False
        content = data[at + FRAME : end]
        block += _fields(content, flags) if kind == HEADERS else content
        if flags & END_HEADERS:
            _check(block)
            return end, True
        at = end
    raise TooManyFields


def _fields(content: bytes, flags: int) -> bytes:
    """The fields of a frame HEADERS, without padding and priority."""
    first, last = 0, len(content)
    if flags & PADDED and content:
        first, last = 1, last - content[0]
    return content[first + 5 * bool(flags & PRIORITY) : max(0, last)]


def _check(block: bytes) -> None:
    """Raises TooManyFields. Reading ends where the data is no HPACK (RFC 7541, 6), as in gRPC."""
    at, fields = 0, 0
    while at < len(block):
        fields += 1
        if fields > MAX_FIELDS:
            raise TooManyFields
        first = block[at]
        if first & 0x80:
            _, at = _number(block, at, 7)
        elif first & 0xE0 == 0x20:
            _, at = _number(block, at, 5)
        else:
            named, at = _number(block, at, 6 if first & 0x40 else 4)
            for _ in range(1 if named else 2):
                length, at = _number(block, at, 7)
                at += length


def _number(block: bytes, at: int, bits: int) -> tuple[int, int]:
    """A number, and where it ends (RFC 7541, 5.1)."""
    most = (1 << bits) - 1
    number = block[at] & most if at < len(block) else 0
    at += 1
    if number < most:
        return number, at
    shift = 0
    while at < len(block) and shift < 32:
        number += (block[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if not block[at - 1] & 0x80:
            break
    return number, at
