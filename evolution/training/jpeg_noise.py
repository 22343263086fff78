"""The effect of JPEG encoding and decoding on an image, as one array function.

The lossy steps of `tf.image.adjust_jpeg_quality`, which the published system calls: 4:2:0 chroma,
libjpeg's accurate integer DCT to encode and its fast one to decode. The fast one is TensorFlow's
default: from quality 95 up it changes a grey image by 2 levels, more than the coding does. The
constants are those of ITU T.81 (annex K) and of libjpeg; the lossless part of JPEG is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

# Quantisation at quality 50; rows are vertical frequencies.
_LUMINANCE = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ]
)
_CHROMINANCE = np.full((8, 8), 99)
_CHROMINANCE[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]

# The encoder's DCT in 13 bits, the left half; the right half mirrors it, odd rows with the sign
# changed. libjpeg adds rounded constants, so that some entries are not the nearest integers.
_LEFT = np.array(
    [
        [8192, 8192, 8192, 8192],
        [11363, 9633, 6437, 2260],
        [10703, 4433, -4433, -10703],
        [9633, -2259, -11362, -6436],
        [8192, -8192, -8192, 8192],
        [6437, -11362, 2261, 9633],
        [4433, -10704, 10704, -4433],
        [2260, -6436, 9633, -11363],
    ]
)
_SIGN = np.array([[1], [-1]] * 4)
_ENCODER = np.hstack([_LEFT, _SIGN * _LEFT[:, ::-1]])

# The fast decoder multiplies coefficients by these, times the quantiser, in 14 bits, of which it
# keeps 2: what makes it coarse at high quality.
_SCALE = np.sqrt(2) * np.cos(np.arange(8) * np.pi / 16)
_SCALE[0] = 1
_DECODER = np.rint(np.outer(_SCALE, _SCALE) * (1 << 14)).astype(np.int32)


def compress(pixels: Array, quality: Any) -> Array:
    """uint8 [h, w, 1 or 3], wider than 4, after a JPEG file of `quality`.

    quality: a whole number, 1 to 100, that may be traced.
    """
    height, width, channels = pixels.shape
    scale = jnp.where(quality < 50, 5000 // quality, 200 - 2 * quality).astype(jnp.int32)
    luminance, chrominance = (
        ((jnp.asarray(table) * scale + 50) // 100).clip(1, 255)
        for table in (_LUMINANCE, _CHROMINANCE)
    )
    x = pixels.astype(jnp.int32)
    if channels == 1:
        (grey,) = _through_blocks([x[..., 0]], [luminance])
        return grey[..., None].astype(jnp.uint8)
    y, cb, cr = _to_ycc(x)
    planes = [y, _halved(cb), _halved(cr)]
    y, cb, cr = _through_blocks(planes, [luminance, chrominance, chrominance])
    cb, cr = _doubled(jnp.stack([cb, cr]), height, width)
    return _to_rgb(y, cb, cr).astype(jnp.uint8)


def _to_ycc(rgb: Array) -> tuple[Array, Array, Array]:
    """int32 [..., 3] -> luminance and the two chrominances, 0..255; weights in 16 bits."""
    red, green, blue = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    middle = (128 << 16) + (1 << 15) - 1
    return (
        (19595 * red + 38470 * green + 7471 * blue + (1 << 15)) >> 16,
        (-11059 * red - 21709 * green + 32768 * blue + middle) >> 16,
        (32768 * red - 27439 * green - 5329 * blue + middle) >> 16,
    )


def _to_rgb(y: Array, cb: Array, cr: Array) -> Array:
    cb, cr = cb - 128, cr - 128
    red = y + ((91881 * cr + (1 << 15)) >> 16)
    green = y + ((-22554 * cb - 46802 * cr + (1 << 15)) >> 16)
    blue = y + ((116130 * cb + (1 << 15)) >> 16)
    return jnp.stack([red, green, blue], axis=-1).clip(0, 255)


def _halved(plane: Array) -> Array:
    """Means of 2 x 2 pixels, as many columns as fill whole blocks; edges are repeated."""
    height, width = plane.shape
    plane = jnp.pad(plane, ((0, height % 2), (0, -width % 16)), mode="edge")
    total = plane[::2, ::2] + plane[::2, 1::2] + plane[1::2, ::2] + plane[1::2, 1::2]
    # Rounded down and up in turn, so that the mean stays.
    return (total + 1 + np.arange(total.shape[1]) % 2) >> 2


def _doubled(planes: Array, height: int, width: int) -> Array:
    """[n, height, width] from half as many rows and columns: 3 : 1 means of the two nearest."""
    row, column = np.arange(height), np.arange(width)
    x = 3 * planes[:, row // 2] + planes[:, _second_nearest(height)]
    x = 3 * x[:, :, column // 2] + x[:, :, _second_nearest(width)]
    return (x + 8 - column % 2) >> 4


def _second_nearest(size: int) -> NDArray[np.int64]:
    """For each of `size` points, the index of the second nearest of half as many, if it exists."""
    point = np.arange(size)
    return (point // 2 - 1 + 2 * (point % 2)).clip(0, (size - 1) // 2)


def _through_blocks(planes: Sequence[Array], quantisers: Sequence[Array]) -> list[Array]:
    """int32 [h, w] in 0..255 each, transformed, quantised and back in blocks of 8 x 8."""
    padded = [jnp.pad(p, [(0, -n % 8) for n in p.shape], mode="edge") - 128 for p in planes]
    grids = [(p.shape[0] // 8, p.shape[1] // 8) for p in padded]
    blocks = [
        p.reshape(rows, 8, columns, 8).transpose(1, 3, 0, 2).reshape(8, 8, rows * columns)
        for p, (rows, columns) in zip(padded, grids, strict=True)
    ]
    # All planes together: one transform compiles in a third of the time of three.
    steps = [
        jnp.broadcast_to(q[..., None], b.shape) for q, b in zip(quantisers, blocks, strict=True)
    ]
    steps = jnp.concatenate(steps, axis=-1)
    decoded = _decode(_encode(jnp.concatenate(blocks, axis=-1), steps), steps)
    ends = np.cumsum([rows * columns for rows, columns in grids])
    parts = jnp.split(decoded, ends[:-1], axis=-1)
    return [
        part.reshape(8, 8, *grid)
        .transpose(2, 0, 3, 1)
        .reshape(pad.shape)[: p.shape[0], : p.shape[1]]
        for part, grid, pad, p in zip(parts, grids, padded, planes, strict=True)
    ]


def _encode(blocks: Array, steps: Array) -> Array:
    """Pixels int32 [8, 8, n] -> quantised coefficients int32 [8, 8, n]."""
    # Sums of products, not a matrix product: that would go through float32, which cannot hold
    # the 28 bits of the second pass.
    x = ((_ENCODER[:, :, None] * blocks[:, None]).sum(2) + (1 << 10)) >> 11
    x = ((_ENCODER[:, :, None, None] * x).sum(1) + (1 << 14)) >> 15
    return (jnp.sign(x) * jnp.floor(abs(x) / (8 * steps) + 0.5)).astype(jnp.int32)


def _decode(coefficients: Array, steps: Array) -> Array:
    """Quantised coefficients int32 [8, 8, n] -> pixels int32 [8, 8, n] in 0..255."""
    coarse = (steps * _DECODER[..., None] + (1 << 11)) >> 12
    x = _fast_inverse(list(coefficients * coarse))
    x = _fast_inverse([jnp.stack(x)[:, k] for k in range(8)])
    return ((jnp.stack(x, axis=1) >> 5) + 128).clip(0, 255)


def _fast_inverse(x: list[Array]) -> list[Array]:
    """The inverse 8-point DCT of Arai, Agui and Nakajima; products in 8 bits, cut off."""
    sum04, difference04 = x[0] + x[4], x[0] - x[4]
    sum26 = x[2] + x[6]
    difference26 = ((362 * (x[2] - x[6])) >> 8) - sum26
    even = [
        sum04 + sum26,
        difference04 + difference26,
        difference04 - difference26,
        sum04 - sum26,
    ]
    sum53, difference53 = x[5] + x[3], x[5] - x[3]
    sum17, difference17 = x[1] + x[7], x[1] - x[7]
    turned = (473 * (difference53 + difference17)) >> 8
    odd0 = sum17 + sum53
    odd1 = ((-669 * difference53) >> 8) + turned - odd0
    odd2 = ((362 * (sum17 - sum53)) >> 8) - odd1
    odd3 = turned - ((277 * difference17) >> 8) - odd2
    odd = [odd0, odd1, odd2, odd3]
    upper = [a + b for a, b in zip(even, odd, strict=True)]
    lower = [a - b for a, b in zip(even, odd, strict=True)]
    return upper + lower[::-1]
