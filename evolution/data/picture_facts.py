"""Pixels of one picture, by the decoder of training and serving, and facts about it.

That decoder alone decides which files can be used. Other facts (mode, transparency, orientation)
come from the file's header.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from evolution.data.images import decode_image
from vit.decode import look, opened
from vit.pictures.errors import ImageError

MAX_PIXELS = 4096 * 4096  # the gateway's own limit, unless it is set higher
# Formats that the decoder does not support, as at the end of its message.
CONVERTIBLE = (
    "a TIFF", "an AVIF", "a HEIC", "a JPEG XL", "a JPEG 2000", "an icon (ICO)",
    "a Photoshop file", "an SVG",
)  # fmt: skip
REMEDY = "; save it as PNG or JPEG"
THUMB = 8  # side of the thumbnails that find near-duplicates


@dataclass(frozen=True, slots=True)
class Facts:
    """The facts about a picture for a check."""

    width: int  # as decoded
    height: int
    format: str
    mode: str
    alpha: bool
    turned: bool  # by its orientation flag
    constant: bool  # one colour all over, once decoded
    hash: int  # 64 bits; near-duplicates differ in a few
    thumb: bytes  # THUMB x THUMB x 3


def pixels_of(encoded: bytes) -> NDArray[np.uint8]:
    """The pixels of a file as training and the gateway see them, [h, w, 3].

    Raises ImageError for a file that cannot be decoded.
    """
    return decode_image(encoded, 3)


def facts_of(encoded: bytes) -> Facts:
    """Raises ValueError, with the reason, for a picture that cannot be used."""
    try:
        picture = look(encoded)
        if picture.pixels > MAX_PIXELS:
            raise ValueError(
                f"{picture.width} x {picture.height} pixels, expected at most {MAX_PIXELS:,}"
            )
        with opened(picture) as image:
            mode = image.mode
            alpha = mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info
        pixels = pixels_of(encoded)
    except ImageError as error:
        reason = str(error).removeprefix("decoding the image: ")
        raise ValueError(reason + REMEDY * reason.endswith(CONVERTIBLE)) from None
    except ValueError:
        raise
    except Exception as error:  # Pillow documents no errors of its plugins
        raise ValueError(f"damaged: {str(error) or type(error).__name__:.150}") from None
    turned = picture.orientation != 1
    height, width = pixels.shape[:2]
    lowest, highest = pixels.min((0, 1)), pixels.max((0, 1))
    hashed, thumb = _looks(pixels)
    constant = bool((lowest == highest).all())
    return Facts(width, height, picture.format, mode, alpha, turned, constant, hashed, thumb)


def _looks(pixels: NDArray[np.uint8]) -> tuple[int, bytes]:
    """Difference hash (is each of 8 x 8 cells brighter than its right neighbour?) and thumbnail."""
    box, image = Image.Resampling.BOX, Image.fromarray(pixels)
    grey = np.asarray(image.resize((9, 8), box).convert("L"), np.int16)
    bits = np.packbits(grey[:, :-1] > grey[:, 1:])
    return int.from_bytes(bits.tobytes()), image.resize((THUMB, THUMB), box).tobytes()
