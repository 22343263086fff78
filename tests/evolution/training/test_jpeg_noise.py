"""JPEG noise is, to the byte, TensorFlow's; and what any JPEG file does, to about a grey level."""

import io
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from evolution.training import jpeg_noise
from evolution.training.jpeg_noise import compress

compressed = jax.jit(compress)
GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "augment.npz")


@pytest.mark.parametrize("name", [k for k in GOLDEN if k.startswith("jpeg ")])
def test_equals_tensorflow(name):
    _, size, quality = name.split()
    np.testing.assert_array_equal(compressed(GOLDEN[f"picture {size}"], int(quality)), GOLDEN[name])


def test_colours_are_weighed_in_16_bits_as_jfif_defines_them():
    """Rounded in one place: weights and the sums of JFIF 1.02, times 2**16."""
    cb, cr = np.mgrid[:256, :256]
    weights = {name: round(w * 2**16) for name, w in
               {"red": 1.402, "cb": 0.34414, "cr": 0.71414, "blue": 1.772}.items()}  # fmt: skip
    expected = [
        weights["red"] * (cr - 128),
        -weights["cb"] * (cb - 128) - weights["cr"] * (cr - 128),
        weights["blue"] * (cb - 128),
    ]
    found = jpeg_noise._to_rgb(jnp.full((256, 256), 128), jnp.asarray(cb), jnp.asarray(cr))
    whole = np.stack([128 + (part + 2**15) // 2**16 for part in expected], -1).clip(0, 255)
    np.testing.assert_array_equal(found, whole)


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
