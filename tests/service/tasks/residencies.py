"""Resident components of small stores."""

from __future__ import annotations

import math
import threading
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

from model_store import Digest, ModelStore, Published
from service.compute.paths import LoadedPath
from service.metrics.instruments import Metrics
from service.tasks.eviction import Budget, Recency
from service.tasks.residency import Residency
from tests.service.systems import TINY

BODY = [name for name in TINY.component_names if name != "head"]
LARGE = dict.fromkeys(replace(TINY, num_layers=5).component_names, 9)


class Reader(ModelStore):
    """A store that counts reads, and can hold them up."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, create=True)
        self.reads: list[str] = []
        self.gate = threading.Event()
        self.gate.set()
        self.stuck: set[str] | None = None  # what the gate holds up; None: everything

    def component(self, digest: str, limit: int | None = None) -> Any:
        self.reads.append(digest)
        if self.stuck is None or digest in self.stuck:
            assert self.gate.wait(60)
        return super().component(digest, limit)


def residency(store: ModelStore) -> Residency:
    metrics = Metrics()
    return Residency(store, lambda _, tree: tree, metrics, Budget(math.inf, Recency(metrics)))


def held(published: Published, *names: str) -> int:
    """Bytes in memory of some components, or of all: a head of TINY has 16 classes there."""
    sizes = {**published.sizes, "head": 4 * 16 * (TINY.width + 1)}
    return sum(sizes[name] for name in names or sizes)


def blob(store: ModelStore, digest: Digest) -> Path:
    return Path(store.url) / "blobs" / "sha256" / digest.removeprefix("sha256:")


class Holder:
    """What a slot is to evictions: one path, let go if nobody else holds it."""

    def __init__(self, path: LoadedPath, *, pinned: bool = False) -> None:
        self.path: LoadedPath | None = path
        self.pinned = pinned

    def let_go(self) -> bool:
        held = weakref.ref(self.path)
        self.path = None
        self.path = held()
        return self.path is None
