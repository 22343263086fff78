"""Whether a load's answers are those of the networks, and its figures."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from loadtests.peers.client import Answer, Answers
from loadtests.peers.servers import Predictions

CLASSES = 5  # in an answer, or all where there are fewer
EQUAL = 1e-4  # of probabilities
FEWEST = 3  # answers of a task whose median counts


def is_right(predictions: Any, expected: np.ndarray) -> bool:
    """Whether these are the most likely classes, best first, each with its probability.

    `expected` are the probabilities of all classes; classes that are as likely may change places.
    """
    try:
        found = [(int(one["index"]), float(one["probability"])) for one in predictions]
    except (TypeError, KeyError, ValueError):
        return False
    named = [index for index, _ in found]
    if len(found) != min(CLASSES, len(expected)) or len({*named}) < len(named):
        return False
    if not all(0 <= index < len(expected) for index in named):
        return False
    best = np.sort(expected)[::-1][: len(found)]
    return all(
        abs(probability - expected[index]) <= EQUAL and abs(probability - most) <= EQUAL
        for (index, probability), most in zip(found, best, strict=True)
    )


def failures(
    answers: Sequence[Answer], predictions: Predictions, expected: Mapping[str, np.ndarray]
) -> tuple[int, int]:
    """How many requests were not answered with 200, and how many answers were not right."""
    answered = [answer for answer in answers if answer.status == 200]
    wrong = 0
    for answer in answered:
        try:
            found = predictions(answer.body)
        except (ValueError, LookupError, TypeError):
            found = None
        wrong += not is_right(found, expected[answer.request.task][answer.request.picture])
    return len(answers) - len(answered), wrong


def figures(answers: Answers) -> dict[str, float]:
    """Answers per second, and milliseconds; nothing where nothing was answered."""
    found = [answer.latency_s * 1e3 for answer in answers.all if answer.status == 200]
    if not found:
        return {}
    p50, p99 = np.percentile(found, [50, 99]).tolist()
    return {
        "rate": len(found) / answers.seconds,
        "p50_ms": p50,
        "p99_ms": p99,
        "lag_ms": answers.lag_s * 1e3,
    }


def most_asked(answers: Answers) -> float | None:
    """The p50 of the task that was asked for most, to that of the task in the middle.

    None where too few tasks were asked for often enough.
    """
    by_task: defaultdict[str, list[float]] = defaultdict(list)
    for answer in answers.all:
        if answer.status == 200:
            by_task[answer.request.task].append(answer.latency_s)
    medians = [statistics.median(found) for found in by_task.values() if len(found) >= FEWEST]
    if len(medians) < 2:
        return None
    most = max(by_task.values(), key=len)
    return statistics.median(most) / statistics.median(medians)
