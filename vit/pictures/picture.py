"""A picture that is not decoded yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from vit.pictures.errors import ImageTooLarge, UnreadableImage

MAX_PIECES = 50_000  # of one file: each costs the interpreter about a microsecond


@dataclass(frozen=True, slots=True)
class Picture:
    """What the file states, within what its format can have."""

    format: str
    width: int  # as stored: the orientation is not applied
    height: int
    memory: int  # bytes that decoding takes at most, besides the file
    parts: Sequence[bytes | memoryview]  # of the file, or in place of such: what its pixels need
    orientation: int = 1  # of EXIF: 1 to 8
    perhaps: int = 0  # bytes that decoding may take besides `memory`, and hardly ever does
    scale: int = 1  # by which its decoder divides the sides that the file states
    # By each further scale that the decoder has: what `memory` is then.
    reduced_memory: Mapping[int, int] = field(default_factory=dict[int, int])

    @property
    def pixels(self) -> int:
        """How many there are."""
        return self.width * self.height

    def at(self, scale: int) -> Picture:
        """The same with its sides divided in decoding, rounded up; 1, or of `reduced_memory`."""
        if scale == 1:
            return self
        width, height = -(-self.width // scale), -(-self.height // scale)
        memory = self.reduced_memory[scale]
        return replace(self, width=width, height=height, memory=memory, scale=scale)

    @property
    def file_bytes(self) -> int:
        """Of what `file` makes."""
        return sum(len(part) for part in self.parts)

    def file(self) -> bytes:
        """The file without what its pixels do not need."""
        first, *others = self.parts
        return b"".join(self.parts) if others or not isinstance(first, bytes) else first


def storage(width: int, height: int, pixel_bytes: int) -> int:
    """Bytes of a decoded picture in Pillow: rows of whole words, and a pointer to each."""
    return height * (8 + (width * pixel_bytes + 3 & -4))


def parts_of(data: bytes, kept: Sequence[tuple[int, int] | bytes]) -> Sequence[bytes | memoryview]:
    """Parts of a file, from and to, and what replaces some; the file itself if it stays whole."""
    adjoining: list[tuple[int, int] | bytes] = []
    for part in kept:
        last = adjoining[-1] if adjoining else b""
        if isinstance(part, tuple) and isinstance(last, tuple) and last[1] == part[0]:
            adjoining[-1] = last[0], part[1]
        else:
            adjoining.append(part)
    if adjoining == [(0, len(data))]:
        return (data,)
    view = memoryview(data)
    return [view[slice(*part)] if isinstance(part, tuple) else part for part in adjoining]


def damaged(format: str, what: str) -> UnreadableImage:
    """`what` goes on from "a PNG"."""
    return UnreadableImage(f"decoding the image: a {format} {what}")


def cut_off(format: str, data: bytes, missing: str) -> UnreadableImage:
    """For a file that ends too early."""
    return damaged(format, f"that ends after {len(data)} bytes: {missing} is missing")


def check_pieces(format: str, count: int) -> None:
    """Raises ImageTooLarge for a file that would take long to walk through."""
    if count > MAX_PIECES:
        raise ImageTooLarge(
            f"decoding the image: a {format} in more than {MAX_PIECES} pieces (chunks, segments, "
            "runs); save it again with a common program, or as PNG"
        )
