"""Ten minutes of mixed load while tasks are published, replaced, rolled back and removed."""

import itertools
import subprocess
import sys
import time
from pathlib import Path

import pytest

from model_store import ModelStore
from tests.service.servers import Server
from tests.service.systems import publish

SECONDS = 600
PUBLISH_EVERY_S = 5
RATE = 40
TASKS = [f"soak/{i}" for i in range(8)]


@pytest.mark.slow
def test_publishes_every_five_seconds_fail_no_request(tmp_path: Path):
    """Each change is one of: new version, roll back, new task, removal of such a task."""
    store = ModelStore(tmp_path / "store", create=True)
    for task in TASKS:
        publish(store, task)
    with Server(".", tmp_path / "home", MUNET_STORE=store.url) as server:
        load = subprocess.Popen(
            [
                sys.executable, "-m", "loadtests", "run", "--url", f"http://127.0.0.1:{server.port}",
                "--rate", str(RATE), "--seconds", str(SECONDS), "--popularity", "zipf:1.1",
                "--output", str(tmp_path / "soak.jsonl"),
                *itertools.chain.from_iterable(("--task", task) for task in TASKS),
            ]
        )  # fmt: skip
        changes = 0
        while load.poll() is None:
            change(store, changes)
            changes += 1
            time.sleep(PUBLISH_EVERY_S)
        assert load.returncode == 0, "some requests were not answered with 200"
    assert changes >= SECONDS / (PUBLISH_EVERY_S + 2)


def change(store: ModelStore, count: int) -> None:
    """One change of the store; those to the tasks under load never take them away."""
    task = TASKS[count % len(TASKS)]
    kind = count % 4
    if kind == 0:
        publish(store, task, own={"encoderblock_1": count})
    elif kind == 1:
        publish(store, f"extra/{count}", own={"encoderblock_0": count})
    elif kind == 2:
        store.rm(f"extra/{count - 1}")
    else:
        task = TASKS[(count - 3) % len(TASKS)]
        store.rollback(task, 1)
