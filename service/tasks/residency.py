"""Components in memory by digest: each is read once, verified, and shared by all paths.

Paths hold their components; this file holds only weak references. So a component is freed when the
last path that uses it is gone, and the last row of it in flight. A load first reserves the bytes
that it has to read: components in memory and those being read never exceed the budget together. A
component counts with its bytes in float32, or with its stored bytes if these are more.
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
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np

from model_store import ModelStore, Published
from service.compute.paths import Component, LoadedPath, Mixer, Program, Stage, Walk, elements
from service.metrics.instruments import Metrics
from service.tasks import specs
from service.tasks.eviction import Budget, Key, NoRoom
from service.tasks.specs import Network, Spec, UnservablePath

logger = logging.getLogger(__name__)
HELPERS = 6  # threads that read for all loads, in addition to each load's own
ROOM_WAIT_S = 4.0  # for requests in flight, and loads, to let go of what they hold for a moment
ROOM_LOOK_S = 0.01
MEMORY_LOOK_S = 0.25  # how often is looked whether the machine's memory gets short


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
        self._stopped = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="memory", daemon=True)

    def start(self) -> None:
        """From now on, also evicts when the machine's memory gets short for other reasons."""
        self._watcher.start()

    def close(self) -> None:
        """Ends the threads."""
        self._stopped.set()
        self._helpers.shutdown(cancel_futures=True)

    def _watch(self) -> None:
        while not self._stopped.wait(MEMORY_LOOK_S):
            with self._lock:
                self._budget.make_room(0, self._taken, self._taken)

    def require_room(self, size: int) -> None:
        """Evicts until components leave `size` bytes of the machine's memory; raises NoRoom."""
        with self._lock:
            if not self._budget.make_room(0, self._taken, self._taken, extra=size):
                raise NoRoom(f"its programs need {size} bytes more than are really left")

    def has_spare(self, size: int) -> bool:
        """Whether the machine has `size` bytes more than all that components may take."""
        with self._lock:
            return self._budget.has_spare(size, self._taken())

    def load(self, published: Published, *, pinned: bool = False) -> LoadedPath:
        """Reads what is not resident yet; blocks.

        Raises UnservablePath, OverBudget for a path that can never fit, NoRoom if all else stays
        in use for too long, or StoreError for a missing or corrupt component.
        """
        spec = specs.read(published.path)
        sizes = spec.sizes(published)
        if not pinned:
            self._budget.require(published.task, sizes)
            return self._loaded(published, spec, sizes)
        pin = self._budget.pin(published.task, sizes)
        try:
            path = self._loaded(published, spec, sizes)
        except BaseException:
            self._budget.unpin(pin)
            raise
        weakref.finalize(path, self._budget.unpin, pin).atexit = False
        return path

    def _loaded(self, published: Published, spec: Spec, sizes: Mapping[Key, int]) -> LoadedPath:
        components = self._components(specs.keys_of(published.path), sizes)
        walks = tuple(self._walk(published, network, components) for network in spec.networks)
        mixer = None
        if spec.mixer:
            mixer = Mixer(tuple(spec.mixer.values()), tuple(components[n] for n in spec.mixer))
        cost = sum(map(_cost, walks, spec.networks))
        return LoadedPath(published, walks, cost, mixer)

    def _walk(
        self, published: Published, network: Network, components: Mapping[str, Component]
    ) -> Walk:
        stages = tuple(
            self._stage(program, tuple(components[name] for name in names))
            for program, names in network.stages()
        )
        head, arch = stages[-1].components[-1], network.architecture
        if network.has_head and head.classes != arch.num_classes:
            raise UnservablePath(
                f"loading {published.task!r}: expected a head of {arch.num_classes} classes, "
                f"found one of {head.classes}"
            )
        return Walk(stages, network.target, network.outputs)

    def _components(
        self, keys: Mapping[str, Key], sizes: Mapping[Key, int]
    ) -> dict[str, Component]:
        """Components by name: those in memory, those other loads read, and the rest, read here."""
        claim = self._claim(keys.values(), sizes)
        # The load's own thread reads too, even if no helper does: so it waits for no other load.
        todo = deque((key, sizes[key], future) for key, future in claim.missing.items())
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

    def _claim(self, keys: Collection[Key], sizes: Mapping[Key, int]) -> _Claim:
        """Splits what a path needs by where it is, and reserves room for what has to be read.

        Waits while everything that could be evicted is in use; raises NoRoom after a while.
        """
        give_up_at = time.monotonic() + ROOM_WAIT_S
        while True:
            with self._lock:
                claim = self._look(keys)
                needed = sum(sizes[key] for key in claim.missing)
                # What was found is held meanwhile: no eviction can free it.
                staying = partial(self._staying, claim.found)
                # Each thread that reads holds what it has read once more, until it is placed.
                largest = sorted(sizes[key] for key in claim.missing)[-HELPERS - 1 :]
                extra = sum(largest) + self._reserved
                if self._budget.make_room(needed, self._taken, staying, extra):
                    self._loading.update(claim.missing)
                    self._reserved += needed
                    return claim
            del claim, staying  # must not keep in memory what another load waits for
            if time.monotonic() > give_up_at:
                raise NoRoom(
                    f"{needed} bytes are needed, and all of MUNET_MEMORY_BUDGET or of the memory "
                    "that is really left is in use"
                )
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

    def _staying(self, found: Mapping[Key, Component]) -> int:
        """Bytes that no eviction frees: being read, found by a load, or pinned; under the lock."""
        sizes = {key: component.size_bytes for key, component in found.items()}
        pinned = self._budget.pinned().items()
        sizes |= {key: size for key, size in pinned if key in self._resident}
        return sum(sizes.values()) + self._reserved

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
        tree = self._store.component(digest, limit=size)  # as much as room was reserved for
        found = 4 * elements(tree)
        if found > size:  # no room was reserved for it
            raise UnservablePath(
                f"component {digest}: expected at most {size} bytes in float32, found {found}"
            )
        classes = np.shape(tree["bias"])[0] if kind == "head" else 0  # pyright: ignore
        return Component(digest, size, self._place(kind, tree), classes)

    def usage(self) -> Usage:
        """What is in memory now."""
        with self._lock:
            self._taken()
            return Usage(len(self._resident), self._bytes, self._releases)


def _cost(walk: Walk, network: Network) -> float:
    """Estimated work of one row."""
    size = sum(component.size_bytes for stage in walk.stages for component in stage.components)
    return size / 4 * network.architecture.tokens / 1e6
