"""How often and how long each version of each task has answered, in the form that Triton tells it.

All protocols count: requests where they end, executions where the engine runs them. A version's
numbers go with its task, and of one task only the latest few versions are kept.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.compute.paths import Row
from service.tasks.catalog import Entry
from service.telemetry.requests import Course, Seen
from service.timings import TOTAL

KEPT_VERSIONS = 8  # of a task, those that were used first go first
STAGES = {"queue": "queue", "decode": "compute_input", "execute": "compute_infer"}
# Taking the logits off the device is part of compute_infer, so compute_output is always 0.
DURATIONS = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output")
Run = Callable[[Sequence[Row]], Sequence[NDArray[np.float32]]]


@dataclass(slots=True)
class _Duration:
    count: int = 0
    ns: int = 0

    def add(self, seconds: float) -> None:
        self.count += 1
        self.ns += int(seconds * 1e9)

    def content(self) -> dict[str, int]:
        return {"count": self.count, "ns": self.ns}


@dataclass(slots=True)
class _Counts:
    """Of one version."""

    last_ms: int = 0  # since 1970
    rows: int = 0
    durations: dict[str, _Duration] = field(
        default_factory=lambda: {name: _Duration() for name in DURATIONS}
    )
    batches: dict[int, _Duration] = field(default_factory=dict)  # by rows of this version in it


class Tally:
    """The counts of one gateway; any thread."""

    def __init__(self, entries: Callable[[], Mapping[str, Entry]]) -> None:
        """`entries` are the tasks that there are now."""
        self._entries = entries
        self._lock = threading.Lock()
        self._counts: dict[str, dict[int, _Counts]] = {}

    def counted(self, run: Run) -> Run:
        """The engine's `run`, whose batches are counted."""

        def work(rows: Sequence[Row]) -> Sequence[NDArray[np.float32]]:
            started = time.monotonic()
            answers = run(rows)
            self._executed(rows, time.monotonic() - started)
            return answers

        return work

    def _executed(self, rows: Sequence[Row], seconds: float) -> None:
        sizes = Counter((row.path.published.task, row.path.published.version) for row in rows)
        with self._lock:
            for (task, version), size in sizes.items():
                counts = self._of(task, version)
                if counts is not None:
                    counts.batches.setdefault(size, _Duration()).add(seconds)

    def count(self, seen: Seen) -> None:
        """Counts a request that has ended."""
        course = seen.course if seen.status == 200 else None
        versions = [None] * len(seen.tasks) if course is None else course.versions
        for task, version in zip(seen.tasks, versions, strict=True):
            if course is None or version is None or task in seen.problems:
                self._failed(task, seen.seconds[TOTAL])
            else:
                self._answered(task, version, course, seen.seconds)

    def _answered(
        self, task: str, version: int, course: Course, seconds: Mapping[str, float]
    ) -> None:
        answering = sum(one is not None for one in course.versions)
        with self._lock:
            counts = self._of(task, version)
            if counts is None:
                return
            counts.last_ms = time.time_ns() // 1_000_000
            counts.rows += course.rows // answering
            counts.durations["success"].add(seconds[TOTAL])
            counts.durations["compute_output"].add(0.0)
            for stage, name in STAGES.items():
                counts.durations[name].add(seconds[stage])

    def _failed(self, task: str, took: float) -> None:
        """A refusal counts for the version that answers now: often there was none yet."""
        entry = self._entries().get(task)
        if entry is None:
            return
        with self._lock:
            counts = self._of(task, entry.slot.version)
            if counts is not None:
                counts.durations["fail"].add(took)

    def _of(self, task: str, version: int) -> _Counts | None:
        """None for a task that there is no more: only what is registered takes room."""
        found = self._counts.get(task, {}).get(version)
        if found is None:
            if task not in self._entries():
                return None
            self._drop_removed()
            versions = self._counts.setdefault(task, {})
            found = versions[version] = _Counts()
            if len(versions) > KEPT_VERSIONS:
                del versions[next(iter(versions))]
        return found

    def _drop_removed(self) -> None:
        for task in self._counts.keys() - self._entries().keys():
            del self._counts[task]

    def content(self, tasks: Iterable[str]) -> list[dict[str, Any]]:
        """The statistics of the tasks' versions; zeros of a task that has answered nothing yet.

        The lock is held for one task at a time: what is counted meanwhile waits for no more.
        """
        entries = self._entries()
        with self._lock:
            self._drop_removed()
        found: list[dict[str, Any]] = []
        for task in tasks:
            if task in entries:
                with self._lock:
                    counts = self._counts.get(task) or {entries[task].slot.version: _Counts()}
                    found += [_content(task, *one) for one in counts.items()]
        return found


def _content(task: str, version: int, counts: _Counts) -> dict[str, Any]:
    return {
        "name": task,
        "version": str(version),
        "last_inference": counts.last_ms,
        "inference_count": counts.rows,
        "execution_count": sum(batch.count for batch in counts.batches.values()),
        "inference_stats": {name: one.content() for name, one in counts.durations.items()},
        "batch_stats": [
            {
                "batch_size": size,
                "compute_input": {"count": batch.count, "ns": 0},
                "compute_infer": batch.content(),
                "compute_output": {"count": batch.count, "ns": 0},
            }
            for size, batch in sorted(counts.batches.items())
        ],
    }
