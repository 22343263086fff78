"""An import that is killed anywhere is made again and ends in the store of an undisturbed one.

Children are forked by a fresh process, which has loaded everything but started no thread.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from model_store import ModelStore
from model_store.upkeep import verify_store
from tests.evolution.published_states import write_agents

TOP = Path(__file__).parents[3]
KILLS = 5


class Telling(ModelStore):
    """A store that writes a byte before and after each change."""

    def _told(self, change, *arguments, **options):
        os.write(1, b".")
        result = change(*arguments, **options)
        os.write(1, b".")
        return result

    def put(self, tree):
        return self._told(super().put, tree)

    def publish(self, path, *, live=True):
        return self._told(super().publish, path, live=live)

    def rollback(self, task, version):
        return self._told(super().rollback, task, version)

    def save_agent(self, agent, document, components):
        return self._told(super().save_agent, agent, document, components)


def run_import(directory: Path, root: Path) -> None:
    from evolution.checkpoints import import_state

    import_state(directory, Telling(root, create=True), progress=lambda done, total: None)


def fork_import(directory: Path, root: Path, kill_at: int) -> tuple[int, bool]:
    """Imports in a child that is killed when it has written this many bytes: (how many, killed)."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.dup2(writing, 1)
        try:
            run_import(directory, root)
        finally:
            os._exit(0)
    os.close(writing)
    told = 0
    while os.read(reading, 1):
        told += 1
        if told == kill_at:
            os.kill(child, signal.SIGKILL)
    os.close(reading)
    _, status = os.waitpid(child, 0)
    return told, os.WIFSIGNALED(status)


def contents(root: Path) -> dict:
    """Everything that two equal stores agree on."""
    store = ModelStore(root)
    assert verify_store(store) == []
    return {
        "versions": {task: [v.digest for v in store.history(task)] for task in store.tasks()},
        "live": {task: list(live) for task, live in store.live().items()},
        "runs": {run: store.load_agent(run) for run in store.agents()},
        "blobs": sorted(path.name for path in (root / "blobs/sha256").iterdir()),
    }


def main(directory: Path, work: Path) -> None:
    """Kills at moments spread over the import, all in one store; then lets it end.

    An import that finds versions there has less to do, so the moments move towards the end.
    """
    whole, _ = fork_import(directory, work / "undisturbed", sys.maxsize)
    moments = [1 + i * whole // KILLS for i in range(KILLS)]
    killed = [fork_import(directory, work / "killed", at)[1] for at in moments]
    fork_import(directory, work / "killed", sys.maxsize)
    results = {
        "undisturbed": contents(work / "undisturbed"),
        "killed": contents(work / "killed"),
        "kills": sum(killed),
    }
    (work / "results.json").write_text(json.dumps(results))


def test_killed_and_made_again(tmp_path):
    written = write_agents(tmp_path / "system")
    command = [sys.executable, "-m", __name__, str(written.directory), str(tmp_path)]
    subprocess.run(command, cwd=TOP, check=True, timeout=300)
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["kills"] >= KILLS - 2
    killed = results["killed"]
    assert killed == results["undisturbed"]
    assert {task: len(found) for task, found in killed["versions"].items()} == {
        "toy/a": 3,
        "toy/b": 1,
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
