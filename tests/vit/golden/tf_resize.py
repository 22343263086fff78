"""Records what TensorFlow makes of the seeded pictures: scaled to [-1, 1], resized, clipped.

pip install tensorflow-cpu==2.21.0     # in an environment of its own
python -m tests.vit.golden.tf_resize   # writes tf_resize.npz next to this file
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tensorflow as tf  # pyright: ignore[reportMissingImports]
from numpy.typing import NDArray

from tests.vit.golden.pictures import RESIZES, picture


def resized(name: str) -> NDArray[np.float32]:
    """[size, size, 3] of one entry of RESIZES."""
    size = RESIZES[name][3]
    image = tf.cast(picture(name), tf.float32) / 127.5 - 1
    if image.shape[-1] == 1:
        image = tf.image.grayscale_to_rgb(image)
    image = tf.image.resize(image, (size, size), method="bilinear", antialias=False)
    return tf.clip_by_value(image, -1, 1).numpy()


if __name__ == "__main__":
    recorded = {name: resized(name) for name in RESIZES}
    np.savez_compressed(  # the arrays are its keyword arguments
        Path(__file__).with_suffix(".npz"),
        **recorded,  # pyright: ignore[reportArgumentType]
    )
