"""Multipath agents next to single-path agents, in one store."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from evolution.agents import kinds
from evolution.agents.kinds import AgentClass
from evolution.agents.small import DEMO_MULTIVIT
from evolution.checkpoints import import_state
from evolution.events import ChildTrained, TaskPublished
from evolution.multipath.children import MultipathPaths
from evolution.multipath.frozen_paths import parts_of
from evolution.state import StateError
from model_store import ModelStore, Published
from model_store.upkeep import collect_garbage, verify_store
from service.tasks import specs
from tests.evolution.agent_systems import FOUR, publish, run, tiny_classes
from tests.evolution.published_states import write_agents
from tests.evolution.systems import TINY, toy_task
from vit import Architecture, preprocess
from vit.contract import Contract, contract_of
from vit.mixer import SubPath
from vit.router import multipath_forward

MULTI = replace(
    DEMO_MULTIVIT,
    name="multi",
    samples_per_task=2,
    batch_size=TINY.batch_size,
    train_examples_per_round=TINY.train_examples_per_round,
    rounds_per_child=TINY.rounds_per_child,
    validation_examples=TINY.validation_examples,
)


@pytest.fixture(autouse=True)
def small_classes() -> Iterator[None]:
    """Also multipath agents that build on those of class `four`."""
    multi = AgentClass(MULTI, children=MultipathPaths, single=FOUR)
    with tiny_classes(), patch.dict(kinds.CLASSES, {"multi": multi}):
        yield


def newest(store: ModelStore, agent: str) -> Published:
    (found,) = [p for p in store.publications() if p.path.lineage["agent"] == agent]
    return found


compiled = jax.jit(multipath_forward, static_argnums=0)


def answers(
    store: ModelStore, published: Published, images: np.ndarray | None = None
) -> np.ndarray:
    """Logits of a multipath version, assembled from what the store holds; for test images first."""
    spec = published.path
    paths = [
        SubPath(Architecture.from_json(told["architecture"]), told["answers"] == "logits")
        for told in spec.subpaths
    ]
    params = {name: store.component(digest) for name, digest in spec.components.items()}
    images = toy_task(published.task).test.images if images is None else images
    sized = {size: jnp.asarray(preprocess(images, size)) for size in spec.input["sizes"]}
    return np.asarray(compiled(tuple(paths), params, sized))


@pytest.fixture
def store(tmp_path) -> ModelStore:
    """Single paths of two tasks are published."""
    found = ModelStore(tmp_path / "store", create=True)
    fill(found)
    return found


def fill(store: ModelStore) -> None:
    """Publishes them."""
    publish(store, "four/toy/a", "toy/a", 1)
    publish(store, "four/toy/b", "toy/b", 2)


def test_a_multipath_agent_publishes_what_can_be_assembled_and_served(store):
    *children, published = run(store, "multi:toy/a", 1)
    assert all(isinstance(child, ChildTrained) for child in children)
    assert isinstance(published, TaskPublished)
    version = newest(store, "multi/toy/a")
    spec = version.path
    main = newest(store, "four/toy/a")
    assert spec.subpaths[0]["manifest"] == main.digest == spec.lineage["parent"]
    assert (spec.labels, spec.lineage["method"]) == (main.path.labels, "mu4net")
    logits = answers(store, version)
    accuracy = np.mean(logits.argmax(-1) == toy_task("toy/a").test.labels)
    assert accuracy == spec.metrics["test"]["accuracy"] == published.test_quality
    assert sum(spec.metrics["router"]["mean_weights"]) == pytest.approx(1)
    assert published.new_params == spec.parameters["trainable"] < spec.parameters["total"] / 50
    networks = specs.read(spec).networks  # as the gateway understands it
    assert [n.has_head for n in networks] == [True] + [False] * (len(spec.subpaths) - 1)
    better = spec.metrics["validation"]["accuracy"] > main.path.metrics["validation"]["accuracy"]
    assert published.live == better


def test_it_can_be_assembled_when_single_paths_have_moved_on(store):
    run(store, "multi:toy/a", 1)
    version = newest(store, "multi/toy/a")
    before = answers(store, version)
    for seed, task in enumerate(("toy/a", "toy/b"), 5):
        publish(store, f"four/{task}", task, seed)
        store.rm(task, 1)
    collect_garbage(store, grace_s=0)
    assert verify_store(store) == []
    np.testing.assert_array_equal(answers(store, version), before)
    # It goes on with the new main path, and keeps what else it has.
    run(store, "multi:toy/a", 4)
    later = newest(store, "multi/toy/a")
    assert later.version > version.version
    assert later.path.subpaths[0]["manifest"] == newest(store, "four/toy/a").digest


def told(events: Sequence[Any]) -> list[Any]:
    return [
        (e.outcome.child.quality, e.outcome.child.hyperparameters, e.outcome.child.metrics)
        if isinstance(e, ChildTrained)
        else (e.validation_quality, e.version)
        for e in events
    ]


def test_stopped_and_resumed_is_never_stopped_whatever_others_publish_meanwhile(store, tmp_path):
    run(store, "multi:toy/a", 1)
    other = ModelStore(tmp_path / "other", create=True)
    fill(other)
    run(other, "multi:toy/a", 1)
    whole = run(store, "multi:toy/a", 2)

    part = run(other, "multi:toy/a", 2, stop_after=1)
    publish(other, "four/toy/a", "toy/a", 7)
    publish(other, "four/toy/c", "toy/c", 8)
    rest = run(other, "multi:toy/a", 2)
    assert [t[:2] for t in told(part + rest)[:2]] == [t[:2] for t in told(whole)[:2]]
    ours, theirs = (newest(s, "multi/toy/a").path for s in (store, other))
    assert ours.components == theirs.components and ours.subpaths == theirs.subpaths


def test_without_a_single_path_of_the_task_it_says_what_to_run_and_begins_when_there_is_one(store):
    with pytest.raises(StateError, match="task toy/c: expected a published single path of"):
        run(store, "multi:toy/c", 1)
    publish(store, "four/toy/c", "toy/c", 3)
    assert isinstance(run(store, "multi:toy/c", 1)[-1], TaskPublished)


def test_settings_of_mixing_can_be_given(store):
    assert MULTI.defaults["num_paths"] == 2
    run(store, "multi:toy/a", 1, settings=("defaults.num_paths=3", "defaults._mu_=0.1"))
    assert len(newest(store, "multi/toy/a").path.subpaths) == 3


def _reached(store: ModelStore, published: Published) -> float:
    """The validation accuracy of a multipath version."""
    validation = toy_task(published.task).validation
    logits = answers(store, published, validation.images)
    return float(np.mean(logits.argmax(-1) == validation.labels))


def test_agents_continue_an_imported_system(tmp_path):
    """The imported multipath model is the agent's own best, of which it makes children."""
    written = write_agents(tmp_path / "system")
    store = ModelStore(tmp_path / "store", create=True)
    import_state(written.directory, store, progress=lambda done, total: None)
    (imported,) = (p for p in store.publications() if p.path.subpaths)
    single, multi = replace(FOUR, name="vit4-ti3"), replace(MULTI, name="multivit-ti3")
    continuing = {
        "vit4-ti3": AgentClass(single, "VitT3"),
        "multivit-ti3": AgentClass(multi, "MultiVitT3", MultipathPaths, single),
    }
    with patch.dict(kinds.CLASSES, continuing):
        child, *_, event = run(store, "multivit-ti3:toy/a", 1)
    assert isinstance(child, ChildTrained) and isinstance(event, TaskPublished)
    parent, made = child.outcome.parent, child.outcome.child
    # What the import told was measured elsewhere: it is measured again, as its children are.
    assert parent.published == imported.digest and parent.metrics["validation"]["examples"] == 48
    assert event.added == (event.version != imported.version)
    assert parent.quality == pytest.approx(_reached(store, imported), abs=1.5 / 48)
    kept, main = parts_of(made)[1], parts_of(made)[0]
    assert kept.manifest == imported.path.subpaths[1]["manifest"]
    assert (kept.agent, kept.task) == ("vit4-ti3/toy/b", "toy/b")
    assert main.manifest in {p.digest for p in store.history("toy/a")}
    assert made.hyperparameters["router_lr_mult"] in (0.02, 0.05, 0.1)


ADOPTED = Contract(8, "bilinear", 8, (0.5,) * 3, (0.25,) * 3).to_json()  # as a library defines it


@pytest.mark.slow
@pytest.mark.parametrize("agent", ["multi:toy/a", "four:toy/a"])
def test_networks_that_see_other_pixels_are_built_on_by_no_agent(store, agent):
    """Even of the same shape, and live for the agent's own task, with which it is compared."""
    adopted = [
        publish(store, "adopted", task, seed, input={**ADOPTED})
        for task, seed in (("toy/a", 7), ("toy/d", 8))
    ]
    for found in adopted:
        store.rollback(found.task, found.version)
    run(store, agent, 1)
    version = newest(store, agent.replace(":", "/"))
    theirs = {digest for found in adopted for digest in found.path.components.values()}
    assert not theirs & set(version.path.components.values())
    assert contract_of(version.path.input) is None
    assert specs.read(version.path).networks
    assert verify_store(store) == []


def test_an_agent_says_that_it_finds_no_path_of_its_kind(tmp_path):
    store = ModelStore(tmp_path / "store", create=True)
    publish(store, "adopted", "toy/a", 7, input={**ADOPTED})
    with pytest.raises(StateError, match="single path"):
        run(store, "multi:toy/a", 1)
