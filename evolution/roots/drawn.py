"""Pictures drawn by rules: noise, stripes, and shapes that cover one another.

They stand for pictures of any kind where a root is trained: no data set of photographs of things
is at hand whose licence lets weights trained on it be shipped.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Pixels = NDArray[np.float64]  # [size, size, 3], 0..255 and somewhat beyond


def draw_pictures(seed: int, count: int, size: int) -> NDArray[np.uint8]:
    """uint8 [count, size, size, 3]; the same for the same arguments."""
    rng = np.random.default_rng(seed)
    return np.stack([_picture(rng, size) for _ in range(count)])


def _picture(rng: np.random.Generator, size: int) -> NDArray[np.uint8]:
    """One kind, or two where a mask of noise parts them, and a little grain."""
    picture = _one_kind(rng, size)
    if rng.random() < 0.6:
        mask = _noise(rng, size)[..., :1]
        mask = mask > np.quantile(mask, rng.uniform(0.2, 0.8))
        picture = np.where(mask, picture, _one_kind(rng, size))
    picture = picture + rng.normal(size=picture.shape) * rng.uniform(0, 8)
    return picture.clip(0, 255).astype(np.uint8)


def _one_kind(rng: np.random.Generator, size: int) -> Pixels:
    kinds = (_noise, _stripes, _shapes, _shapes)
    return kinds[rng.integers(len(kinds))](rng, size)


def _noise(rng: np.random.Generator, size: int) -> Pixels:
    """Noise whose spectrum falls by a power of the frequency, as that of natural pictures does."""
    rows, columns = (np.fft.fftfreq(size) * rng.uniform(0.5, 2) for _ in range(2))
    frequency = np.hypot(rows[:, None], columns[None])
    frequency[0, 0] = 1
    spectrum = np.fft.fft2(rng.normal(size=(3, size, size))) / frequency ** rng.uniform(0.5, 2.2)
    noise: Pixels = np.fft.ifft2(spectrum).real
    noise = (noise - noise.mean((1, 2), keepdims=True)) / noise.std((1, 2), keepdims=True)
    shared = rng.normal(size=(3, 1)) * rng.uniform(0.1, 0.33)  # by all three colours
    colours = np.tensordot(np.eye(3) * rng.uniform(0, 0.6) + shared, noise, 1)
    return colours.transpose(1, 2, 0) * rng.uniform(5, 60) + rng.uniform(20, 230, 3)


def _stripes(rng: np.random.Generator, size: int) -> Pixels:
    """Two colours in waves of one direction, soft or with sharp edges."""
    rows, columns = np.mgrid[:size, :size]
    angle = rng.uniform(0, np.pi)
    bend = rng.uniform(0, 3) * np.sin(rows / rng.uniform(3, 20))
    along = columns * np.cos(angle) + rows * np.sin(angle) + bend
    wave = np.sin(along * 2 * np.pi / rng.uniform(3, 32))
    wave = np.sign(wave) if rng.random() < 0.5 else wave
    return rng.uniform(0, 255, 3) + wave[..., None] * rng.uniform(-90, 90, 3)


def _shapes(rng: np.random.Generator, size: int) -> Pixels:
    """Shapes of related colours, few of them large and many small, later ones on top."""
    background = tuple(rng.integers(0, 256, 3).tolist())
    image = Image.new("RGB", (size, size), background)
    draw = ImageDraw.Draw(image)
    base, spread = rng.uniform(0, 255, 3), rng.uniform(10, 90)
    radii = rng.pareto(1.5, rng.integers(3, 120)) * rng.uniform(1, 6) + 1
    for radius in radii.clip(1, size / 2):
        colour = (base + rng.normal(size=3) * spread).clip(0, 255).astype(int)
        _draw_shape(rng, draw, rng.uniform(-4, size + 4, 2), radius, tuple(colour.tolist()))
    return np.asarray(image, np.float64)


def _draw_shape(
    rng: np.random.Generator,
    draw: ImageDraw.ImageDraw,
    centre: NDArray[np.float64],
    radius: float,
    colour: tuple[int, ...],
) -> None:
    x, y = centre
    kind = rng.integers(4)
    if kind == 0:
        height = radius * rng.uniform(0.3, 1)
        draw.ellipse([x - radius, y - height, x + radius, y + height], fill=colour)
    elif kind == 1:
        corners = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 7)))
        draw.polygon(
            [(x + radius * np.cos(a), y + radius * np.sin(a)) for a in corners], fill=colour
        )
    elif kind == 2:
        to = (x + rng.normal() * 3 * radius, y + rng.normal() * 3 * radius)
        draw.line([(x, y), to], fill=colour, width=int(rng.integers(1, 5)))
    else:
        draw.rectangle([x - radius, y - radius * 0.6, x + radius, y + radius * 0.6], fill=colour)
