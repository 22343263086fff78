"""`munet classify` on a folder, next to an ONNX Runtime session for each task on the same folder.

Both run by turns as commands, from the start of the process to the whole table; figures are medians
over the rounds. All answers are compared. Five tasks share all but the last block and the head.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from loadtests.errors import LoadTestError, OptionError
from loadtests.gateways import ROOT
from loadtests.peers.networks import Maker, Networks
from loadtests.peers.plan import TaskSet
from loadtests.peers.servers import APPS, PYTHON

PIXELS = 224
TASKS = TaskSet("many images", "tasks on one backbone", PIXELS, True, 1.0, ())
EQUAL = 1e-4  # of probabilities: the peer rounds at 1e-6, and resizes in float32
PEER = "an ONNX session for each task"


@dataclass(frozen=True, slots=True)
class Setup:
    """What is measured."""

    images: int = 256
    tasks: int = 5
    rounds: int = 3

    def __post_init__(self) -> None:
        """Raises OptionError."""
        if self.images < 1 or self.rounds < 1 or self.tasks < 1:
            raise OptionError("expected at least 1 image, 1 task and 1 round")


@dataclass(frozen=True, slots=True)
class Speeds:
    """Seconds of each run, in the order of the rounds."""

    ours_s: Sequence[float]
    peer_s: Sequence[float]
    difference: float  # the largest, of a probability

    @property
    def ratio(self) -> float:
        """The median of the rounds' ratios of images/s, ours to the peer's."""
        return statistics.median(
            peer / ours for ours, peer in zip(self.ours_s, self.peer_s, strict=True)
        )


def measure(setup: Setup, say: Callable[[str], None]) -> Table:
    """Makes the tasks and the folder in a temporary place."""
    if not PYTHON.exists():
        raise LoadTestError(f"expected the peers' environment at {PYTHON}: run make peers")
    maker = Maker()
    try:
        with tempfile.TemporaryDirectory() as folder:
            say("making networks and images")
            root = Path(folder)
            networks = maker.make(root, TASKS, setup.tasks, 0, forms={"jpeg"}, models={"whole"})
            photos = root / "photos"
            photos.mkdir()
            jpegs = networks.files["jpeg"]
            for number in range(setup.images):
                file = photos / f"{number:06}.jpg"
                file.write_bytes(jpegs[number % len(jpegs)])
            return _render(setup, _compared(setup, networks, photos, say))
    finally:
        maker.close()


def _compared(setup: Setup, networks: Networks, photos: Path, say: Callable[[str], None]) -> Speeds:
    root = networks.folder
    variables = {
        **os.environ,
        "MODELS": str(root / "whole"),
        "PIXELS": str(PIXELS),
        "MUNET_COMPILATION_CACHE": str(root / "compiled"),
    }
    asked = [word for task in networks.tasks for word in ("--task", task)]
    store = ["--store", str(root / "store"), "--top-k", "5"]
    tables = root / "ours.jsonl", root / "peer.jsonl"
    commands = (
        [sys.executable, "munet.py", "classify", str(photos), *asked, *store, "--out"],
        [str(PYTHON), str(APPS / "tabulate.py"), str(photos)],
    )
    rest = ([str(tables[0])], [str(tables[1]), *networks.tasks])
    seconds: tuple[list[float], list[float]] = ([], [])
    for number in range(setup.rounds + 1):  # the first fills caches
        for which in (0, 1):
            say(f"round {number} of {setup.rounds}: {('munet classify', PEER)[which]}")
            tables[which].unlink(missing_ok=True)
            spent = _run([*commands[which], *rest[which]], variables)
            seconds[which].extend([spent] if number else [])
    return Speeds(*seconds, difference(*map(_read, tables)))


def _run(command: Sequence[str], variables: Mapping[str, str]) -> float:
    began = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True)
    if done.returncode:
        raise LoadTestError(f"{command[1]}: {done.stderr[-2000:]}")
    return time.perf_counter() - began


Answers = Mapping[tuple[str, str], Mapping[str, float]]  # by image and task: by label


def _read(table: Path) -> Answers:
    rows = map(json.loads, table.read_text().splitlines())
    return {
        (Path(row["source"]).name, row["task"]): {
            one["label"]: one["probability"] for one in row["top"]
        }
        for row in rows
    }


def difference(ours: Answers, theirs: Answers) -> float:
    """The largest difference of a probability. Raises LoadTestError where answers differ."""
    if ours.keys() != theirs.keys():
        raise LoadTestError(f"expected {len(theirs)} answers, found {len(ours)}")
    most = 0.0
    for key, found in ours.items():
        for label in found.keys() & theirs[key].keys():  # the fifth may be another of equal ones
            most = max(most, abs(found[label] - theirs[key][label]))
    if most > EQUAL:
        raise LoadTestError(f"expected equal probabilities, found a difference of {most:.2g}")
    return most


def _render(setup: Setup, found: Speeds) -> Table:
    table = Table(
        *("by", "seconds", "images/s"),
        title=f"{setup.images:,} JPEG files of 640x480, {setup.tasks} tasks at {PIXELS} px",
    )
    for name, seconds in (("munet classify --store", found.ours_s), (PEER, found.peer_s)):
        middle = statistics.median(seconds)
        table.add_row(name, f"{middle:.1f}", f"{setup.images / middle:.1f}")
    table.add_row("ratio", "", f"{found.ratio:.2f}")
    table.caption = f"largest difference of a probability: {found.difference:.1e}"
    return table
