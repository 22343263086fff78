"""Killed at any moment, the store stays valid and keeps all that was published.

The tests run in a fresh process which forks those to be killed: a fork takes a millisecond, and
there are no threads of other tests to inherit.
"""

import os
import random
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from model_store import ModelStore, Published
from model_store.upkeep import collect_garbage, verify_store
from tests.model_store.forks import fork, in_a_fresh_process
from tests.model_store.samples import arrays, new_store, path, publish
from tests.moments import work

Action = Callable[[ModelStore], object]


def require_sound(root: Path, tasks: list[str]) -> dict[str, list[Published]]:
    """The store is valid, serves these tasks, and their versions have no gap; all versions."""
    store = ModelStore(root)
    assert verify_store(store) == []
    assert set(tasks) <= set(store.tasks())
    versions = {task: store.history(task) for task in tasks}
    for history in versions.values():
        assert [item.version for item in history] == list(range(1, len(history) + 1))
    return versions


def publish_until_killed(root: Path, seed: int, acknowledge: int) -> None:
    """Publish for ever, writing task, version and seed after each publish."""
    store = ModelStore(root)
    while True:
        task = f"task/{seed % 2}"
        version = publish(store, task, seed, lineage={"seed": seed})
        os.write(acknowledge, f"{task} {version} {seed}\n".encode())
        seed += 1


def kill_at_random(root: Path, times: int, seed: int) -> int:
    """Kill this many publishers, and look at the store each time; how many versions it has."""
    ModelStore(root, create=True)
    moments = random.Random(seed)
    acknowledged: set[tuple[str, int, int]] = set()
    for attempt in range(times):
        receive, send = os.pipe()
        child = fork(lambda first=1000 * attempt, end=send: publish_until_killed(root, first, end))
        os.close(send)
        with open(receive, "rb", buffering=0) as answers:
            first_line = answers.readline()
            work(moments.uniform(0, 40))  # about as much as to publish twice
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            assert os.WTERMSIG(status) == signal.SIGKILL
            for line in [first_line, *answers.readlines()]:
                task, version, number = line.decode().split()
                acknowledged.add((task, int(version), int(number)))
        require_all(root, acknowledged)
    return len(acknowledged)


def require_all(root: Path, acknowledged: set[tuple[str, int, int]]) -> None:
    """The store is sound, and everything acknowledged is there and served or superseded."""
    versions = require_sound(root, sorted({task for task, _, _ in acknowledged}))
    live = ModelStore(root).live()
    for task, version, seed in acknowledged:
        assert versions[task][version - 1].path.lineage["seed"] == seed
        assert live[task][0] >= version


def kill_ten_times_each(directory: Path, stores: int) -> int:
    """Several stores, as looking at one takes longer the more it holds; versions in all."""
    return sum(kill_at_random(directory / str(seed), 10, seed) for seed in range(stores))


@pytest.mark.parametrize("stores", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_at_random(tmp_path: Path, stores: int) -> None:
    assert in_a_fresh_process(kill_ten_times_each, tmp_path, stores) >= 10 * stores
    for number in range(stores):
        store = ModelStore(tmp_path / str(number))
        collect_garbage(store, grace_s=0)
        assert not list((Path(store.url) / "tmp").iterdir())
        require_sound(Path(store.url), store.tasks())


# The calls that change what other processes see: a kill before each of them is every kill there is.
STEPS = ("write", "link", "replace", "unlink", "mkdir", "rmdir", "utime")


def killed_before(step: int, root: Path, action: Action) -> None:
    """Do something to the store, and die just before the given step of it."""
    store = ModelStore(root)
    left = step

    def count(frame: object, event: str, called: object) -> None:
        nonlocal left
        if event == "c_call" and getattr(called, "__name__", "") in STEPS:
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.setprofile(count)
    action(store)
    sys.setprofile(None)


def publish_first(store: ModelStore) -> None:
    """A task that does not exist yet."""
    publish(store, "new/task", 2)


def publish_second(store: ModelStore) -> None:
    """Another version of a task that exists."""
    publish(store, "task/0", 2)


def roll_back(store: ModelStore) -> None:
    """Serve the first version."""
    store.rollback("task/1", 1)


def remove_task(store: ModelStore) -> None:
    """Remove a task of two versions."""
    if store.resolve("task/1", 1):
        store.rm("task/1")


def save_agent(store: ModelStore) -> None:
    """Replace the state of an agent."""
    store.save_agent("agent", {"generation": 2}, [store.put(arrays(6))])


def make_and_collect_garbage(store: ModelStore) -> None:
    """Remove what three components, a path and an agent's state left."""
    for seed in (11, 12, 13):
        store.put(arrays(seed))
    collect_garbage(store, grace_s=0)


def kill_before_steps(directory: Path, action: Action, every: int) -> int:
    """Kill an action before one in `every` of its steps, each time in a store just like the first;
    the step at which it came to its end.
    """
    first = new_store(directory)
    publish(first, "task/0", 1)
    publish(first, "task/1", 1)
    publish(first, "task/1", 3)
    first.save_agent("agent", {"generation": 1}, [])
    publish(first, "gone", 4)
    first.rm("gone")
    for step in range(0, 200, every):
        root = directory / str(step)
        shutil.copytree(Path(first.url), root)
        child = fork(lambda step=step, root=root: killed_before(step, root, action))
        _, status = os.waitpid(child, 0)
        require_sound(root, ["task/0"] if action is remove_task else ["task/0", "task/1"])
        store = ModelStore(root)
        assert store.load_agent("agent") in ({"generation": 1}, {"generation": 2})
        store.publish(path("after", {"head": store.put(arrays(9))}))
        collect_garbage(store, grace_s=0)
        require_sound(root, ["task/0", "after"])
        shutil.rmtree(root)
        if not status:
            return step
        assert os.WTERMSIG(status) == signal.SIGKILL
    raise AssertionError("the action never came to its end")


# A new file takes three steps: a number that 3 divides would meet the same one of each.
@pytest.mark.parametrize("every", [4, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("action", "steps"),
    [
        pytest.param(publish_first, 25, marks=pytest.mark.slow),
        (publish_second, 20),
        (roll_back, 3),
        (remove_task, 4),
        (save_agent, 12),
        (make_and_collect_garbage, 15),
    ],
)
def test_killed_before_every_step(tmp_path: Path, action: Action, steps: int, every: int) -> None:
    assert in_a_fresh_process(kill_before_steps, tmp_path, action, every) >= steps
