"""How an agent's process ends: with its supervisor, or when that one or a signal stops it.

The agents here never end by themselves. Their processes are forked by a fresh one, which has loaded
everything but started no thread.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from evolution import __main__ as program
from evolution.agents import worker
from evolution.agents.worker import STOP, Order
from evolution.events import Remark
from evolution.process.exclusive import hold
from evolution.process.stopping import step
from model_store import AgentBusy, ModelStore
from tests.evolution.process.endless import computes, read_to, reads

TOP = Path(__file__).parents[3]
ID = "x/toy/a"


class Endless:
    """In place of an agent; what it is at is the class of its order."""

    def __init__(self, store: ModelStore, kind: str, *_: Any, turn: Any, **__: Any) -> None:
        self.id, self.stopping = ID, False
        self._store, self._kind, self._turn = store, kind, turn

    def run(self, _: int) -> Iterator[Any]:
        with self._store.hold(ID):
            yield Remark("runs")
            if self._kind == "asks":
                with self._turn():
                    pass
            elif self._kind == "reads":
                reads()
            elif self._kind == "computes":
                with step():
                    computes()
            elif self._kind == "ends":
                with step():
                    os.write(2, b"busy\n")
                    while not self.stopping:
                        pass
                yield Remark("saved")


# What the agent is at, what happens to its process, its exit code then.
CASES = [
    ("asks", "supervisor gone", 1),
    ("reads", "supervisor gone", 1),
    ("computes", "supervisor gone", 1),
    ("asks", "stop", 128 + signal.SIGTERM),
    ("reads", "stop", 128 + signal.SIGTERM),
    ("ends", "stop", 0),
    ("ends", "SIGTERM", 128 + signal.SIGTERM),
    ("ends", "SIGTERM and stop", 128 + signal.SIGTERM),
    ("reads", "SIGINT", 128 + signal.SIGINT),
]


def outcome(kind: str, what: str, place: Path) -> tuple[int, str, str]:
    """Exit code, what was printed, and who was found to hold the agent."""
    store = ModelStore(place, create=True)
    given, giving = os.pipe()
    telling, told = os.pipe()
    process = os.fork()
    if not process:
        os.close(giving)
        os.dup2(given, 0)
        os.dup2(told, 1)
        os.dup2(told, 2)
        sys.argv = ["evolution", "agent-process"]
        with patch.object(worker, "Agent", Endless):
            program.main()
        os._exit(99)
    os.close(given)
    os.close(told)
    os.write(giving, json.dumps(asdict(Order(str(place), kind, "toy/a", 1))).encode() + b"\n")
    printed = read_to(telling, "asks" if kind == "asks" else "busy")
    try:
        with store.hold(ID):
            busy = "nobody"
    except AgentBusy as error:
        busy = str(error).replace(str(process), "PID")
    if "SIG" in what:
        os.kill(process, getattr(signal, what.split()[0]))
    if what.endswith("stop"):
        os.write(giving, json.dumps(STOP).encode() + b"\n")
    if what == "supervisor gone":
        os.close(giving)
    printed += read_to(telling, None)
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    with store.hold(ID):
        return code, printed, busy


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("ending")
    subprocess.run([sys.executable, "-m", __name__, str(folder)], cwd=TOP, check=True, timeout=600)
    return json.loads((folder / "results.json").read_text())


@pytest.mark.parametrize(("kind", "what", "expected"), CASES)
def test_an_agents_process_ends(results, kind, what, expected):
    """At once without a supervisor, otherwise after the step under way; nobody holds it then."""
    code, printed, busy = results[f"{kind}: {what}"]
    assert code == expected and "Traceback" not in printed, printed
    assert "(process PID on " in busy and ("saved" in printed) == (kind == "ends")


# ---- the next process


def waiting(store: ModelStore, stack: ExitStack, patience_s: float, stopping=lambda: False) -> Any:
    return hold(store, ID, stack, patience_s, stopping)


def test_a_holder_that_ends_is_waited_for_and_named_once(tmp_path):
    store = ModelStore(tmp_path, create=True)
    with ExitStack() as stack:
        with ModelStore(tmp_path).hold(ID):
            start = waiting(store, stack, 1e6)
            remark = next(start)
            assert f"process {os.getpid()} on " in remark.text and "\n" not in remark.text
        with pytest.raises(StopIteration) as ended:
            next(start)
        ended.value.value.check()
        with pytest.raises(AgentBusy), ModelStore(tmp_path).hold(ID):
            pass


def test_a_holder_that_does_not_end_is_an_error_that_names_it(tmp_path):
    store = ModelStore(tmp_path, create=True)
    with ModelStore(tmp_path).hold(ID), ExitStack() as stack:
        with pytest.raises(AgentBusy, match=rf"x/toy/a: held by .*process {os.getpid()} on .*20"):
            list(waiting(store, stack, 0.0))
        start = waiting(store, stack, 0.3)
        assert isinstance(next(start), Remark)
        with pytest.raises(AgentBusy):
            next(start)


def test_who_is_told_to_stop_waits_no_longer(tmp_path):
    store, asked = ModelStore(tmp_path, create=True), []
    with ModelStore(tmp_path).hold(ID), ExitStack() as stack:
        start = waiting(store, stack, 1e6, lambda: bool(asked))
        next(start)
        asked.append(True)
        with pytest.raises(StopIteration) as ended:
            next(start)
        assert ended.value.value is None


def main(folder: Path) -> None:
    results = {
        f"{kind}: {what}": outcome(kind, what, folder / str(number))
        for number, (kind, what, _) in enumerate(CASES)
    }
    (folder / "results.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
