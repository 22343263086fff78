"""Image bytes -> network input, within limits that are checked before anything is decoded.

The first frame is used; EXIF orientation is applied, transparency is laid over white, 16-bit grey
is brought to 8 bits. Blocks: call it in a thread.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from service.errors import BadImage, TooLarge
from vit import preprocess

# Few decoders, all of them much used: each further one is further code for hostile bytes.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")
WIDE_GREY = ("I", "I;16", "I;16B", "I;16L", "I;16N")
# Both bound the time that a few bytes can ask for; what pictures have is far below.
MAX_READS = 50_000  # of chunks, segments, comments, runs: each costs the interpreter microseconds
MAX_SCANS = 50  # of a progressive JPEG: each goes over the whole picture; encoders make about ten
START_OF_SCAN = b"\xff\xda"  # does not occur in what a JPEG has compressed
BAND_ROWS = 256  # converted at once: the whole picture would be in memory several times


@dataclass(frozen=True, slots=True)
class Decoded:
    """What the engine takes, with a name that equal pixels share."""

    pixels: NDArray[np.float32]  # [size, size, 3]
    identity: bytes


def decode(data: bytes, sizes: Iterable[int], *, max_pixels: int) -> Mapping[int, Decoded]:
    """Decodes one image, and preprocesses it to each of `sizes`: pixels on each side.

    Raises BadImage, or TooLarge by the width and height that its header states and by the pieces
    that it is in.
    """
    if not data:
        raise BadImage("decoding the image: the body is empty")
    try:
        with Image.open(_Pieces(data), formats=FORMATS) as image:
            if image.format in ("JPEG", "MPO") and data.count(START_OF_SCAN) > MAX_SCANS:
                raise TooLarge(f"decoding the image: a JPEG of more than {MAX_SCANS} scans")
            _check_pixels(image.width, image.height, max_pixels)
            array = _eight_bit(image)
    except TooLarge:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise TooLarge(f"decoding the image: more than {max_pixels} pixels") from None
    except Image.UnidentifiedImageError:
        raise BadImage(
            f"decoding the image: {len(data)} bytes that are none of {', '.join(FORMATS)}"
        ) from None
    # Broken files raise whatever the decoder stumbles over: OSError, SyntaxError, struct.error ...
    except Exception as error:
        raise BadImage(f"decoding the image: {type(error).__name__}: {error}") from None
    return resized(array, sizes)


def resized(array: NDArray[np.uint8], sizes: Iterable[int]) -> Mapping[int, Decoded]:
    """Network inputs, by size, of uint8 [height, width, 1 or 3]."""
    return {size: named(preprocess(array, size)) for size in sizes}


def named(pixels: NDArray[np.float32]) -> Decoded:
    """Network input with the name of its pixels."""
    return Decoded(pixels, hashlib.blake2b(pixels.tobytes(), digest_size=16).digest())


def _check_pixels(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise TooLarge(
            f"decoding the image: {width} x {height} pixels, at most {max_pixels} are accepted; "
            "send a smaller image"
        )


class _Pieces(io.BytesIO):
    """Bytes that can be read a limited number of times; each piece of a file takes one or a few."""

    _reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self._reads += 1
        if self._reads > MAX_READS:
            raise TooLarge("decoding the image: the file is in too many pieces; save it anew")
        return super().read(size)


def _eight_bit(image: Image.Image) -> NDArray[np.uint8]:
    """[height, width, 1 or 3]"""
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode in WIDE_GREY:
        channels, band_of = 1, _narrowed
    elif image.mode in ("1", "L") and "transparency" not in image.info:
        channels, band_of = 1, _grey
    elif image.has_transparency_data:
        channels, band_of = 3, _on_white
    else:
        channels, band_of = 3, _colour
    array = np.empty((image.height, image.width, channels), np.uint8)
    for top in range(0, image.height, BAND_ROWS):
        band = array[top : top + BAND_ROWS]
        box = (0, top, image.width, top + len(band))
        band[...] = np.asarray(band_of(image.crop(box))).reshape(band.shape)
    return array


def _narrowed(image: Image.Image) -> NDArray[np.uint8]:
    return (np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)


def _grey(image: Image.Image) -> Image.Image:
    return image.convert("L")


def _colour(image: Image.Image) -> Image.Image:
    return image.convert("RGB")


def _on_white(image: Image.Image) -> Image.Image:
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
