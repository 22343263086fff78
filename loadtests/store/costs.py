"""What single operations of a store cost: time, and calls of the system or requests.

Every operation is made in a store of many tasks. Only what happens in this process is counted.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from loadtests.errors import OptionError
from loadtests.store.place import Place, open_place
from loadtests.store.report import Line, Report, Section
from loadtests.store.sample import model, task_path
from loadtests.store.tasks import COMPONENTS, fill
from loadtests.store.timing import median
from model_store import ModelStore
from model_store.upkeep import collect_garbage

TASK = "task/00000"
GARBAGE = 100  # blobs
LISTED_AT_ONCE = 1000  # objects, by one request


@dataclass(frozen=True, slots=True)
class CostSetup:
    """What to measure."""

    directory: str = "."  # on the disk to be measured
    store: str | None = None  # URL of an object store, instead of the directory
    tasks: int = 10_000
    rounds: int = 7
    collections: int = 3  # of each kind

    def __post_init__(self) -> None:
        """Raises OptionError."""
        if min(self.tasks, self.rounds, self.collections) < 1:
            raise OptionError(
                f"tasks {self.tasks}, rounds {self.rounds}: expected at least one of each"
            )


def measure_costs(setup: CostSetup, progress: Callable[[str], None] = lambda what: None) -> Report:
    """Runs everything; `progress` hears what is next. Raises OptionError."""
    load_average = os.getloadavg()[0]
    late = {"MUNET_STORE_LATE_S": "0"}  # else no gc removes anything within half an hour
    with open_place(setup.store, Path(setup.directory)) as place, patch.dict(os.environ, late):
        progress(f"making a store of {setup.tasks} tasks")
        fill(place, "costs", setup.tasks)
        progress("single operations")
        section = Section(
            "costs",
            f"Operations in a store of {setup.tasks:,} tasks; the median of {setup.rounds}",
            tuple(_costs(place, setup)),
            f"A path has {len(model(COMPONENTS, 0).components)} small components.",
        )
        about = place.about
    return Report(about, asdict(setup), load_average, (section,), ())


def _costs(place: Place, setup: CostSetup) -> Iterator[Line]:
    store = ModelStore(place.url("costs"))
    found: dict[str, list[tuple[float, Counter[str]]]] = {}
    for number in range(setup.rounds):
        for name, operation in _operations(store, number).items():
            found.setdefault(name, []).append(_measured(place, operation))
    for _ in range(setup.collections):
        for name, measured in _collect(place, store):
            found.setdefault(name, []).append(measured)
    for name, rounds in found.items():
        seconds = [spent for spent, _ in rounds]
        kinds = dict.fromkeys(kind for _, _, kind in place.calls())
        counts = {kind: median([float(calls[kind]) for _, calls in rounds]) for kind in kinds}
        yield Line(name, {"median ms": 1000 * median(seconds), **counts})


def _operations(store: ModelStore, number: int) -> Mapping[str, Callable[[], object]]:
    """In the order in which they are made."""
    components = dict(store.resolve(TASK).path.components)
    trees = model(COMPONENTS, 0).components
    head = np.full((4, 8), number + 1, np.float32)

    def publish() -> None:
        own = {**components, "head": store.put(head)}
        store.publish(task_path(TASK, own, revision=2 * number + 1))

    def publish_all() -> None:
        put = {name: store.put(tree) for name, tree in trees.items()}
        store.publish(task_path(TASK, put, revision=2 * number + 2))

    return {
        "publish, all but a head is there": publish,
        "publish, all components put again": publish_all,
        "rollback": lambda: store.rollback(TASK, 1),
        "alias": lambda: store.alias(TASK, f"name-{number}", 1),
        "pin": lambda: store.pin("pin", store.version(TASK, 1)),
        "unpin": lambda: store.unpin("pin"),
        "rm of a version": lambda: store.rm(TASK, 2 * number + 2),
        "save an agent's state": lambda: store.save_agent("agent", {"number": number}, []),
    }


def _collect(place: Place, store: ModelStore) -> Iterator[tuple[str, tuple[float, Counter[str]]]]:
    collect_garbage(store, grace_s=0)
    yield "gc, nothing to remove", _measured(place, lambda: collect_garbage(store, grace_s=0))
    for number in range(GARBAGE):
        store.put(np.full(3, number, np.float32))
    yield f"gc of {GARBAGE} blobs", _measured(place, lambda: collect_garbage(store, grace_s=0))


def _measured(place: Place, operation: Callable[[], object]) -> tuple[float, Counter[str]]:
    with counted(place) as calls:
        start = time.perf_counter()
        operation()
        spent = time.perf_counter() - start
    return spent, calls


@contextmanager
def counted(place: Place) -> Iterator[Counter[str]]:
    """Count what is called meanwhile."""
    calls: Counter[str] = Counter()
    with ExitStack() as stack:
        for module, name, kind in place.calls():
            count = _counted_list if name == "list" else _counted
            function = count(getattr(module, name), kind, calls)
            stack.enter_context(patch.object(module, name, function))
        yield calls


def _counted(function: Callable[..., Any], kind: str, calls: Counter[str]) -> Callable[..., Any]:
    def call(*arguments: Any, **named: Any) -> Any:
        calls[kind] += 1
        return function(*arguments, **named)

    return call


def _counted_list(
    function: Callable[..., Any], kind: str, calls: Counter[str]
) -> Callable[..., Any]:
    def listed(*arguments: Any, **named: Any) -> Iterator[Any]:
        calls[kind] += 1
        objects = 0
        for batch in function(*arguments, **named):
            objects += len(batch)
            yield batch
        calls[kind] += max(0, objects - 1) // LISTED_AT_ONCE

    return listed
