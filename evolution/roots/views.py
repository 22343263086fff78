"""What a root sees in training: crops of pictures, and characters bent a little and coloured."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import Array

from vit.preprocess import to_unit_range

_AREA = 0.6  # the smallest crop, as a share of the picture
_COLOUR = 0.08  # standard deviation of changes of colour


@functools.partial(jax.jit, static_argnames="size")
def picture_views(key: Array, pictures: Array, size: int) -> Array:
    """uint8 [n, side, side, 3] -> [n, size, size, 3] in [-1, 1]: cropped, turned, coloured."""
    x = to_unit_range(pictures)
    return jax.vmap(functools.partial(_picture, size=size))(jax.random.split(key, len(x)), x)


@functools.partial(jax.jit, static_argnames="size")
def character_views(key: Array, characters: Array, size: int) -> Array:
    """uint8 [n, side, side, 1], ink 0 -> [n, size, size, 3] in [-1, 1].

    Each is turned, slanted, made smaller and moved. Ink and paper have colours of their own: for
    seven of ten black and white, or white and black.
    """
    ink = 1 - characters[..., 0].astype(jnp.float32) / 255
    keys = jax.random.split(key, len(ink))
    return jax.vmap(functools.partial(_character, size=size))(keys, ink)


def _picture(key: Array, x: Array, size: int) -> Array:
    keys = jax.random.split(key, 9)
    side = float(x.shape[0])
    area = jax.random.uniform(keys[0], minval=_AREA)
    aspect = jnp.exp(jax.random.uniform(keys[1], minval=-0.2, maxval=0.2))
    height = jnp.minimum(side, side * jnp.sqrt(area * aspect))
    width = jnp.minimum(side, side * jnp.sqrt(area / aspect))
    top = jax.random.uniform(keys[2]) * (side - height)
    left = jax.random.uniform(keys[3]) * (side - width)
    rows = _window(top, height, x.shape[0], size)
    columns = _window(left, width, x.shape[0], size)
    x = jnp.einsum("ri,cj,ijk->rck", rows, columns, x)
    x = jnp.where(jax.random.bernoulli(keys[4]), x[:, ::-1], x)
    x = jnp.where(jax.random.bernoulli(keys[5]), x.transpose(1, 0, 2), x)
    contrast = jnp.exp(_COLOUR * jax.random.normal(keys[6]))
    shift = _COLOUR * (0.5 * jax.random.normal(keys[7]) + 0.3 * jax.random.normal(keys[8], (3,)))
    mean = x.mean()
    return jnp.clip((x - mean) * contrast + mean + shift, -1, 1)


def _character(key: Array, ink: Array, size: int) -> Array:
    """ink [side, side], 1 where a stroke is"""
    keys = jax.random.split(key, 9)
    angle, slant = jax.random.normal(keys[0]) * 0.18, jax.random.normal(keys[1]) * 0.15
    smaller = jnp.exp(jax.random.uniform(keys[2], minval=-0.05, maxval=0.45))
    taller = jnp.exp(jax.random.normal(keys[3]) * 0.1)
    moved = jax.random.uniform(keys[4], (2,), minval=-4, maxval=4)
    centre = (ink.shape[0] - 1) / 2
    y, x = jnp.mgrid[: ink.shape[0], : ink.shape[0]] - centre
    across = (jnp.cos(angle) * x + jnp.sin(angle) * y + slant * y) * smaller
    down = (jnp.cos(angle) * y - jnp.sin(angle) * x) * smaller * taller
    at = [down + centre + moved[0], across + centre + moved[1]]
    ink = jax.scipy.ndimage.map_coordinates(ink, at, order=1)
    smooth = _window(0.0, float(ink.shape[0]), ink.shape[0], size)
    ink = (smooth @ ink @ smooth.T)[..., None]
    stroke, paper = _ink_and_paper(keys[5:])
    return ink * stroke + (1 - ink) * paper


def _ink_and_paper(keys: Array) -> tuple[Array, Array]:
    """Two colours [3] in [-1, 1] that one can tell apart."""
    stroke, paper = jax.random.uniform(keys[0], (2, 3), minval=-1)
    paper = jnp.where(jnp.abs(stroke - paper).sum() < 1, -jnp.sign(stroke), paper)
    black = jnp.where(jax.random.bernoulli(keys[1]), 1.0, -1.0) * jnp.ones(3)
    plain = jax.random.bernoulli(keys[2], 0.7)
    return jnp.where(plain, black, stroke), jnp.where(plain, -black, paper)


def _window(start: Array | float, length: Array | float, side: int, size: int) -> Array:
    """[size, side]: resizes `length` of `side` pixels from `start` to `size`, without aliases."""
    centres = start + (jnp.arange(size) + 0.5) * length / size - 0.5
    reach = jnp.maximum(length / size, 1)
    weights = 1 - jnp.abs(jnp.arange(side)[None] - centres[:, None]) / reach
    weights = jnp.maximum(weights, 0)
    return weights / jnp.maximum(weights.sum(1, keepdims=True), 1e-3)
