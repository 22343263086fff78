"""Writes augment.npz: what TensorFlow 2.21 makes of JPEG quality, bytes, colours and crops.

`python tests/evolution/golden/make_augment.py`, in an environment with TensorFlow; 10 s.
"""

from pathlib import Path

import numpy as np
import tensorflow as tf

SIZES = ((32, 32, 3), (17, 45, 3), (28, 28, 1))
QUALITIES = (100, 99, 95, 90, 80, 50)
CROPS = ((32, 32, 0.05, 0.75), (32, 32, 0.95, 0.5), (12, 30, 0.2, 0.25))
CROP_DRAWS = 40_000


def picture(rng: np.random.Generator, height: int, width: int, channels: int) -> np.ndarray:
    """uint8, waves of another direction in each channel, and some noise."""
    y, x = np.mgrid[:height, :width]
    channel = np.arange(channels)
    wave = np.sin(y[..., None] * (1 + channel) / 5 + x[..., None] / 6)
    noise = rng.standard_normal((height, width, channels))
    return (127 + 90 * wave + 12 * noise).clip(0, 255).astype(np.uint8)


def network_input(image: tf.Tensor) -> np.ndarray:
    """As the published systems resize and scale bytes: float32 [20, 20, 3]."""
    return (tf.image.resize(image, (20, 20)) / 127.5 - 1).numpy()


def crops(height: int, width: int, area_min: float, aspect_min: float) -> np.ndarray:
    """Rows, columns, top and left of many crops: int [CROP_DRAWS, 4]."""

    @tf.function
    def draw():
        def body(i, boxes):
            begin, size, _ = tf.image.sample_distorted_bounding_box(
                [height, width, 3],
                tf.zeros([0, 0, 4]),
                area_range=[area_min, 1.0],
                aspect_ratio_range=[aspect_min, 1 / aspect_min],
                min_object_covered=0,
                use_image_if_no_bounding_boxes=True,
            )
            return i + 1, boxes.write(i, tf.concat([size[:2], begin[:2]], 0))

        boxes = tf.TensorArray(tf.int32, CROP_DRAWS)
        return tf.while_loop(lambda i, _: i < CROP_DRAWS, body, (0, boxes))[1].stack()

    return draw().numpy()


def main() -> None:
    """Writes the file."""
    rng = np.random.default_rng(0)
    out = {}
    for size in SIZES:
        name = "x".join(map(str, size))
        out[f"picture {name}"] = image = picture(rng, *size)
        for quality in QUALITIES:
            out[f"jpeg {name} {quality}"] = tf.image.adjust_jpeg_quality(image, quality).numpy()
    together = x = out["picture 32x32x3"]
    steps = {
        "brightness": lambda x: tf.image.adjust_brightness(x, 0.1),
        "contrast": lambda x: tf.image.adjust_contrast(x, 1.15),
        "saturation": lambda x: tf.image.adjust_saturation(x, 0.85),
        "hue": lambda x: tf.image.adjust_hue(x, -0.07),
    }
    for name, step in steps.items():
        together = step(together)
        out[name] = network_input(step(x))
    out["together"] = network_input(together)
    tf.random.set_seed(0)
    for case in CROPS:
        boxes, counts = np.unique(crops(*case), axis=0, return_counts=True)
        boxes = np.column_stack([boxes, counts]).astype(np.uint16)
        out["crops " + " ".join(map(str, case))] = boxes
    np.savez_compressed(Path(__file__).with_name("augment.npz"), **out)


if __name__ == "__main__":
    main()
