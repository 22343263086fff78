"""Components in memory by digest: each is read once, verified, and shared by all paths.

Paths hold their components; here are only weak references, so a component is freed exactly when
the last path that uses it is gone, rows in flight included. What stays loaded is the catalog's
decision.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

import numpy as np

from model_store import Digest, ModelStore, Published
from service.metrics import Metrics
from service.paths import Component, LoadedPath, Program, Stage, cut
from vit import Architecture, kind_of
from vit.preprocess import CONTRACT

logger = logging.getLogger(__name__)
READERS = 4  # components read at once


class UnservablePath(Exception):
    """A published path that this gateway cannot run; the message says why."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What is in memory, and how many components have been freed since the start."""

    components: int
    size_bytes: int
    releases: int


class Residency:
    """Loads paths; safe to call from several threads."""

    def __init__(
        self, store: ModelStore, place: Callable[[str, Any], Any], metrics: Metrics
    ) -> None:
        """`place(kind, tree)` puts a component's arrays on the device, as the engine wants them."""
        self._store = store
        self._place = place
        self._metrics = metrics
        self._lock = threading.Lock()
        self._loading: dict[tuple[str, Digest], Future[Component]] = {}
        self._resident: weakref.WeakValueDictionary[tuple[str, Digest], Component] = (
            weakref.WeakValueDictionary()
        )
        self._stages: weakref.WeakValueDictionary[tuple[Program, tuple[Component, ...]], Stage] = (
            weakref.WeakValueDictionary()
        )
        self._loads = 0
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="read")

    def close(self) -> None:
        """Ends the threads that read."""
        self._readers.shutdown(cancel_futures=True)

    def load(self, published: Published) -> LoadedPath:
        """Reads what is not resident yet; blocks.

        Raises UnservablePath, or StoreError for a missing or corrupt component.
        """
        arch = self._architecture(published)
        components = self._components(published.path.components)
        stages = tuple(
            self._stage(program, tuple(components[name] for name in names))
            for program, names in cut(arch)
        )
        head = stages[-1].components[-1]
        if head.classes != arch.num_classes:
            raise UnservablePath(
                f"loading {published.task!r}: expected a head of {arch.num_classes} classes, "
                f"found one of {head.classes}"
            )
        size = sum(component.size_bytes for stage in stages for component in stage.components)
        return LoadedPath(published, stages, arch.image_size, size / 4 * arch.tokens / 1e6)

    def _architecture(self, published: Published) -> Architecture:
        path = published.path
        try:
            arch = Architecture.from_json(path.architecture)
        except ValueError as error:
            raise UnservablePath(f"loading {path.task!r}: {error}") from None
        for what, expected, found in (
            ("components", arch.component_names, tuple(path.components)),
            ("input", {"size": arch.image_size, **CONTRACT}, dict(path.input)),
            ("number of labels", arch.num_classes, len(path.labels)),
        ):
            if expected != found:
                raise UnservablePath(
                    f"loading {path.task!r}: expected {what} {expected}, found {found}; "
                    "publish it again with a path spec that fits its architecture"
                )
        return arch

    def _components(self, digests: Mapping[str, Digest]) -> dict[str, Component]:
        """Components by name, read at once: each waits for a disk or a network, and for a core."""
        reads = {
            name: self._readers.submit(self._component, kind_of(name), digest)
            for name, digest in digests.items()
        }
        wait(reads.values())
        error = next((e for read in reads.values() if (e := read.exception())), None)
        if error is not None:
            reads.clear()  # the error's traceback holds this frame, which must hold no components
            raise error
        return {name: read.result() for name, read in reads.items()}

    def _stage(self, program: Program, components: tuple[Component, ...]) -> Stage:
        with self._lock:
            stage = self._stages.get((program, components))
            if stage is None:
                stage = self._stages[program, components] = Stage(program, components)
            return stage

    def _component(self, kind: str, digest: Digest) -> Component:
        """The kind is part of the key because it decides the layout on the device."""
        key = (kind, digest)
        with self._lock:
            resident = self._resident.get(key)
            if resident is not None:
                return resident
            loading = self._loading.get(key)
            mine = self._loading[key] = Future[Component]() if loading is None else loading
        return self._read(key, mine) if loading is None else mine.result()

    def _read(self, key: tuple[str, Digest], mine: Future[Component]) -> Component:
        kind, digest = key
        started = time.monotonic()
        try:
            tree = self._store.component(digest)
            classes = np.shape(tree["bias"])[0] if kind == "head" else 0  # pyright: ignore
            weights = self._place(kind, tree)
            component = Component(digest, self._store.size(digest), weights, classes)
        except BaseException as error:
            with self._lock:
                del self._loading[key]
            mine.set_exception(error)
            raise
        with self._lock:
            self._resident[key] = component
            self._loads += 1
            del self._loading[key]
        mine.set_result(component)
        self._metrics.component_loads.inc()
        self._metrics.component_load_seconds.observe(time.monotonic() - started)
        return component

    def usage(self) -> Usage:
        """What is in memory now."""
        with self._lock:
            resident = list(self._resident.values())
            loads = self._loads
        size = sum(component.size_bytes for component in resident)
        return Usage(len(resident), size, loads - len(resident))
