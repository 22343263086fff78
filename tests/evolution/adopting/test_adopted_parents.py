"""Adopted tasks as parents: a child trains on its backbone's pixels, shares it, is served so."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from evolution.agents.snapshots import shape_hyperparameters
from evolution.data.tasks import Task
from evolution.growing.starting_point import population_of, system_of
from evolution.promotion import qualities
from evolution.run import Run
from evolution.state import load
from model_store import ModelStore
from tests.evolution.adopting.networks import model
from tests.evolution.systems import TINY, toy_task
from tests.service.in_process import Gateway
from vit.contract import contract_of
from vit.preprocess import preprocess

CLASSES = ("x", "y", "z")
SLOW = ("timm/registers", "hf/deit-distilled", "timm/gap-fc")
PARENTS = ["hf/dinov2", *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]


@pytest.fixture(scope="module", params=PARENTS)
def grown(request, tmp_path_factory):
    """A store with an adopted task and a child of it."""
    from evolution.adopting.publishing import publish

    store = ModelStore(tmp_path_factory.mktemp("parents"), create=True)
    parent = publish(store, "parent", model(request.param), private=False).published
    task = toy_task("toy/a")
    system = system_of(
        store, task.name, None, "random:Ti/8", lambda arch, _: (arch.image_size, arch.num_layers)
    )
    assert [p.task for p in system.published] == ["parent"]
    shape = shape_hyperparameters(system.architecture)
    experiment = replace(
        TINY, tasks=("toy/a",), passes=1, samples_per_task=1, rounds_per_child=1,
        defaults={**TINY.defaults, **shape}, ranges={}, mutate_adapters=False,
    )  # fmt: skip
    population = population_of(system, store, task, experiment)
    search = Run.grow(
        experiment, store, 0, lambda _: toy_task, (system.architecture, population), "run",
        system.contract,
    )  # fmt: skip
    list(search.run())
    return store, parent, store.resolve("toy/a"), task


def test_a_child_shares_the_backbone_and_its_input(grown):
    store, parent, child, _ = grown
    shared = set(parent.path.components.values()) & set(child.path.components.values())
    assert len(shared) >= len(parent.path.components) // 2
    assert child.path.labels == CLASSES
    told = {"decoding", "pixel_scale"}
    both = [{k: v for k, v in p.path.input.items() if k not in told} for p in (parent, child)]
    assert both[0] == both[1]
    assert load(store, "run")[0].contract == contract_of(parent.path.input)


def test_its_accuracy_is_that_of_its_answers_in_the_gateway(grown, tmp_path):
    store, _, child, task = grown
    gateway = Gateway(store, str(tmp_path), max_batch_rows=1)
    try:
        right = 0
        for image, label in zip(task.test.images, task.test.labels, strict=True):
            tensor = {"name": "pixels", "datatype": "UINT8", "shape": [1, 8, 8, 3],
                      "data": image.repeat(3, -1).ravel().tolist()}  # fmt: skip
            answer = gateway.request("POST", "/v2/models/toy%2Fa/infer", json={"inputs": [tensor]})
            logits = next(o["data"] for o in answer.json()["outputs"] if o["name"] == "logits")
            right += int(np.argmax(logits)) == label
    finally:
        gateway.close()
    assert right / len(task.test) == pytest.approx(child.path.metrics["test"]["accuracy"])


def test_what_training_sees_is_what_evaluation_and_the_gateway_see(grown):
    _, _, child, plain = grown
    contract = contract_of(child.path.input)
    assert contract is not None
    task: Task = plain.under(contract)
    rows = np.arange(5)
    images, _ = task.train.training_images(rows)
    inputs, _ = task.train.evaluation_inputs(rows, contract.size)
    assert images.shape[1:3] == (contract.size, contract.size)
    assert (contract.scaled(images) == inputs).all()
    assert (preprocess(plain.train.images[rows], contract) == inputs).all()


def test_versions_of_either_input_are_measured_on_the_same_examples(grown):
    store, _, child, task = grown
    unlike = replace(child.path, metrics={})
    ours, theirs = qualities(store, task, unlike, child)
    assert ours == theirs
