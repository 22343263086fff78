"""Logits to the classes that an answer lists."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from model_store import ModelStore
from service.classify import TOP_K, predictions, probabilities
from service.compute.paths import LoadedPath
from service.errors import InternalError
from tests.service.systems import TINY, publish


@pytest.fixture
def path(tmp_path: Path) -> LoadedPath:
    """Of twelve classes."""
    store = ModelStore(str(tmp_path), create=True)
    return LoadedPath(publish(store, "task", replace(TINY, num_classes=12)), (), 1.0)


@pytest.mark.parametrize("scale", [1.0, 1e4, 3e38])
@pytest.mark.parametrize("classes", [1, 12])
def test_probabilities_are_the_softmax(path: LoadedPath, classes: int, scale: float) -> None:
    logits = (scale * np.random.default_rng(0).uniform(-1, 1, (3, classes))).astype(np.float32)
    exact = logits.astype(np.longdouble)
    odds = np.exp(exact - exact.max(1, keepdims=True))
    odds /= odds.sum(1, keepdims=True)
    np.testing.assert_allclose(probabilities(path, logits), odds, 1e-6, 1e-30)
    for row, wanted in zip(logits, odds, strict=True):
        found = {one["index"]: one["probability"] for one in predictions(path, row, classes)}
        np.testing.assert_allclose([found[i] for i in range(classes)], wanted, 1e-12, 1e-300)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_numbers_that_are_not_finite_are_no_answer(
    path: LoadedPath, bad: float, place: int
) -> None:
    logits = np.array([1, 2, 3], np.float32)
    logits[place] = bad
    with pytest.raises(InternalError, match="not finite"):
        predictions(path, logits, None)
    with pytest.raises(InternalError, match="not finite"):
        probabilities(path, np.stack([np.zeros(3, np.float32), logits]))


def test_the_most_probable_come_first_and_of_equal_ones_the_first(path: LoadedPath) -> None:
    logits = np.array([1, 2, 2, 0, 2, 1, 0, 3, 0, 0, 0, 0], np.float32)
    found = predictions(path, logits, None)
    assert [one["index"] for one in found] == [7, 1, 2, 4, 0] and len(found) == TOP_K
    assert [one["label"] for one in found] == [path.labels[i] for i in (7, 1, 2, 4, 0)]
    assert [one["index"] for one in predictions(path, logits, 2)] == [7, 1]
