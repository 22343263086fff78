"""The costs of an agent's calls on a store: each timed alone, and by many callers at once.

The callers are processes of this machine. Their own processor time is subtracted, since every agent
has its own machine. What the store's server computes here counts as its work.
"""

from __future__ import annotations

import multiprocessing
import os
import secrets
import shutil
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier

import numpy as np

from evolution.agents.publication_index import PublicationIndex
from loadtests.agents.simulation import Cost, Costs
from model_store import Digest, ModelStore, TaskPath
from model_store.blobs import key_of
from model_store.files.leases import LEASE_S
from model_store.files.opening import open_storage
from model_store.files.protocol import Unneeded
from model_store.reading import load_manifest

PROCESSES, THREADS = 4, 4  # callers at once: enough to keep a server of one machine busy
ROUNDS = 15
VERSIONS_PER_TASK = 3
PATHS = 8  # in a larger state
ROWS = 32  # in a larger part of the index
READING = ("fetch", "load")  # calls that read components, so sizes matter
SAVING = ("put", "save", "save_paths", "part", "add", "add_to_rows")  # and parts of the index


@dataclass(frozen=True, slots=True)
class Child:
    """What an agent stores for one child, as in measured runs."""

    components: int  # of a path
    trained: int  # of them
    trained_bytes: int  # in all; momenta take half as much


class Client:
    """An agent's calls. Each call stores new data."""

    def __init__(self, url: str, child: Child, call: str) -> None:
        """`call` is the name of the call."""
        self._url, self._child = url, child
        self._store, self._storage = ModelStore(url), open_storage(url)
        self._name = f"scaling/{secrets.token_hex(4)}"
        self._random = np.random.default_rng(secrets.randbits(64))
        self._calls = 0
        state = child.components + PATHS * 2 * child.trained  # momenta too
        size = 1.0 if call in READING else 0.0
        self._digests = [self._put(size) for _ in range(state)]
        self._index = PublicationIndex(self._store)
        self._parts = [self._put_part(1)] if call in SAVING else []
        self._larger = self._put_part(ROWS) if call == "part_of_rows" else None

    def _put(self, part: float) -> Digest:
        """Stores a new component with this share of a trained component's bytes."""
        size = int(self._child.trained_bytes / self._child.trained * part / 4)
        return self._store.put({"kernel": self._random.random(max(size, 1), np.float32)})

    def _count(self) -> int:
        self._calls += 1
        return self._calls

    def look(self) -> None:
        """Looks for what is new where nothing is."""
        self._index.look()

    def read_anew(self) -> None:
        """Reads all publications, knowing none."""
        shutil.rmtree(os.environ["MUNET_CACHE"], ignore_errors=True)
        ModelStore(self._url).publications()

    def part(self) -> None:
        """Reads a part of the index that holds one publication."""
        self._read_part(self._parts[0])

    def part_of_rows(self) -> None:
        """Reads one of ROWS publications."""
        self._read_part(self._larger or self._parts[0])

    def _read_part(self, part: Digest) -> None:
        document = load_manifest(self._store.blobs, part).layers[0]
        for blob in (part, document.digest):
            self._storage.forget(key_of(blob))
        self._store.part(part)

    def add(self) -> None:
        """Adds a publication to the index, to a part that holds no other."""
        self._add(1)

    def add_to_rows(self) -> None:
        """Adds one to a part of ROWS publications."""
        self._add(ROWS)

    def _add(self, rows: int) -> None:
        self._parts = [*self._parts[-1:], self._put_part(rows)]
        self._save([])

    def _put_part(self, rows: int) -> Digest:
        """A part of the index with this many publications; the components of one are new."""
        new = [self._put(0.0) for _ in range(2 * self._child.trained)]  # with momenta
        row = {"path": self._path(self._count()).to_json(), "sizes": {}}
        return self._store.put_part({str(i): row for i in range(rows)}, [*self._digests, *new])

    def fetch(self) -> None:
        """Reads the components that only a foreign parent has."""
        for digest in self._digests[: self._child.trained]:
            self._store.component(digest)
            self._storage.forget(key_of(digest))

    def load(self) -> None:
        """Reads the components that a child shares, which were read before."""
        for digest in self._digests[self._child.trained : self._child.components]:
            self._store.component(digest)

    def put(self) -> None:
        """Stores a child's trained components and their momenta, and a state with them."""
        new = [self._put(part) for _ in range(self._child.trained) for part in (1.0, 0.5)]
        self._save([*self._digests[: self._child.components], *new])

    def save(self) -> None:
        """Replaces a state that refers to the components of a root."""
        self._save(self._digests[: self._child.components])

    def save_paths(self) -> None:
        """Replaces a state that also refers to PATHS own paths."""
        self._save(self._digests)

    def _save(self, digests: list[Digest]) -> None:
        document = {"calls": self._count()}
        self._store.save_agent(self._name, document, digests, parts=self._parts)

    def publish(self) -> None:
        """Adds a version."""
        self._store.publish(self._path(self._count()), live=False)

    def _path(self, call: int) -> TaskPath:
        names = (f"component_{i}" for i in range(self._child.components))
        return TaskPath(
            task=f"{self._name}-{call // VERSIONS_PER_TASK}",
            labels=("a", "b"),
            architecture={},
            components=dict(zip(names, self._digests, strict=False)),
            input={},
            hyperparameters={},
            metrics={},
            parameters={},
            lineage={"agent": self._name, "call": call},
        )

    def read(self) -> None:
        """Reads a small file."""
        self._storage.read(self._key)

    def swap(self) -> None:
        """Reads a small file and replaces it."""
        current = self._storage.read(self._key)
        self._storage.replace(self._key, secrets.token_bytes(16), current and current.version)

    @property
    def _key(self) -> str:
        return f"leases/{self._name}"


def measure(url: str, child: Child, seconds: float = 2.0) -> Costs:
    """Creates a store at `url`, measures it and removes it.

    Many callers make each call for `seconds` seconds. Raises StoreError; ValueError if there is
    something at `url` already.
    """
    storage = open_storage(url)
    if storage.exists() or next(storage.walk(""), None):
        raise ValueError(f"measuring at {url}: there is something already; name an empty place")
    ModelStore(url, create=True)
    context = multiprocessing.get_context(
        "spawn"
    )  # a fork would copy locked locks of JAX's threads
    try:
        with (
            tempfile.TemporaryDirectory() as cache,
            ProcessPoolExecutor(
                PROCESSES, context, _begin, (context.Barrier(PROCESSES), cache)
            ) as pool,
        ):
            return _Measurement(pool, url, child, seconds).costs()
    finally:
        storage.remove([entry.key for entry in storage.walk("")], Unneeded())


class _Measurement:
    """One store, and the processes that call it."""

    def __init__(self, pool: ProcessPoolExecutor, url: str, child: Child, seconds: float) -> None:
        self._pool, self._url, self._child, self._seconds = pool, url, child, seconds
        self.calls = 0  # of the latest kind, over all callers

    def costs(self) -> Costs:
        read, swap = self._cost("read"), self._cost("swap")
        fetch, load, put = self._cost("fetch"), self._cost("load"), self._cost("put")
        save, larger = self._cost("save"), self._cost("save_paths")
        part, rows = self._cost("part"), self._cost("part_of_rows")
        add, to_rows = self._cost("add"), self._cost("add_to_rows")
        empty = self._cost("look")
        publish = self._cost("publish")
        versions = self.calls
        full, first = self._cost("look"), self._cost("read_anew")
        return Costs(
            look=empty,
            per_task=_difference(full, empty, max(versions // VERSIONS_PER_TASK, 1)),
            part=part,
            per_row=_difference(rows, part, ROWS - 1),
            new=_difference(first, read, versions),
            add=add,
            per_added=_difference(to_rows, add, ROWS - 1),
            fetch=fetch,
            load=load,
            put=put,
            save=save,
            per_path=_difference(larger, save, PATHS),
            publish=publish,
            read=read,
            replace=_difference(swap, read, 1),
            renewals=6 / LEASE_S if "://" in open_storage(self._url).url else 0.0,
        )

    def _cost(self, call: str) -> Cost:
        args = (self._url, self._child, call)
        alone = self._pool.submit(_alone, *args).result()
        every = [self._pool.submit(_saturated, *args, self._seconds) for _ in range(PROCESSES)]
        calls, own, elapsed = np.asarray([caller.result() for caller in every]).T
        self.calls = 1 + ROUNDS + PROCESSES * THREADS + int(calls.sum())
        rate = float((calls / elapsed).sum())
        busy = float((own / elapsed).sum()) / (os.cpu_count() or 1)  # with what callers compute
        return Cost(statistics.median(alone), max(1 - busy, 0.0) / rate)


def _difference(larger: Cost, smaller: Cost, count: int) -> Cost:
    """The cost per item; 0 if noise makes it negative."""
    seconds, work = larger.seconds - smaller.seconds, larger.work - smaller.work
    return Cost(max(seconds, 0.0), max(work, 0.0)) * (1 / count)


# -- in the callers' processes

_barrier: Barrier


def _begin(barrier: Barrier, cache: str) -> None:
    global _barrier
    _barrier = barrier
    os.environ["MUNET_CACHE"] = f"{cache}/{os.getpid()}"


def _alone(url: str, child: Child, call: str) -> list[float]:
    """Seconds of each of some calls by one caller."""
    client = Client(url, child, call)
    _timed(client, call)  # the first one reads what the store has
    return [_timed(client, call) for _ in range(ROUNDS)]


def _saturated(url: str, child: Child, call: str, seconds: float) -> tuple[int, float, float]:
    """The number of calls by some threads, their processor time here, and the time."""
    with ThreadPoolExecutor(THREADS) as threads:
        clients = list(threads.map(lambda _: Client(url, child, call), range(THREADS)))
        list(threads.map(lambda client: _timed(client, call), clients))
        _barrier.wait()
        cpu, started = time.process_time(), time.monotonic()

        def work(client: Client) -> int:
            calls = 0
            while calls == 0 or time.monotonic() < started + seconds:
                _timed(client, call)
                calls += 1
            return calls

        calls = sum(threads.map(work, clients))
        return calls, time.process_time() - cpu, time.monotonic() - started


def _timed(client: Client, call: str) -> float:
    started = time.perf_counter()
    getattr(client, call)()
    return time.perf_counter() - started
