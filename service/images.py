"""Image bytes -> network input, within limits that are checked before anything is decoded.

`vit.decode` decodes, by the rules of the version that is asked: the same pixels as in training.

Besides the file and the picture as Pillow holds it, memory is bounded for pictures of every shape.
Only the rows and columns that the network's input needs are converted; for inputs that another
library has defined, the whole picture is. All memory is taken from one budget (`DecodeMemory`)
before decoding begins. Blocks: call it in a thread.

A JPEG that may be reduced is decoded once for each scale that the targets need. So no answer
depends on what else a request asks for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from service.errors import BadImage, GatewayError, TooLarge
from vit import decode as files
from vit.contract import Contract, Target, size_of
from vit.decode import VIEWER, Decoding
from vit.pictures.errors import ImageError, ImageTooLarge
from vit.pictures.picture import Picture
from vit.preprocess import lines_read, preprocess

PIXEL_BYTES = 3
HASHED = 8  # rows of a picture, and columns
OUTPUT_BYTES = 100  # of memory while an output is made, for each of its pixels
SMALL_BYTES = 2**20  # that are not worth counting one by one


class Identity:
    """Equal where pixels are. Compares some of them first: a digest of all takes longer."""

    __slots__ = ("_hash", "_pixels")

    def __init__(self, pixels: NDArray[np.float32]) -> None:
        step = 1 + (len(pixels) - 1) // HASHED
        self._pixels = pixels
        self._hash = hash(pixels[::step, ::step].tobytes())

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Identity):
            return NotImplemented
        return self._hash == other._hash and np.array_equal(self._pixels, other._pixels)


@dataclass(frozen=True, slots=True)
class Decoded:
    """What the engine takes."""

    pixels: NDArray[np.float32]  # [size, size, 3]
    identity: Identity


class Undecoded(Protocol):
    """An image whose header has been read."""

    @property
    def pixels(self) -> int:
        """How many it has; 0 if it needs no decoding."""
        ...

    def by(self, decoding: Decoding) -> Undecoded:
        """The same image, to be decoded by these rules."""
        ...

    def memory(self, targets: Iterable[Target]) -> tuple[int, int]:
        """Bytes that `decoded` takes, and bytes that it hardly ever takes in addition."""
        ...

    def decoded(self, targets: Iterable[Target]) -> Mapping[Target, Decoded]:
        """The image as each of the targets wants it; raises BadImage or TooLarge; blocks."""
        ...


class Source(Protocol):
    """An image as it was sent."""

    fixed: ClassVar[bool]  # whether it is in one version's form already, and in no other's

    @property
    def content(self) -> bytes | memoryview:
        """Its bytes."""
        ...

    def look(self, max_pixels: int) -> Undecoded:
        """Reads its header; raises BadImage or TooLarge; blocks."""
        ...


@dataclass(frozen=True, slots=True)
class File:
    """An image in one of the FORMATS."""

    data: bytes
    fixed: ClassVar[bool] = False

    @property
    def content(self) -> bytes:
        """As of Source."""
        return self.data

    def look(self, max_pixels: int) -> FilePicture:
        """As of Source."""
        try:
            picture = files.look(self.data)
        except ImageError as error:
            raise _refused(error) from None
        check_pixels(picture.width, picture.height, max_pixels)
        return FilePicture(picture)


@dataclass(frozen=True, slots=True)
class Pixels:
    """An image that is decoded already: uint8 [height, width, 1 or 3]."""

    array: NDArray[np.uint8]
    fixed: ClassVar[bool] = False

    @property
    def content(self) -> memoryview:
        """As of Source."""
        return np.ascontiguousarray(self.array).data.cast("B")

    def look(self, max_pixels: int) -> Undecoded:
        """As of Source."""
        height, width = self.array.shape[:2]
        check_pixels(width, height, max_pixels)
        return self

    @property
    def pixels(self) -> int:
        """How many it has."""
        return self.array.shape[0] * self.array.shape[1]

    def by(self, decoding: Decoding) -> Undecoded:
        """As of Undecoded; its pixels are what they are."""
        del decoding
        return self

    def memory(self, targets: Iterable[Target]) -> tuple[int, int]:
        """As of Undecoded."""
        height, width = self.array.shape[:2]
        return self.array.nbytes + _output_bytes(targets, height, width), 0

    def decoded(self, targets: Iterable[Target]) -> Mapping[Target, Decoded]:
        """As of Undecoded."""
        return {target: named(preprocess(self.array, target)) for target in targets}


@dataclass(frozen=True, slots=True)
class FilePicture:
    """A file whose header has been read."""

    picture: Picture
    decoding: Decoding = VIEWER

    @property
    def pixels(self) -> int:
        """As of Undecoded."""
        return self.picture.pixels

    def by(self, decoding: Decoding) -> FilePicture:
        """As of Undecoded."""
        return replace(self, decoding=decoding)

    def memory(self, targets: Iterable[Target]) -> tuple[int, int]:
        """As of Undecoded."""
        pictures, outputs = 0, 0
        for picture, some in self._decodings(targets):
            height, width = files.shown_size(picture, self.decoding)
            pictures = max(pictures, files.memory(picture))  # one after the other
            outputs += _output_bytes(some, height, width)
        return pictures + outputs, self.picture.perhaps

    def decoded(self, targets: Iterable[Target]) -> Mapping[Target, Decoded]:
        """As of Undecoded."""
        found: dict[Target, Decoded] = {}
        for picture, some in self._decodings(targets):
            found |= self._inputs(picture, some)
        return found

    def _inputs(self, picture: Picture, targets: Sequence[Target]) -> Mapping[Target, Decoded]:
        """Of one decoding. Its pixels are freed at the end, before another one begins."""
        height, width = files.shown_size(picture, self.decoding)
        lines = lines_read(height, width, targets)
        try:
            array = files.read(picture, self.decoding, lines)
        except ImageError as error:
            raise _refused(error) from None
        return {target: named(preprocess(array, target, lines)) for target in targets}

    def _decodings(self, targets: Iterable[Target]) -> Iterable[tuple[Picture, list[Target]]]:
        """The picture as it is decoded, and for which of the targets."""
        found: dict[int, list[Target]] = {}
        for target in targets:
            scale = files.scale_of(self.picture, self.decoding, target)
            found.setdefault(scale, []).append(target)
        return [(self.picture.at(scale), some) for scale, some in found.items()]


def decode(
    data: bytes, targets: Iterable[Target], *, max_pixels: int, decoding: Decoding = VIEWER
) -> Mapping[Target, Decoded]:
    """Decodes one image, and preprocesses it to each of `targets`.

    Raises BadImage, or TooLarge by the width and height that its header states and by the pieces
    that it is in.
    """
    return File(data).look(max_pixels).by(decoding).decoded(targets)


def named(pixels: NDArray[np.float32]) -> Decoded:
    """Network input that can be told from others."""
    return Decoded(pixels, Identity(pixels))


def check_pixels(width: int, height: int, max_pixels: int) -> None:
    """Raises TooLarge."""
    if width * height > max_pixels:
        raise TooLarge(
            f"decoding the image: {width} x {height} pixels, at most {max_pixels} are accepted; "
            "send a smaller image, or raise MUNET_MAX_PIXELS"
        )


def _output_bytes(targets: Iterable[Target], height: int, width: int) -> int:
    """Bytes that making the outputs takes, in addition to a stored picture of that size."""
    found = SMALL_BYTES
    for target in targets:
        found += OUTPUT_BYTES * size_of(target) ** 2
        if isinstance(target, Contract):  # the whole picture is converted, and resized as a whole
            found += PIXEL_BYTES * height * width + target.memory(height, width)
    return found


def _refused(error: ImageError) -> GatewayError:
    return (TooLarge if isinstance(error, ImageTooLarge) else BadImage)(str(error))
