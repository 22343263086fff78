"""Many real processes at one store, killed, stopped and interrupted at random, with a gc at short
grace next to them: `python -m tests.model_store.fuzzing_processes --seconds 600`.

Their clocks are apart by an hour. On a directory, and on a real S3 server behind a proxy that
delays requests, loses them or their replies, repeats them, and executes some late. What was
acknowledged has to be explained by one order of the operations, and to be there at the end. Prints
counts; the exit code is 1 at a loss.
"""

import argparse
import logging
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from model_store import ModelStore, UnknownTask
from model_store.upkeep import collect_garbage, verify_store
from tests.model_store.faulty_proxy import Fault, Proxy, Request, proxy
from tests.model_store.fuzz_workers import Worker, read_log, shorten_leases, work
from tests.model_store.object_stores import s3_server
from tests.model_store.places import Place, local_place, s3_place
from tests.model_store.simulation.actors import Op, Script, manifest_of
from tests.model_store.simulation.judging import Task, explained, register_after, task_after

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["tests.model_store.fuzz_workers"])

# On S3: what is not answered is executed at most 2 s later; the rest is for a machine that is busy.
LATE_S, EXECUTED_LATE_S = 12.0, 2.0
LEASE_S = 12.0
AHEAD_S = (-3600.0, 0.0, 3600.0)  # how far a process's clock may be ahead
BATCHES, AT_ONCE = 6, 3  # of rounds at one store
WORKERS = 4  # of a round
FAULTS = {"delay": 4, "lost": 2, "late": 2, "never": 1, "twice": 1, "error": 1}  # of 100 requests
READS = ("delay", "never", "error")  # what can happen to a request that changes nothing


# -- what happens to them


@dataclass
class Counts:
    """What happened in all."""

    operations: Counter[str] = field(default_factory=Counter[str])
    acknowledged: Counter[str] = field(default_factory=Counter[str])
    events: Counter[str] = field(default_factory=Counter[str])
    lost: list[str] = field(default_factory=list[str])


class Weather:
    """Faults of a network."""

    def __init__(self, seed: int, counts: Counts) -> None:
        self._random = random.Random(seed)
        self._counts = counts

    def rule(self, request: Request) -> Fault | None:
        """For a proxy."""
        chance = self._random.random
        kind = next(iter(self._random.choices([*FAULTS, ""], [*FAULTS.values(), 89])))
        reads = request.method in ("GET", "HEAD")
        if not kind or (reads and kind not in READS):
            return None
        self._counts.events[f"request: {kind}"] += 1
        if kind == "delay":
            fault = Fault()
            threading.Timer(0.5 * chance(), fault.released.set).start()
            return fault
        fault = Fault({"error": 500}.get(kind, kind)).at_once()  # type: ignore[arg-type]
        if kind == "late":
            threading.Timer(EXECUTED_LATE_S * chance(), fault.due.set).start()
        return fault


def disturb(running: list[BaseProcess], rng: random.Random, counts: Counts) -> None:
    """Signals at random, until all have ended; who was stopped goes on soon."""
    while alive := [process for process in running if process.is_alive()]:
        time.sleep(rng.uniform(0, 0.02))
        victim, kind = rng.choice(alive), rng.choice(("KILL", "INT", "INT", "STOP", "STOP", ""))
        if kind and victim.pid and rng.random() < 0.4:
            counts.events[f"SIG{kind}"] += 1
            with suppress(ProcessLookupError):
                os.kill(victim.pid, signal.Signals[f"SIG{kind}"])
                if kind == "STOP":
                    time.sleep(rng.choice((0.0, 0.05, 0.4)))
                    os.kill(victim.pid, signal.SIGCONT)
    for process in running:
        process.join()


class Round:
    """Some processes that do something to the same few things."""

    def __init__(self, number: int, rng: random.Random) -> None:
        self.tasks = (f"t{number}", f"u{number}")
        self.signed, self.agent, self.pin = f"s{number}", f"a{number}", f"p{number}"
        self.kept = number % AT_ONCE == 0
        # Those of a round that goes are used again, when they are garbage or nearly so.
        base = 1000 * (number + 1) if self.kept else 1
        self.seeds = [base + s for s in rng.sample(range(8), 3)]
        self.operations: list[Op] = []
        self._rng = rng
        self._first: dict[str, Task] = {}

    def begin(self, worker: Worker) -> None:
        """What is there when the processes come."""
        worker.publish(self.signed, 1)
        for task in self.tasks:
            versions = tuple(worker.publish(task, seed) for seed in self.seeds)
            self._first[task] = Task(versions, 3, (), 4)

    def script(self, worker: int) -> Script:
        """What one process does."""
        rng, seeds = self._rng, self.seeds

        def one(number: int) -> tuple[Any, ...]:
            task, seed = rng.choice((*self.tasks[:1], *self.tasks)), rng.choice(seeds)
            version = rng.randint(1, 4)
            return rng.choice(
                (
                    *[("publish", task, seed)] * 5,
                    *[("rollback", task, version)] * 3,
                    *[("rm", task, rng.choice((version, version, None)))] * 3,
                    ("alias", task, "stable", version),
                    ("pin", self.pin, task, seed),
                    ("unpin", self.pin),
                    *[("save", self.agent, seed)] * 2,
                    *[("sign", self.signed, 1, f"{worker}-{number}")] * 2,
                    ("look", task),
                )
            )

        return [one(number) for number in range(rng.randint(3, 7))]

    def says(self, store: ModelStore) -> dict[str, Any]:
        """What the store says of all of it."""
        state = store.agent_state(self.agent)
        signatures = store.signatures(manifest_of(self.signed, 1))
        return {
            **{task: _task(store, task) for task in self.tasks},
            "agent": state and state[1]["seed"],
            "pin": store.pins().get(self.pin),
            "signers": Counter(s.payload.decode().split(" ")[0] for s in signatures),
        }

    def judge(self, found: dict[str, Any]) -> list[str]:
        """What of it cannot be explained."""
        wrong = [f"{op}" for op in self.operations if op.error.startswith("BROKEN")]
        for task in self.tasks:
            names = ("publish", "rollback", "rm", "alias", "look")
            ops = [o for o in self.operations if o.name in names and o.arguments[0] == task]
            end = found[task].says()
            if not explained(ops, self._first[task], task_after, lambda t, e=end: t.says() == e):
                wrong += [f"{task}: no order ends with {found[task]}", *map(str, ops)]
        for names, what in ((("save",), "agent"), (("pin", "unpin"), "pin")):
            ops = [op for op in self.operations if op.name in names]
            end = found[what]
            if not explained(ops, (None,), register_after, lambda v, e=end: _value(v) == e):
                wrong += [f"{what}: no order ends with {end}", *map(str, ops)]
        for op in self.operations:
            if op.name == "sign" and not op.done <= found["signers"][op.arguments[2]] <= 1:
                wrong.append(f"{found['signers'][op.arguments[2]]} signatures of {op}")
        return wrong

    def forget(self, store: ModelStore) -> None:
        """Make garbage of it, for the next rounds."""
        for task in self.tasks:
            with suppress(UnknownTask):
                store.rm(task)
        if self.pin in store.pins():
            store.unpin(self.pin)


def _task(store: ModelStore, task: str) -> Task:
    try:
        versions = tuple((v.version, v.digest) for v in store.history(task))
    except UnknownTask:
        versions = ()
    aliases = tuple(sorted(store.aliases(task).items()))
    return Task(versions, store.live().get(task, (None, None))[0], aliases)


def _value(said: tuple[Any, ...]) -> Any:
    """A seed, or the manifest of a task's path."""
    return said[0] if len(said) == 1 else manifest_of(*said)


# -- a store and its end


@dataclass
class Stage:
    """Where processes meet."""

    place: Place  # as the judge sees it
    network: Proxy | None
    folder: Path
    grace_s: tuple[float, ...]

    @property
    def seen(self) -> Place:
        """The store as the processes see it."""
        return self.network.before(self.place) if self.network else self.place

    def idle(self) -> None:
        """Wait until nothing is executed late."""
        if self.network:
            self.network.idle()


def play(stage: Stage, seed: int, batches: int, until: float, counts: Counts) -> None:
    """Rounds at one store; after each, and at the end, all that was acknowledged is there."""
    rng = random.Random(seed)
    store = stage.place.open(create=True)
    if stage.network:
        stage.network.rule = Weather(seed, counts).rule
    kept: list[tuple[Round, dict[str, Any]]] = []
    for batch in range(batches):
        if batch and time.monotonic() > until:
            break
        rounds = [Round(AT_ONCE * batch + number, rng) for number in range(AT_ONCE)]
        for played in rounds:
            played.begin(Worker(stage.place, "first", stage.folder / "first"))
        play_at_once(stage, rounds, rng, counts)
        stage.idle()
        for played in rounds:
            found = played.says(store)
            counts.lost += [f"seed {seed}: {text}" for text in played.judge(found)]
            counts.events["rounds"] += 1
            if played.kept:
                kept.append((played, found))
            else:
                played.forget(store)
    collect_garbage(store, grace_s=0)
    problems = [problem.message for problem in verify_store(store) if problem.severity == "error"]
    counts.lost += [f"seed {seed}: {message}" for message in problems]
    for played, found in kept:
        if (now := played.says(stage.place.open())) != found:
            counts.lost.append(f"seed {seed}: at the end {now}, before {found}")


def play_at_once(stage: Stage, rounds: list[Round], rng: random.Random, counts: Counts) -> None:
    """All processes of some rounds, with one gc next to them."""
    logs = [
        (played, stage.folder / f"{played.agent}-{i}") for played in rounds for i in range(WORKERS)
    ]
    running: list[BaseProcess] = []
    for number, (played, log) in enumerate(logs):
        script, ahead_s = played.script(number), rng.choice(AHEAD_S)
        arguments = (stage.seen, log.name, script, log, LEASE_S, ahead_s)
        running.append(processes.Process(target=work, args=arguments))
    collecting: Script = [("gc", rng.choice(stage.grace_s))] * (3 if stage.network else 30)
    gc_log = stage.folder / f"gc-{rounds[0].agent}"
    arguments = (stage.seen, "gc", collecting, gc_log, LEASE_S, rng.choice(AHEAD_S))
    gc = processes.Process(target=work, args=arguments)
    for process in (gc, *running):
        process.start()
    spoil = threading.Thread(target=_kill_some, args=(gc, random.Random(rng.random()), counts))
    spoil.start()
    disturb(running, rng, counts)
    gc.join()
    spoil.join()
    gcs = read_log(gc_log, "gc")
    counts.lost += [f"{op}" for op in gcs if op.error.startswith(("BROKEN", "Damaged", "Corrupt"))]
    for played, log in logs:
        played.operations += read_log(log, log.name)
    for op in (*(op for played in rounds for op in played.operations), *gcs):
        counts.operations[op.name] += 1
        counts.acknowledged[op.name] += op.done
    counts.events["blobs collected"] += sum(op.result for op in gcs if op.done)


def _kill_some(gc: BaseProcess, rng: random.Random, counts: Counts) -> None:
    """Half of the gcs are left alone; the others are interrupted or killed at some moment."""
    if rng.random() < 0.5:
        return
    gc.join(rng.uniform(0, 2))
    kind = rng.choice(("INT", "KILL"))
    if gc.is_alive() and gc.pid:
        counts.events[f"SIG{kind} of a gc"] += 1
        with suppress(ProcessLookupError):
            os.kill(gc.pid, signal.Signals[f"SIG{kind}"])


@contextmanager
def stages(where: str) -> Iterator[Iterator[Stage]]:
    """One empty store after the other: in a folder and on S3 in turn, or always in one of them."""
    with tempfile.TemporaryDirectory(prefix="fuzz-store-") as name, _network(where, name) as s3:
        yield _stages(where, Path(name), s3)


@contextmanager
def _network(where: str, folder: str) -> Iterator[Any]:
    if where == "folder":
        yield None
        return
    (Path(folder) / "server").mkdir()
    with s3_server(Path(folder) / "server") as server, proxy(server.endpoint) as network:
        yield server, network


def _stages(where: str, top: Path, s3: Any) -> Iterator[Stage]:
    number = 0
    while True:
        number += 1
        folder = top / f"store-{number}"
        folder.mkdir()
        if where == "folder" or (where == "both" and number % 2):
            yield Stage(local_place(folder), None, folder, (0.0, 0.2, 1.0))
        else:
            server, network = s3
            place = s3_place(server, folder)
            late = {"MUNET_STORE_LATE_S": str(LATE_S)}
            place = Place(place.url, {**place.environment, **late})
            yield Stage(place, network, folder, (LATE_S,))
        shutil.rmtree(folder, ignore_errors=True)


def main() -> int:
    """Play until the time is over; 1 at a loss."""
    parser = argparse.ArgumentParser(description="Real processes at one store, and their ends.")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--where", choices=["folder", "s3", "both"], default="both")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    shorten_leases(LEASE_S)
    counts, until, seed = Counts(), time.monotonic() + options.seconds, options.seed
    sys.stdout.write(f"seed {seed}\n")
    with stages(options.where) as found:
        while time.monotonic() < until:
            play(next(found), seed, BATCHES, until, counts)
            seed += 1
            sys.stdout.write("".join(f"LOST {text}\n" for text in counts.lost))
            if counts.lost:
                break
    for what, counted in (("tried", counts.operations), ("acknowledged", counts.acknowledged)):
        sys.stdout.write(f"{what}: {counted.total()} {dict(sorted(counted.items()))}\n")
    sys.stdout.write(f"events: {dict(sorted(counts.events.items()))}\n")
    sys.stdout.write(f"{seed - options.seed} stores, {len(counts.lost)} losses\n")
    return int(bool(counts.lost))


if __name__ == "__main__":
    raise SystemExit(main())
