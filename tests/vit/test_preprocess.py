"""vit.preprocess against TensorFlow's recorded answers and NumPy's interpolation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.vit.golden.pictures import RESIZES, picture
from vit.preprocess import preprocess, resample

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
