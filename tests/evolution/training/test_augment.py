"""Augmentation: boxes stay inside, strengths of nothing change nothing, colour as defined."""

import colorsys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from evolution.training import augment as module
from evolution.training.augment import DRAWS, Strengths
from evolution.training.jpeg_noise import compress
from vit import preprocess

augment = jax.jit(module.augment, static_argnames=("size", "on_bytes"))


@partial(jax.jit, static_argnums=(1, 2))
def crop_boxes(u, height, width, strengths):
    return jax.vmap(lambda u: module.crop_box(u, height, width, strengths))(u)


adjust_hue, adjust_saturation = jax.jit(module.adjust_hue), jax.jit(module.adjust_saturation)
compressed = jax.jit(compress)
GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "augment.npz")

OFF = Strengths(0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0)
ALL = Strengths(1.0, 0.05, 0.75, 1.0, 0.2, 0.2, 0.2, 0.2, 20.0)


def draws(count: int = 4, seed: int = 0):
    return jnp.asarray(np.random.default_rng(seed).random((count, DRAWS), np.float32))


def images(count: int = 4, height: int = 20, width: int = 14, channels: int = 3):
    shape = (count, height, width, channels)
    return np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("on_bytes", [False, True])
@pytest.mark.parametrize("shape", [(20, 14, 1), (20, 14, 3), (16, 16, 3)])
def test_without_augmentation_training_sees_what_serving_sees(shape, on_bytes):
    x = images(4, *shape)
    np.testing.assert_allclose(augment(draws(), x, 16, OFF, on_bytes), preprocess(x, 16), atol=1e-6)


def test_a_certain_flip_mirrors_and_nothing_else():
    x = images()
    flip = OFF._replace(flip=1.0)
    flipped = np.concatenate([augment(draws(seed=i), x, 16, flip) for i in range(10)])
    plain = np.concatenate([preprocess(x, 16)] * 10)
    same = [np.allclose(a, b, atol=1e-6) for a, b in zip(flipped, plain, strict=True)]
    mirrored = [np.allclose(a, b[:, ::-1], atol=1e-6) for a, b in zip(flipped, plain, strict=True)]
    assert all(s != m for s, m in zip(same, mirrored, strict=True))
    assert 8 < sum(mirrored) < 32


@pytest.mark.parametrize("area_min", [0.01, 0.05, 0.5])
@pytest.mark.parametrize("aspect_min", [0.25, 0.75, 1.0])
def test_crops_lie_inside_and_keep_to_area_and_aspect(area_min, aspect_min):
    s = OFF._replace(crop=1.0, area_min=area_min, aspect_min=aspect_min)
    for top, left, rows, columns in np.column_stack(crop_boxes(draws(1000)[:, :4], 48, 32, s)):
        assert top >= 0 and left >= 0 and rows >= 1 and columns >= 1
        assert top + rows <= 48 and left + columns <= 32
        assert rows * columns >= np.float32(area_min * 48 * 32)
        assert (rows - 1) * aspect_min - 1 <= columns <= (rows + 1) / aspect_min + 1


@pytest.mark.parametrize("name", [k for k in GOLDEN if k.startswith("crops ")])
def test_crops_are_distributed_as_tensorflows(name):
    height, width, area_min, aspect_min = (float(v) for v in name.split()[1:])
    s = OFF._replace(crop=1.0, area_min=area_min, aspect_min=aspect_min)
    *theirs, count = GOLDEN[name].T.astype(int)
    u = np.random.default_rng(3).random((count.sum(), 4), np.float32)
    top, left, rows, columns = (
        np.asarray(v, int) for v in crop_boxes(u, int(height), int(width), s)
    )
    for ours, golden in (
        ((rows, columns), (theirs[0], theirs[1])),
        ((rows, top), (theirs[0], theirs[2])),
        ((columns, left), (theirs[1], theirs[3])),
    ):
        shape = (int(height + width),) * 2
        a = np.bincount(np.ravel_multi_index(ours, shape), minlength=shape[0] ** 2)
        b = np.bincount(np.ravel_multi_index(golden, shape), count, shape[0] ** 2)
        # Chi-squared of two samples: about 1 for each cell if both come from one distribution.
        cells = a + b > 20
        surplus = ((a - b) ** 2)[cells] / (a + b)[cells]
        assert surplus.mean() < 1 + 5 * np.sqrt(2 / cells.sum())


def test_a_crop_is_the_resized_cut():
    x, u = images(), draws(seed=5)
    s = OFF._replace(crop=1.0, area_min=0.2, aspect_min=0.5)
    boxes = np.column_stack(crop_boxes(u[:, :4], 20, 14, s)).astype(int)
    assert (boxes[:, 2] * boxes[:, 3] < 20 * 14).any()
    cropped = augment(u, x, 16, s)
    for image, found, (top, left, rows, columns) in zip(x, cropped, boxes, strict=True):
        cut = image[top : top + rows, left : left + columns]
        np.testing.assert_allclose(found, preprocess(cut, 16), atol=1e-5)


def test_contrast_keeps_the_crops_mean():
    """Contrast turns about the mean of what is cropped, not of the whole image."""
    x = images(1, 16, 16) // 2 + 64  # far from the ends, so that nothing is clipped
    s = OFF._replace(crop=1.0, area_min=0.3, aspect_min=1.0, contrast=0.5)
    u = draws(1, seed=2)
    rows = int(crop_boxes(u[:, :4], 16, 16, s).rows[0])
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
    x = images()
    np.testing.assert_array_equal(augment(draws(), x, 16, ALL), augment(draws(), x, 16, ALL))
    assert not np.allclose(augment(draws(), x, 16, ALL), augment(draws(seed=9), x, 16, ALL))


@pytest.mark.parametrize("on_bytes", [False, True])
def test_the_result_does_not_depend_on_batch_mates(on_bytes):
    x, u = images(), np.array(draws())
    together = augment(u, x, 16, ALL, on_bytes)
    for i in range(4):
        among_others = np.zeros_like(x), np.zeros_like(u)
        among_others[0][-1], among_others[1][-1] = x[i], u[i]
        other = augment(among_others[1], among_others[0], 16, ALL, on_bytes)[-1]
        np.testing.assert_allclose(other, together[i], atol=1e-6)


# With the strengths below, draws for which brightness shifts by +0.1, contrast is 1.15 times,
# saturation 0.85 times, and hue turns by -0.07, as in the golden file.
GOLDEN_DRAWS = np.float32([[0, 0, 0, 0, 0.9, 0.75, 0.75, 0.25, 0.25]])
GOLDEN_STRENGTHS = {"brightness": 0.2, "contrast": 0.3, "saturation": 0.3, "hue": 0.14}


@pytest.mark.parametrize("name", [*GOLDEN_STRENGTHS, "together"])
def test_colours_of_bytes_are_tensorflows(name):
    x = GOLDEN["picture 32x32x3"]
    wanted = GOLDEN_STRENGTHS if name == "together" else {name: GOLDEN_STRENGTHS[name]}
    ours = augment(GOLDEN_DRAWS, x[None], 20, OFF._replace(**wanted), True)[0]
    np.testing.assert_allclose(ours, GOLDEN[name], atol=1e-5)
    assert abs(ours - preprocess(x, 20)).mean() > 0.01


def test_contrast_of_bytes_turns_about_the_crops_mean():
    x, u = images(), draws()
    s = OFF._replace(crop=1.0, area_min=0.3, aspect_min=1.0, contrast=0.5)
    boxes = np.column_stack(crop_boxes(u[:, :4], 20, 14, s)).astype(int)
    outputs = augment(u, x, 16, s, True)
    for image, draw, output, (top, left, rows, columns) in zip(x, u, outputs, boxes, strict=True):
        cut = image[top : top + rows, left : left + columns] / 255
        mean = cut.mean((0, 1))
        factor = 1 + (2 * float(draw[6]) - 1) * 0.5
        changed = (((cut - mean) * factor + mean) * 255.5).clip(0, 255).astype(np.uint8)
        np.testing.assert_allclose(output, preprocess(changed, 16), atol=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_quality_is_drawn_below_100_and_comes_first(channels):
    x = images(channels=channels)
    s = OFF._replace(flip=1.0, quality=2.0)
    seen = []
    for quality in (98, 99):
        noisy = preprocess(np.stack([compressed(image, quality) for image in x]), 16)
        for mirror in (1, -1):
            expected = noisy[:, :, ::mirror]
            outputs = np.stack([augment(draws(seed=i), x, 16, s, True) for i in range(16)])
            seen.append(np.isclose(outputs, expected, atol=1e-6).all((2, 3, 4)))
    assert (sum(s.astype(int) for s in seen) == 1).all()  # each is one of the four
    assert all(6 <= s.sum() <= 28 for s in seen)


def test_strengths_of_a_path():
    hp = {
        "ds_area_range_min": 0.5,
        "ds_aspect_ratio_range_min": 0.75,
        "ds_flip_left_right": True,
        "ds_brightness_delta": 0.1,
        "ds_contrast_delta": 0.0,
        "ds_saturation_delta": 0.0,
        "ds_hue_delta": 0.02,
    }
    assert Strengths.of(hp) == Strengths(1.0, 0.5, 0.75, 1.0, 0.1, 0.0, 0.0, 0.02, 0.0)
    assert Strengths.of(hp | {"ds_crop": False}).crop == 0
    assert Strengths.of(hp | {"ds_area_range_min": 1.0}).crop == 0
    qualities = [Strengths.of(hp | {"ds_quality_delta": d}).quality for d in (0.01, 0.05, 0.1, 0.2)]
    assert qualities == [1, 5, 10, 20]


@pytest.mark.parametrize("on_bytes", [False, True])
def test_another_strength_compiles_nothing(on_bytes):
    augment(draws(), images(), 16, OFF, on_bytes)
    before = augment._cache_size()
    augment(draws(), images(), 16, ALL, on_bytes)
    assert augment._cache_size() == before
