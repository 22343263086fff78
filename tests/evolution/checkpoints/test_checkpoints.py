"""Published states into the store: what they answer there, and what the runs keep."""

import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from evolution import state
from evolution.checkpoints import ImportReport, import_state
from evolution.population import ROOT
from evolution.run import Run
from model_store import ModelStore, TaskPath
from model_store.upkeep import verify_store
from tests.evolution import numpy_vit
from tests.evolution.published_states import (
    MU2NET_LAYERS,
    Agents,
    momentum,
    mu2net_entries,
    mu2net_layer,
    rows_of,
    write_agents,
    write_checkpoint,
    write_mu2net,
    write_table,
)
from tests.evolution.systems import tasks, tiny
from vit import Architecture
from vit.forward import forward


def imported(directory: Path, store: ModelStore) -> ImportReport:
    return import_state(directory, store, progress=lambda done, total: None)


def new_store(directory: Path) -> ModelStore:
    return ModelStore(directory / "store", create=True)


compiled = jax.jit(forward, static_argnums=0)


def answers(store: ModelStore, path: TaskPath) -> tuple[np.ndarray, np.ndarray]:
    """Logits of a stored path for random images, and the images."""
    arch = Architecture.from_json(path.architecture)
    images = np.random.default_rng(0).uniform(-1, 1, (4, arch.image_size, arch.image_size, 3))
    params = {name: store.component(digest) for name, digest in path.components.items()}
    return np.asarray(compiled(arch, params, jnp.asarray(images, jnp.float32))), images


@pytest.fixture(scope="module")
def mu2net(tmp_path_factory) -> tuple[ModelStore, ImportReport]:
    directory = tmp_path_factory.mktemp("mu2net")
    write_mu2net(directory / "chars:muNet 1" / "state_3_0")
    store = new_store(directory)
    return store, imported(directory / "chars:muNet 1", store)


@pytest.fixture(scope="module")
def agents(tmp_path_factory) -> tuple[ModelStore, ImportReport, Agents]:
    directory = tmp_path_factory.mktemp("agents")
    written = write_agents(directory / "system")
    store = new_store(directory)
    return store, imported(directory / "system", store), written


# ---- μ2Net


@pytest.mark.parametrize(
    ("task", "layers"),
    [("toy/a", (9, 1, 10, 3, 4, 5, 11)), ("toy/b", (12, 13, 15, 4, 5, 14))],
)
def test_imported_paths_answer_as_the_originals(mu2net, task, layers):
    store, _ = mu2net
    found, images = answers(store, store.resolve(task).path)
    original = {MU2NET_LAYERS[i]: mu2net_layer(i) for i in layers}
    np.testing.assert_allclose(found, numpy_vit.logits(original, images), atol=1e-5)


def test_versions_tell_where_they_come_from(mu2net):
    store, report = mu2net
    assert [(v.task, v.version, v.live, v.added) for v in report.versions] == [
        ("toy/a", 1, True, True),
        ("toy/b", 1, True, True),
        ("toy/c", 1, True, True),
    ]
    a, b, c = (store.resolve(task) for task in ("toy/a", "toy/b", "toy/c"))
    assert a.path.labels == ("0", "1", "2")
    assert a.path.metrics == {
        "validation": {"accuracy": 0.75},
        "test": {"accuracy": 0.5},
    }
    assert a.path.hyperparameters["adapters"] == [0]
    assert a.path.lineage["parent"] is None  # the root is in no manifest
    assert (b.path.lineage["parent"], b.path.lineage["parent_task"]) == (a.digest, "toy/a")
    assert b.path.lineage["method"] == "mu2net"
    assert b.path.input["size"] == 12
    assert (b.path.private, c.path.private) == (False, True)
    total = sum(leaf.size for i in (16, 1, 3, 4, 5, 17) for leaf in leaves(mu2net_layer(i)))
    # encoderblock_0 and posembed_input are also toy/a's, cls and embedding are everybody's.
    shares = {16: 1, 1: 2, 3: 2, 4: 3, 5: 3, 17: 1}
    accounted = sum(sum(x.size for x in leaves(mu2net_layer(i))) / n for i, n in shares.items())
    assert c.path.parameters == {"total": total, "accounted": pytest.approx(accounted)}
    assert verify_store(store) == []


def leaves(tree) -> list[np.ndarray]:
    return (
        [leaf for part in tree.values() for leaf in leaves(part)]
        if isinstance(tree, dict)
        else [tree]
    )


def test_each_component_is_stored_once(mu2net):
    store, report = mu2net
    assert report.components == len(MU2NET_LAYERS) - 2  # of two, the model was not retained
    a, b, c = (store.resolve(task).path.components for task in ("toy/a", "toy/b", "toy/c"))
    assert a["cls"] == b["cls"] == c["cls"]
    assert a["encoderblock_0"] == c["encoderblock_0"] != b["encoderblock_0"]


def test_the_run_keeps_momenta_locks_and_lineage(mu2net):
    store, report = mu2net
    assert report.runs == ("imported/chars-muNet-1",)
    progress, population = state.load(store, "imported/chars-muNet-1")
    assert (progress.settings, progress.architecture.num_layers) == ({}, 1)
    assert progress.iteration == len(progress.schedule) == 3
    root, a, b, c = population
    assert [path.task for path in population] == [ROOT, "toy/a", "toy/b", "toy/c"]
    assert (a.parent, b.parent, c.parent) == (root, a, b)
    assert root.children_per_task == {"toy/a": 2}
    assert "encoderblock_1" in {component.name for component in root.components}
    by_id = {component.id: component for component in population.components()}
    assert by_id[4].locks == {ROOT, "toy/a", "toy/b", "toy/c"}
    assert by_id[1].locks == {ROOT, "toy/a", "toy/c"}
    assert by_id[12].locks == {"toy/b"}
    assert by_id[4].momentum is None
    for mine, theirs in zip(
        leaves(by_id[13].momentum), leaves(momentum(mu2net_layer(13))), strict=True
    ):
        assert mine.dtype == theirs.dtype
        assert np.array_equal(mine, theirs)
    assert a.published == store.resolve("toy/a").digest
    assert c.hyperparameters["opt_momentum"] is None  # written as an empty cell
    assert (population.next_path_id, population.next_component_id) == (5, 18)


def test_the_history_is_kept(mu2net):
    store, _ = mu2net
    progress, _ = state.load(store, "imported/chars-muNet-1")
    first, second, third, _ = progress.history
    assert (first["task"], first["parent"], first["parent_task"]) == ("toy/a", 0, ROOT)
    assert first["components"]["head"] == 8  # also what was not retained
    assert first["trained"] == ["encoder_norm", "head"]
    assert second["mutations"] == {"adapters": [[], [0]]}
    assert third["mutations"] == {"ds_image_size": [8, 12]}
    assert third["evaluations"] == [0.125, 0.25]
    assert (third["quality"], third["seconds"], third["ended"]) == (0.25, 2.5, 1003.0)
    assert (third["trainable_params"], third["accounted_params"]) == (2506, 99.0)
    assert third["iteration"] is None


@pytest.mark.slow
def test_evolution_continues_from_an_import(mu2net, tmp_path):
    """A further task shares what was imported and changes none of it."""
    source, _ = mu2net
    store = ModelStore(shutil.copytree(source.url, tmp_path / "store"))
    before = {task: store.resolve(task).digest for task in store.tasks()}
    experiment = tiny(name="more", tasks=("toy/d",), passes=1, samples_per_task=1, ranges={})
    run = Run.extend(experiment, store, 0, tasks, (store, "imported/chars-muNet-1"))
    list(run.run())
    assert {task: store.resolve(task).digest for task in before} == before
    digests = {d for task in before for d in store.resolve(task).path.components.values()}
    assert digests & set(store.resolve("toy/d").path.components.values())
    assert verify_store(store) == []


def test_the_latest_complete_state_is_read_and_the_rest_is_named(tmp_path):
    experiment = tmp_path / "run"
    write_mu2net(experiment / "state_2_0", **{"metrics.quality": 0.1})
    write_mu2net(experiment / "state_10_0")
    unfinished = write_mu2net(experiment / "state_11_0")
    checkpoint = unfinished / "checkpoint_11_0"
    checkpoint.rename(unfinished / "checkpoint_11_0_tmp")
    (experiment / "state_12_0").mkdir()  # begun, nothing written
    store = new_store(tmp_path)
    report = imported(tmp_path / "run", store)
    assert store.resolve("toy/c").path.metrics["validation"]["accuracy"] == 0.6
    skipped = {Path(entry.what).name for entry in report.skipped}
    assert {"state_2_0", "state_11_0", "state_12_0"} <= skipped
    # A state by itself gives the same run, and nothing new.
    again = imported(experiment / "state_10_0", store)
    assert again.runs == report.runs == ("imported/run",)
    assert not any(version.added for version in again.versions)


def test_what_no_model_uses_is_named(tmp_path):
    directory = write_mu2net(tmp_path / "state_1_0")
    write_checkpoint(directory / "checkpoint_1_0", mu2net_entries(MU2NET_LAYERS))
    report = imported(directory, new_store(tmp_path))
    (entry,) = [e for e in report.skipped if "checkpoint_1_0" in e.what]
    assert "encoder_norm:7" in entry.what
    assert "head:8" in entry.what


# ---- agents


@pytest.mark.parametrize("refactored", [False, True])
def test_both_layouts_of_agents_give_the_same(tmp_path, agents, refactored):
    written = write_agents(tmp_path / "system", refactored=refactored)
    store = new_store(tmp_path)
    report = imported(tmp_path, store)  # the system lies one level below
    assert report.directory == written.directory
    known, first, _ = agents
    assert report.versions == first.versions
    for task in store.tasks():
        assert [v.digest for v in store.history(task)] == [v.digest for v in known.history(task)]


def test_a_task_of_several_agents_has_a_version_of_each_and_serves_the_best(agents):
    store, report, _ = agents
    found = {(v.model, v.task): (v.validation_accuracy, v.live) for v in report.versions}
    assert found == {
        ("VitT3~toy~a 5", "toy/a"): (0.625, False),
        ("VitT3~toy~b 4", "toy/b"): (0.375, True),
        ("VitB~toy~a 2", "toy/a"): (0.75, False),
        ("MultiVitT3~toy~a 6", "toy/a"): (0.875, True),
    }
    assert store.resolve("toy/a").path.lineage["agent"] == "MultiVitT3/toy/a"
    assert report.method == "mu4net"
    # The parent of toy/b is a version of toy/a that has been replaced since.
    lineage = store.resolve("toy/b").path.lineage
    assert (lineage["parent"], lineage["parent_task"]) == (None, "toy/a")


def test_single_paths_of_agents_answer_as_the_originals(agents):
    store, _, written = agents
    for version in store.history("toy/a")[:2] + store.history("toy/b"):
        agent = version.path.lineage["agent"].replace("/", "~")
        layers = originals(written, agent)
        found, images = answers(store, version.path)
        np.testing.assert_allclose(found, numpy_vit.logits(layers, images), atol=1e-5)


def originals(written: Agents, agent: str) -> dict:
    """The arrays of the model that an agent publishes, by name."""
    t3, big = "VitT3~root_model~random_init:", "VitB~root_model~checkpoint:"
    keys = {
        "VitT3~toy~a": [*(f"{t3}{i}" for i in (1, 2, 3, 4)), f"{agent}:9", f"{agent}:10"],
        "VitT3~toy~b": [*(f"{t3}{i}" for i in (1, 3, 4)), *(f"{agent}:{i}" for i in (7, 8, 9))],
        "VitB~toy~a": [*(f"{big}{i}" for i in (1, 2, 3, 4)), f"{agent}:8", f"{agent}:9"],
    }[agent]
    return {written.names[key]: written.trees[key] for key in keys}


def test_a_multipath_version_holds_all_that_it_needs(agents):
    """Mixed as the specification says from the version alone, it gives the original's logits."""
    store, _, written = agents
    path = store.resolve("toy/a", 3).path
    main, other = path.subpaths
    assert (main["task"], main["answers"], main["connector"]) == ("toy/a", "logits", None)
    assert (other["task"], other["answers"]) == ("toy/b", "features")
    assert main["manifest"] is None  # the older toy/a is no version
    assert other["manifest"] == store.resolve("toy/b").digest
    assert "head" not in other["components"]
    assert path.input["sizes"] == [8, 12]

    def tree(name: str):
        return store.component(path.components[name])

    parts = [{n: tree(m) for n, m in sub["components"].items()} for sub in path.subpaths]
    images = [np.random.default_rng(size).uniform(-1, 1, (4, size, size, 3)) for size in (8, 12)]
    z0 = numpy_vit.logits(parts[0], images[0])
    connector, router = tree(other["connector"])["Dense_0"], tree("multipath_router")
    z1 = numpy_vit.dense(numpy_vit.features(parts[1], images[1]), connector)
    weights = numpy_vit.softmax(
        numpy_vit.dense(numpy_vit.norm(z0, router["LayerNorm_0"]), router["Dense_0"])
    )
    mixed = weights[:, :1] * z0 + weights[:, 1:] * z1
    old = {**originals(written, "VitT3~toy~a")}
    old["encoder_norm"], old["head"] = (written.trees[f"VitT3~toy~a:{i}"] for i in (7, 8))
    np.testing.assert_allclose(z0, numpy_vit.logits(old, images[0]), atol=1e-9)
    assert np.abs(mixed - z0).max() > 0.01
    total = {**path.components}.values()
    assert path.parameters["total"] == sum(
        leaf.size for digest in total for leaf in leaves(store.component(digest))
    )


def test_each_class_of_agents_becomes_a_run(agents):
    store, report, _ = agents
    assert set(report.runs) == {"imported/system/VitT3", "imported/system/VitB"}
    progress, population = state.load(store, "imported/system/VitT3")
    assert [path.task for path in population] == [ROOT, "toy/b", "toy/a"]  # by time
    root, b, a = population
    assert a.parent is root and b.parent is root  # its real parent was replaced
    assert a.children_per_task == {"toy/a": 1}
    assert {c.name for c in b.components if c.locks == {"toy/b"}} == {
        "encoder_norm", "posembed_input", "head",
    }  # fmt: skip
    assert [row["task"] for row in progress.history] == ["toy/a", "toy/b", "toy/a"]
    assert progress.history[2]["parent"] == progress.history[0]["id"]
    assert (b.hyperparameters["num_layers"], b.hyperparameters["ds_image_size"]) == (1, 12)
    _, of_class_b = state.load(store, "imported/system/VitB")
    names = [component.name for component in of_class_b.paths[ROOT][0].components]
    assert names[-4:] == ["encoderblock_0", "encoderblock_1", "encoder_norm", "head"]
    assert any("MultiVitT3~toy~a" in entry.what for entry in report.skipped)


def test_the_report_tells_everything(agents):
    _, report, _ = agents
    lines = report.text().splitlines()
    assert "toy/a v1 is VitB~toy~a 2, validation 0.750" in lines
    assert "toy/a v3 is MultiVitT3~toy~a 6, validation 0.875, live, multipath" in lines
    assert "run imported/system/VitT3: evolution can continue from it" in lines
    for entry in report.skipped:
        assert f"not imported: {entry.what} ({entry.why})" in lines


def test_momenta_of_agents_make_it_the_earlier_system(tmp_path):
    write_agents(tmp_path / "system", traces=True)
    store = new_store(tmp_path)
    assert imported(tmp_path / "system", store).method == "mu3net"
    _, population = state.load(store, "imported/system/VitB")
    head = population.paths["toy/a"][0].named("head")
    assert head is not None and head.momentum is not None


def test_unfinished_states_of_agents_are_named(tmp_path):
    written = write_agents(tmp_path / "system")
    b = written.directory / "VitT3~toy~b"
    shutil.copytree(b / "state_1_0", b / "state_1_7")
    (b / "state_2_0").mkdir()
    (written.directory / "notes").mkdir()
    report = imported(written.directory, new_store(tmp_path))
    assert {"state_1_7", "state_2_0", "notes"} <= {Path(e.what).name for e in report.skipped}
    assert {v.task for v in report.versions} == {"toy/a", "toy/b"}


def test_a_class_without_a_root_is_published_but_no_run(tmp_path):
    directory = tmp_path / "system"
    write_agents(directory)
    # The root's parameters stay, but its table publishes only another agent's model.
    table = directory / "VitB~root_model~checkpoint/state_0_0/published.csv"
    write_table(table, [row | {"agent_id": "VitB~root_model~other"} for row in rows_of(table)])
    store = new_store(tmp_path)
    report = imported(directory, store)
    assert report.runs == ("imported/system/VitT3",)
    assert any(entry.what == "run imported/system/VitB" for entry in report.skipped)
    assert "VitB/toy/a" in {v.path.lineage["agent"] for v in store.history("toy/a")}
