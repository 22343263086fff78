"""Data sets that are drawn by rules: shapes, textures and marks, to be told apart.

Nothing is downloaded, and they are free for any use. The same names give the same pictures on every
machine. Colours, places, sizes and angles are random and say nothing of the class. What lies
behind, and the noise, make the sets hard enough for methods to differ.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

SIDE = 32  # pixels
FINER = 4  # shapes are drawn at this many times the size, and then reduced
EACH = 250  # pictures of a class
NOISE = 18.0  # its deviation, of 255 levels
LEANING = 0.4  # of a shape to either side at most, in radians
Floats = NDArray[np.float64]
Random = np.random.Generator


def _star(points: int, inner: float) -> Floats:
    """The corners of a star, whose inner ones are nearer to the middle: [2 * points, 2]."""
    angles = np.arange(2 * points) * np.pi / points
    radii = np.where(np.arange(2 * points) % 2 == 0, 1.0, inner)
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], 1)


def _polygon(corners: int) -> Floats:
    angles = np.arange(corners) * 2 * np.pi / corners
    return np.stack([np.cos(angles), np.sin(angles)], 1)


def _half() -> Floats:
    angles = np.linspace(0, np.pi, 20)
    return np.stack([np.cos(angles), np.sin(angles) - 0.4], 1)


def _crescent() -> Floats:
    outer, inner = np.linspace(0.6, 2 * np.pi - 0.6, 30), np.linspace(2 * np.pi - 0.95, 0.95, 30)
    far = np.stack([np.cos(outer), np.sin(outer)], 1)
    near = np.stack([0.75 * np.cos(inner) + 0.38, 0.7 * np.sin(inner)], 1)
    return np.concatenate([far, near])


def _cross() -> Floats:
    a, b = 0.33, 1.0
    return np.array([
        (a, b), (a, a), (b, a), (b, -a), (a, -a), (a, -b),
        (-a, -b), (-a, -a), (-b, -a), (-b, a), (-a, a), (-a, b),
    ])  # fmt: skip


# Corners [n, 2] within the unit circle.
SHAPES: Mapping[str, Floats] = {
    "triangle": _polygon(3),
    "square": _polygon(4),
    "pentagon": _polygon(5),
    "circle": _polygon(40),
    "half circle": _half(),
    "crescent": _crescent(),
    "cross": _cross(),
    "star of four": _star(4, 0.45),
    "star of five": _star(5, 0.45),
    "arrow": np.array([(1, 0), (0, 0.8), (0, 0.3), (-1, 0.3), (-1, -0.3), (0, -0.3), (0, -0.8)]),
}


def _shape(kind: str, rng: Random) -> Floats:
    """One shape in front of lines and spots: [SIDE, SIDE, 3]."""
    size = SIDE * FINER
    light = int(rng.integers(2))  # the shape is light on a dark ground, or dark on a light one
    image = Image.new("RGB", (size, size), _colour(rng, 1 - light))
    draw = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(1, 4))):
        start, end = rng.uniform(0, size, (2, 2))
        draw.line([*start, *end], fill=_colour(rng, 1 - light), width=int(rng.integers(2, 8)))
        x, y, radius = *rng.uniform(0, size, 2), rng.uniform(2, size / 10)
        draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=_colour(rng, 1 - light))
    angle, radius = rng.uniform(-LEANING, LEANING), size * rng.uniform(0.26, 0.4)
    turn = np.array([(np.cos(angle), np.sin(angle)), (-np.sin(angle), np.cos(angle))])
    corners = (SHAPES[kind] * rng.uniform(0.75, 1, 2)) @ turn * radius
    corners = corners + size / 2 + rng.uniform(-1, 1, 2) * size * 0.08
    draw.polygon([tuple(corner) for corner in corners], fill=_colour(rng, light))
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX), np.float64)


def _colour(rng: Random, light: int) -> tuple[int, ...]:
    return tuple(int(value) for value in rng.integers(0, 140, 3) + 115 * light)


Plane = tuple[Floats, Floats]  # coordinates of the pixels, turned and shifted


def _rings(plane: Plane, rng: Random) -> Floats:
    return np.sin(np.hypot(*plane))


def _weave(plane: Plane, rng: Random) -> Floats:
    over = (np.floor(plane[0] / np.pi) + np.floor(plane[1] / np.pi)) % 2
    return np.where(over, np.sin(2 * plane[0]), np.sin(2 * plane[1]))


def _bricks(plane: Plane, rng: Random) -> Floats:
    row = np.floor(plane[1] / np.pi)
    joint = np.minimum(np.mod(plane[1], np.pi), np.mod(plane[0] / 2 + row * np.pi / 2, np.pi))
    return np.where(joint < 0.6, 1.0, -0.4)


def _smooth(power: float) -> Callable[[Plane, Random], Floats]:
    """Noise whose spectrum falls by this power of the frequency."""

    def drawn(plane: Plane, rng: Random) -> Floats:
        rows, columns = np.meshgrid(np.fft.fftfreq(SIDE), np.fft.fftfreq(SIDE), indexing="ij")
        frequency = np.hypot(rows, columns)
        frequency[0, 0] = 1
        spectrum = np.fft.fft2(rng.normal(size=(SIDE, SIDE))) / frequency**power
        noise = np.fft.ifft2(spectrum).real
        return (noise - noise.mean()) / noise.std()

    return drawn


# Brightness about 0 [SIDE, SIDE] at the coordinates of the pixels.
TEXTURES: Mapping[str, Callable[[Plane, Random], Floats]] = {
    "waves": lambda plane, rng: np.sin(plane[0]),
    "stripes": lambda plane, rng: np.sign(np.sin(plane[0])),
    "ripples": lambda plane, rng: np.sin(plane[0] + 1.5 * np.sin(plane[1] / 2)),
    "checks": lambda plane, rng: np.sign(np.sin(plane[0]) * np.sin(plane[1])),
    "dots": lambda plane, rng: np.where(np.cos(plane[0]) + np.cos(plane[1]) > 0.9, 1.0, -0.4),
    "rings": _rings,
    "weave": _weave,
    "bricks": _bricks,
    "clouds": _smooth(1.6),
    "grain": _smooth(0.7),
}


def _texture(kind: str, rng: Random) -> Floats:
    """One texture in two colours at any scale and angle, in uneven light: [SIDE, SIDE, 3]."""
    y, x = np.mgrid[:SIDE, :SIDE] - rng.uniform(0, SIDE, (2, 1, 1))
    angle, scale = rng.uniform(0, 2 * np.pi), 2 * np.pi / rng.uniform(5, 13)
    plane = (x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle))
    drawn = TEXTURES[kind]((plane[0] * scale, plane[1] * scale), rng)
    light = drawn + rng.uniform(-1, 1) * x / SIDE + rng.uniform(-1, 1) * y / SIDE
    return rng.uniform(60, 195, 3) + light[..., None] * rng.uniform(-55, 55, 3)


# Strokes of a mark: the points [n, 2] that each goes through, within the square from -1 to 1.
_STEM = [(0.0, -0.9), (0.0, 0.9)]
MARKS: Mapping[str, Sequence[Sequence[tuple[float, float]]]] = {
    "tee": [[(-0.8, -0.9), (0.8, -0.9)], _STEM],
    "cross": [[(-0.8, 0.0), (0.8, 0.0)], _STEM],
    "corner": [[(-0.6, -0.9), (-0.6, 0.8), (0.7, 0.8)]],
    "zigzag": [[(-0.7, -0.8), (0.7, -0.8), (-0.7, 0.8), (0.7, 0.8)]],
    "wedge": [[(-0.8, -0.8), (0.0, 0.8), (0.8, -0.8)]],
    "gate": [[(-0.7, 0.8), (-0.7, -0.8), (0.7, -0.8), (0.7, 0.8)]],
    "fork": [_STEM, [(-0.7, -0.8), (-0.7, 0.0), (0.7, 0.0), (0.7, -0.8)]],
    "hook": [[(0.5, -0.9), (0.5, 0.6), (0.1, 0.9), (-0.5, 0.6)]],
    "ladder": [
        [(-0.6, -0.9), (-0.6, 0.9)], [(0.6, -0.9), (0.6, 0.9)],
        [(-0.6, -0.4), (0.6, -0.4)], [(-0.6, 0.4), (0.6, 0.4)],
    ],
    "fence": [
        [(-0.4, -0.9), (-0.4, 0.9)], [(0.4, -0.9), (0.4, 0.9)],
        [(-0.9, -0.4), (0.9, -0.4)], [(-0.9, 0.4), (0.9, 0.4)],
    ],
}  # fmt: skip


def _mark(kind: str, rng: Random) -> Floats:
    """One mark, as drawn by a hand, on paper with a stray line: [SIDE, SIDE, 3]."""
    size = SIDE * FINER
    light = int(rng.integers(2))  # the ink is light on dark paper, or dark on light paper
    image = Image.new("RGB", (size, size), _colour(rng, 1 - light))
    draw = ImageDraw.Draw(image)
    draw.line(
        [*rng.uniform(0, size, 4)], fill=_colour(rng, 1 - light), width=int(rng.integers(4, 9))
    )
    angle, scale = rng.uniform(-LEANING, LEANING), size * rng.uniform(0.24, 0.4, 2)
    turn = np.array([(np.cos(angle), np.sin(angle)), (-np.sin(angle), np.cos(angle))])
    middle = size / 2 + rng.uniform(-1, 1, 2) * size * 0.1
    ink, width = _colour(rng, light), int(rng.integers(5, 12))
    for stroke in MARKS[kind]:
        points = np.array(stroke) + rng.normal(0, 0.12, (len(stroke), 2))
        placed = (points @ turn) * scale + middle
        draw.line([tuple(point) for point in placed], fill=ink, width=width, joint="curve")
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX), np.float64)


# The names of the classes, and what draws a picture of one.
DRAWN: Mapping[str, tuple[tuple[str, ...], Callable[[str, Random], Floats]]] = {
    "drawn/shapes": (tuple(SHAPES), _shape),
    "drawn/textures": (tuple(TEXTURES), _texture),
    "drawn/marks": (tuple(MARKS), _mark),
}


@dataclass(frozen=True, slots=True)
class DrawnSet:
    """One of DRAWN: EACH pictures of each class, the classes in turn, drawn when they are read.

    A record is a PNG file after one byte that is its class.
    """

    name: str

    @property
    def names(self) -> tuple[str, ...]:
        """Those of the classes."""
        return DRAWN[self.name][0]

    @property
    def labels(self) -> NDArray[Any]:
        """The class of each record [n]."""
        return np.arange(len(self)) % len(self.names)

    def __len__(self) -> int:
        """The number of records."""
        return EACH * len(self.names)

    def __getitems__(self, keys: Sequence[int], /) -> Sequence[bytes]:
        """These records."""
        return [_record(self.name, int(key)) for key in keys]

    @staticmethod
    def parse(record: bytes) -> Mapping[str, Any]:
        """A record's `image` (encoded) and `label`."""
        return {"image": record[1:], "label": record[0]}


@cache
def _record(name: str, number: int) -> bytes:
    names, draw = DRAWN[name]
    number, label = divmod(number, len(names))
    rng = np.random.default_rng([number, label])
    return bytes([label]) + _png(draw(names[label], rng), rng)


def _png(pixels: Floats, rng: Random) -> bytes:
    noisy = pixels + rng.normal(size=pixels.shape) * NOISE
    file = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()
