"""Components in memory by digest: each is read once, verified, and shared by all paths.

Paths hold their components; here are only weak references, so a component is freed exactly when
the last path that uses it is gone, rows in flight included. A load first reserves the bytes that it
has to read: what is in memory and what is being read never exceed the budget together.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any, cast

import numpy as np

from model_store import Digest, ModelStore, Published
from service.compute.paths import Component, LoadedPath, Program, Stage, cut
from service.tasks.eviction import Budget, NoRoom
from service.telemetry.metrics import Metrics
from vit import Architecture, kind_of
from vit.preprocess import CONTRACT

logger = logging.getLogger(__name__)
Key = tuple[str, Digest]  # with the kind, which decides the layout on the device
HELPERS = 6  # threads that read for all loads, beside each load's own
ROOM_WAIT_S = 2.0  # for requests in flight to let go of what may then be evicted
ROOM_LOOK_S = 0.01


class UnservablePath(Exception):
    """A published path that this gateway cannot run; the message says why."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What is in memory, and how many components have been freed since the start."""

    components: int
    size_bytes: int
    releases: int


@dataclass(slots=True)
class _Claim:
    """Where a load gets its components from."""

    found: dict[Key, Component] = field(default_factory=dict)
    awaited: dict[Key, Future[Component]] = field(default_factory=dict)  # some load reads them
    missing: dict[Key, Future[Component]] = field(default_factory=dict)  # this load reads them


class Residency:
    """Loads paths; safe to call from several threads."""

    def __init__(
        self,
        store: ModelStore,
        place: Callable[[str, Any], Any],
        metrics: Metrics,
        budget: Budget,
    ) -> None:
        """`place(kind, tree)` puts a component's arrays on the device, as the engine wants them."""
        self._store = store
        self._place = place
        self._metrics = metrics
        self._budget = budget
        self._lock = threading.Lock()
        self._loading: dict[Key, Future[Component]] = {}
        self._resident: dict[Key, weakref.ref[Component]] = {}
        # Of components freed: (key, bytes, reference). A component may be freed anywhere, also by a
        # thread that holds the lock: SimpleQueue is made for that.
        self._freed: SimpleQueue[tuple[Key, int, weakref.ref[Component]]] = SimpleQueue()
        self._stages: weakref.WeakValueDictionary[tuple[Program, tuple[Component, ...]], Stage] = (
            weakref.WeakValueDictionary()
        )
        self._bytes = 0  # of components in memory
        self._reserved = 0  # bytes of components being read
        self._releases = 0
        self._helpers = ThreadPoolExecutor(HELPERS, thread_name_prefix="read")

    def close(self) -> None:
        """Ends the threads that read."""
        self._helpers.shutdown(cancel_futures=True)

    def load(self, published: Published, *, pinned: bool = False) -> LoadedPath:
        """Reads what is not resident yet; blocks.

        Raises UnservablePath, OverBudget for a path that can never fit, NoRoom where all else is in
        use for too long, or StoreError for a missing or corrupt component.
        """
        arch = self._architecture(published)
        path = published.path
        sizes = {path.components[name]: size for name, size in published.sizes.items()}
        self._budget.require(published.task, sizes, pinned=pinned)
        keys = {name: (kind_of(name), digest) for name, digest in path.components.items()}
        components = self._components(keys, sizes)
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

    def _components(
        self, keys: Mapping[str, Key], sizes: Mapping[Digest, int]
    ) -> dict[str, Component]:
        """Components by name: those in memory, those other loads read, and the rest, read here."""
        claim = self._claim(keys.values(), sizes)
        # The load's own thread reads whatever the helpers do, so that it waits for no other load.
        todo = deque((key, sizes[key[1]], future) for key, future in claim.missing.items())
        with suppress(RuntimeError):  # the gateway is stopping
            for _ in range(min(HELPERS, len(todo)) - 1):
                self._helpers.submit(self._read_some, todo)
        self._read_some(todo)
        futures = {**claim.missing, **claim.awaited}
        error = next((e for e in [future.exception() for future in futures.values()] if e), None)
        if error is not None:  # its traceback holds this frame, which must hold no components
            claim = futures = None
            raise error
        found = {**claim.found, **{key: future.result() for key, future in futures.items()}}
        return {name: found[key] for name, key in keys.items()}

    def _claim(self, keys: Collection[Key], sizes: Mapping[Digest, int]) -> _Claim:
        """Splits what a path needs, with room reserved for what has to be read.

        Waits while all that could be evicted is in use, and raises NoRoom if that takes too long.
        """
        give_up_at = time.monotonic() + ROOM_WAIT_S
        while True:
            with self._lock:
                claim = self._look(keys)
                needed = sum(sizes[digest] for _, digest in claim.missing)
                # What was found is held meanwhile: no eviction can free it.
                if self._budget.make_room(needed, self._taken):
                    self._loading.update(claim.missing)
                    self._reserved += needed
                    return claim
            del claim  # must not keep in memory what another load waits for
            if time.monotonic() > give_up_at:
                raise NoRoom(f"{needed} bytes are needed and all of MUNET_MEMORY_BUDGET is in use")
            time.sleep(ROOM_LOOK_S)

    def _look(self, keys: Collection[Key]) -> _Claim:
        claim = _Claim()
        for key in keys:
            reference = self._resident.get(key)
            component = None if reference is None else reference()
            if component is not None:
                claim.found[key] = component
            elif key in self._loading:
                claim.awaited[key] = self._loading[key]
            else:
                claim.missing[key] = Future()
        return claim

    def _taken(self) -> int:
        """Bytes in memory or being read; under the lock."""
        with suppress(Empty):
            while True:
                key, size, reference = self._freed.get_nowait()
                self._bytes -= size
                self._releases += 1
                if self._resident.get(key) is reference:  # else it has been read again since
                    del self._resident[key]
        return self._bytes + self._reserved

    def _stage(self, program: Program, components: tuple[Component, ...]) -> Stage:
        with self._lock:
            stage = self._stages.get((program, components))
            if stage is None:
                stage = self._stages[program, components] = Stage(program, components)
            return stage

    def _read_some(self, todo: deque[tuple[Key, int, Future[Component]]]) -> None:
        with suppress(IndexError):
            while True:
                self._read(*todo.popleft())

    def _read(self, key: Key, size: int, future: Future[Component]) -> None:
        started = time.monotonic()
        try:
            component = self._component(key, size)
        except BaseException as error:
            with self._lock:
                self._reserved -= size
                del self._loading[key]
            future.set_exception(error)
            return
        with self._lock:
            self._reserved -= size
            self._bytes += size
            self._resident[key] = weakref.ref(
                component, lambda reference: self._freed.put((key, size, reference))
            )
            del self._loading[key]
        future.set_result(component)
        self._metrics.component_loads.inc()
        self._metrics.component_load_seconds.observe(time.monotonic() - started)

    def _component(self, key: Key, size: int) -> Component:
        kind, digest = key
        tree = self._store.component(digest)
        found = _array_bytes(tree)
        if found > size:  # the manifest is somebody's word, and room was reserved by it
            raise UnservablePath(f"component {digest}: expected {size} bytes, found {found}")
        classes = np.shape(tree["bias"])[0] if kind == "head" else 0  # pyright: ignore
        return Component(digest, size, self._place(kind, tree), classes)

    def usage(self) -> Usage:
        """What is in memory now."""
        with self._lock:
            self._taken()
            return Usage(len(self._resident), self._bytes, self._releases)


def _array_bytes(tree: Any) -> int:
    if isinstance(tree, Mapping):
        return sum(map(_array_bytes, cast(Mapping[str, Any], tree).values()))
    return tree.nbytes
