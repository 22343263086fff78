"""How pictures become input of networks that other libraries have trained: their pixels exactly.

The picture is resized by Pillow (bytes in, bytes out, with antialias), cut from its middle, and
scaled by mean and deviation, as transformers and timm do it.

All other networks take a plain input (`vit.preprocess`), which its size alone describes. So what
pictures are brought to is a `Target`: a size, or a Contract.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
}
# Of the first row and column of a crop that cannot be quite in the middle.
ROUNDINGS = ("down", "half_even")
SCALING = "(x / 255 - mean) / std"
CHANNELS = 3
ROUNDING = 1e-6  # of float32, as a share of a number
LARGEST_EDGE = 4096
PILLOW_BYTES = 4  # of one pixel in Pillow's memory
FIELDS = ("resize_to", "crop", "crop_rounding", "mean", "std")  # that no plain input has

Pixels = NDArray[np.uint8]
Numbers = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Contract:
    """How a picture becomes [size, size, 3]; raises ValueError where there is no such way."""

    size: int
    filter: str
    edges: int | tuple[int, int]  # of the resized picture: the shorter one, or height and width
    mean: Numbers  # of each of the CHANNELS, on the scale 0 to 1
    std: Numbers
    rounding: str = "down"

    def __post_init__(self) -> None:
        """Raises ValueError."""
        edges = self.edges if isinstance(self.edges, tuple) else (self.edges,)
        for name, known in (("filter", FILTERS), ("rounding", ROUNDINGS)):
            if getattr(self, name) not in known:
                raise _wrong(name, f"one of {', '.join(known)}", getattr(self, name))
        if not all(type(edge) is int for edge in (self.size, *edges)):
            raise _wrong("sizes", "whole numbers", (self.size, self.edges))
        if not 1 <= self.size <= min(edges) <= max(edges) <= LARGEST_EDGE:
            expected = f"edges from the size, {self.size}, to {LARGEST_EDGE}"
            raise _wrong("resize_to", expected, self.edges)
        for name in ("mean", "std"):
            numbers = getattr(self, name)
            if len(numbers) != CHANNELS or not all(_is_finite(number) for number in numbers):
                raise _wrong(name, f"{CHANNELS} finite numbers", numbers)
        if min(self.std) <= 0:
            raise _wrong("std", "numbers above 0", self.std)

    def to_json(self) -> dict[str, Any]:
        """What a path spec's `input` says, but for the decoding."""
        edges = list(self.edges) if isinstance(self.edges, tuple) else self.edges
        return {
            "size": self.size,
            "channels": CHANNELS,
            "resize": self.filter,
            "antialias": True,
            "resize_to": edges,
            "crop": "center",
            "crop_rounding": self.rounding,
            "scaling": SCALING,
            "mean": list(self.mean),
            "std": list(self.std),
        }

    def at(self, size: int) -> Contract:
        """The same for a network of another size: as large a part of each picture is seen."""
        if size == self.size:
            return self
        old = self.edges if isinstance(self.edges, tuple) else (self.edges,)
        new = tuple(max(size, round(edge * size / self.size)) for edge in old)
        return replace(self, size=size, edges=new if len(new) == 2 else new[0])

    @property
    def kind(self) -> tuple[Any, ...]:
        """What inputs of all sizes that one backbone is trained on have in common."""
        return self.filter, self.mean, self.std

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of a whole picture before it is cut."""
        if isinstance(self.edges, tuple):
            return self.edges
        short, long = min(height, width), max(height, width)
        longer = int(self.edges * long / short)
        return (self.edges, longer) if height <= width else (longer, self.edges)

    def memory(self, height: int, width: int) -> int:
        """Bytes that `cut` takes at most besides the picture and its result."""
        rows, columns = self.resized(height, width)
        between = max(height * columns, width * rows)  # Pillow resizes one axis, then the other
        return PILLOW_BYTES * (height * width + between + 2 * rows * columns)

    def cut(self, image: Pixels) -> Pixels:
        """uint8 [h, w, 1 or 3] -> uint8 [size, size, 1 or 3]."""
        height, width, channels = image.shape
        rows, columns = self.resized(height, width)
        top, left = self._start(rows), self._start(columns)
        picture = Image.fromarray(image[..., 0] if channels == 1 else image)
        resized = picture.resize((columns, rows), FILTERS[self.filter])
        found = resized.crop((left, top, left + self.size, top + self.size))
        return np.array(found).reshape(self.size, self.size, channels)

    def _start(self, edge: int) -> int:
        spare = edge - self.size
        return spare // 2 if self.rounding == "down" else round(spare / 2)

    def scaled(self, images: Any) -> Any:
        """0 to 255, [..., 1 or 3] -> float32 [..., 3]; NumPy's or JAX's arrays."""
        x = images if images.shape[-1] == CHANNELS else images.repeat(CHANNELS, axis=-1)
        mean, std = np.asarray(self.mean), np.asarray(self.std)
        factor, shift = (1 / (255 * std)).astype(np.float32), (-mean / std).astype(np.float32)
        return x.astype(np.float32) * factor + shift


Target = (
    int | Contract
)  # what pictures are brought to: the side of a plain input in pixels, or this


def size_of(target: Target) -> int:
    """Pixels on each side of the input."""
    return target if isinstance(target, int) else target.size


def range_of(target: Target) -> tuple[float, float]:
    """The lowest and the highest number that the input can hold, with room for rounding."""
    if isinstance(target, int):
        return -1.0, 1.0
    each = list(zip(target.mean, target.std, strict=True))
    low, high = min(-mean / std for mean, std in each), max((1 - mean) / std for mean, std in each)
    return low - ROUNDING * abs(low), high + ROUNDING * abs(high)


def contract_of(input: Mapping[str, Any]) -> Contract | None:
    """What a path spec's `input` says; None for a plain one. Raises ValueError.

    Whether other fields are those of such an input is for the caller to compare with `to_json`.
    """
    if not any(name in input for name in FIELDS):
        return None
    edges, mean, std = (input.get(name) for name in ("resize_to", "mean", "std"))
    if not isinstance(mean, list) or not isinstance(std, list):
        raise _wrong("mean and std", "lists", (mean, std))
    return Contract(
        size=input.get("size", 0),
        filter=_text(input.get("resize")),
        edges=(edges[0], edges[1]) if isinstance(edges, list) and len(edges) == 2 else edges,  # pyright: ignore
        mean=tuple(mean),
        std=tuple(std),
        rounding=_text(input.get("crop_rounding")),
    )


def _text(value: Any) -> str:
    return value if isinstance(value, str) else repr(value)


def _is_finite(number: Any) -> bool:
    return type(number) in (int, float) and math.isfinite(number)


def _wrong(name: str, expected: str, found: Any) -> ValueError:
    return ValueError(f"{name}: expected {expected}, found {found!r:.80}")
