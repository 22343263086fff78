"""Images that come with their labels: during a roll-out it is counted whose answers are right."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast
from urllib.parse import quote

import numpy as np
import pytest

from service.compute.paths import ShadowAnswer
from service.metrics.rollouts import Comparison
from service.tasks.rollouts import Routed, Trial
from tests.service.in_process import Gateway
from tests.service.systems import png
from tests.service.tasks.rolling import begin, gateway, store, trial, version
from tests.service.waiting import eventually

__all__ = ["gateway", "store"]


def test_with_labels_it_is_counted_whose_answers_are_right(gateway: Gateway) -> None:
    begin(gateway, shadow=True)

    def best(seed: int, number: int) -> str:
        predictions = gateway.classify("t", png(seed), f"?version={number}").json()["predictions"]
        return predictions[0]["label"]

    truth = {seed: best(seed, 1) for seed in range(6)}
    for seed, label in truth.items():
        before = trial(gateway).numbers.tried()[0]
        assert version(gateway, seed, f"?label={quote(label)}") == 1
        eventually(lambda before=before: trial(gateway).numbers.tried()[0] > before)
    right = sum(best(seed, 2) == label for seed, label in truth.items())
    here = gateway.get("/tasks/t")["rollouts"]["canary"]["here"]
    assert here["labelled"] == {"live": 6, "shadow": 6}
    assert here["right"] == {"live": 6, "shadow": right} and 0 < right < 6
    series = 'munet_rollout_labelled_total{alias="canary",right="no",role="shadow",task="t"}'
    assert gateway.metric(series) == 6 - right
    begin(gateway, weight=1.0)
    wrong = next(label for label in gateway.get("/tasks/t")["labels"] if label != best(0, 2))
    eventually(lambda: version(gateway) == 2)
    assert version(gateway, 0, f"?label={quote(wrong)}") == 2
    here = gateway.get("/tasks/t")["rollouts"]["canary"]["here"]
    assert (here["labelled"], here["right"]) == ({"alias": 1}, {"alias": 0})


def test_of_several_labels_all_have_to_be_found_and_what_is_not_finite_is_not_judged() -> None:
    path = SimpleNamespace(activation="sigmoid", labels=("a", "b", "c"))
    trial = SimpleNamespace(numbers=Comparison("t", "canary", 0.5))

    def judged(labels: str, *logits: float) -> dict[str, tuple[int, int]]:
        routed = Routed(cast(Any, None), cast(Any, trial), 0, "alias", frozenset(labels))
        routed.look([SimpleNamespace(path=path, logits=[np.array(logits)])])
        return trial.numbers.judged()

    assert judged("ac", np.nan, -1, 1) == {}
    assert judged("ac", 1, -1, 0) == {"alias": (0, 1)}
    assert judged("a", 1, -1, 0) == {"alias": (1, 1)}
    assert judged("abc", 1, -1, 0) == {"alias": (2, 1)}
    assert judged("", 1, -1, 0) == {"alias": (2, 1)}


def test_a_copy_is_judged_only_if_it_was_answered_with_finite_numbers() -> None:
    path = SimpleNamespace(activation="softmax", labels=("a", "b"))
    numbers, slot = Comparison("t", "canary", 0.0), SimpleNamespace(path=path)
    trial = cast(Trial, SimpleNamespace(stopped="", numbers=numbers, slot=slot))
    live, unfit = np.array([1.0, 0.0]), np.array([np.nan, 0.0])
    for outcome, answers, answer in (
        ("answered", live, live),
        ("answered", unfit, live),  # the other one says nothing of it
        ("answered", live, unfit),
        ("failed", live, None),
        ("dropped", None, None),
    ):
        row = cast(Any, SimpleNamespace(path=path))
        Trial.compare(trial, ShadowAnswer(outcome, row, answers, answer), frozenset("a"))
    assert numbers.judged() == {"shadow": (0, 2)} and numbers.compared() == (1, 1)


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("/classify/t?label=nothing", "expected one of the task's, found 'nothing'"),
        ("/classify/t?label=t:0&label=t:1", "expected one, as each image has"),
        ("/classify?task=t&label=t:0", "found 'label'"),
        ("/embed/t?label=t:0", "found 'label'"),
    ],
)
def test_labels_that_an_image_cannot_have_are_refused(
    gateway: Gateway, path: str, told: str
) -> None:
    headers = {"content-type": "image/png"}
    answer = gateway.request("POST", path, content=png(0), headers=headers)
    assert answer.status_code == 422 and told in answer.json()["detail"]
