"""How a camera was held: the one thing that is read from EXIF and XMP.

Only the tag of the orientation is looked at: other tags may be of any type or damaged. What cannot
be read is 1, the picture as it is stored.
"""

from __future__ import annotations

import re
import struct

UPRIGHT = 1
TAG = 0x0112
ENTRY = 12  # bytes: tag, type, count, value
# Types of whole numbers, and how one is unpacked from the four bytes of a value.
WHOLE = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i"}
_XMP = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')


def of_exif(exif: bytes) -> int | None:
    """1 to 8, of a TIFF header with its first directory; None if it has no such tag."""
    exif = exif.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(bytes(exif[:4]))
    if order is None:
        return None
    found = None
    try:
        (start,) = struct.unpack_from(order + "I", exif, 4)
        (count,) = struct.unpack_from(order + "H", exif, start)
        for at in range(start + 2, min(start + 2 + count * ENTRY, len(exif) - ENTRY + 1), ENTRY):
            tag, kind, number = struct.unpack_from(order + "HHI", exif, at)
            if tag == TAG:
                known = number == 1 and kind in WHOLE
                value = struct.unpack_from(order + WHOLE[kind], exif, at + 8)[0] if known else 0
                found = value if 1 <= value <= 8 else UPRIGHT
    except struct.error:  # cut off
        pass
    return found


def of(exif: bytes, xmp: bytes) -> int:
    """EXIF's, or else XMP's; 1 to 8."""
    found = of_exif(exif) if exif else None
    if found is None and xmp:
        match = _XMP.search(xmp)
        found = int(match[1]) if match and match[1] in b"12345678" else None
    return found or UPRIGHT
