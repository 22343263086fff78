"""Runs the benchmark of the model store, in a place of its own that is gone afterwards.

It measures what a publish, a load, a resolve and a poll cost, and how much of it is the store's
own. This folder alone in loadtests imports model_store: the store is a library, so its cost is that
of calls in this process. It measures no gateway, no registry, and no two writers at once.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from loadtests.errors import OptionError
from loadtests.store.place import open_place
from loadtests.store.report import Report, Section, targets
from loadtests.store.sample import SIZES, model
from loadtests.store.sharing import sharing
from loadtests.store.tasks import BASE, many_tasks
from loadtests.store.throughput import limits, loading, publishing


@dataclass(frozen=True, slots=True)
class Setup:
    """What to measure."""

    directory: str = "."  # on the disk to be measured
    store: str | None = None  # URL of an object store, instead of the directory
    size: str = "B/16"  # of the path that throughput is measured with
    small_size: str = "Ti/16"  # of the path that latencies are measured with
    rounds: int = 7  # of each throughput
    tasks: int = 10_000  # in the largest store
    sharing_tasks: int = 100  # published one by one, whose bytes are counted
    calls: int = 2000  # of each latency

    def __post_init__(self) -> None:
        """Raises OptionError."""
        for size in (self.size, self.small_size):
            if size not in SIZES:
                raise OptionError(f"size {size!r}: expected one of {', '.join(SIZES)}")
        if self.tasks <= BASE or min(self.rounds, self.calls, self.sharing_tasks) < 1:
            raise OptionError(
                f"tasks {self.tasks}, rounds {self.rounds}: expected more than {BASE} tasks, and at"
                " least one round"
            )


def measure(setup: Setup, progress: Callable[[str], None] = lambda what: None) -> Report:
    """Runs everything; `progress` hears what is next. Raises OptionError."""
    load_average = os.getloadavg()[0]
    sections: list[Section] = []
    with open_place(setup.store, Path(setup.directory)) as place:
        progress("what the machine allows")
        sections.append(limits(place, setup.rounds))
        path = model(SIZES[setup.size], 0)
        progress(f"publishing a path of size {setup.size}")
        sections += publishing(place, path, setup.rounds)
        progress("loading it")
        sections += loading(place, path, setup.rounds)
        for folder in ("store", "safetensors"):
            place.remove(folder)
        progress(f"{setup.sharing_tasks} tasks that share a path of size {setup.small_size}")
        sections += sharing(place, SIZES[setup.small_size], setup.sharing_tasks)
        progress(f"up to {setup.tasks} tasks")
        sections += many_tasks(place, setup.tasks, setup.calls)
        about = place.about
    found = tuple(sections)
    return Report(about, asdict(setup), load_average, found, targets(found, setup.tasks))
