"""The one file of a body of `multipart/form-data` (RFC 7578).

The whole body is in memory, so searching for the boundary finds its parts. That takes a few passes
at the speed of memory, for any number of parts. Names and charsets are not decoded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from service.errors import BadParameter

MAX_TYPE_CHARACTERS = 1000  # of the request's Content-Type
MAX_PARTS = 16
MAX_PART_HEAD = 8192  # bytes
BOUNDARY = re.compile(r';\s*boundary=(?:"([^"]{1,200})"|([^\s";,]{1,200}))', re.IGNORECASE)
FILENAME = re.compile(rb';\s*filename\*?=\s*(""|"?[^";\s])', re.IGNORECASE)
MEDIA = (b"image/", b"application/octet-stream")  # of a file that has no name
END = b"--"


@dataclass(frozen=True, slots=True)
class _Part:
    named: bool  # by a filename, which may be empty
    media: bytes
    start: int  # of its content, in the body
    end: int

    @property
    def is_file(self) -> bool:
        return self.named or self.media.startswith(MEDIA)


def only_file(body: bytes, content_type: str) -> bytes:
    """The content of the only file among the parts; blocks. Raises BadParameter.

    A file is a part with a filename or of the type of an image or of any bytes; else the only part.
    """
    if len(content_type) > MAX_TYPE_CHARACTERS:
        raise _unreadable(
            f"a Content-Type of at most {MAX_TYPE_CHARACTERS} characters", f"{len(content_type)}"
        )
    boundary = BOUNDARY.search(content_type)
    if boundary is None:
        raise _unreadable("a boundary of up to 200 characters in Content-Type", "none")
    parts = list(_parts(body, (boundary[1] or boundary[2]).encode("latin-1")))
    files = [one for one in parts if one.is_file]
    if not files and len(parts) == 1:
        files = parts
    if len(files) > 1:  # a browser also sends the inputs in which nothing was chosen
        files = [one for one in files if one.end > one.start]
    if len(files) != 1:
        found = f"{len(files)} files" if files else f"no file among {len(parts)} parts"
        raise _unreadable("exactly one part with a filename or of type image/*", found)
    return body[files[0].start : files[0].end]


def _parts(body: bytes, boundary: bytes) -> Iterator[_Part]:
    delimiter = b"\r\n--" + boundary
    if body.startswith(delimiter[2:]):
        place = len(delimiter) - 2
    elif (found := body.find(delimiter)) >= 0:
        place = found + len(delimiter)
    else:
        raise _unreadable("the boundary that Content-Type names", f"none in {len(body)} bytes")
    for _ in range(MAX_PARTS):
        if body.startswith(END, place):
            return
        end = body.find(delimiter, place)
        if end < 0:
            raise _unreadable("a last boundary with -- behind it", "a form that breaks off")
        yield _part(body, place, end)
        place = end + len(delimiter)
    if not body.startswith(END, place):
        raise _unreadable(f"at most {MAX_PARTS} parts", "more")


def _part(body: bytes, place: int, end: int) -> _Part:
    """The part whose boundary ends at `place`: blanks, an end of line, headers, content."""
    head_end = body.find(b"\r\n\r\n", place, min(end, place + MAX_PART_HEAD))
    if head_end < 0:
        raise _unreadable(f"a part's headers within {MAX_PART_HEAD} bytes", "no end of them")
    named, media = False, b""
    for line in body[place:head_end].split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-disposition":
            named = FILENAME.search(value) is not None
        elif name.lower() == b"content-type":
            media = value.strip().lower()
    return _Part(named, media, head_end + 4, end)


def _unreadable(expected: str, found: str) -> BadParameter:
    return BadParameter(f"reading the form: expected {expected}, found {found}")
