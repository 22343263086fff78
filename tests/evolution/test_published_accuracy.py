"""The accuracy that a task is published with is measured again through the gateway."""

from __future__ import annotations

import numpy as np
import pytest

from evolution.examples import StreamedSplit
from evolution.roots import random_root
from evolution.search import Search
from model_store import ModelStore
from tests.evolution.files import KINDS, file_task
from tests.evolution.systems import ROOT, TINY, tiny
from tests.service.in_process import Gateway

TASKS = ("files/mixed", "files/flagged")


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    """One task for each of the rules, trained for a moment."""
    store = ModelStore(tmp_path_factory.mktemp("store"), create=True)
    # Mirrored, or cut to less than half, a picture is of another class; every component is trained.
    defaults = {"ds_flip_left_right": False, "ds_area_range_min": 0.9, "_mu_": 1.0, "opt_lr": 0.05}
    experiment = tiny(
        tasks=TASKS, passes=1, samples_per_task=1, rounds_per_child=3, batch_size=16,
        train_examples_per_round=1024, defaults={**TINY.defaults, **defaults}, ranges={},
    )  # fmt: skip
    search = Search.start(experiment, (ROOT, random_root(ROOT)), store, 0, lambda _: file_task)
    list(search.run())
    return store


def test_accuracy_through_the_gateway_is_the_published_one(
    published: ModelStore, tmp_path_factory: pytest.TempPathFactory
) -> None:
    gateway = Gateway(published, str(tmp_path_factory.mktemp("compilations")), max_batch_rows=1)
    try:
        for name in TASKS:
            path = published.resolve(name).path
            assert path.input["decoding"] == KINDS[name][1].name
            task = file_task(name)
            assert isinstance(task.test, StreamedSplit)
            records = task.test.examples.encoded(np.arange(len(task.test)))
            answers = [gateway.classify(name, record[1:], "?top_k=1") for record in records]
            assert {answer.status_code for answer in answers} == {200}
            found = [answer.json()["predictions"][0]["index"] for answer in answers]
            right = sum(f == record[0] for f, record in zip(found, records, strict=True))
            told = path.metrics["test"]
            assert told["examples"] == len(records)
            assert right / len(records) == told["accuracy"], name
            assert told["accuracy"] > 0.9, "other pixels would have other answers"
    finally:
        gateway.close()
