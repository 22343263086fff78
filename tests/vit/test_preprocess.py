"""vit.preprocess against TensorFlow's recorded answers and NumPy's interpolation."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.vit.golden.pictures import RESIZES, picture
from vit.preprocess import lines_read, preprocess, resample

TENSORFLOW = np.load(Path(__file__).parent / "golden" / "tf_resize.npz")


@pytest.mark.parametrize("name", RESIZES)
def test_equals_tensorflow(name: str) -> None:
    size = RESIZES[name][3]
    ours = preprocess(picture(name), size)
    assert ours.dtype == np.float32 and ours.shape == (size, size, 3)
    np.testing.assert_allclose(ours, TENSORFLOW[name], atol=1e-4, rtol=0)


def test_ends_of_the_scale_and_grey() -> None:
    grey = np.array([[[0], [255]], [[51], [204]]], np.uint8)
    ours = preprocess(grey, 2)
    np.testing.assert_allclose(ours[..., 0], [[-1, 1], [-0.6, 0.6]], atol=1e-6)
    assert (ours == ours[..., :1]).all()


def test_a_batch_is_its_images_one_by_one() -> None:
    batch = np.random.default_rng(0).integers(0, 256, (2, 3, 20, 12, 3), np.uint8)
    ours = preprocess(batch, 9)
    assert ours.shape == (2, 3, 9, 9, 3)
    for i, j in np.ndindex(2, 3):
        np.testing.assert_allclose(ours[i, j], preprocess(batch[i, j], 9), atol=1e-6)


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4, 3), np.float32), np.zeros((4, 4, 4), np.uint8)], ids=["float", "rgba"]
)
def test_refuses_other_inputs(image: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"expected uint8 with 1 or 3 channels, found .*\(4, 4"):
        preprocess(image, 2)


@settings(deadline=None)
@given(source=st.integers(1, 60), size=st.integers(1, 60))
def test_each_sample_lies_between_the_two_pixels_around_its_cells_centre(
    source: int, size: int
) -> None:
    line = np.random.default_rng(source).integers(0, 256, source, np.uint8)
    found = resample(line.reshape(1, source, 1), size)[0, :, 0]
    centre = ((np.arange(size) + 0.5) * source / size - 0.5).clip(0, source - 1)
    np.testing.assert_allclose(found, np.interp(centre, np.arange(source), line), atol=1e-3)


@settings(deadline=None, max_examples=60)
@given(
    height=st.integers(1, 60),
    width=st.integers(1, 60),
    sizes=st.sets(st.integers(1, 40), min_size=1, max_size=3),
    grey=st.booleans(),
)
def test_the_lines_that_are_read_are_enough(
    height: int, width: int, sizes: set[int], grey: bool
) -> None:
    picture = np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)
    picture = picture[..., :1] if grey else picture
    lines = lines_read(height, width, sizes)
    part = picture[lines.rows][:, lines.columns]
    assert len(lines.rows) <= min(height, sum(2 * size for size in sizes))
    for size in sizes:
        np.testing.assert_array_equal(preprocess(part, size, lines), preprocess(picture, size))


PIXELS = 1_000_000


@pytest.mark.parametrize("height", [1, 2, 100, 1000, 10_000, PIXELS])
@pytest.mark.parametrize("batch", [(), (2,)])
def test_memory_is_bounded_by_the_picture_and_the_output(
    height: int, batch: tuple[int, ...]
) -> None:
    """At every aspect: of all orders of the axes, one would multiply the longer by the size."""
    images = np.zeros((*batch, height, PIXELS // height, 3), np.uint8)
    size = 64
    tracemalloc.start()
    try:
        output = preprocess(images, size)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak <= images.nbytes + 12 * output.nbytes
