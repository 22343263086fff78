"""Losses and qualities of tasks with one class and with several labels a picture."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import ttest_rel

from evolution.training.objectives import (
    OBJECTIVES,
    Judged,
    average_precision,
    gain,
    judge,
    mean_average_precision,
    quality_in,
)
from vit.activation import SIGMOID, SOFTMAX, activation_of, sigmoid

MULTI = OBJECTIVES[SIGMOID]


def by_its_definition(scores, wanted) -> float:
    """The mean, over the wanted examples, of the share of wanted ones that score no less."""
    shares = []
    for score, is_wanted in zip(scores, wanted, strict=True):
        if is_wanted:
            above = [w for s, w in zip(scores, wanted, strict=True) if s >= score]
            shares.append(sum(above) / len(above))
    return sum(shares) / len(shares)


@st.composite
def scored(draw):
    """Scores, many of them equal, and wanted labels [n, labels]."""
    shape = draw(st.integers(1, 12)), draw(st.integers(1, 4))
    levels = draw(st.sampled_from([1, 2, 3, 50]))
    scores = draw(arrays(np.float32, shape, elements=st.integers(0, levels).map(float)))
    return scores / np.float32(levels), draw(arrays(bool, shape))


@given(scored())
@settings(max_examples=100, deadline=None)
def test_mean_average_precision_is_that_of_its_definition(both):
    scores, wanted = both
    each = [
        by_its_definition(scores[:, i], wanted[:, i])
        for i in range(wanted.shape[1])
        if wanted[:, i].any()
    ]
    expected = sum(each) / len(each) if each else 0.0
    assert mean_average_precision(scores, wanted) == pytest.approx(expected, abs=1e-12)


@given(scored(), st.randoms())
@settings(max_examples=50, deadline=None)
def test_the_order_of_the_examples_means_nothing(both, random):
    scores, wanted = both
    order = list(range(len(scores)))
    random.shuffle(order)
    assert mean_average_precision(scores[order], wanted[order]) == pytest.approx(
        mean_average_precision(scores, wanted), abs=1e-12
    )


def test_known_average_precisions():
    wanted = np.array([True, False, True, False])
    assert average_precision(np.array([0.9, 0.8, 0.7, 0.1]), wanted) == pytest.approx(5 / 6)
    assert average_precision(np.array([0.9, 0.1, 0.7, 0.2]), wanted) == 1
    assert average_precision(np.zeros(4), wanted) == 0.5  # a constant answer: the share of wanted


def test_labels_that_nothing_has_do_not_count():
    scores = np.array([[0.9, 0.2], [0.1, 0.8]])
    assert mean_average_precision(scores, np.array([[True, False], [False, False]])) == 1
    assert mean_average_precision(scores, np.zeros((2, 2), bool)) == 0


def judged(logits, labels, count):
    """As compiled programs and the host do it together."""
    found, sound = jax.jit(judge, static_argnums=0)(
        lambda rows: logits[rows], labels, jnp.asarray(count)
    )
    return MULTI.quality([Judged(found, labels, count)]), bool(sound)


@pytest.mark.parametrize("count", [1, 100, 128, 129, 256])
def test_padding_is_not_judged(count):
    rng = np.random.default_rng(count)
    logits = rng.normal(size=(256, 3)).astype(np.float32)
    labels = (rng.random((256, 3)) < 0.4).astype(np.uint8)
    labels[0] = 1
    expected = mean_average_precision(sigmoid(logits[:count]), labels[:count] > 0)
    logits[count:] = np.nan
    assert judged(jnp.asarray(logits), jnp.asarray(labels), count) == (expected, True)


def test_an_answer_that_is_no_number_is_worth_nothing():
    logits, labels = np.zeros((128, 2), np.float32), np.ones((128, 2), np.uint8)
    logits[5, 1] = np.inf
    assert judged(jnp.asarray(logits), jnp.asarray(labels), 100) == (0, False)


def test_answers_of_other_labels_are_worth_nothing():
    logits, labels = jnp.ones((128, 2)), jnp.ones((128, 3), jnp.uint8)
    assert judged(logits, labels, 100)[0] == 0


def test_the_loss_is_binary_cross_entropy_and_exact_for_large_logits():
    logits = np.array([[2.0, -1.0, 0.5], [100.0, -100.0, 1000.0]], np.float32)
    labels = np.array([[1, 0, 1], [1, 1, 0]], np.uint8)
    p = 1 / (1 + np.exp(-logits[0].astype(float)))
    first = -np.log(np.where(labels[0], p, 1 - p)).sum()
    assert float(MULTI.loss(jnp.asarray(logits), jnp.asarray(labels))) == pytest.approx(
        (first + 0 + 100 + 1000) / 2, rel=1e-6
    )
    gradient = jax.grad(MULTI.loss)(jnp.asarray(logits), jnp.asarray(labels))
    assert np.isfinite(gradient).all()
    np.testing.assert_allclose(gradient[0], (p - labels[0]) / 2, rtol=1e-5)


def test_probabilities_are_exact_however_large_the_numbers():
    logits = np.array([0.0, 1.5, -1.5, 60.0, -60.0, 1e30, -1e30], np.float32)
    expected = [0.5, 1 / (1 + np.exp(-1.5)), 1 / (1 + np.exp(1.5)), 1, np.exp(-60.0), 1, 0]
    found = sigmoid(logits)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-7)


def test_what_a_spec_says_of_its_activation():
    assert activation_of({}) == activation_of({"activation": SOFTMAX}) == SOFTMAX
    assert activation_of({"activation": SIGMOID}) == SIGMOID
    for unknown in ("tanh", None, ["sigmoid"], 1):
        with pytest.raises(ValueError, match=r"activation: expected one of softmax, sigmoid"):
            activation_of({"activation": unknown})


@pytest.mark.parametrize(
    ("part", "quality"),
    [
        ({"accuracy": 0.5}, 0.5),
        ({"mean_average_precision": 1}, 1),
        ({"accuracy": True, "mean_average_precision": "1"}, None),
        ({}, None),
    ],
)
def test_a_quality_is_found_by_its_names(part, quality):
    assert quality_in(part) == quality


losses = arrays(np.float32, st.integers(2, 60), elements=st.floats(0, 20, width=16))


@given(losses, st.integers(0, 1000))
def test_the_gain_of_losses_is_the_paired_t_statistic(before, seed):
    after = np.random.default_rng(seed).permutation(before) * 0.9
    expected = ttest_rel(before.astype(float), after.astype(float)).statistic
    if np.isfinite(expected):
        assert gain(before, after) == pytest.approx(expected, rel=1e-6, abs=1e-9)
        assert gain(after, before) == -gain(before, after)


@pytest.mark.parametrize(("after", "found"), [(0.5, np.inf), (1.0, 0.0), (2.0, -np.inf)])
@pytest.mark.parametrize("examples", [1, 5])
def test_a_gain_that_all_examples_share_is_as_clear_as_can_be(after, found, examples):
    assert gain(np.full(examples, 1.0), np.full(examples, after)) == found


def test_losses_that_are_no_numbers_are_no_gain():
    assert not gain(np.ones(3), np.array([0.1, np.nan, 0.1])) >= 0


@pytest.mark.parametrize("activation", [SIGMOID, SOFTMAX])
def test_the_loss_of_each_real_row_has_the_mean_loss(activation):
    objective = OBJECTIVES[activation]
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32))
    several = jnp.eye(3, dtype=jnp.uint8)[jnp.arange(8) % 3]
    labels = several if activation == SIGMOID else several.argmax(1)
    parts = [Judged(logits[i : i + 4], labels[i : i + 4], 3) for i in (0, 4)]
    rows = jnp.array([0, 1, 2, 4, 5, 6])
    found = objective.each_loss(parts)
    assert found.shape == (6,)
    assert found.mean() == pytest.approx(float(objective.loss(logits[rows], labels[rows])))
