"""Seeded uint8 pictures and the sizes to which tests and goldens resize them. NumPy alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# name -> (height, width, channels, size to resize to)
RESIZES = {
    "same": (16, 16, 3, 16),
    "up_by_two": (8, 8, 3, 16),
    "up_odd": (7, 7, 3, 19),
    "down_by_two": (32, 32, 3, 16),
    "down_odd": (37, 37, 3, 16),
    "down_far": (101, 101, 1, 8),
    "wide": (9, 31, 3, 16),
    "tall": (45, 11, 1, 16),
    "grey_up": (10, 14, 1, 21),
    "one_pixel": (1, 1, 3, 4),
    "one_row": (1, 12, 3, 5),
}


def picture(name: str) -> NDArray[np.uint8]:
    """The picture [height, width, channels] of one entry of RESIZES: noise, the hardest case."""
    height, width, channels, _ = RESIZES[name]
    # RandomState is the one NumPy generator whose numbers are promised never to change.
    random = np.random.RandomState(list(RESIZES).index(name))
    return random.randint(0, 256, (height, width, channels)).astype(np.uint8)
