"""Intervals of accuracies, next to values computed elsewhere by Wilson's formula."""

import pytest

from evolution.data.confidence import interval


@pytest.mark.parametrize(
    ("accuracy", "examples", "expected"),
    [
        (0.5, 10, [0.2366, 0.7634]),
        (0.9, 10, [0.5958, 0.9821]),
        (0.0, 10, [0.0, 0.2775]),
        (1.0, 10, [0.7225, 1.0]),
        (46 / 48, 48, [0.8602, 0.9885]),
        (0.7, 0, [0.0, 1.0]),  # nothing is known
    ],
)
def test_an_accuracy_may_lie_this_far_away(accuracy, examples, expected):
    assert interval(accuracy, examples) == expected
