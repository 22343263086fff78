"""Image bytes -> network input, within limits that are checked before anything is decoded.

What viewers show is decoded: the first frame, turned as EXIF says, transparency laid over white,
16-bit grey brought to 8 bits. What they do without refuses nothing (`pictures/`).

Memory beside the file and the picture as Pillow holds it is bounded, at every aspect: only rows and
columns that contribute to the network's input are converted. All of it is taken from one budget
(`DecodeMemory`) before decoding begins. Blocks: call it in a thread.
"""

from __future__ import annotations

import hashlib
import io
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    WebPImagePlugin,
)

from service.errors import BadImage, GatewayError, TooLarge
from service.pictures import bmp, gif, jpeg, png, reading, webp
from service.pictures.picture import Picture, damaged
from vit.preprocess import Lines, lines_read, preprocess

OUTPUT_BYTES = 100  # of memory while an output is made, for each of its pixels
SMALL_BYTES = 2**20  # that are not worth counting one by one
FILE_COPIES = 3  # of what Pillow reads: as it was sent, in pieces, and what is left of them


@dataclass(frozen=True, slots=True)
class Decoded:
    """What the engine takes, with a name that equal pixels share."""

    pixels: NDArray[np.float32]  # [size, size, 3]
    identity: bytes


class Undecoded(Protocol):
    """An image whose header has been read."""

    @property
    def pixels(self) -> int:
        """How many it has; 0 if it needs no decoding."""
        ...

    def memory(self, sizes: Iterable[int]) -> tuple[int, int]:
        """Bytes that `decoded` takes, and bytes that it may take beside, hardly ever."""
        ...

    def decoded(self, sizes: Iterable[int]) -> Mapping[int, Decoded]:
        """The image at each of so many pixels a side; raises BadImage or TooLarge; blocks."""
        ...


class Source(Protocol):
    """An image as it was sent."""

    def look(self, max_pixels: int) -> Undecoded:
        """Reads its header; raises BadImage or TooLarge; blocks."""
        ...


@dataclass(frozen=True, slots=True)
class File:
    """An image in one of the FORMATS."""

    data: bytes

    def look(self, max_pixels: int) -> FilePicture:
        """As of Source."""
        picture = _looked(self.data)
        check_pixels(picture.width, picture.height, max_pixels)
        return FilePicture(picture)


@dataclass(frozen=True, slots=True)
class Pixels:
    """An image that is decoded already: uint8 [height, width, 1 or 3]."""

    array: NDArray[np.uint8]

    def look(self, max_pixels: int) -> Undecoded:
        """As of Source."""
        height, width = self.array.shape[:2]
        check_pixels(width, height, max_pixels)
        return self

    @property
    def pixels(self) -> int:
        """How many it has."""
        return self.array.shape[0] * self.array.shape[1]

    def memory(self, sizes: Iterable[int]) -> tuple[int, int]:
        """As of Undecoded."""
        return self.array.nbytes + _output_bytes(sizes), 0

    def decoded(self, sizes: Iterable[int]) -> Mapping[int, Decoded]:
        """As of Undecoded."""
        return {size: named(preprocess(self.array, size)) for size in sizes}


@dataclass(frozen=True, slots=True)
class FilePicture:
    """A file whose header has been read."""

    picture: Picture

    @property
    def pixels(self) -> int:
        """As of Undecoded."""
        return self.picture.pixels

    def memory(self, sizes: Iterable[int]) -> tuple[int, int]:
        """As of Undecoded."""
        picture = self.picture
        band = reading.PIXEL_BYTES * min(picture.pixels, reading.BAND_PIXELS)
        files = FILE_COPIES * picture.file_bytes
        return picture.memory + band + files + _output_bytes(sizes), picture.perhaps

    def decoded(self, sizes: Iterable[int]) -> Mapping[int, Decoded]:
        """As of Undecoded."""
        width, height = reading.size(
            self.picture.width, self.picture.height, self.picture.orientation
        )
        lines = lines_read(height, width, sizes)
        array = _read(self.picture, lines)
        return {size: named(preprocess(array, size, lines)) for size in sizes}


def decode(data: bytes, sizes: Iterable[int], *, max_pixels: int) -> Mapping[int, Decoded]:
    """Decodes one image, and preprocesses it to each of `sizes`: pixels on each side.

    Raises BadImage, or TooLarge by the width and height that its header states and by the pieces
    that it is in.
    """
    return File(data).look(max_pixels).decoded(sizes)


def named(pixels: NDArray[np.float32]) -> Decoded:
    """Network input with the name of its pixels."""
    return Decoded(pixels, hashlib.blake2b(pixels.tobytes(), digest_size=16).digest())


def check_pixels(width: int, height: int, max_pixels: int) -> None:
    """Raises TooLarge."""
    if width * height > max_pixels:
        raise TooLarge(
            f"decoding the image: {width} x {height} pixels, at most {max_pixels} are accepted; "
            "send a smaller image, or raise MUNET_MAX_PIXELS"
        )


def _output_bytes(sizes: Iterable[int]) -> int:
    return SMALL_BYTES + OUTPUT_BYTES * sum(size * size for size in sizes)


# -- formats


@dataclass(frozen=True, slots=True)
class _Format:
    begins: Callable[[bytes], bool]
    look: Callable[[bytes], Picture]
    open: Callable[[io.BytesIO], Image.Image]  # of what `look` found


# Few decoders, all of them much used: each further one is further code for hostile bytes.
FORMATS: Mapping[str, _Format] = {
    "PNG": _Format(
        lambda data: data.startswith(png.SIGNATURE), png.look, PngImagePlugin.PngImageFile
    ),
    "JPEG": _Format(
        lambda data: data.startswith(jpeg.SIGNATURE), jpeg.look, JpegImagePlugin.JpegImageFile
    ),
    "WEBP": _Format(
        lambda data: data[:4] == b"RIFF" and data[8:12] == b"WEBP",
        webp.look,
        WebPImagePlugin.WebPImageFile,
    ),
    "BMP": _Format(lambda data: data[:2] == b"BM", bmp.look, BmpImagePlugin.BmpImageFile),
    "GIF": _Format(
        lambda data: data.startswith(gif.SIGNATURES), gif.look, GifImagePlugin.GifImageFile
    ),
}
# What else is sent, by how it begins, at which byte.
OTHERS: tuple[tuple[int, bytes, str], ...] = (
    (0, b"II*\0", "a TIFF"),
    (0, b"MM\0*", "a TIFF"),
    (4, b"ftypavif", "an AVIF"),
    (4, b"ftyphei", "a HEIC"),
    (4, b"ftypmif1", "a HEIC"),
    (4, b"ftyp", "a video (MP4)"),
    (0, b"\0\0\1\0", "an icon (ICO)"),
    (0, b"\xff\x0a", "a JPEG XL"),
    (0, b"\0\0\0\x0cJXL ", "a JPEG XL"),
    (0, b"\0\0\0\x0cjP", "a JPEG 2000"),
    (0, b"8BPS", "a Photoshop file"),
    (0, b"%PDF", "a PDF"),
    (0, b"<svg", "an SVG"),
    (0, b"<?xml", "XML"),
    (0, b"<!", "HTML"),
    (0, b"\x1f\x8b", "gzip"),
    (0, b"PK\3\4", "a ZIP"),
    (0, b"data:", "a data URL"),
    (0, b"{", "JSON"),
)


def _looked(data: bytes) -> Picture:
    if not data:
        raise BadImage("decoding the image: the body is empty")
    for name, format in FORMATS.items():
        if format.begins(data):
            try:
                return format.look(data)
            except (struct.error, IndexError, ValueError) as error:  # it ends where it should not
                raise _damaged(name, error) from None
    found = f"{len(data)} bytes that are none of them"
    for start, head, other in OTHERS:
        if data.startswith(head, start):
            found = other
            break
    else:
        for name, head in (("PNG", png.SIGNATURE), ("JPEG", jpeg.SIGNATURE), ("GIF", b"GIF8")):
            if head.startswith(data[: len(head)]):
                found = f"the first {len(data)} bytes of a {name}"
    raise BadImage(f"decoding the image: expected {', '.join(FORMATS)}; found {found}")


def _read(picture: Picture, lines: Lines) -> NDArray[np.uint8]:
    """uint8 [rows, columns, 1 or 3]"""
    data = picture.file()
    try:
        if picture.format == bmp.FORMAT:
            data = bmp.plain(data)
        with FORMATS[picture.format].open(io.BytesIO(data)) as image:
            if image.size != (picture.width, picture.height):
                raise BadImage(f"decoding the image: a {picture.format} of two sizes")
            image.load()
            return reading.read(image, picture.orientation, lines.rows, lines.columns)
    except GatewayError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise TooLarge(f"decoding the image: {error}") from None
    # Broken files raise whatever the decoder stumbles over: OSError, SyntaxError, struct.error ...
    except Exception as error:
        raise _damaged(picture.format, error) from None


def _damaged(format: str, error: Exception) -> BadImage:
    if "truncated" in str(error):
        missing = "the last of its pixels"
        if format == "JPEG":  # without its last two bytes all pixels may be there
            missing += " or the marker of its end (EOI)"
        return damaged(format, f"that ends before {missing}; send the whole file")
    return damaged(format, f"that is damaged: {type(error).__name__}: {error}")
