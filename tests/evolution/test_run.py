"""A whole small run: what it publishes, that it is repeatable, and that it can be killed."""

import os
import random
import shutil
import signal
import subprocess
import sys
from dataclasses import replace

import jax
import numpy as np
import pytest

from evolution.cycle import Cycle
from evolution.data.tasks import TaskError
from evolution.events import ChildTrained, Outcome, TaskFailed, TaskPublished
from evolution.population import Path
from evolution.roots.loading import random_root
from evolution.run import Run
from evolution.state import StateError
from model_store import ModelStore
from model_store.upkeep import verify_store
from tests.evolution.systems import ROOT, TINY, published, start, tasks, tiny, toy_task
from tests.moments import work
from vit import Architecture, preprocess
from vit.forward import forward


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """An undisturbed run, with its events."""
    directory = tmp_path_factory.mktemp("run") / "store"
    events = list(start(directory).run())
    return ModelStore(directory), events


def copied(finished, folder):
    """The store of the undisturbed run, to be changed."""
    return shutil.copytree(finished[0].url, folder / "store")


def test_every_task_is_published_once_a_pass(finished):
    store, events = finished
    done = [event.task for event in events if isinstance(event, TaskPublished)]
    assert done == ["toy/a", "toy/b", "toy/c"] * 2
    assert all(event.live for event in events if isinstance(event, TaskPublished))
    assert store.tasks() == ["toy/a", "toy/b", "toy/c"]
    assert len([e for e in events if isinstance(e, ChildTrained)]) == 18
    assert verify_store(store) == []


def test_the_seed_draws_the_order_of_the_tasks_where_they_are_shuffled(tmp_path):
    store = ModelStore(tmp_path / "store", create=True)
    root = ROOT, random_root(ROOT)
    orders = []
    for seed, entries in ((1, "abcdefgh"), (1, "ABCDEFGH"), (2, "abcdefgh")):
        changed = replace(TINY, tasks=tuple(entries), passes=2, shuffled=True)
        run = Run.start(changed, root, store, seed, tasks, f"run-{seed}-{entries}")
        orders.append("".join(run.progress.schedule))
    first, upper, other = orders
    assert first[:8] == first[8:] and sorted(first[:8]) == list("abcdefgh")
    assert upper == first.upper() and other != first != "abcdefgh" * 2


def test_quality_never_falls_from_pass_to_pass(finished):
    store, _ = finished
    for task in store.tasks():
        qualities = [p.path.metrics["validation"]["accuracy"] for p in store.history(task)]
        assert qualities == sorted(qualities)


def test_published_accuracy_is_what_the_published_components_reach(finished):
    """Read back from the store alone, each path answers as the search said."""
    store, _ = finished
    for task in store.tasks():
        path = store.resolve(task).path
        arch = Architecture.from_json(path.architecture)
        params = {name: store.component(digest) for name, digest in path.components.items()}
        test = toy_task(task).test
        images = preprocess(test.images, path.input["size"])
        logits = jax.jit(forward, static_argnums=0)(arch, params, images)
        reached = float((np.asarray(logits).argmax(-1) == test.labels).mean())
        assert reached == path.metrics["test"]["accuracy"]


def test_earlier_versions_keep_every_component(finished):
    """Frozen means frozen: what v1 was made of is untouched by everything that came after."""
    store, _ = finished
    for task in store.tasks():
        for version in store.history(task):
            assert all(store.component(d) is not None for d in version.path.components.values())


def test_tasks_share_components_and_the_private_one_is_nobodys_parent(finished):
    store, _ = finished
    live = {task: store.resolve(task).path for task in store.tasks()}
    used = [digest for path in live.values() for digest in path.components.values()]
    assert len(set(used)) < len(used)
    assert live["toy/c"].private and not live["toy/a"].private
    for task in ("toy/a", "toy/b"):
        for version in store.history(task):
            assert version.path.lineage["parent_task"] != "toy/c"


def test_the_same_seed_gives_the_same_digests_and_another_does_not(finished, tmp_path):
    store, _ = finished
    list(start(tmp_path / "same").run())
    assert published(ModelStore(tmp_path / "same")) == published(store)
    list(start(tmp_path / "other", seed=1).run())
    assert published(ModelStore(tmp_path / "other")) != published(store)


def test_stopped_after_any_generation_and_resumed_equals_never_stopped(finished, tmp_path):
    store, _ = finished
    runs = start(tmp_path / "store").run()
    rng = random.Random(0)
    for _ in range(6):
        for _ in range(rng.randint(1, 5)):
            next(runs, None)
        reopened = ModelStore(tmp_path / "store")
        runs = Run.resume(reopened, TINY.name, tasks).run()
    list(runs)
    assert published(ModelStore(tmp_path / "store")) == published(store)


CHILD = """
import sys
from evolution.run import Run
from model_store import ModelStore
from tests.evolution.systems import ROOT, TINY, start, tasks
store = ModelStore(sys.argv[1], create=True)
known = store.load_agent(TINY.name) is not None
run = Run.resume(store, TINY.name, tasks) if known else start(sys.argv[1])
for event in run.run():
    print(event.task, flush=True)
"""


@pytest.mark.slow
def test_killed_at_random_moments_and_resumed_equals_never_stopped(finished, tmp_path):
    """SIGKILL of a real process, several times, until one run comes to its end."""
    store, _ = finished
    rng = random.Random(1)
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache")}
    for attempt in range(40):
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(tmp_path / "store")],
            stdout=subprocess.PIPE, env=environment, text=True,
        )  # fmt: skip
        assert child.stdout is not None
        if attempt < 4:  # some events, then a little further into the next generation
            for _ in range(rng.randint(1, 5)):
                child.stdout.readline()
            work(300 * rng.random())
            child.send_signal(signal.SIGKILL)
        child.communicate()
        if child.returncode == 0:
            break
    assert child.returncode == 0 and attempt >= 4
    assert published(ModelStore(tmp_path / "store")) == published(store)
    assert verify_store(ModelStore(tmp_path / "store")) == []


def test_a_finished_run_takes_in_a_further_task(finished, tmp_path):
    directory = copied(finished, tmp_path)
    before = published(ModelStore(directory))
    further = Run.resume(ModelStore(directory), TINY.name, tasks, ("toy/d",))
    events = list(further.run())
    assert {event.task for event in events} == {"toy/d"}
    after = published(ModelStore(directory))
    assert after.pop("toy/d") and after == before


@pytest.mark.parametrize("events", [0, 1, 3])
def test_adding_a_task_can_be_cut_short_and_said_again(events, finished, tmp_path):
    """Cut short before anything was saved, in the middle, at the end: the task is added once."""
    directory = copied(finished, tmp_path)
    cut_short = Run.resume(ModelStore(directory), TINY.name, tasks, ("toy/d",)).run()
    for _ in range(events):
        next(cut_short)
    del cut_short
    again = list(Run.resume(ModelStore(directory), TINY.name, tasks, ("toy/d",)).run())
    assert [e.task for e in again if isinstance(e, TaskPublished)] == ["toy/d"]
    assert len(ModelStore(directory).history("toy/d")) == 1


def test_a_private_task_stays_private_when_listed_without_the_mark(finished, tmp_path):
    directory = copied(finished, tmp_path)
    list(Run.resume(ModelStore(directory), TINY.name, tasks, ("toy/c",)).run())
    assert all(p.path.private for p in ModelStore(directory).history("toy/c"))


def test_finished_tasks_need_no_data_any_more(finished, tmp_path):
    directory = copied(finished, tmp_path)

    def only_d(entry: str):
        if entry != "toy/d":
            raise TaskError(f"{entry} is gone")
        return toy_task(entry)

    list(Run.resume(ModelStore(directory), TINY.name, lambda _: only_d, ("toy/d",)).run())
    assert "toy/d" in ModelStore(directory).tasks()


def test_the_published_parent_is_a_version_of_the_task_it_names(finished):
    store, _ = finished
    versions = {p.digest: p.task for task in store.tasks() for p in store.history(task)}
    for task in store.tasks():
        for version in store.history(task):
            lineage = version.path.lineage
            assert versions.get(lineage["parent"]) == lineage["parent_task"]


def test_nothing_that_diverged_is_kept_and_the_run_goes_on(tmp_path):
    """Learning rates beyond all bounds: all that is saved is finite, and the failure is told."""
    wild = tiny(defaults={**TINY.defaults, "opt_lr": 1e39}, ranges={}, passes=1)
    store = ModelStore(tmp_path / "store", create=True)
    events = list(start(tmp_path / "store", wild).run())
    failed = [event.task for event in events if isinstance(event, TaskFailed)]
    assert failed == ["toy/a", "toy/b", "toy/c"] and store.tasks() == []
    document = store.load_agent(TINY.name)
    assert document is not None
    for row in document["components"]:
        assert all(
            np.isfinite(leaf).all() for leaf in jax.tree.leaves(store.component(row["digest"]))
        )


@pytest.mark.parametrize("newest", [True, False])
def test_a_child_as_good_as_its_parent_is_kept_where_the_newest_wins(newest, tmp_path):
    """No child changes anything: each is exactly as good as the first."""
    still = tiny(
        method=replace(TINY.method, newest_wins=newest),
        defaults={**TINY.defaults, "opt_lr": 1e-30},
        ranges={}, tasks=("toy/a",), passes=1, rounds_per_child=1,
    )  # fmt: skip
    children = [e.outcome for e in start(tmp_path, still).run() if isinstance(e, ChildTrained)]
    own = [one.improved for one in children if one.parent.task == one.child.task]
    assert own and all(improved == newest for improved in own)


def test_a_path_that_stayed_the_best_is_not_published_again(tmp_path, monkeypatch):
    """The second pass improves nothing: its children are all discarded."""
    events = list(start(tmp_path, tiny(passes=1)).run())
    published = {e.task: e.version for e in events if isinstance(e, TaskPublished)}
    again = Run.resume(ModelStore(tmp_path), TINY.name, tasks, TINY.tasks)

    def fails(_, child, parent, *__):
        failed.append(child)
        child.quality, child.metrics["evaluations"] = 0.0, []
        return Outcome(child, parent, (), False, True, {}, 0.0, 0.0)

    failed: list[Path] = []
    monkeypatch.setattr(Cycle, "_train", fails)
    stayed = [e for e in again.run() if isinstance(e, TaskPublished)]
    assert failed and {e.task: e.version for e in stayed} == published
    assert not any(e.added for e in stayed)
    assert all(len(ModelStore(tmp_path).history(task)) == 1 for task in published)


def test_a_worse_run_does_not_take_over_what_is_served(tmp_path):
    """As a baseline and a search in one store."""
    list(start(tmp_path, tiny(passes=1)).run())
    store = ModelStore(tmp_path)
    before = store.live()
    hopeless = tiny(defaults={**TINY.defaults, "opt_lr": 1e-9}, ranges={}, passes=1)
    events = [
        e for e in start(tmp_path, hopeless, name="other").run() if isinstance(e, TaskPublished)
    ]
    worse = {
        e.task
        for e in events
        if e.validation_quality
        < store.resolve(e.task, before[e.task][0]).path.metrics["validation"]["accuracy"]
    }
    assert worse
    for event in events:
        assert event.live == (event.task not in worse)
        assert (store.live()[event.task] == before[event.task]) == (event.task in worse)


@pytest.mark.parametrize(
    "setting", ["defaults.opt_lr=0.1", "children_per_generation=2", "passes=3", "batch_size=0"]
)
def test_a_run_refuses_settings_that_cannot_change_any_more(setting, tmp_path):
    next(start(tmp_path).run())
    with pytest.raises(StateError, match=setting.split("=")[0]):
        Run.resume(ModelStore(tmp_path), TINY.name, tasks, settings=[setting])


def test_a_run_takes_another_batch_size_on(tmp_path):
    next(start(tmp_path, tiny(tasks=("toy/a",), passes=1, samples_per_task=2)).run())
    list(Run.resume(ModelStore(tmp_path), TINY.name, tasks, settings=["batch_size=16"]).run())
    again = Run.resume(ModelStore(tmp_path), TINY.name, tasks)
    assert again.experiment.batch_size == 16


def test_a_second_run_of_one_name_is_refused(tmp_path):
    next(start(tmp_path / "store").run())
    with pytest.raises(StateError, match="resume"):
        start(tmp_path / "store")


def test_resuming_what_was_never_started_says_what_there_is(tmp_path):
    store = ModelStore(tmp_path / "store", create=True)
    with pytest.raises(StateError, match="no run called 'demo'; runs there: none"):
        Run.resume(store, TINY.name, tasks)


def test_a_task_without_data_stops_the_run_before_any_training(tmp_path):
    def missing(entry: str):
        if entry == "toy/b":
            raise TaskError("toy/b is not prepared")
        return toy_task(entry)

    store = ModelStore(tmp_path / "store", create=True)
    search = Run.start(TINY, (ROOT, random_root(ROOT)), store, 0, lambda _: missing)
    with pytest.raises(TaskError):
        next(search.run())
    assert store.tasks() == []


def test_steps_and_validation_sizes_follow_the_specification():
    experiment = tiny(batch_size=512, train_examples_per_round=51_200, validation_examples=5_120)
    assert experiment.steps_per_round(4_000) == 8
    assert experiment.steps_per_round(2_000) == 4
    assert experiment.steps_per_round(1_000_000) == 100
    assert experiment.validation_count(1_000) == 1_000  # two batches of 500
    assert experiment.validation_count(1_001) == 1_000
    assert experiment.validation_count(6_000) == 5_120
    odd = tiny(batch_size=64, validation_examples=10_000)
    assert odd.validation_count(9_990) == 157 * 63  # the cap itself decides
    assert odd.validation_count(10_000) == 9_984
    assert tiny(batch_size=2_048, validation_examples=1_024).validation_count(5_000) == 1_024


def test_a_full_disk_loses_the_generation_under_way_and_nothing_else(finished, tmp_path):
    """A real file system that fills up in the middle of a run, and then has space again."""
    store, _ = finished
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting a file system needs root")
    try:
        ballast = disk / "ballast"
        runs = start(disk / "store").run()
        for _ in range(5):
            next(runs)
        with (
            ballast.open("wb", buffering=0) as file,
            pytest.raises(OSError, match="No space left"),
        ):
            while True:
                file.write(bytes(4096))
        with pytest.raises(OSError, match="No space left"):
            list(runs)
        ballast.unlink()
        list(Run.resume(ModelStore(disk / "store"), TINY.name, tasks).run())
        assert published(ModelStore(disk / "store")) == published(store)
        assert verify_store(ModelStore(disk / "store")) == []
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)  # its files are mapped
