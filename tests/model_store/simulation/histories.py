"""One history: what several processes do to one store, and whether what was acknowledged is so."""

from __future__ import annotations

import atexit
import importlib
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from model_store import (
    ModelStore,
    StoreError,
    TaskPath,
    UnknownTask,
    leases,
    objects,
)
from model_store.storage import TooLarge
from tests.model_store.simulation.bucket import TRIES, Bucket, Client
from tests.model_store.simulation.disk import Disk
from tests.model_store.simulation.world import CALM, NeverEnds, Weather, World

Script = list[tuple[str, tuple[Any, ...]]]  # operations with their arguments
LATE_S = 600.0
BEGAN = 1_700_000_000.0 - 100_000  # when the store of each history was made
WEATHERS = (
    Weather(),
    Weather(kill=0.004),
    Weather(stop=0.01),
    Weather(interrupt=0.006),
    Weather(fail=0.01),
    Weather(lose=0.03, late=0.01),
    Weather(lie=0.03),
    Weather(kill=0.002, interrupt=0.003, stop=0.004, fail=0.003, lose=0.01, late=0.01),
)


@dataclass
class Op:
    """One operation of one process."""

    process: str
    name: str
    arguments: tuple[Any, ...]
    start: int = 0
    end: float = float("inf")  # never, if the process died in it
    done: bool = False  # it was acknowledged
    result: Any = None
    error: str = ""

    def __str__(self) -> str:
        outcome = f"= {self.result}" if self.done else f"! {self.error or 'killed'}"
        return f"{self.process}[{self.start}-{self.end}] {self.name}{self.arguments} {outcome}"


@dataclass
class Found:
    """What is wrong with the end of a history, and how it came to it."""

    seed: int
    where: str
    wrong: list[str]
    operations: list[Op]
    trace: list[str]


def path(task: str, seed: int, components: dict[str, Any]) -> TaskPath:
    """A small path; equal seeds give equal paths."""
    return TaskPath(
        task=task,
        components=components,
        labels=("a", "b"),
        architecture={"size": 1},
        input={"size": 1},
        hyperparameters={"seed": seed},
        metrics={},
        parameters={},
        lineage={},
    )


class Actor:
    """What a process can do; every operation is noted."""

    def __init__(self, world: World, url: str, name: str, operations: list[Op]) -> None:
        self._world = world
        self._url = url
        self._name = name
        self._operations = operations
        self.store: Any = None

    def run(self, script: Script) -> None:
        """One operation after the other, until one is interrupted."""
        self.store = ModelStore(self._url)
        for name, arguments in script:
            if self.perform(name, arguments):
                return

    def perform(self, name: str, arguments: tuple[Any, ...]) -> bool:
        """Whether it was interrupted."""
        op = Op(self._name, name, arguments, start=self._world.turn)
        self._operations.append(op)
        try:
            op.result = getattr(self, name)(*arguments)
            op.done = True
        except KeyboardInterrupt:
            op.error = "interrupted"
        except (StoreError, OSError) as error:
            op.error = f"{type(error).__name__}: {error}"[:200]
        op.end = self._world.turn
        return op.error == "interrupted"

    def put(self, seed: int) -> Any:
        return self.store.put({"k": np.full(2, seed, np.float32)})

    def publish(self, task: str, seed: int) -> Any:
        components = {"body": self.put(0), "head": self.put(seed)}
        published = self.store.publish(path(task, seed, components))
        return published.version, published.digest

    def rollback(self, task: str, version: int) -> Any:
        return self.store.rollback(task, version).version

    def alias(self, task: str, name: str, version: int) -> Any:
        return self.store.alias(task, name, version).version

    def rm(self, task: str, version: int | None) -> Any:
        self.store.rm(task, version)

    def pin(self, name: str, manifest: str) -> Any:
        self.store.pin(name, manifest)
        return manifest

    def unpin(self, name: str) -> Any:
        self.store.unpin(name)

    def save(self, agent: str, seed: int) -> Any:
        return self.store.save_agent(agent, {"seed": seed}, [self.put(100 + seed)])

    def gc(self, grace_s: float) -> Any:
        return len(self.store.gc(grace_s=grace_s).removed)

    def look(self, task: str) -> Any:
        """Reads all of what is live."""
        published = self.store.resolve(task)
        for digest in published.path.components.values():
            self.store.component(digest)
        return published.version


def begin(url: str) -> dict[str, Any]:
    """A store with several versions of two tasks, an agent and garbage; what it holds."""
    actor = Actor(World(0, LATE_S), url, "first", [])
    actor.store = ModelStore(url, create=True)
    digests = [actor.publish("t", seed)[1] for seed in (1, 2, 3)]
    actor.publish("u", 1)
    actor.publish("u", 4)
    actor.rollback("u", 1)
    actor.rm("u", 2)
    actor.rollback("t", 2)
    state = actor.save("a", 1)
    actor.put(9)
    actor.alias("t", "stable", 1)
    return {"digests": digests, "state": state}


KINDS = {
    "publish": 6,
    "rollback": 3,
    "rm": 4,
    "gc": 5,
    "save": 3,
    "pin": 2,
    "unpin": 1,
    "alias": 1,
    "look": 1,
}


def scripts_of(world: World, known: dict[str, Any], grace_s: float) -> list[Script]:
    """Operations for each of some processes: of few kinds, on few things, so that they meet."""
    random = world.random
    kinds = random.sample(list(KINDS), random.randint(2, 5))
    weights = [KINDS[kind] for kind in kinds]
    tasks = random.choice(("t", "t", "u", "tu"))
    seeds = random.sample(range(1, 5), random.randint(1, 3))
    numbers = random.sample(range(1, 5), random.randint(1, 3))
    arguments: dict[str, Callable[[], tuple[Any, ...]]] = {
        "publish": lambda: (random.choice(tasks), random.choice(seeds)),
        "rollback": lambda: (random.choice(tasks), random.choice(numbers)),
        "rm": lambda: (random.choice(tasks), random.choice([*numbers, *numbers, None])),
        "gc": lambda: (grace_s,),
        "save": lambda: ("a", random.choice(seeds)),
        "pin": lambda: ("p", known["digests"][random.choice(seeds) % 3]),
        "unpin": lambda: ("p",),
        "alias": lambda: ("t", "stable", random.choice(numbers)),
        "look": lambda: (random.choice(tasks),),
    }

    def one() -> Script:
        drawn = random.choices(kinds, weights, k=random.randint(1, 4))
        return [(kind, arguments[kind]()) for kind in drawn]

    return [one() for _ in range(random.randint(2, 4))]


_BUCKET: list[tuple[dict[str, tuple[bytes, float]], dict[str, Any]]] = []  # made once
_DISK: list[tuple[str, dict[str, Any]]] = []


class History:
    """Plays one history."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.world = World(seed, LATE_S)
        self.where = self.world.random.choice(("disk", "bucket"))
        self.operations: list[Op] = []
        self.wrong: list[str] = []
        self._known: dict[str, Any] = {}
        self._disk: Disk | None = None

    def play(self, scripts: list[Script] | None = None) -> Found | None:
        """What is wrong at its end; None if nothing is."""
        with self._place() as url, self._virtual():
            try:
                self._play(url, scripts)
            except NeverEnds:
                self.wrong.append("it never ends")
        if not self.wrong:
            return None
        return Found(self.seed, self.where, self.wrong, self.operations, self.world.trace)

    def _play(self, url: str, scripts: list[Script] | None) -> None:
        world, known = self.world, self._known
        world.weather = world.random.choice(WEATHERS)
        grace_s = LATE_S if self.where == "bucket" else world.random.choice((0.0, 5.0))
        if scripts is None:
            scripts = scripts_of(world, known, grace_s)
        for index, lines in enumerate(scripts):
            actor = Actor(world, url, f"P{index}", self.operations)
            world.start(f"P{index}", lambda a=actor, s=lines: a.run(s))
        if self._disk and world.chance(0.1):
            world.later(world.random.random() * 30, self._disk.power_fails)
        world.run()
        for process in world.processes:
            if process.outcome and not isinstance(
                process.outcome, (StoreError, OSError, KeyboardInterrupt)
            ):
                self.wrong.append(f"{process.name} ended with {process.outcome!r}")
        world.weather = CALM
        world.now += 10 * LATE_S + 1000
        self._alone("judge", lambda: self._judge(url, known))

    def _alone(self, name: str, work: Callable[[], None]) -> None:
        process = self.world.start(name, work)
        self.world.run()
        if process.outcome is not None:
            self.wrong.append(f"at the end: {process.outcome!r}"[:500])

    # -- judging

    def _judge(self, url: str, known: dict[str, Any]) -> None:
        store = ModelStore(url)
        self._check(store, known, "")
        store.gc(grace_s=0.0)
        self._check(ModelStore(url), known, "after a gc: ")

    def _check(self, store: ModelStore, known: dict[str, Any], when: str) -> None:
        problems = [p.message for p in store.verify() if p.severity == "error"]
        self.wrong += [f"{when}damaged: {message}"[:300] for message in problems]
        if problems:
            return
        for task, initial_live in (("t", 2), ("u", 1)):
            self._check_task(store, task, initial_live, known, when)
        self._check_register(
            f"{when}agent", store.agent_state("a"), known["state"], ("save",), lambda s: s and s[0]
        )
        pin = store.pins().get("p")
        self._check_register(f"{when}pin", pin, None, ("pin", "unpin"), lambda s: s)

    def _check_task(
        self, store: ModelStore, task: str, first: int, known: dict[str, Any], when: str
    ) -> None:
        try:
            versions = {v.version: v.digest for v in store.history(task)}
        except UnknownTask:
            versions = {}
        live = store.live().get(task, (None, None))[0]
        writes = [op for op in self.operations if op.arguments[:1] == (task,)]
        removals = [op for op in writes if op.name == "rm"]
        for op in writes:
            if op.name != "publish" or not op.done:
                continue
            number, digest = op.result
            gone = any(r.arguments[1] in (None, number) and r.end > op.start for r in removals)
            if versions.get(number) != digest and not gone:
                self.wrong.append(f"{when}acknowledged and lost: {op}")
        if live is not None and live not in versions:
            self.wrong.append(f"{when}{task}: live names v{live}, which is not there")
        self._check_live(task, live, first, writes, versions, when)

    def _check_live(
        self,
        task: str,
        live: int | None,
        first: int,
        writes: list[Op],
        versions: dict[int, Any],
        when: str,
    ) -> None:
        setters = [
            op
            for op in writes
            if op.name in ("publish", "rollback") or (op.name == "rm" and op.arguments[1] is None)
        ]

        def sets(op: Op, value: int | None) -> bool:
            if op.name == "rm":
                return value is None
            if op.name == "rollback":
                return op.arguments[1] == value
            return op.result[0] == value if op.done else value is not None and value > 2

        candidates = [op for op in setters if sets(op, live)]
        beginnings = [op.end if op.done else float("inf") for op in candidates]
        if live == first:
            beginnings.append(0)
        # Somebody's later word, which was acknowledged, must not be undone.
        latest = max((op.start for op in setters if op.done and not sets(op, live)), default=-1)
        if not any(latest <= end for end in beginnings):
            self.wrong.append(f"{when}{task}: live is v{live}, acknowledged otherwise later")

    def _check_register(
        self, what: str, found: Any, first: Any, names: tuple[str, ...], value: Callable[[Any], Any]
    ) -> None:
        writes = [op for op in self.operations if op.name in names]
        now = value(found)
        if not any(op.done for op in writes):
            return
        candidates = [op for op in writes if not op.done or op.result == now]
        ends = [op.end if op.done else float("inf") for op in candidates]
        latest = max((op.start for op in writes if op.done and op.result != now), default=-1)
        if not any(latest <= end for end in ends) and not (now == first and latest < 0):
            self.wrong.append(f"{what}: it is {now}, acknowledged otherwise later")

    # -- the world around the code

    @contextmanager
    def _place(self) -> Iterator[str]:
        with ExitStack() as stack:
            stack.enter_context(patch.dict(os.environ, {"MUNET_STORE_LATE_S": str(LATE_S)}))
            if self.where == "bucket":
                bucket = Bucket(self.world)

                def at_once(_: Any, function: Callable[[Any], Any], items: Any) -> list[Any]:
                    return self._at_once(function, items)

                stack.enter_context(patch.object(objects, "obstore", bucket))
                stack.enter_context(patch.object(_clients(), "from_url", _client))
                stack.enter_context(patch.object(objects.ObjectStorage, "_at_once", at_once))
                stack.enter_context(patch.object(objects.ObjectStorage, "load", _load))
                stack.enter_context(
                    patch.object(objects.ObjectStorage, "forget", lambda s, k: False)
                )
                url = "s3://bucket/store"
                if not _BUCKET:
                    self._known.update(begin(url))
                    _BUCKET.append((dict(bucket.objects), self._known))
                objects_then, self._known = _BUCKET[0]
                bucket.objects = {key: (data, BEGAN) for key, (data, _) in objects_then.items()}
                yield url
                return
            folder = tempfile.mkdtemp(prefix="simulation-", dir=_memory())
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            url = f"{folder}/store"
            if not _DISK:
                kept = tempfile.mkdtemp(prefix="simulation-", dir=_memory())
                atexit.register(shutil.rmtree, kept, ignore_errors=True)
                known = begin(f"{kept}/store")
                for file in Path(kept).rglob("*"):
                    os.utime(file, (BEGAN, BEGAN))
                _DISK.append((kept, known))
            template, self._known = _DISK[0]
            shutil.copytree(f"{template}/store", url)
            self._disk = Disk(self.world, Path(folder))
            stack.enter_context(self._disk.installed())
            yield url

    def _at_once(self, function: Callable[[Any], Any], items: Any) -> list[Any]:
        works = [lambda item=item: function(item) for item in items]
        if self.world.process is None or len(works) < 2:
            return [work() for work in works]
        return self.world.at_once(works)

    @contextmanager
    def _virtual(self) -> Iterator[None]:
        world = self.world
        real = {name: getattr(time, name) for name in ("time", "monotonic", "sleep")}
        clock = time.clock_gettime

        def now(name: str) -> Callable[[], float]:
            return lambda: world.now if world.process else real[name]()

        def sleep(seconds: float) -> None:
            world.sleep(seconds) if world.process else real["sleep"](seconds)

        def token(size: int = 16) -> str:
            return world.random.randbytes(size).hex()

        with ExitStack() as stack:
            for name in ("time", "monotonic"):
                stack.enter_context(patch.object(time, name, now(name)))
            stack.enter_context(patch.object(time, "sleep", sleep))
            stack.enter_context(
                patch.object(
                    time, "clock_gettime", lambda c: world.now if world.process else clock(c)
                )
            )
            stack.enter_context(patch.object(secrets, "token_hex", token))
            stack.enter_context(patch.object(leases, "LEASE_POLL_S", 15.0))
            yield


def _clients() -> Any:
    """Where the code connects to a bucket; another version of it may do so elsewhere."""
    return importlib.import_module(
        objects.__dict__.get("Clients", objects.ObjectStorage).__module__
    )


def _client(url: str, **options: Any) -> Client:
    retries = options["retry_config"]["max_retries"]
    return Client(TRIES if retries else 1)


def _load(self: Any, key: str, limit: int | None) -> memoryview | None:
    """As the cache does, which is no part of what is simulated."""
    try:
        with self._failing("reading", key):
            data = objects.obstore.get(self._store, key).bytes()
    except objects._Absent:
        return None
    if limit is not None and len(data) > limit:
        raise TooLarge(len(data))
    return memoryview(data)


def _memory() -> str | None:
    """A file system in memory, where there is one."""
    return "/dev/shm" if os.path.isdir("/dev/shm") else None
