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


def bilinear_matrix(start: Any, extent: Any, source: int, size: int) -> Any:
    """The matrix [size, source] that samples pixels start .. start + extent at `size` points.

    `start` and `extent` may be traced (a random crop): only arithmetic is used. Points are the
    centres of `size` equal cells; beyond the outermost pixel centres the border pixel holds.
    """
    point = start + (np.arange(size) + 0.5) * (extent / size) - 0.5
    point = point.clip(start, start + extent - 1)
    distance = abs(point[:, None] - np.arange(source))
    return (1 - distance).clip(0)


def to_unit_range(images: Any) -> Any:
    """uint8 [..., h, w, c] -> float32 [..., h, w, 3] on the scale [-1, 1]; grey is repeated."""
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
    rows = bilinear_matrix(0, height, height, size).astype(np.float32)
    columns = bilinear_matrix(0, width, width, size).astype(np.float32)
    # Without antialias most pixels of a large image have no weight: they are not even converted.
    used_rows, used_columns = rows.any(0), columns.any(0)
    x = to_unit_range(images[..., used_rows, :, :][..., used_columns, :])
    x = np.einsum("yh,...hwc->...ywc", rows[:, used_rows], x, optimize=True)
    return np.einsum("xw,...ywc->...yxc", columns[:, used_columns], x, optimize=True).clip(-1, 1)
