"""The difference between Hugging Face's image processor and the path's input contract.

Its resize averages over the area of each new pixel (antialias). Ours reads the two nearest pixels
an axis. For pictures smaller than the network's input both give the same, except for rounding to
whole grey levels. No setting changes that. So the card says how large the difference is, and gives
code without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vit.preprocess import resample

TIMES = (2, 4)  # how many times as large as the network's input the pictures are
PICTURES = 2
SEED = 0


@dataclass(frozen=True, slots=True)
class Difference:
    """The difference of the network's input pixels, in grey levels of 255."""

    side: int  # of the picture
    mean: float
    p99: float  # 99 of 100 differ by less


def differences(size: int, times: Sequence[int] = TIMES) -> list[Difference]:
    """Measured on drawn pictures with the spectrum of photographs."""
    found = []
    for each in times:
        drawn = [picture(size * each, SEED + number) for number in range(PICTURES)]
        between = np.abs([resample(one, size) - _averaged(one, size) for one in drawn])
        found.append(Difference(size * each, float(between.mean()), _p99(between)))
    return found


def _averaged(pixels: NDArray[np.uint8], size: int) -> NDArray[np.float32]:
    resized = Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(resized, np.float32)


def _p99(values: NDArray[np.floating]) -> float:
    return float(np.percentile(values, 99))


def picture(side: int, seed: int) -> NDArray[np.uint8]:
    """[side, side, 3]: noise whose amplitude falls as 1 / frequency, as that of photographs."""
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None])
    frequency[0, 0] = 1.0  # the mean is set below
    noise = np.random.default_rng(seed).normal(size=(3, side, side))
    drawn = np.fft.irfft2(np.fft.rfft2(noise) / frequency, (side, side))
    drawn = (drawn - drawn.mean()) / drawn.std()
    return (127.5 + 50 * drawn).clip(0, 255).astype(np.uint8).transpose(1, 2, 0)
