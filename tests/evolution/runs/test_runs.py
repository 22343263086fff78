"""`munet runs`: what is told of runs, also while they run and after they were killed."""

import csv
import json
import os
import shlex
import signal
import sys
import time
from multiprocessing.connection import Connection

import pytest
from typer.testing import CliRunner

import munet
from evolution import state
from evolution.events import ChildTrained
from evolution.run import Run
from evolution.runs import curve_files
from evolution.runs.listing import listed, look
from model_store import AgentMoved, ModelStore
from model_store.cli.app import app as store_app
from model_store.upkeep import collect_garbage, verify_store
from tests.evolution.systems import start, tasks, tiny
from tests.model_store.lease_times import renew_often, run_out_soon
from tests.model_store.places import Place, local_place
from tests.model_store.processes import start as start_process

ONE = tiny(tasks=("toy/a",), passes=1, samples_per_task=3)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a store with a finished run; nobody changes it."""
    folder = tmp_path_factory.mktemp("finished")
    list(start(folder, ONE).run())
    return folder


def asked(*words: object):
    return CliRunner().invoke(munet.app, ["runs", *map(str, words)], env={"COLUMNS": "80"})


def test_a_finished_run_is_listed_with_what_goes_on_with_it(finished):
    told = asked("--store", finished)
    best = max(row["quality"] for row in state.load(ModelStore(finished), "demo")[0].history)
    first, second = told.stdout.splitlines()
    assert first.startswith("demo  finished") and f"{best:.3f}".lstrip("0") in first
    assert second.strip() == f"munet experiments resume demo --store {finished} --task TASK"


def test_an_empty_store_says_what_begins_a_run(tmp_path):
    store = ModelStore(tmp_path / "a store", create=True)
    told = asked("--store", store.url).stdout
    assert told.startswith("no run in ") and shlex.split(told)[-1] == store.url


def test_the_store_is_asked_for():
    assert asked().exit_code == 2 and "MUNET_STORE" in asked().stderr


def test_a_stopped_run_tells_how_far_it_is(tmp_path):
    search = start(tmp_path, tiny(passes=1, children_per_generation=2))
    for event in search.run():
        if isinstance(event, ChildTrained) and event.task == "toy/b":
            search.stopping = True
    (run,) = listed(ModelStore(tmp_path))
    assert (run.state, run.task, run.number, run.tasks) == ("stopped", "toy/b", 2, 3)
    assert (run.child, run.children) == (2, 3) and run.holder is None
    taken = [row["seconds"] for row in search.progress.history if row["task"] == "toy/b"]
    assert run.left_s == pytest.approx(sum(taken) / 2 * 4)  # one more here, three of the last task
    assert run.best == max(row["quality"] for row in search.progress.history[-2:])
    assert run.command == f"munet experiments resume demo --store {tmp_path}"


def test_a_budget_may_end_a_run_before_all_of_its_children(tmp_path):
    search = start(tmp_path, tiny(tasks=("toy/a",), passes=1, budget_s=10_000))
    for event in search.run():
        search.stopping = True
        assert not isinstance(event, ChildTrained) or event.told == "child 1, at most 3"
    (run,) = listed(ModelStore(tmp_path))
    assert (run.state, run.progress) == ("stopped", "child 1, at most 3")


def failing(what: Exception):
    def source(_):
        calls = []

        def task(entry):
            calls.append(entry)
            if len(calls) > 1:
                raise what
            return tasks(_)(entry)

        return task

    return source


def test_a_failed_run_says_why_until_it_goes_on(tmp_path):
    search = start(tmp_path, ONE)
    search._source = failing(MemoryError("no room"))(ONE)
    with pytest.raises(MemoryError):
        list(search.run())
    store = ModelStore(tmp_path)
    (run,) = listed(store)
    assert run.state == "failed" and "no room" in run.why and "batch_size" in run.why
    assert "no room" in asked("--store", tmp_path).stdout
    again = Run.resume(store, "demo", tasks)
    list(again.run())
    (run,) = listed(store)
    assert run.state == "finished" and not run.why


def test_a_failure_changes_nothing_else_of_the_state(tmp_path, finished):
    search = start(tmp_path, ONE)
    search._source = failing(OSError("no disk"))(ONE)
    with pytest.raises(OSError, match="no disk"):
        list(search.run())
    list(Run.resume(ModelStore(tmp_path), "demo", tasks).run())
    one, other = (
        [path.components for path in state.load(ModelStore(f), "demo")[1] if path.task == "toy/a"]
        for f in (tmp_path, finished)
    )
    assert [[c.digest for c in p] for p in one] == [[c.digest for c in p] for p in other]


def test_the_failure_of_one_that_was_replaced_is_not_kept(tmp_path):
    search = start(tmp_path, ONE)
    search._source = failing(AgentMoved("by another"))(ONE)
    with pytest.raises(AgentMoved):
        list(search.run())
    assert listed(ModelStore(tmp_path))[0].state == "stopped"


def hold_until_killed(place: Place, answers: Connection) -> None:
    """Begins a run, and does nothing more of it."""
    renew_often()
    search = start(place.open(create=True).url, ONE)
    search.save()
    with search.store.hold(search.name):
        answers.send(True)
        signal.pause()


@pytest.mark.parametrize("kind", ["folder", pytest.param("s3", marks=pytest.mark.slow)])
def test_one_that_runs_is_running_and_one_that_was_killed_is_stopped(
    tmp_path, kind, monkeypatch, request
):
    renew_often(monkeypatch.setattr)
    place = local_place(tmp_path) if kind == "folder" else request.getfixturevalue("s3_store")
    process, answers = start_process(hold_until_killed, place)
    try:
        assert answers.recv()
        store = place.open()
        run = look(store, "demo")
        assert run.state == "running" and f"process {process.pid} on " in (run.holder or "")
        assert (run.task, run.child, run.children) == ("toy/a", 0, 3)
        refused = asked("rm", "demo", "--store", place.url)
        assert refused.exit_code == 1 and "is running" in str(refused.exception)
        assert look(store, "demo").state == "running"
    finally:
        process.kill()
        process.join()
    run_out_soon(monkeypatch.setattr)
    until = time.monotonic() + 60  # of patience
    while look(store, "demo").state == "running" and time.monotonic() < until:
        time.sleep(0.1)
    assert look(store, "demo").state == "stopped"
    assert asked("rm", "demo", "--store", place.url).exit_code == 0
    assert listed(store) == [] and verify_store(store) == []


def test_a_removed_run_leaves_what_it_published(tmp_path):
    tmp_path /= "a store"
    list(start(tmp_path, ONE).run())
    store = ModelStore(tmp_path)
    served = store.live()
    told = asked("rm", "demo", "--store", tmp_path)
    assert told.exit_code == 0, told.output
    assert shlex.split(told.stdout)[-1] == str(tmp_path)
    assert store.live() == served and listed(store) == []
    collect_garbage(store, grace_s=0)
    assert store.resolve("toy/a").version == 1 and verify_store(store) == []
    list(start(tmp_path, ONE, seed=1).run())  # its name is free


def test_a_run_that_there_is_not_is_named(finished):
    for command in ("show", "rm"):
        told = asked(command, "dem", "--store", finished)
        assert told.exit_code == 1 and "runs there: demo" in str(told.exception)


def test_a_state_that_cannot_be_read_does_not_hide_the_others(tmp_path):
    store = ModelStore(tmp_path, create=True)
    start(tmp_path, ONE).save()
    store.save_agent("older", {"format": 1}, [])
    one, other = listed(store)
    assert (one.state, other.state) == ("stopped", "unreadable") and "format 1" in other.why


def test_json_says_the_same(finished):
    (run,) = json.loads(asked("--json", "--store", finished).stdout)
    assert (run["name"], run["state"], run["progress"]) == ("demo", "finished", "child 3 of 3")
    assert json.loads(asked("show", "demo", "--json", "--store", finished).stdout) == run


def test_show_tells_of_tasks_and_children_within_80_columns(finished):
    told = asked("show", "demo", "--store", finished).stdout
    command = next(line for line in told.splitlines() if "resume" in line)
    assert all(len(line) <= 80 for line in told.splitlines() if line != command)
    assert "toy/a" in told and " to " in told
    for columns in (
        "task children validation test ECE",
        "newest children task validation kept loss took",
    ):
        assert columns.split() in [line.split() for line in told.splitlines()]


def test_both_commands_that_show_say_how_far_probabilities_are_from_what_happens(finished):
    path = ModelStore(finished).resolve("toy/a").path
    before, after = (path.metrics["test"][name] for name in ("ece_before", "ece_after"))
    told = asked("show", "demo", "--store", finished).stdout
    assert "ECE" in told and f"{before:.3f} to {after:.3f}" in told
    told = CliRunner().invoke(store_app, ["show", "toy/a", "--store", str(finished)]).stdout
    assert f"ece after {after:.4f} of" in told and f"ece before {before:.4f} of" in told
    assert ["temperature", str(path.extra["temperature"])] in map(str.split, told.splitlines())


def test_losses_are_written_as_csv(finished, tmp_path):
    file = tmp_path / "curves.csv"
    assert asked("show", "demo", "--store", finished, "--csv", file).exit_code == 0
    with file.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    history = state.load(ModelStore(finished), "demo")[0].history
    assert len(rows) == sum(len(row["training"]["loss"]) for row in history) == 3 * 4
    assert [int(row["step"]) for row in rows[:4]] == [1, 2, 3, 4]
    assert [float(row["loss"]) for row in rows[:4]] == history[0]["training"]["loss"]
    assert float(rows[0]["learning_rate"]) == history[0]["training"]["learning_rate"][0]


def test_the_history_of_a_run_has_each_childs_curve(finished):
    for row in state.load(ModelStore(finished), "demo")[0].history:
        training = row["training"]
        assert training["steps"] == len(training["loss"]) == 4 and training["every"] == 1
        assert max(training["learning_rate"]) <= row["hyperparameters"]["opt_lr"] * 1.001


def test_children_from_before_losses_were_recorded_are_left_out(tmp_path):
    history = [{"id": 1, "task": "t", "evaluations": [0.5]}]
    assert curve_files.write_csv(history, tmp_path / "c.csv") == 0
    assert (tmp_path / "c.csv").read_text().splitlines() == [",".join(curve_files.COLUMNS)]


def test_without_the_library_it_is_named(finished, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    told = asked("show", "demo", "--store", finished, "--tensorboard", tmp_path)
    assert told.exit_code == 1 and "pip install tensorboardX" in str(told.exception)
    assert not os.listdir(tmp_path)


def test_an_agent_is_between_cycles_or_within_one(tmp_path):
    search = start(tmp_path, ONE)
    progress, store = search.progress, search.store
    progress.agent, progress.schedule = "demo-vit/toy/a", ["private:toy/a"]
    for snapshot, iteration, told in ((None, 1, "finished"), ("sha256:0", 1, "stopped")):
        progress.iteration = iteration
        document = state.document_of(store, progress, search.population, search.population)
        document["snapshot"] = snapshot
        store.save_agent(progress.agent, document, state.needed(document))
        (run,) = listed(store)
        assert (run.state, run.task, run.tasks) == (told, "toy/a", None)
    assert run.progress == "cycle 2, child 0 of 3"
    assert run.command == (
        f"munet experiments agents --store {tmp_path} --agent demo-vit:private:toy/a --cycles 2"
    )


def test_an_imported_run_is_grown_by_an_experiment(tmp_path):
    search = start(tmp_path, ONE, name="imported/state")
    search.progress.settings = {}
    search.save()
    (run,) = listed(search.store)
    assert run.state == "imported"
    assert run.command.endswith(f"--continue-from '{tmp_path}#imported/state'")
