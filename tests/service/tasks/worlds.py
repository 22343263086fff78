"""A store and a catalog that follows it; a fake loads, which a test can hold up or fail."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from model_store import ModelStore, Published
from service.compute.paths import LoadedPath
from service.errors import Told
from service.metrics.instruments import Metrics
from service.tasks.catalog import Catalog
from service.tasks.eviction import Recency
from service.tasks.loader import Loader
from tests.service.tasks.loads import loaded


@dataclass
class Preparer:
    """Loads nothing; fails for (task, version) in `broken`, waits while `gate` is closed."""

    loads: list[tuple[str, int]] = field(default_factory=list)
    broken: set[tuple[str, int]] = field(default_factory=set)
    gate: threading.Event = field(default_factory=threading.Event)

    def __call__(self, published: Published, *, pinned: bool) -> LoadedPath:
        key = (published.task, published.version)
        self.loads.append(key)
        assert self.gate.wait(60)
        if key in self.broken:
            raise Told("broken on purpose")
        return LoadedPath(published, (), 1.0)


class World:
    """A store and a catalog that follows it."""

    def __init__(self, root: Path) -> None:
        self.now = 100.0
        self.store = ModelStore(root, create=True)
        self.prepare = Preparer()
        self.prepare.gate.set()
        self.metrics = Metrics()
        self.recency = Recency(self.metrics, clock=lambda: self.now)
        self.loader = Loader(
            self.store, self.prepare, self.metrics, self.recency, threads=2, clock=lambda: self.now
        )
        self.catalogs: list[Catalog] = []

    def catalog(self, *preload: str, poll_s: float = 0.02) -> Catalog:
        made = Catalog(self.loader, self.metrics, poll_s=poll_s, preload=preload)
        made.start()
        self.catalogs.append(made)
        return made

    def stop(self) -> None:
        self.prepare.gate.set()
        for catalog in self.catalogs:
            catalog.stop()
        self.loader.close()


def acquire(catalog: Catalog, task: str, version: int | None = None) -> LoadedPath:
    return asyncio.run(loaded(catalog, task, version))


def answers_with(catalog: Catalog, task: str, version: int) -> Callable[[], bool]:
    return lambda: acquire(catalog, task).published.version == version
