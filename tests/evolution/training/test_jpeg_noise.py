"""JPEG noise is, to the byte, TensorFlow's; and what any JPEG file does, to about a grey level."""

import io
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from evolution.training.jpeg_noise import compress

compressed = jax.jit(compress)
GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "augment.npz")


@pytest.mark.parametrize("name", [k for k in GOLDEN if k.startswith("jpeg ")])
def test_equals_tensorflow(name):
    _, size, quality = name.split()
    np.testing.assert_array_equal(compressed(GOLDEN[f"picture {size}"], int(quality)), GOLDEN[name])


def through_a_file(pixels: np.ndarray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(file, "jpeg", quality=quality, subsampling="4:2:0")
    return np.asarray(Image.open(file)).reshape(pixels.shape)


@pytest.mark.parametrize("size", ["32x32x3", "17x45x3", "28x28x1"])
def test_is_near_what_a_file_gives(size):
    """Pillow decodes by the accurate transform: the difference is the fast one's rounding."""
    pixels = GOLDEN[f"picture {size}"]
    for quality in (10, 30, 50, 70, 80, 90):
        expected = through_a_file(pixels, quality).astype(int)
        difference = abs(np.asarray(compressed(pixels, quality)) - expected)
        assert difference.mean() < 1.2, quality
        assert difference.max() <= 5, quality


def test_lower_quality_changes_more():
    pixels = GOLDEN["picture 32x32x3"]
    change = [
        abs(np.asarray(compressed(pixels, q)) - pixels.astype(int)).mean() for q in (90, 50, 5)
    ]
    assert change[0] < change[1] < change[2]


def test_a_batch_may_have_a_quality_for_each_image():
    pixels = np.stack([GOLDEN["picture 32x32x3"]] * 3)
    together = jax.jit(jax.vmap(compress))(pixels, jnp.asarray([99.0, 80.0, 50.0]))
    for image, quality in zip(together, (99, 80, 50), strict=True):
        np.testing.assert_array_equal(image, GOLDEN[f"jpeg 32x32x3 {quality}"])
