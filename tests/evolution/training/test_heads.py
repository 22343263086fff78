"""Fitted heads: convex, so the features alone decide; slopes are right; the penalty is chosen."""

from __future__ import annotations

import numpy as np
import pytest

from evolution.training import heads
from evolution.training.heads import Seen, fitted_head
from vit.activation import SIGMOID, SOFTMAX

LOSSES = pytest.mark.parametrize(
    ("loss", "labels"),
    [
        (heads._multinomial, np.array([0, 2, 1])),
        (heads._binary, np.array([[0, 1, 1], [1, 0, 0], [0, 0, 0]])),
    ],
)


def clusters(count: int, spread: float, seed: int) -> Seen:
    """Three classes around points of their own, in five dimensions."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    return Seen(4 * np.eye(3, 5)[labels] + spread * rng.normal(size=(count, 5)), labels)


def answers(head: dict[str, np.ndarray], features: np.ndarray) -> np.ndarray:
    return features @ head["kernel"] + head["bias"]


@LOSSES
def test_slopes_are_those_of_the_loss(loss, labels) -> None:
    logits = np.random.default_rng(0).normal(size=(3, 3)) * 3
    _, slope = loss(logits, labels)
    for at in np.ndindex(logits.shape):
        step = np.zeros((3, 3))
        step[at] = 1e-5
        numeric = (loss(logits + step, labels)[0] - loss(logits - step, labels)[0]) / 2e-5
        assert slope[at] == pytest.approx(numeric, abs=1e-8)


@LOSSES
def test_large_logits_stay_finite(loss, labels) -> None:
    for factor in (1e3, -1e3):
        value, slope = loss(np.full((3, 3), factor) * np.eye(3), labels)
        assert np.isfinite(value) and np.isfinite(slope).all()


def test_separable_classes_are_told_apart() -> None:
    found = fitted_head(SOFTMAX, 3, clusters(90, 0.1, 0), clusters(30, 0.1, 1))
    asked = clusters(60, 0.1, 2)
    assert (answers(found.head, asked.features).argmax(1) == asked.labels).all()
    assert found.head["kernel"].shape == (5, 3) and found.head["kernel"].dtype == np.float32


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("which", [0, 1])
def test_features_that_are_not_finite_give_a_head_that_is_not(value: float, which: int) -> None:
    given = clusters(30, 1.0, 0), clusters(30, 1.0, 1)
    given[which].features[3, 2] = value
    found = fitted_head(SOFTMAX, 3, *given)
    assert found.loss == np.inf
    assert [part.shape for part in found.head.values()] == [(5, 3), (3,)]
    assert not any(np.isfinite(part).any() for part in found.head.values())


def test_scale_and_shift_of_features_do_not_matter() -> None:
    train, validation = clusters(90, 2.0, 0), clusters(60, 2.0, 1)
    plain = fitted_head(SOFTMAX, 3, train, validation)
    scale, shift = np.array([1, 10, 0.1, 3, 7]), np.array([5, -3, 0, 100, 1])
    moved = [Seen(one.features * scale + shift, one.labels) for one in (train, validation)]
    other = fitted_head(SOFTMAX, 3, *moved)
    assert other.loss == pytest.approx(plain.loss, rel=1e-3)
    np.testing.assert_allclose(
        answers(plain.head, train.features), answers(other.head, moved[0].features), atol=0.02
    )


def test_the_penalty_is_that_of_least_validation_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of few examples in noise, the weakest penalty is not the best."""
    train, validation = clusters(12, 6.0, 0), clusters(300, 6.0, 1)
    chosen = fitted_head(SOFTMAX, 3, train, validation)
    alone = []
    for penalty in heads.PENALTIES:
        monkeypatch.setattr(heads, "PENALTIES", (penalty,))
        alone.append(fitted_head(SOFTMAX, 3, train, validation).loss)
    assert chosen.loss == pytest.approx(min(alone), rel=0.02)
    assert chosen.loss < 0.9 * alone[-1]


def test_several_labels_a_picture_each_have_a_regression() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(300, 4))
    labels = (features[:, :2] + 0.1 * rng.normal(size=(300, 2)) > 0).astype(np.uint8)
    seen = Seen(features, labels)
    found = fitted_head(SIGMOID, 2, seen, seen)
    assert ((answers(found.head, features) > 0) == labels).mean() > 0.95
    assert found.loss < 0.5  # of two labels; 1.39 if it knew nothing
