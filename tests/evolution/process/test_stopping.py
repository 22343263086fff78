"""How commands end by signals: real ones, to processes that are busy with what never ends.

The processes are forked by a fresh one, which has loaded everything but started no thread. None of
them would come to an end by itself: what ends, was ended by the signal.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import jax
import pytest

from evolution import __main__ as program
from evolution.cycle import Cycle
from evolution.roots.loading import random_root
from evolution.run import Run
from tests.evolution.process.endless import BUSY, busy, computes, read_to, reads
from tests.evolution.systems import ROOT, TINY, tasks

TOP = Path(__file__).parents[3]
RUN = ("run", "demo", "--store", "STORE")
HIDDEN, SHOWN = "\x1b[?25l", "\x1b[?25h"  # a terminal's cursor
STOPPING = "stopping after the generation under way"


def traces(*_: Any) -> Any:
    """While a program is traced, and others are compiled."""

    def traced(x: Any) -> Any:
        busy()
        while True:
            x = jax.jit(lambda y: y + 1)(x)

    return jax.jit(traced)(1.0)


def waits_for_a_thread(*_: Any) -> Any:
    """As for examples that another thread reads and that do not come."""
    reader = threading.Thread(target=time.sleep, args=(1e6,), daemon=True)
    reader.start()
    busy()
    reader.join()


def counts(*_: Any) -> Any:
    """In Python, with no pause."""
    busy()
    while True:
        pass


REPLACED: dict[str, Callable[[Any], Any]] = {
    "generation": lambda work: patch.object(Cycle, "generation", work),
    "data": lambda work: patch.object(program, "source_of", lambda _: work),
    "start": lambda work: patch.object(Run, "save", work),
    "root": lambda work: patch.object(program, "_root", work),
    "training": lambda work: patch.object(program, "train_root", work),
    "bench": lambda work: patch.object(program, "bench", work),
}
INT, TERM = signal.SIGINT, signal.SIGTERM


@dataclass(frozen=True)
class Case:
    """A command, the part of it that never ends, and the signals that the process gets."""

    command: tuple[str, ...]
    replaced: str
    work: Callable[..., Any]
    signals: tuple[int, ...] = (INT, INT)
    terminal: bool = False

    @property
    def name(self) -> str:
        sent = "+".join(signal.Signals(s).name for s in self.signals)
        where = "terminal" if self.terminal else "pipe"
        return f"{self.command[0]}: {self.replaced} {self.work.__name__} {sent} {where}"


STEPS = [
    *(Case(RUN, "generation", w) for w in (computes, traces, waits_for_a_thread, reads, counts)),
    Case(RUN, "generation", computes, (TERM, TERM)),
    Case(RUN, "generation", computes, (INT, TERM)),
    Case(("baseline", "finetune-all", *RUN[1:]), "generation", computes),
    Case(RUN, "generation", computes, terminal=True),
]
NO_STEPS = [
    Case(RUN, "data", reads, (INT,)),
    Case(RUN, "start", reads, (INT,)),
    Case(RUN, "root", waits_for_a_thread, (TERM,)),
    Case(RUN, "data", computes, (INT, TERM)),
    Case(("root", "--out", "STORE"), "training", counts, (INT,)),
    Case(("root", "--out", "STORE"), "training", computes, (INT, TERM)),
    Case(("bench", "demo"), "bench", computes, (INT, TERM)),
    Case(("bench", "demo"), "bench", waits_for_a_thread, (TERM,)),
]


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict[str, Any]:
    """Name of a case -> how its process ended and what it printed."""
    folder = tmp_path_factory.mktemp("stopping")
    subprocess.run([sys.executable, "-m", __name__, str(folder)], cwd=TOP, check=True, timeout=600)
    return json.loads((folder / "results.json").read_text())


@pytest.mark.parametrize("case", STEPS, ids=lambda case: case.name)
def test_the_second_signal_ends_a_step_at_once(results, case):
    """The first is answered at once too, even where the main thread is in native code."""
    code, printed = results[case.name]
    assert code == 128 + case.signals[-1], printed
    assert printed.count(STOPPING) == 1 and "Traceback" not in printed
    if case.terminal:
        assert printed.rindex(SHOWN) > printed.rindex(HIDDEN)


@pytest.mark.parametrize("case", NO_STEPS, ids=lambda case: case.name)
def test_the_first_signal_ends_what_is_no_step(results, case):
    """A main thread in native code does not hear it, and the second ends the process."""
    code, printed = results[case.name]
    assert code - 128 in case.signals and "Traceback" not in printed, printed
    if len(case.signals) == 1:
        more = "; go on with:\n    the same command (nothing was saved yet)"
        assert f"stopped{more if case.replaced == 'start' else ''}\n" in f"{printed}\n"


# ---- the process that forks


def start(case: Case, folder: Path) -> tuple[int, int]:
    """A process that runs the command, and what it prints."""
    reading, writing = os.openpty() if case.terminal else os.pipe()
    process = os.fork()
    if process:
        os.close(writing)
        return process, reading
    try:
        os.dup2(writing, 1)
        os.dup2(writing, 2)
        sys.argv = ["evolution", *(w.replace("STORE", str(folder / "store")) for w in case.command)]
        with (
            patch.dict(program.EXPERIMENTS, {"demo": TINY}),
            patch.object(program, "source_of", tasks),
            patch.object(program, "_root", lambda _: (ROOT, random_root(ROOT))),
            patch.object(program, "root_sources", lambda *_: None),
            REPLACED[case.replaced](case.work),
        ):
            program.main()
    except BaseException:
        traceback.print_exc()
    os._exit(99)


def outcome(case: Case, folder: Path) -> tuple[int, str]:
    """Runs a case: the exit code, or minus the signal that killed it, and what was printed."""
    process, reading = start(case, folder)
    printed = read_to(reading, BUSY)
    os.kill(process, case.signals[0])
    if case in STEPS:
        printed += read_to(reading, STOPPING)
    for number in case.signals[1:]:
        os.kill(process, number)
    printed += read_to(reading, None)
    os.close(reading)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), printed


def main(folder: Path) -> None:
    results = {}
    for number, case in enumerate([*STEPS, *NO_STEPS]):
        place = folder / str(number)
        place.mkdir()
        results[case.name] = outcome(case, place)
    (folder / "results.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
