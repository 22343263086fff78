"""How often and how long each version of each task has answered, in Triton's form.

All protocols count: requests when they end, executions when the engine runs them. A version's
numbers go with its task, and only the latest few versions of a task are kept.
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
from service.request import TOTAL, Request
from service.tasks.entry import Entry

KEPT_VERSIONS = 8  # of a task, those that were used first go first
# Ours -> the protocol's. Taking the logits off the device is part of compute_infer, so its
# compute_output is always 0.
STAGES = {
    TOTAL: "success",
    "queue": "queue",
    "decode": "compute_input",
    "execute": "compute_infer",
}
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
    answered: int = 0  # requests
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))  # of them
    fail: _Duration = field(default_factory=lambda: _Duration())
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
            self.executed(rows, time.monotonic() - started)
            return answers

        return work

    def executed(self, rows: Sequence[Row], seconds: float) -> None:
        """Counts a batch."""
        sizes = Counter((row.path.published.task, row.path.published.version) for row in rows)
        with self._lock:
            for (task, version), size in sizes.items():
                counts = self._of(task, version)
                if counts is not None:
                    counts.batches.setdefault(size, _Duration()).add(seconds)

    def count(self, request: Request) -> None:
        """Counts a request that has ended."""
        answered = request.status == 200 and request.rows
        for place, task in enumerate(request.tasks):
            version = request.versions[place] if answered else None
            if version is None or task in request.problems:
                self._failed(task, request.seconds[TOTAL])
            else:
                self._answered(task, version, request)

    def _answered(self, task: str, version: int, request: Request) -> None:
        images = request.rows // (len(request.versions) - request.versions.count(None))
        with self._lock:
            counts = self._of(task, version)
            if counts is None:
                return
            counts.last_ms = time.time_ns() // 1_000_000
            counts.rows += images
            counts.answered += 1
            for stage in STAGES:
                counts.seconds[stage] += request.seconds[stage]

    def _failed(self, task: str, took: float) -> None:
        """A refusal counts for the version that answers now, as its own is often not known."""
        entry = self._entries().get(task)
        if entry is None:
            return
        with self._lock:
            counts = self._of(task, entry.slot.version)
            if counts is not None:
                counts.fail.add(took)

    def _of(self, task: str, version: int) -> _Counts | None:
        """None for a removed task: only tasks that exist take memory."""
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
        """The statistics of the tasks' versions; zeros for a task that has not answered yet.

        The lock is held for one task at a time, so that counting never waits for long.
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
        "inference_stats": _durations(counts),
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


def _durations(counts: _Counts) -> dict[str, Any]:
    answered = {
        name: {"count": counts.answered, "ns": int(counts.seconds[stage] * 1e9)}
        for stage, name in STAGES.items()
    }
    return {
        "success": answered.pop("success"),
        "fail": counts.fail.content(),
        **answered,
        "compute_output": {"count": counts.answered, "ns": 0},
    }
