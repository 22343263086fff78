"""JPEG: its frame, tables and scans are used, and of its applications' segments the orientation.

What follows the end of the image, as in a motion photo, is no part of it.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from vit.pictures import orientation
from vit.pictures.errors import ImageTooLarge
from vit.pictures.picture import Picture, check_pieces, cut_off, damaged, parts_of, storage

SIGNATURE = b"\xff\xd8\xff"
MAX_SCANS = 50  # each goes over the whole picture; encoders make about ten
END, START_OF_SCAN, APPLICATIONS, APP1, COMMENT = 0xD9, 0xDA, 0xE0, 0xE1, 0xFE
SCAN = b"\xff\xda"
ALONE = {0x01, *range(0xD0, 0xD9)}  # markers without a segment
FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
DECODED = {0xC0, 0xC1, 0xC2, 0xC3, 0xC9, 0xCA}  # baseline to lossless, arithmetic
PROGRESSIVE = {0xC2, 0xCA}
LOSSLESS = 0xC3  # has no frequencies, of which a decoder could leave out the high ones
SCALES = (2, 4, 8)  # by which a decoder divides the sides
USED_APPLICATIONS = {0xE0, 0xEE}  # JFIF and Adobe say what the colours are
EXIF, XMP = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"
BLOCK = 8  # pixels a side
COEFFICIENTS = 2 * BLOCK * BLOCK  # bytes a block, where a picture has several scans
SEARCHED = 2**18  # bytes at once: a search keeps the interpreter to itself
_MARKER = re.compile(rb"\xff([^\x00\xff])", re.DOTALL)
_AFTER_SCAN = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])", re.DOTALL)


@dataclass(frozen=True, slots=True)
class _Frame:
    kind: int
    width: int
    height: int
    sampling: tuple[tuple[int, int], ...]  # of each component: across and down

    def reduced_memory(self, scans_all: bool) -> dict[int, int]:
        """As `memory`, by each scale."""
        scales = () if self.kind == LOSSLESS else SCALES
        return {scale: self.memory(scans_all, scale) for scale in scales}

    def memory(self, scans_all: bool, scale: int = 1) -> int:
        """Bytes; `scans_all` if the first scan has all components."""
        across = max(h for h, _ in self.sampling)
        down = max(v for _, v in self.sampling)
        columns = -(-self.width // (BLOCK * across))  # of units that the file is made of
        rows = -(-self.height // (BLOCK * down))
        row = columns * across * BLOCK * BLOCK * down * len(self.sampling)  # of units, in bytes
        width, height = -(-self.width // scale), -(-self.height // scale)
        memory = storage(width, height, 1 if len(self.sampling) == 1 else 4) + 2 * row
        if self.kind in PROGRESSIVE or not scans_all:
            blocks = columns * (rows + 1) * sum(h * v for h, v in self.sampling)
            memory += blocks * COEFFICIENTS
        return memory


def look(data: bytes) -> Picture:
    """Raises UnreadableImage or ImageTooLarge."""
    kept = [(0, 2)]
    frame, exif, xmp = None, [], b""
    for count, (marker, start, stop) in enumerate(_segments(data)):
        check_pieces("JPEG", count)
        content = slice(start + 4, stop)
        if marker in FRAMES:
            if frame is not None:
                raise damaged("JPEG", "with two frames: expected one picture")
            frame = _frame(marker, data[content])
        elif marker == START_OF_SCAN:
            if frame is None:
                raise damaged("JPEG", "whose pixels come before their frame (SOF)")
            _check_scans(data, start)
            kept.append((start, len(data)))
            all_in_one = data[start + 4 : start + 5] == bytes([len(frame.sampling)])
            return Picture(
                "JPEG",
                frame.width,
                frame.height,
                frame.memory(all_in_one),
                parts_of(data, kept),
                orientation.of(b"".join(exif), xmp),
                reduced_memory=frame.reduced_memory(all_in_one),
            )
        elif marker == APP1 and data.startswith(EXIF, start + 4):
            exif.append(data[start + 4 + len(EXIF) : stop])
            continue
        elif marker == APP1 and data.startswith(XMP, start + 4):
            xmp = data[content]
            continue
        elif marker == COMMENT or (
            marker & 0xF0 == APPLICATIONS and marker not in USED_APPLICATIONS
        ):
            continue
        kept.append((start, stop))
    raise cut_off("JPEG", data, "its frame (SOF)" if frame is None else "its scan (SOS)")


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, start and end of each segment up to the first scan; what is between is skipped."""
    at = 2
    while found := _found(_MARKER, data, at):
        marker, at = found[1][0], found.end()
        if marker in ALONE:
            yield 0, at, at
            continue
        if marker == END:
            return
        length = int.from_bytes(data[at : at + 2])
        if at + max(length, 2) > len(data):
            raise cut_off("JPEG", data, f"the rest of segment FF{marker:02X}")
        if length >= 2:
            yield marker, at - 2, at + length
        elif marker != COMMENT and marker & 0xF0 != APPLICATIONS:
            raise damaged("JPEG", f"whose segment FF{marker:02X} has {length} bytes")
        at += max(length, 2)


def _found(pattern: re.Pattern[bytes], data: bytes, at: int) -> re.Match[bytes] | None:
    """The next marker; in time that is proportional to the bytes that are passed."""
    for start in range(at, len(data), SEARCHED):
        if found := pattern.search(data, start, start + SEARCHED + 1):
            return found
    return None


def _frame(marker: int, content: bytes) -> _Frame:
    if marker not in DECODED:
        raise damaged(
            "JPEG", f"of a kind that is not decoded here (FF{marker:02X}); save it as baseline JPEG"
        )
    if len(content) < 6 or len(content) < 6 + 3 * content[5]:
        raise damaged("JPEG", "whose frame (SOF) is too short")
    bits, height, width, components = struct.unpack_from(">BHHB", content)
    if bits != 8:
        raise damaged("JPEG", f"of {bits} bits a sample: expected 8; save it as baseline JPEG")
    if not height or not width:
        raise damaged("JPEG", f"whose frame states {width} x {height} pixels")
    if components not in (1, 3, 4):
        raise damaged("JPEG", f"of {components} components: expected 1, 3 or 4")
    sampling = [content[7 + 3 * i] for i in range(components)]
    if any(not 1 <= value <= 4 for both in sampling for value in (both >> 4, both & 15)):
        raise damaged("JPEG", "whose components are sampled in an undefined way")
    return _Frame(marker, width, height, tuple((both >> 4, both & 15) for both in sampling))


def _check_scans(data: bytes, first: int) -> None:
    """Raises ImageTooLarge for more than MAX_SCANS in the image itself."""
    if data.count(SCAN, first) <= MAX_SCANS:  # of what follows the image some, in a scan none
        return
    scans, at = 0, first
    for count, found in enumerate(_markers_from(data, at)):
        check_pieces("JPEG", count)
        scans += found == START_OF_SCAN
        if scans > MAX_SCANS:
            raise ImageTooLarge(
                f"decoding the image: a JPEG of more than {MAX_SCANS} scans; save it as baseline "
                "JPEG"
            )


def _markers_from(data: bytes, at: int) -> Iterator[int]:
    """Markers from the first scan to the end of the image."""
    while found := _found(_AFTER_SCAN, data, at):
        marker, at = found[1][0], found.end()
        if marker == END:
            return
        yield marker
        if marker not in ALONE:
            at += max(2, int.from_bytes(data[at : at + 2]))
