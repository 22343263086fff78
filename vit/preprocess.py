"""uint8 image -> network input: one definition for training, evaluation and serving.

Grey to three channels, x / 127.5 - 1, bilinear resize without antialias (TensorFlow's, half-pixel
centres), clip to [-1, 1]; the aspect is not kept and nothing is cropped (spec/munet.md §5).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

# What a path spec says of its input, beside the size.
CONTRACT = {
    "channels": 3,
    "resize": "bilinear",
    "antialias": False,
    "scaling": "x / 127.5 - 1",
}


def resample(images: NDArray[np.uint8], size: int) -> NDArray[np.float32]:
    """uint8 [..., h, w, c] -> float32 [..., size, size, c], still on the scale 0 to 255.

    Samples lie at the centres of equal cells, each between two pixels an axis; beyond the
    outermost pixel centres the border pixel holds.
    """
    x: NDArray[Any] = images
    for axis in (-3, -2):
        length = images.shape[axis]
        point = ((np.arange(size) + 0.5) * (length / size) - 0.5).clip(0, length - 1)
        low = point.astype(np.intp)
        weight = (point - low).astype(np.float32).reshape(-1, *[1] * (-1 - axis))
        first = x.take(low, axis).astype(np.float32)
        second = x.take(np.minimum(low + 1, length - 1), axis)
        x = first + weight * (second - first)
    return x


def to_unit_range(images: Any) -> Any:
    """0 to 255, [..., h, w, c] -> float32 [..., h, w, 3] in [-1, 1]; grey is repeated."""
    scaled = images.astype(np.float32) / np.float32(127.5) - np.float32(1)
    return scaled if scaled.shape[-1] == 3 else scaled.repeat(3, axis=-1)


def preprocess(images: NDArray[np.uint8], size: int) -> NDArray[np.float32]:
    """uint8 [..., h, w, 1 or 3] -> float32 [..., size, size, 3] in [-1, 1]."""
    height, width, channels = images.shape[-3:]
    if images.dtype != np.uint8 or channels not in (1, 3):
        raise ValueError(
            f"preprocess: expected uint8 with 1 or 3 channels, found {images.dtype} {images.shape}"
        )
    if (height, width) == (size, size):
        return to_unit_range(images)
    return to_unit_range(resample(images, size)).clip(-1, 1)
