"""A temperature that fits answers, and how far the probabilities are from what happens."""

from __future__ import annotations

import numpy as np
import pytest

from evolution.training.calibration import (
    BINS,
    RANGE,
    calibration,
    expected_error,
    fitted_temperature,
)
from evolution.training.objectives import Judged
from vit.activation import SIGMOID, SOFTMAX, sigmoid, softmax, temperature_of

KINDS = pytest.mark.parametrize("activation", [SOFTMAX, SIGMOID])


def drawn(activation: str, true: float, examples: int = 20_000, seed: int = 0):
    """Logits, and labels that are drawn by their probabilities at this temperature."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 4, (examples, 5))
    if activation == SIGMOID:
        return logits, (rng.random(logits.shape) < sigmoid(logits / true)).astype(np.uint8)
    chosen = softmax(logits / true).cumsum(1) > rng.random((examples, 1))
    return logits, chosen.argmax(1).astype(np.int32)


@KINDS
@pytest.mark.parametrize("true", [0.5, 1.0, 3.0])
def test_the_temperature_is_the_one_that_the_labels_were_drawn_with(activation, true):
    logits, labels = drawn(activation, true)
    found = fitted_temperature(activation, logits, labels)
    assert found == pytest.approx(true, rel=0.05)
    before, after = (expected_error(activation, logits / t, labels) for t in (1.0, found))
    assert after < 0.015
    assert true == 1 or after < before / 3


@KINDS
def test_no_other_temperature_has_less_log_loss(activation):
    logits, labels = drawn(activation, 2.0, examples=3000)

    def loss(temperature):
        odds = (sigmoid if activation == SIGMOID else softmax)(logits / temperature).astype(float)
        if activation == SIGMOID:
            return -np.log(np.where(labels, odds, 1 - odds)).sum(1).mean()
        return -np.log(odds[np.arange(len(odds)), labels]).mean()

    found = fitted_temperature(activation, logits, labels)
    others = [loss(found * factor) for factor in (0.5, 0.9, 0.97, 1.03, 1.1, 2)]
    assert loss(found) < min(others)


@KINDS
@pytest.mark.parametrize("examples", [1, 2, 30])
def test_a_few_answers_without_a_mistake_do_not_make_everything_certain(activation, examples):
    wanted = np.eye(3)[np.arange(examples) % 3]
    labels = wanted.astype(np.uint8) if activation == SIGMOID else wanted.argmax(1)
    logits = 8 * wanted - 4
    temperature = fitted_temperature(activation, logits, labels)
    assert RANGE[0] < temperature < RANGE[1]
    odds = (sigmoid if activation == SIGMOID else softmax)(logits / temperature)
    assert 0.3 < odds.max() < 1 - 0.3 / (examples + 1)


def test_the_error_is_that_of_its_definition():
    odds = np.array([0.9, 0.92, 0.7, 0.7, 0.6])  # of the first of two classes
    logits = np.stack([np.log(odds), np.log(1 - odds)], 1)
    labels = np.array([0, 1, 0, 0, 1])
    # Bins of a fifteenth: .9 and .92 are in one (.8667 to .9333), .7 and .7, and .6 alone.
    expected = 2 / 5 * abs(0.91 - 0.5) + 2 / 5 * abs(0.7 - 1) + 1 / 5 * abs(0.6 - 0)
    assert expected_error(SOFTMAX, logits, labels) == pytest.approx(expected, abs=1e-6)
    sure = np.array([[1e6, 0.0]])  # a probability of 1 is in the last bin
    assert expected_error(SOFTMAX, sure, np.array([0])) == 0
    assert expected_error(SOFTMAX, sure, np.array([1])) == 1
    one_each = np.log(np.array([[0.25, 0.75]]) / np.array([[0.75, 0.25]]))
    assert expected_error(SIGMOID, one_each, np.array([[0, 1]])) == pytest.approx(0.25, abs=1e-6)
    assert BINS == 15


@KINDS
def test_padding_and_other_labels_and_what_is_no_number_are_not_calibrated(activation):
    logits, labels = drawn(activation, 2.0, examples=400)

    def told(logits, labels, rows=400):
        found = Judged(np.asarray(logits, np.float32), labels, rows)  # pyright: ignore
        return calibration(activation, [found], [found])

    whole = told(logits, labels)
    assert sorted(whole) == ["ece_after", "ece_before", "temperature"]
    padded = np.concatenate([logits, np.full((100, 5), np.nan)])
    more = np.concatenate([labels, np.zeros_like(labels[:100])])
    assert told(padded, more) == whole
    assert told(padded, more, 500) == {}
    assert told(logits[:, :2], labels) == {}, "of other labels than the task has"


def test_what_a_spec_says_of_its_temperature():
    assert temperature_of({}) == 1
    assert temperature_of({"temperature": 2}) == 2
    for wrong in (0, -1.0, float("inf"), float("nan"), "1", None, True, [1.0], 10**400):
        with pytest.raises(ValueError, match="temperature: expected a number above 0, found"):
            temperature_of({"temperature": wrong})
