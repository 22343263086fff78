"""What an agent sees of others: sharing, locks, sizes, parents and momenta over publishers."""

from typing import Any

import jax
import numpy as np
import pytest

from evolution import state
from evolution.agents import kinds
from evolution.agents.kinds import CLASSES, AgentClass, publisher_of
from evolution.agents.momenta import momenta_of
from evolution.agents.publication_index import PublicationIndex
from evolution.agents.shared_root import root_document
from evolution.agents.snapshots import population_at
from evolution.checkpoints import import_state
from evolution.events import TaskPublished
from evolution.population import ROOT, Path, Population, accounted_params
from model_store import ModelStore, Published
from model_store.upkeep import collect_garbage
from tests.evolution.agent_systems import THREE, publish, run, tiny_classes, versions
from tests.evolution.published_states import write_agents
from tests.evolution.systems import ROOT as ARCHITECTURE

OWNER = "three/toy/a:toy/a"


@pytest.fixture(autouse=True)
def small_classes():
    with tiny_classes():
        yield


@pytest.fixture
def store(tmp_path) -> ModelStore:
    return ModelStore(tmp_path / "store", create=True)


def seen(store: ModelStore, momenta: Any = ()) -> Population:
    """The population with which the agent three/toy/a would start its first cycle."""
    publications = store.publications()
    document = root_document(store, AgentClass(THREE), publications, None)
    return population_at(store, document, OWNER, publications, dict(momenta))


def of(population: Population, owner: str) -> Path:
    (path,) = population.paths[owner]
    return path


def test_equal_arrays_are_one_component_whoever_published_them(store):
    first = publish(store, "x/toy/b", "toy/b", 1)
    norm = {"encoder_norm": first.path.components["encoder_norm"]}
    publish(store, "y/toy/c", "toy/c", 2, shared=norm)
    population = seen(store)
    b, c = of(population, "x/toy/b:toy/b"), of(population, "y/toy/c:toy/c")
    assert b.named("encoder_norm") is c.named("encoder_norm")
    assert b.named("head") is not c.named("head")
    found = b.named("encoder_norm")
    assert found is not None and found.locks == {b.owner, c.owner}
    total = b.num_params
    assert accounted_params(b) == total - found.num_params / 2
    assert total == sum(
        leaf.size
        for digest in first.path.components.values()
        for leaf in jax.tree.leaves(store.component(digest))
    )


def test_what_the_root_holds_counts_it_as_a_user(store):
    root = seen(store).paths[ROOT][0]
    embedding = root.named("embedding")
    assert embedding is not None and embedding.digest is not None
    publish(store, "x/toy/b", "toy/b", 1, shared={"embedding": embedding.digest})
    b = of(seen(store), "x/toy/b:toy/b")
    shared = b.named("embedding")
    assert shared is not None and shared.locks == {ROOT, b.owner}
    assert accounted_params(b, root_counts=True) == b.num_params - shared.num_params / 2


def test_only_the_newest_of_each_publisher_of_our_shape_is_seen(store):
    publish(store, "x/toy/b", "toy/b", 1)
    newest = publish(store, "x/toy/b", "toy/b", 2)
    of_run = publish(store, "demo", "toy/b", 3)
    wide = {**ARCHITECTURE.to_json(), "width": 32, "num_classes": 3}
    publish(store, "wide/toy/b", "toy/b", 4, architecture=wide)
    publish(store, "odd/toy/b", "toy/b", 5, architecture={"kind": "something else"})
    publish(store, "multi/toy/b", "toy/b", 6, subpaths=({"name": "path_0"},))
    population = seen(store)
    assert {p.published for p in population if p.task != ROOT} == {newest.digest, of_run.digest}


def test_parents_are_found_by_manifest_and_the_root_stands_for_those_that_are_gone(store):
    old = publish(store, "x/toy/b", "toy/b", 1)
    new = publish(store, "x/toy/b", "toy/b", 2)
    for i, parent in enumerate((old, new)):
        lineage = {"agent": f"y{i}/toy/c", "method": "mu3net", "parent": parent.digest}
        publish(store, "", "toy/c", 3 + i, lineage=lineage)
    population = seen(store)
    root, b = population.paths[ROOT][0], of(population, "x/toy/b:toy/b")
    assert of(population, "y0/toy/c:toy/c").parent is root
    assert of(population, "y1/toy/c:toy/c").parent is b and b.parent is root


def test_an_agents_own_components_become_trainable_in_its_cycle_unless_others_use_them(store):
    run(store, "three:toy/a")
    own = store.resolve("toy/a").path
    publish(store, "x/toy/b", "toy/b", 1, shared={"encoder_norm": own.components["encoder_norm"]})
    found = store.agent_state("three/toy/a")
    assert found is not None
    population = population_at(store, found[1], OWNER, store.publications(), {})
    path = of(population, OWNER)
    norm, head = path.named("encoder_norm"), path.named("head")
    assert norm is not None and norm.locks == {"x/toy/b:toy/b"}
    assert head is not None and head.trainable


def test_momenta_come_from_the_publishers_state(store):
    run(store, "three:toy/b")
    (published,) = store.publications()
    momenta = momenta_of(store, [published], {})
    head = published.path.components["head"]
    assert head in momenta[published.digest]
    component = of(seen(store, momenta), "three/toy/b:toy/b").named("head")
    assert component is not None and component.momentum is not None
    kept = of(state.load(store, "three/toy/b")[1], "three/toy/b:toy/b").named("head")
    assert kept is not None
    same = jax.tree.map(np.array_equal, component.momentum, kept.momentum)
    assert all(jax.tree.leaves(same))


def test_a_publisher_that_has_moved_on_or_never_was_an_agent_leaves_none(store):
    published = publish(store, "x/toy/b", "toy/b", 1)
    assert momenta_of(store, [published], {}) == {published.digest: {}}


def test_momenta_that_are_gone_are_none(store):
    run(store, "three:toy/b")
    (published,) = store.publications()
    document, head = store.load_agent("three/toy/b"), published.path.components["head"]
    assert document is not None
    for row in document["components"]:
        row["momentum"] = "sha256:" + "0" * 64 if row["digest"] == head else None
    store.save_agent("three/toy/b", document, ())
    assert momenta_of(store, [published], {}) == {published.digest: {}}


def test_momenta_once_seen_are_kept_whatever_becomes_of_the_publisher_and_the_process(store):
    """An agent that was stopped between cycles inherits what one that never stopped does."""
    for cycle in (1, 2):
        if cycle == 1:
            run(store, "three:toy/b")
        else:
            document = store.load_agent("three/toy/b")
            assert document is not None
            for row in document["components"]:
                row["momentum"] = None
            store.save_agent("three/toy/b", document, state.needed(document))
            collect_garbage(store, grace_s=0)
        run(store, "three:toy/a", cycle)
        (published,) = store.history("toy/b")
        momenta = PublicationIndex(ModelStore(store.url)).look().momenta[published.digest]
        assert published.path.components["head"] in momenta


# ---- imported systems


def imported(store: ModelStore, folder, traces: bool = True) -> None:
    write_agents(folder, traces=traces)
    import_state(folder, store, progress=lambda *_: None)


def continuing(original: str) -> AgentClass:
    return AgentClass(THREE, original)


def of_agent(store: ModelStore, agent: str) -> Published:
    return next(p for p in store.publications() if p.path.lineage["agent"] == agent)


@pytest.fixture
def continued(monkeypatch):
    """Class `three` continues the imported agents of class VitT3."""
    names = {("mu3net", "VitT3"): "three"}
    monkeypatch.setattr(kinds, "CLASSES", {"three": continuing("VitT3")})
    monkeypatch.setattr(kinds, "_CONTINUED", names)


def test_an_imported_agent_is_continued_by_ours(store, tmp_path, continued):
    imported(store, tmp_path / "system")
    before = of_agent(store, "VitT3/toy/a")
    population = seen(store)
    own = of(population, OWNER)
    assert own.published == before.digest and own.quality == 0.625
    assert own.parent is population.paths[ROOT][0]
    others = {p.owner for p in population if p.owner not in (ROOT, OWNER)}
    assert others == {"three/toy/b:toy/b", "VitB/toy/a:toy/a"}
    # Its root is the imported one, not that of the class.
    embedding = population.paths[ROOT][0].named("embedding")
    assert embedding is not None and embedding.digest == before.path.components["embedding"]
    *_, event = run(store, "three:toy/a")
    assert isinstance(event, TaskPublished)
    history = state.load(store, "three/toy/a")[0].history
    assert history[0]["parent"] == own.id  # the best own path, which has no child yet
    if event.added:
        assert event.validation_quality != 0.625 and len(versions(store, "three:toy/a")) == 1
    else:
        assert event.version == before.version


def test_an_agent_that_continues_an_import_publishes_each_path_once(store, continued, monkeypatch):
    worst = {"validation": {"accuracy": 0.0}}
    publish(store, "VitT3/toy/a", "toy/a", 1, metrics=worst)
    (*_, first) = run(store, "three:toy/a")
    assert isinstance(first, TaskPublished) and first.added
    monkeypatch.setattr("evolution.cycle.Cycle._bar", lambda *_: np.inf)
    (*_, second) = run(store, "three:toy/a", 2)
    assert isinstance(second, TaskPublished)
    assert (second.version, second.added) == (first.version, False)


def test_momenta_of_imported_agents_are_inherited(store, tmp_path, continued):
    imported(store, tmp_path / "system")
    published = of_agent(store, "VitT3/toy/b")
    head = published.path.components["head"]
    assert head in momenta_of(store, [published], {})[published.digest]


def test_every_published_class_is_continued_by_one_of_ours():
    names = {(c.experiment.method.name, c.original) for c in CLASSES.values() if c.original}
    assert names >= {("mu3net", f"Vit{size}") for size in ("", "B", "T3", "T0")}
    assert names >= {
        ("mu4net", f"{multi}Vit{s}") for s in ("", "B", "T3") for multi in ("", "Multi")
    }


def test_a_run_is_known_by_its_name(store):
    assert publisher_of(publish(store, "demo", "toy/a", 1).path) == "demo"
