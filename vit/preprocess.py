"""uint8 image -> network input: one definition for training, evaluation and serving.

Grey to three channels, x / 127.5 - 1, bilinear resize without antialias (TensorFlow's, half-pixel
centres), clip to [-1, 1]; the aspect is not kept and nothing is cropped (evolution/SYSTEMS.md,
Images).

A sample reads two pixels an axis, so that of any picture at most 2 * size rows and 2 * size columns
contribute. Only these are worked on, as bytes for as long as can be: memory besides the picture is
at most that of the picture once more and of some ten outputs, with any aspect. Inputs that
another library has defined (`vit.contract`) are made of the whole picture.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vit.contract import Contract, Target

# What a path spec says of its input, besides the size.
CONTRACT = {
    "channels": 3,
    "resize": "bilinear",
    "antialias": False,
    "scaling": "x / 127.5 - 1",
}

Positions = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Lines:
    """Which rows and columns of a picture an array has, ascending."""

    height: int  # of the picture
    width: int
    rows: Positions
    columns: Positions


def lines_read(height: int, width: int, targets: Iterable[Target]) -> Lines:
    """What must be there of a picture to bring it to each of `targets`."""
    targets = tuple(targets)
    wanted = tuple(sorted(size for size in targets if isinstance(size, int)))
    if len(wanted) < len(targets):
        return whole(height, width)
    return Lines(height, width, _read(height, wanted), _read(width, wanted))


def whole(height: int, width: int) -> Lines:
    """All of a picture."""
    return Lines(height, width, np.arange(height), np.arange(width))


def resample(
    images: NDArray[np.uint8], size: int, lines: Lines | None = None
) -> NDArray[np.float32]:
    """uint8 [..., h, w, c] -> float32 [..., size, size, c], still on the scale 0 to 255.

    Samples lie at the centres of equal cells, each between two pixels an axis; beyond the
    outermost pixel centres the border pixel holds. Of a picture that is not there as a whole,
    `lines` says what is.
    """
    if lines is None:
        height, width = images.shape[-3:-1]
        lines = lines_read(height, width, (size,))
        images = _taken(_taken(images, lines.rows, -3), lines.columns, -2)
    x = _between(images, lines.height, lines.rows, size, -3)
    return _between(x, lines.width, lines.columns, size, -2)


def to_unit_range(images: Any) -> Any:
    """0 to 255, [..., h, w, c] -> float32 [..., h, w, 3] in [-1, 1]; grey is repeated."""
    scaled = images.astype(np.float32) / np.float32(127.5) - np.float32(1)
    return scaled if scaled.shape[-1] == 3 else scaled.repeat(3, axis=-1)


def preprocess(
    images: NDArray[np.uint8], target: Target, lines: Lines | None = None
) -> NDArray[np.float32]:
    """uint8 [..., h, w, 1 or 3] -> float32 [..., size, size, 3]; `lines` as above.

    In [-1, 1], unless the target is a contract with another scale.
    """
    height, width, channels = images.shape[-3:]
    if images.dtype != np.uint8 or channels not in (1, 3):
        raise ValueError(
            f"preprocess: expected uint8 with 1 or 3 channels, found {images.dtype} {images.shape}"
        )
    if isinstance(target, Contract):
        return target.scaled(cut(images, target))
    if lines is not None:
        height, width = lines.height, lines.width
    if (height, width) == (target, target):
        return to_unit_range(images)
    return to_unit_range(resample(images, target, lines)).clip(-1, 1)


def cut(images: NDArray[np.uint8], contract: Contract) -> NDArray[np.uint8]:
    """uint8 [..., h, w, c] -> uint8 [..., size, size, c], by another library's contract."""
    if images.ndim == 3:
        return contract.cut(images)
    return np.stack([cut(image, contract) for image in images])


@lru_cache(256)
def _samples(length: int, size: int) -> tuple[Positions, Positions, NDArray[np.float32]]:
    """Between which two pixels of a line each sample lies, and how near to the second."""
    point = ((np.arange(size) + 0.5) * (length / size) - 0.5).clip(0, length - 1)
    low = point.astype(np.intp)
    return low, np.minimum(low + 1, length - 1), (point - low).astype(np.float32)


@lru_cache(256)
def _read(length: int, sizes: tuple[int, ...]) -> Positions:
    return np.unique(np.concatenate([at for size in sizes for at in _samples(length, size)[:2]]))


def _taken(images: NDArray[np.uint8], positions: Positions, axis: int) -> NDArray[np.uint8]:
    return images if len(positions) == images.shape[axis] else images.take(positions, axis)


def _between(
    x: NDArray[Any], length: int, there: Positions, size: int, axis: int
) -> NDArray[np.float32]:
    """The samples of one axis, of which the pixels at the positions `there` are in the array."""
    low, high, weight = _samples(length, size)
    if len(there) < length:
        low, high = np.searchsorted(there, low), np.searchsorted(there, high)
    part: NDArray[Any] = weight.reshape(-1, *[1] * (-1 - axis))
    first = x.take(low, axis).astype(np.float32)
    return first + part * (x.take(high, axis) - first)
