"""Image bytes -> network input, within limits that are checked before anything is decoded.

The first frame is used; EXIF orientation is applied, transparency is laid over white, 16-bit grey
is brought to 8 bits. Blocks: call it in a thread.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from service.errors import BadImage, TooLarge
from vit import preprocess

# Few decoders, all of them much used: each further one is further code for hostile bytes.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")
WIDE_GREY = ("I", "I;16", "I;16B", "I;16L", "I;16N")


@dataclass(frozen=True, slots=True)
class Decoded:
    """What the engine takes, with a name that equal pixels share."""

    pixels: NDArray[np.float32]  # [size, size, 3]
    identity: bytes


def decode(data: bytes, *, size: int, max_pixels: int) -> Decoded:
    """Decodes and preprocesses one image to `size` pixels on each side.

    Raises BadImage, or TooLarge by the width and height that its header states.
    """
    if not data:
        raise BadImage("decoding the image: the body is empty")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
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
    pixels = preprocess(array, size)
    return Decoded(pixels, hashlib.blake2b(pixels.tobytes(), digest_size=16).digest())


def _check_pixels(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise TooLarge(
            f"decoding the image: {width} x {height} pixels, at most {max_pixels} are accepted; "
            "send a smaller image"
        )


def _eight_bit(image: Image.Image) -> NDArray[np.uint8]:
    """[height, width, 1 or 3]"""
    if image.mode in WIDE_GREY:
        grey = np.asarray(ImageOps.exif_transpose(image)).astype(np.int64) >> 8
        return grey.clip(0, 255).astype(np.uint8)[..., None]
    if image.mode in ("1", "L") and "transparency" not in image.info:
        return np.asarray(ImageOps.exif_transpose(image).convert("L"))[..., None]
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
