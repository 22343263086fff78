"""Small files of each format, and what the gateway makes of them."""

from __future__ import annotations

import struct

import numpy as np

from service.images import decode
from tests.service.pictures.made import (
    exif,
    noise,
    saved,
)

LIMIT = 100_000
SHORT, FLOAT, RATIONAL, LONG = 3, 11, 5, 4  # types of EXIF
ORIENTATION = 0x0112
PICTURE = noise(24, 40)
PNG, JPEG = saved(PICTURE, "PNG"), saved(PICTURE, "JPEG")
WEBP = saved(PICTURE, "WEBP", lossless=True)
GIF = saved(PICTURE.quantize(16), "GIF")
HEADER = 33  # bytes of a PNG to the end of its first chunk


def pixels(data: bytes, size: int = 16) -> np.ndarray:
    return decode(data, [size], max_pixels=LIMIT)[size].pixels


def same(data: bytes, other: bytes) -> bool:
    return bool(np.array_equal(pixels(data), pixels(other)))


def turned(orientation: int, order: str = "<") -> bytes:
    value = struct.pack(order + "HH", orientation, 0)
    return exif((ORIENTATION, SHORT, 1, value), order=order)
