"""Augmentation: boxes stay inside, strengths of nothing change nothing, colour as defined."""

import colorsys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from evolution import augment as module
from evolution.augment import DRAWS, Strengths, adjust_hue, adjust_saturation
from vit import preprocess

augment = jax.jit(module.augment, static_argnames="size")
crop_box = jax.jit(module.crop_box, static_argnames=("height", "width"))

OFF = Strengths(0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0)


def draws(count: int, seed: int = 0):
    return jnp.asarray(np.random.default_rng(seed).random((count, DRAWS), np.float32))


def images(count: int, height: int = 20, width: int = 14, channels: int = 3):
    shape = (count, height, width, channels)
    return np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
def test_without_augmentation_training_sees_what_serving_sees(channels):
    x = images(6, channels=channels)
    np.testing.assert_allclose(augment(draws(6), x, 16, OFF), preprocess(x, 16), atol=1e-6)


def test_a_certain_flip_mirrors_and_nothing_else():
    x = images(40)
    flipped = augment(draws(40), x, 16, OFF._replace(flip=1.0))
    plain = preprocess(x, 16)
    same = [np.allclose(a, b, atol=1e-6) for a, b in zip(flipped, plain, strict=True)]
    mirrored = [np.allclose(a, b[:, ::-1], atol=1e-6) for a, b in zip(flipped, plain, strict=True)]
    assert all(s != m for s, m in zip(same, mirrored, strict=True))
    assert 8 < sum(mirrored) < 32


@pytest.mark.parametrize("area_min", [0.01, 0.05, 0.5])
@pytest.mark.parametrize("aspect_min", [0.25, 0.75, 1.0])
def test_crops_lie_inside_and_keep_to_area_and_aspect(area_min, aspect_min):
    s = OFF._replace(crop=1.0, area_min=area_min, aspect_min=aspect_min)
    for u in draws(100):
        top, left, rows, columns = (float(v) for v in crop_box(u[:4], 48, 32, s))
        assert top >= 0 and left >= 0 and rows >= 1 and columns >= 1
        assert top + rows <= 48 and left + columns <= 32
        assert rows * columns >= 0.6 * area_min * 48 * 32  # whole pixels round the area
        assert (rows - 1) * aspect_min - 1 <= columns <= (rows + 1) / aspect_min + 1


def test_a_crop_is_the_resized_cut():
    x = images(1, 32, 32)
    s = OFF._replace(crop=1.0, area_min=0.2, aspect_min=0.5)
    u = draws(1, seed=5)
    top, left, rows, columns = (int(v) for v in crop_box(u[0, :4], 32, 32, s))
    cut = x[:, top : top + rows, left : left + columns]
    assert cut.shape[1] < 32
    np.testing.assert_allclose(augment(u, x, 16, s), preprocess(cut, 16), atol=1e-5)


def test_contrast_keeps_the_crops_mean():
    """Contrast turns about the mean of what is cropped, not of the whole image."""
    x = images(1, 16, 16) // 2 + 64  # far from the ends, so that nothing is clipped
    s = OFF._replace(crop=1.0, area_min=0.3, aspect_min=1.0, contrast=0.5)
    u = draws(1, seed=2)
    rows = int(crop_box(u[0, :4], 16, 16, s)[2])
    changed = np.asarray(augment(u, x, rows, s))  # as large as the cut: no resize
    plain = np.asarray(augment(u, x, rows, s._replace(contrast=0.0)))
    np.testing.assert_allclose(changed.mean((1, 2)), plain.mean((1, 2)), atol=1e-5)
    assert abs(changed - plain).max() > 0.01


def test_hue_and_saturation_are_those_of_the_hsv_cone():
    pixels = np.random.default_rng(0).random((50, 3)).astype(np.float32)
    for turns, factor in ((0.1, 1.3), (-0.2, 0.5)):
        hue = np.asarray(adjust_hue(jnp.asarray(pixels), jnp.float32(turns)))
        saturated = np.asarray(adjust_saturation(jnp.asarray(pixels), jnp.float32(factor)))
        for pixel, turned, stronger in zip(pixels, hue, saturated, strict=True):
            h, s, v = colorsys.rgb_to_hsv(*pixel)
            np.testing.assert_allclose(
                turned, colorsys.hsv_to_rgb((h + turns) % 1, s, v), atol=1e-5
            )
            np.testing.assert_allclose(
                stronger, colorsys.hsv_to_rgb(h, min(s * factor, 1), v), atol=1e-5
            )


def test_grey_pixels_have_no_hue_and_no_saturation():
    grey = jnp.asarray([[-0.5] * 3, [0.0] * 3, [0.7] * 3])
    np.testing.assert_array_equal(adjust_hue(grey, jnp.float32(0.3)), grey)
    np.testing.assert_allclose(adjust_saturation(grey, jnp.float32(1.5)), grey, atol=1e-7)


def test_the_same_draws_give_the_same_images():
    s = Strengths(1.0, 0.05, 0.75, 1.0, 0.2, 0.2, 0.2, 0.2)
    x = images(4)
    np.testing.assert_array_equal(augment(draws(4), x, 16, s), augment(draws(4), x, 16, s))
    assert not np.allclose(augment(draws(4), x, 16, s), augment(draws(4, 9), x, 16, s))


def test_the_result_does_not_depend_on_batch_mates():
    s = Strengths(1.0, 0.05, 0.75, 1.0, 0.2, 0.2, 0.2, 0.2)
    x, u = images(4), draws(4)
    together = augment(u, x, 16, s)
    for i in range(4):
        np.testing.assert_allclose(
            augment(u[i : i + 1], x[i : i + 1], 16, s)[0], together[i], atol=1e-6
        )
