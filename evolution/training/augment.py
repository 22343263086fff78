"""Random crop, flip, colour and JPEG noise of training images, on the device, from given draws.

The order is the published systems': JPEG quality, crop, flip, brightness, contrast, saturation,
hue, then bilinear resize and clip. The first systems change the image scaled to [-1, 1]
and the later ones its bytes (SYSTEMS.md, Images), with TensorFlow's rounding.
Every strength is a traced value, so a change of one compiles nothing. An operation of strength 0
changes nothing and costs nothing, unless a batch holds several strengths (under vmap).
Written by hand: dm-pix has neither TensorFlow's rounding nor JPEG noise, and is no dependency.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from evolution.training.jpeg_noise import compress
from vit.preprocess import to_unit_range


class Strengths(NamedTuple):
    """How strongly to augment; scalars, in the units of the hyperparameters `ds_*`."""

    crop: Any  # 0 or 1
    area_min: Any  # smallest crop, as a share of the image; 1 = no crop
    aspect_min: Any  # smallest width / height of a crop; the largest is its inverse
    flip: Any  # 0 or 1: mirror left-right with probability 1/2
    brightness: Any  # largest shift, on the scale that is changed: [-1, 1] or, of bytes, [0, 1]
    contrast: Any  # contrast factor in [1 - c, 1 + c]
    saturation: Any  # saturation factor in [1 - s, 1 + s]
    hue: Any  # largest rotation, in turns
    quality: Any = 0.0  # JPEG quality from 100 minus this to 99; 0 = no JPEG; only of bytes

    @classmethod
    def of(cls, hyperparameters: Mapping[str, Any]) -> Strengths:
        """The strengths that a path's `ds_*` hyperparameters ask for."""
        hp = hyperparameters
        return cls(
            crop=float(hp.get("ds_crop", True) and hp["ds_area_range_min"] < 1),
            area_min=float(hp["ds_area_range_min"]),
            aspect_min=float(hp["ds_aspect_ratio_range_min"]),
            flip=float(hp["ds_flip_left_right"]),
            brightness=float(hp["ds_brightness_delta"]),
            contrast=float(hp["ds_contrast_delta"]),
            saturation=float(hp["ds_saturation_delta"]),
            hue=float(hp["ds_hue_delta"]),
            # Whole qualities, as published: the lowest is rounded down, and 100 does not occur.
            quality=100.0 - int(100 * (1 - hp.get("ds_quality_delta", 0.0))),
        )


# Draws for each image: crop's aspect, rows, top and left; flip and JPEG; four of colour. They are
# made on the host: a generator inside the program would double the time to compile augmentation.
DRAWS = 9


def augment(
    draws: Array, images: Array, size: int, strengths: Strengths, on_bytes: bool = False
) -> Array:
    """uint8 [b, h, w, 1 or 3] -> float32 [b, size, size, 3] in [-1, 1], each image on its own.

    draws: float32 [b, DRAWS], uniform in [0, 1). on_bytes: colour and JPEG change 0..255.
    """
    s = strengths
    boxes = _crop_boxes(draws, images.shape[1], images.shape[2], s)
    mirrored = (s.flip > 0) & (draws[:, 4] < 0.5)
    change = _change_bytes if on_bytes else _change_scaled
    x = _mirror_and_resize(change(draws, images, boxes, s), boxes, mirrored, size, s)
    x = to_unit_range(x) if on_bytes else x
    return jnp.broadcast_to(x, (*x.shape[:-1], 3)).clip(-1, 1)


class Box(NamedTuple):
    """A crop, in whole pixels."""

    top: Array
    left: Array
    rows: Array
    columns: Array


def _crop_boxes(draws: Array, height: int, width: int, s: Strengths) -> Box:
    """One box for each image; fields [b]."""

    def whole(draws: Array) -> Box:
        box = Box(*(jnp.float32(v) for v in (0, 0, height, width)))
        return jax.tree.map(lambda v: jnp.full(len(draws), v), box)

    def crops(draws: Array) -> Box:
        return jax.vmap(lambda u: crop_box(u[:4], height, width, s))(draws)

    return jax.lax.cond(s.crop > 0, crops, whole, draws)


# TensorFlow's sampler tries this often to meet area and aspect. Then it takes the whole image.
ATTEMPTS = 100
_SALT = np.random.default_rng(0).integers(2**32, size=(ATTEMPTS, 2), dtype=np.uint32)


def crop_box(u: Array, height: int, width: int, s: Strengths) -> Box:
    """The crop that four uniform draws in [0, 1) stand for, distributed as TensorFlow's.

    The published systems call `sample_distorted_bounding_box`. It draws an aspect uniformly, then
    the number of rows between those of the smallest and the largest area. It draws again if whole
    pixels miss the smallest area. Then it draws a place; it never takes the last row or column if
    there is another one.
    """
    rows, columns, fits = _crop_extents(_attempts(u[:2]), height, width, s)
    first = fits.argmax()
    rows = jnp.where(fits.any(), rows[first], height)
    columns = jnp.where(fits.any(), columns[first], width)
    top = jnp.floor(u[2] * jnp.maximum(height - rows, 1))
    left = jnp.floor(u[3] * jnp.maximum(width - columns, 1))
    return Box(top, left, rows, columns)


def _attempts(u: Array) -> Array:
    """Draws [ATTEMPTS, 2] from two: first these, then numbers hashed from them."""
    bits = (u * 2**24).astype(jnp.uint32)
    hashed = _mixed(_mixed(_mixed(bits[0]) ^ bits[1]) ^ _SALT)
    return ((hashed >> 8) / np.float32(2**24)).astype(jnp.float32).at[0].set(u)


def _mixed(x: Array) -> Array:
    """uint32, each bit of which depends on all bits of x (the last step of MurmurHash3)."""
    x = (x ^ (x >> 16)) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * np.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def _crop_extents(u: Array, height: int, width: int, s: Strengths) -> tuple[Array, Array, Array]:
    """Rows, columns, and whether they meet area and aspect, [n] each, of draws [n, 2]."""
    aspect = s.aspect_min + u[:, 0] * (1 / s.aspect_min - s.aspect_min)
    smallest, largest = s.area_min * width * height, width * height
    lowest, highest = (jnp.sqrt(area / aspect).round() for area in (smallest, largest))
    widest = jnp.floor((width + 0.5) / aspect)  # as high as the width allows, up to rounding
    widest = widest - ((widest * aspect).round() > width)
    highest = jnp.where((highest * aspect).round() > width, widest, highest).clip(max=height)
    lowest = jnp.minimum(lowest, highest)
    rows = lowest + jnp.floor(u[:, 1] * (highest - lowest + 1))
    rows = rows + (rows * (rows * aspect).round() < smallest)
    rows = rows - (rows * (rows * aspect).round() > largest)
    columns = (rows * aspect).round()
    inside = (rows > 0) & (rows <= height) & (columns > 0) & (columns <= width)
    return rows, columns, inside & (rows * columns >= smallest)


def _mirror_and_resize(x: Array, boxes: Box, mirrored: Array, size: int, s: Strengths) -> Array:
    """[b, h, w, c] of any type -> float32 [b, size, size, c], the box of each image."""

    def sampled(x: Array) -> Array:
        x = _sampled(x, 1, boxes.top, boxes.rows, size)
        return _sampled(x, 2, boxes.left, boxes.columns, size)

    if x.shape[1:3] == (size, size):
        x = jax.lax.cond(s.crop > 0, sampled, lambda x: x.astype(jnp.float32), x)
    else:
        x = sampled(x)
    return jnp.where(mirrored[:, None, None, None], x[:, :, ::-1], x)


def _sampled(x: Array, axis: int, start: Array, extent: Array, size: int) -> Array:
    """[b, h, w, c] at `size` points between start and start + extent, [b], of rows or columns.

    The same points as those of `vit.preprocess`; two reads for each are many times faster here
    than a product with a matrix that is nearly all zeros.
    """
    start, extent = start[:, None], extent[:, None]
    point = start + (np.arange(size) + 0.5) * (extent / size) - 0.5
    point = point.clip(start, start + extent - 1)
    below = jnp.floor(point)
    lower = below.astype(jnp.int32)
    upper = jnp.minimum(lower + 1, x.shape[axis] - 1)
    share = jnp.expand_dims(point - below, (3 - axis, 3))
    read = jax.vmap(partial(jnp.take, axis=axis - 1, mode="clip"))
    return read(x, lower) * (1 - share) + read(x, upper) * share


def _has_colour(s: Strengths) -> Array:
    return jnp.stack([s.brightness, s.contrast, s.saturation, s.hue]).max() > 0


def _change_scaled(draws: Array, images: Array, boxes: Box, s: Strengths) -> Array:
    """uint8 [b, h, w, c] -> float32 [b, h, w, c] on the scale [-1, 1], and maybe beyond it."""
    scaled = to_unit_range(images)[..., : images.shape[-1]]

    def coloured(x: Array) -> Array:
        return _colour(draws, x, boxes, s, lambda x: x)

    return jax.lax.cond(_has_colour(s), coloured, lambda x: x, scaled)


def _change_bytes(draws: Array, images: Array, boxes: Box, s: Strengths) -> Array:
    """uint8 [b, h, w, c] -> the same."""

    def compressed(images: Array) -> Array:
        # The flip used only the first bit of its draw; the rest is still random.
        step = jnp.floor(2 * draws[:, 4] % 1 * s.quality)
        return jax.vmap(compress)(images, 100 - s.quality + step)

    def coloured(images: Array) -> Array:
        x = images * np.float32(1 / 255)
        return (_colour(draws, x, boxes, s, _to_bytes) * 255).round().astype(jnp.uint8)

    x = jax.lax.cond(s.quality > 0, compressed, lambda x: x, images)
    return jax.lax.cond(_has_colour(s), coloured, lambda x: x, x)


def _to_bytes(x: Array) -> Array:
    """The scale [0, 1] in steps of 1 / 255, as TensorFlow's conversion to bytes and back."""
    return jnp.floor((x * 255.5).clip(0, 255)) * np.float32(1 / 255)


def _colour(
    draws: Array, x: Array, boxes: Box, s: Strengths, settle: Callable[[Array], Array]
) -> Array:
    """Each image of [b, h, w, c] changed as if it were only its crop; `settle` after each step.

    Doing so before the crop gives the same pixels, since only contrast looks beyond one pixel.
    """
    height, width, channels = x.shape[1:]

    def one(u: Array, x: Array, box: Box) -> Array:
        brightness, contrast, saturation, hue = 2 * u[5:] - 1
        x = settle(x + brightness * s.brightness)
        inside = _inside(box.top, box.rows, height)[:, None] * _inside(box.left, box.columns, width)
        inside = inside[..., None]
        mean = (x * inside).sum((0, 1)) / inside.sum()
        x = settle((x - mean) * (1 + contrast * s.contrast) + mean)
        if channels == 1:  # grey has neither saturation nor hue
            return x
        x = settle(adjust_saturation(x, 1 + saturation * s.saturation))
        return settle(adjust_hue(x, hue * s.hue))

    return jax.vmap(one)(draws, x, boxes)


def _inside(start: Array, extent: Array, source: int) -> Array:
    pixel = jnp.arange(source)
    return ((pixel >= start) & (pixel < start + extent)).astype(jnp.float32)


def _range_of_channels(x: Array) -> tuple[Array, Array]:
    """The smallest and the largest channel of [..., 3]; ten times as fast as reducing an axis."""
    red, green, blue = x[..., 0], x[..., 1], x[..., 2]
    return (
        jnp.minimum(jnp.minimum(red, green), blue),
        jnp.maximum(jnp.maximum(red, green), blue),
    )


def adjust_saturation(x: Array, factor: Array) -> Array:
    """[..., 3] with its HSV saturation multiplied and limited to [0, 1], as TensorFlow's op does.

    A pixel whose largest channel is not positive has no saturation there, and becomes grey when
    the factor is not 1; a factor of exactly 1 changes nothing here, so that strength 0 is off.
    """
    low, value = (v[..., None] for v in _range_of_channels(x))
    chroma = value - low
    saturation = jnp.where(value > 0, chroma / jnp.where(value > 0, value, 1), 0)
    wanted = (saturation * factor).clip(0, 1) * value
    scale = jnp.where(chroma > 0, wanted / jnp.where(chroma > 0, chroma, 1), 1)
    return jnp.where(factor == 1, x, value - (value - x) * scale)


def adjust_hue(x: Array, turns: Array) -> Array:
    """[..., 3] with its hue rotated; the largest and smallest channel keep their values."""
    low, high = _range_of_channels(x)
    span = jnp.where(high > low, high - low, 1)
    red, green, blue = x[..., 0], x[..., 1], x[..., 2]
    hue = jnp.where(
        high == red,
        (green - blue) / span,
        jnp.where(high == green, 2 + (blue - red) / span, 4 + (red - green) / span),
    )
    hue = hue + 6 * turns
    hue = hue - 6 * jnp.floor(hue / 6)
    # Each channel is a trapezoid over the six sectors of the hue circle.
    ramps = [abs(hue - 3) - 1, 2 - abs(hue - 2), 2 - abs(hue - 4)]
    turned = jnp.stack([low + span * ramp.clip(0, 1) for ramp in ramps], axis=-1)
    return jnp.where(((high > low) & (turns != 0))[..., None], turned, x)
