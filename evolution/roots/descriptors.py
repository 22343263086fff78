"""What a root learns to tell of a picture: which small patches it is made of, at three scales.

A codebook holds typical patches (centroids of k-means, without labels). A picture's descriptor says
how near its patches are to each centroid, on average (Coates, Lee, Ng 2011, with their soft
assignment). Such descriptors know textures and colours far better than raw pixels do. A network
that predicts them from the picture has to see the same.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

from vit.preprocess import to_unit_range

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Scale:
    """Patches of one size from pictures of one size."""

    picture: int  # to which pictures are resized, pixels
    patch: int  # pixels
    stride: int  # pixels from a patch to the next
    centroids: int
    contrast: bool  # patches are brought to one mean and contrast: form counts, not colour


SCALES = (
    Scale(picture=64, patch=6, stride=2, centroids=400, contrast=True),
    Scale(picture=32, patch=6, stride=1, centroids=400, contrast=True),
    Scale(picture=64, patch=4, stride=2, centroids=200, contrast=False),
    Scale(picture=32, patch=4, stride=1, centroids=200, contrast=False),
    Scale(picture=16, patch=4, stride=1, centroids=100, contrast=False),
)
_FLAT = 0.006  # variance below which a patch counts as flat; pixels are in [-1, 1]
_WHITENING = 0.1  # added to the variances by which whitening divides
_PATCHES = 60_000  # that a codebook is made from
_ROUNDS = 15  # of k-means
_BLOCK = 50  # pictures at a time


class Codebook(NamedTuple):
    """Typical patches of a scale: centroids [k, p] of (patches - mean [p]) @ whiten [p, p]."""

    mean: Floats
    whiten: Floats
    centroids: Floats


def fit(pictures: NDArray[np.uint8], scale: Scale, seed: int) -> Codebook:
    """The codebook of a scale. pictures: uint8 [n, h, w, 3]."""
    rng = np.random.default_rng(seed)
    cut = jax.jit(functools.partial(_patches, scale=scale))
    blocks = [np.asarray(cut(pictures[i : i + _BLOCK])) for i in range(0, len(pictures), _BLOCK)]
    patches = np.concatenate([block.reshape(-1, block.shape[-1]) for block in blocks])
    patches = patches[rng.choice(len(patches), min(_PATCHES, len(patches)), replace=False)]
    mean = patches.mean(0)
    if scale.contrast:
        variances, axes = np.linalg.eigh(np.cov(patches.T))
        whiten = (axes / np.sqrt(variances + _WHITENING) @ axes.T).astype(np.float32)
    else:
        whiten = np.eye(len(mean), dtype=np.float32) / patches.std()
    return Codebook(mean, whiten, _k_means(rng, (patches - mean) @ whiten, scale.centroids))


def describe(
    pictures: NDArray[np.uint8], codebooks: tuple[Codebook, ...], scales: tuple[Scale, ...] = SCALES
) -> Floats:
    """Descriptors [n, centroids of all scales] of pictures, uint8 [n, h, w, 3]."""

    @jax.jit
    def block(pictures: Array) -> Array:
        pairs = zip(codebooks, scales, strict=True)
        return jnp.concatenate([_near(pictures, *pair) for pair in pairs], axis=1)

    starts = range(0, len(pictures), _BLOCK)
    return np.concatenate([np.asarray(block(pictures[i : i + _BLOCK])) for i in starts])


def principal(descriptors: Floats, count: int) -> Floats:
    """The `count` strongest principal components [n, count] of standardised descriptors.

    The weak ones are raised to the square root of what whitening would do, and the whole has a
    standard deviation of 1.
    """
    standard = (descriptors - descriptors.mean(0)) / (descriptors.std(0) + 1e-6)
    variances, axes = np.linalg.eigh(np.cov(standard.T))
    variances, axes = variances[::-1][:count], axes[:, ::-1][:, :count]
    components = standard @ axes / variances**0.25
    return (components / components.std()).astype(np.float32)


def _patches(pictures: Array | NDArray[np.uint8], scale: Scale) -> Array:
    """[n, h, w, 3] -> [n, rows, columns, patch * patch * 3]"""
    side = scale.picture
    x = to_unit_range(jnp.asarray(pictures, jnp.float32))
    x = jax.image.resize(x, (x.shape[0], side, side, 3), "linear", antialias=True)
    window, strides = (scale.patch,) * 2, (scale.stride,) * 2
    x = jax.lax.conv_general_dilated_patches(
        x, window, strides, "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    if scale.contrast:
        x = (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + _FLAT)
    return x


def _near(pictures: Array, codebook: Codebook, scale: Scale) -> Array:
    """[n, centroids]: root of the mean of how much nearer than usual patches are to each."""
    x = (_patches(pictures, scale) - codebook.mean) @ codebook.whiten
    c = codebook.centroids
    squares = (x**2).sum(-1, keepdims=True) + (c**2).sum(1) - 2 * x @ c.T
    distance = jnp.sqrt(jnp.maximum(squares, 0))
    nearer = jax.nn.relu(distance.mean(-1, keepdims=True) - distance)
    return jnp.sqrt(nearer.mean((1, 2)))


@jax.jit
def _nearest(points: Array, centroids: Array) -> Array:
    return ((centroids**2).sum(1) - 2 * points @ centroids.T).argmin(1)


def _k_means(rng: np.random.Generator, points: Floats, count: int) -> Floats:
    """Centroids [count, p] of points [n, p]; one that loses all its points becomes a new point."""
    centroids = points[rng.choice(len(points), count, replace=False)]
    for _ in range(_ROUNDS):
        nearest = np.asarray(_nearest(points, centroids))
        sizes = np.bincount(nearest, minlength=count)[:, None]
        sums = np.zeros_like(centroids)
        np.add.at(sums, nearest, points)
        spare = points[rng.choice(len(points), count)]
        centroids = np.where(sizes > 0, sums / np.maximum(sizes, 1), spare)
    return centroids.astype(np.float32)
