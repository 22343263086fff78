"""The training data of the shipped root: all characters of Omniglot, small and cropped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter, ImageOps

from evolution.data.images import Labels, StreamedSplit
from evolution.data.splits import SplitRule
from evolution.data.tasks import load

STROKES = (1, 5)  # pixels by which strokes are widened; 1 = as they are


def omniglot(data_dir: Path, size: int) -> tuple[NDArray[np.uint8], Labels]:
    """All 1,623 characters of Omniglot, for training a root: [n, size, size, 1] and labels [n].

    Each image comes twice, as it is and with wider strokes. Raises TaskError if it is not prepared.
    """
    rule = SplitRule("train+test", "train", "test")  # these two hold different alphabets
    characters = load("omniglot", (data_dir,), {"omniglot": rule}, memory_limit=0).train
    assert isinstance(characters, StreamedSplit)  # as nothing may be kept in memory
    examples = characters.examples
    images = np.empty((len(examples), len(STROKES), size, size, 1), np.uint8)

    def draw(position: int, image: NDArray[np.uint8]) -> None:
        for i, stroke in enumerate(STROKES):
            images[position, i] = draw_character(image, stroke, size)

    labels = examples.each(np.arange(len(examples)), draw)
    return images.reshape(-1, size, size, 1), labels.repeat(len(STROKES))


def draw_character(image: NDArray[np.uint8], stroke: int, size: int) -> NDArray[np.uint8]:
    """[h, w, c], ink 0 -> [size, size, 1]: strokes widened, cropped to the ink, resized."""
    page = Image.fromarray((image[..., 0] > 0).astype(np.uint8) * 255)
    page = page.filter(ImageFilter.MinFilter(stroke))
    page = page.crop(ImageOps.invert(page).getbbox())
    # A single stroke would otherwise fill the whole image.
    narrowest = max(page.size) // 3
    width, height = (max(side, narrowest) for side in page.size)
    framed = Image.new("L", (width, height), 255)
    framed.paste(page, ((width - page.width) // 2, (height - page.height) // 2))
    return np.asarray(framed.resize((size, size), Image.Resampling.BOX))[..., None]
