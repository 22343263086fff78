"""Random crop, flip and colour of training images, on the device, from explicit random draws.

Order and scales are the published system's (spec/munet.md §5): crop, flip, brightness, contrast,
saturation, hue on the [-1, 1] scale, then bilinear resize and clip. Every strength is a traced
value: changing one compiles nothing. Colour acts before the resize by acting on the whole image,
which gives the same pixels, since only contrast looks beyond one pixel and it is given the crop.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from vit.preprocess import bilinear_matrix, to_unit_range


class Strengths(NamedTuple):
    """How strongly to augment; scalars, in the units of the hyperparameters `ds_*`."""

    crop: Any  # 0 or 1
    area_min: Any  # smallest crop, as a share of the image; 1 = no crop
    aspect_min: Any  # smallest width / height of a crop; the largest is its inverse
    flip: Any  # 0 or 1: mirror left-right with probability 1/2
    brightness: Any  # largest shift, on the [-1, 1] scale
    contrast: Any  # contrast factor in [1 - c, 1 + c]
    saturation: Any  # saturation factor in [1 - s, 1 + s]
    hue: Any  # largest rotation, in turns

    @classmethod
    def of(cls, hyperparameters: Mapping[str, Any]) -> Strengths:
        """The strengths that a path's `ds_*` hyperparameters ask for."""
        hp = hyperparameters
        return cls(
            crop=float(hp["ds_crop"] and hp["ds_area_range_min"] < 1),
            area_min=float(hp["ds_area_range_min"]),
            aspect_min=float(hp["ds_aspect_ratio_range_min"]),
            flip=float(hp["ds_flip_left_right"]),
            brightness=float(hp["ds_brightness_delta"]),
            contrast=float(hp["ds_contrast_delta"]),
            saturation=float(hp["ds_saturation_delta"]),
            hue=float(hp["ds_hue_delta"]),
        )


# Draws for each image: crop's aspect, rows, top and left; flip; four of colour. They are made on
# the host: a generator inside the program would double the time to compile augmentation.
DRAWS = 9


def augment(draws: Array, images: Array, size: int, strengths: Strengths) -> Array:
    """uint8 [b, h, w, 1 or 3] -> float32 [b, size, size, 3] in [-1, 1], each image on its own.

    draws: float32 [b, DRAWS], uniform in [0, 1).
    """
    return jax.vmap(lambda u, image: _augment_one(u, image, size, strengths))(draws, images)


def _augment_one(u: Array, image: Array, size: int, s: Strengths) -> Array:
    height, width, _ = image.shape
    top, left, rows, columns = crop_box(u[:4], height, width, s)
    pixels = to_unit_range(image)
    inside = _inside(top, rows, height)[:, None] * _inside(left, columns, width)[None, :]
    pixels = _colour(2 * u[5:] - 1, pixels, inside[..., None], s)
    row_matrix = bilinear_matrix(top, rows, height, size)
    column_matrix = bilinear_matrix(left, columns, width, size)
    mirrored = (s.flip > 0) & (u[4] < 0.5)
    column_matrix = jnp.where(mirrored, column_matrix[::-1], column_matrix)
    x = jnp.einsum("yh,hwc->ywc", row_matrix, pixels)
    return jnp.einsum("xw,ywc->yxc", column_matrix, x).clip(-1, 1)


def crop_box(u: Array, height: int, width: int, s: Strengths) -> tuple[Array, Array, Array, Array]:
    """The crop (top, left, rows, columns), in whole pixels, of four uniform draws in [0, 1).

    As in TensorFlow's sampler, which the published system calls: a uniform aspect, then a uniform
    number of rows between those of the smallest and the largest area, then a uniform place. In
    two details not: whole pixels may round a crop below the smallest area by a row, and the last
    row and column can be reached, which TensorFlow's exclusive bound never does. Without
    cropping, or where no such crop fits, the whole image.
    """
    area, shape = height * width, width / height
    # Aspects whose largest crop is too small are left out; TensorFlow draws again until one is not.
    narrowest = jnp.maximum(s.aspect_min, s.area_min * shape)
    widest = jnp.minimum(1 / s.aspect_min, shape / s.area_min)
    aspect = narrowest + u[0] * (widest - narrowest)
    # The tallest crop of this aspect that fits both ways.
    highest = jnp.minimum(jnp.sqrt(area / aspect).round(), jnp.floor((width + 0.499) / aspect))
    highest = highest.clip(1, height)
    lowest = jnp.minimum(jnp.sqrt(s.area_min * area / aspect).round().clip(1), highest)
    rows = lowest + jnp.floor(u[1] * (highest - lowest + 1))
    columns = (rows * aspect).round().clip(1, width)
    top = jnp.floor(u[2] * (height - rows + 1))
    left = jnp.floor(u[3] * (width - columns + 1))
    crops = (s.crop > 0) & (narrowest <= widest)
    return (
        jnp.where(crops, top, 0.0),
        jnp.where(crops, left, 0.0),
        jnp.where(crops, rows, float(height)),
        jnp.where(crops, columns, float(width)),
    )


def _inside(start: Array, extent: Array, source: int) -> Array:
    pixel = jnp.arange(source)
    return ((pixel >= start) & (pixel < start + extent)).astype(jnp.float32)


def _colour(u: Array, x: Array, inside: Array, s: Strengths) -> Array:
    """`u`: four uniform draws in [-1, 1)."""
    brightness, contrast, saturation, hue = u
    x = x + brightness * s.brightness
    mean = (x * inside).sum((0, 1)) / inside.sum()
    x = (x - mean) * (1 + contrast * s.contrast) + mean
    return adjust_hue(adjust_saturation(x, 1 + saturation * s.saturation), hue * s.hue)


def adjust_saturation(x: Array, factor: Array) -> Array:
    """[..., 3] with its HSV saturation multiplied and limited to [0, 1], as TensorFlow's op does.

    A pixel whose largest channel is not positive has no saturation there, and becomes grey when
    the factor is not 1; a factor of exactly 1 changes nothing here, so that strength 0 is off.
    """
    value = x.max(-1, keepdims=True)
    chroma = value - x.min(-1, keepdims=True)
    saturation = jnp.where(value > 0, chroma / jnp.where(value > 0, value, 1), 0)
    wanted = (saturation * factor).clip(0, 1) * value
    scale = jnp.where(chroma > 0, wanted / jnp.where(chroma > 0, chroma, 1), 1)
    return jnp.where(factor == 1, x, value - (value - x) * scale)


def adjust_hue(x: Array, turns: Array) -> Array:
    """[..., 3] with its hue rotated; the largest and smallest channel keep their values."""
    low, high = x.min(-1), x.max(-1)
    span = jnp.where(high > low, high - low, 1)
    red, green, blue = x[..., 0], x[..., 1], x[..., 2]
    hue = jnp.where(
        high == red,
        (green - blue) / span,
        jnp.where(high == green, 2 + (blue - red) / span, 4 + (red - green) / span),
    )
    hue = (hue + 6 * turns) % 6
    # Each channel is a trapezoid over the six sectors of the hue circle.
    ramps = [abs(hue - 3) - 1, 2 - abs(hue - 2), 2 - abs(hue - 4)]
    turned = jnp.stack([low + span * ramp.clip(0, 1) for ramp in ramps], axis=-1)
    return jnp.where(((high > low) & (turns != 0))[..., None], turned, x)
