"""What processes do in a history: operations of a store, each noted with its outcome."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from model_store import ModelStore, StoreError, TaskPath
from model_store.blobs import Digest, digest_of
from model_store.canonical_json import encode_json
from model_store.manifest import agent_manifest, path_manifest
from model_store.names import INDEX
from model_store.signatures import Signature
from model_store.tensors import encode
from model_store.upkeep import collect_garbage
from tests.model_store.simulation.world import World

Script = list[tuple[Any, ...]]  # operations: a name and arguments

LAST_REQUESTS_S = 100.0  # more than those of a put take after it waited, if nobody stops

# After these, an operation has had no effect. After any other it may have taken effect once.
NOTHING_DONE = ("LiveVersion", "UnknownTask", "UnknownName", "AgentMoved")


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
    lasted_s: float = 0.0  # until it was answered
    needed_s: float = 0.0  # until then, since what it put counted as new; not less than in truth

    @property
    def is_void(self) -> bool:
        """Whether it certainly had no effect."""
        return self.error.startswith(NOTHING_DONE) or (
            self.name not in ("publish", "again") and self.error.startswith("UnknownVersion")
        )

    def __str__(self) -> str:
        outcome = f"= {self.result}" if self.done else f"! {self.error or 'killed'}"
        return f"{self.process}[{self.start}-{self.end}] {self.name}{self.arguments} {outcome}"


def component(seed: int) -> Any:
    """A small component; equal seeds give equal ones."""
    return {"k": np.full(2, seed, np.float32)}


def path(task: str, seed: int) -> TaskPath:
    """A small path; equal seeds give equal paths."""
    return TaskPath(
        task=task,
        components={
            "body": digest_of(encode(component(0))),
            "head": digest_of(encode(component(seed))),
        },
        labels=("a", "b"),
        architecture={"size": 1},
        input={"size": 1},
        hyperparameters={"seed": seed},
        metrics={},
        parameters={},
        lineage={},
    )


@cache
def manifest_of(task: str, seed: int) -> Digest:
    """The digest of the manifest that a path has."""
    size = len(encode(component(0)))
    sizes: dict[str, int] = {"body": size, "head": size}
    return digest_of(path_manifest(path(task, seed), sizes)[0].to_bytes())


@cache
def part_of(seed: int) -> Digest:
    """The digest of a part with one component."""
    data = encode(component(200 + seed))
    document = encode_json({"part": seed}, "part")
    return digest_of(agent_manifest(document, {digest_of(data): len(data)}, {})[0].to_bytes())


def signature(signer: str, task: str, seed: int) -> Signature:
    """One that looks like a signature."""
    payload = f"{signer} signs {task} {seed}".encode()
    return Signature(payload, base64.b64encode(signer.encode()).decode())


class Actor:
    """A process; every operation is noted."""

    def __init__(self, world: World, url: str, name: str, operations: list[Op]) -> None:
        self._world = world
        self._url = url
        self._name = name
        self._operations = operations
        self._new_at = 0.0  # when what was put last counted as new, or earlier
        self.store: Any = None

    def run(self, script: Script) -> None:
        """One operation after the other, until one is interrupted."""
        self.store = ModelStore(self._url)
        for name, *arguments in script:
            if self.perform(name, tuple(arguments)):
                return

    def perform(self, name: str, arguments: tuple[Any, ...]) -> bool:
        """Whether it was interrupted."""
        world = self._world
        op, began = Op(self._name, name, arguments, start=world.tick()), world.now
        self._operations.append(op)
        self._new_at = began
        if world.process:
            world.process.operation += 1
            world.process.decisions = 0
        try:
            op.result = getattr(self, name)(*arguments)
            op.done = True
        except KeyboardInterrupt:
            op.error = "interrupted"
        except (StoreError, OSError) as error:
            op.error = f"{type(error).__name__}: {error}"[:200]
        op.lasted_s = world.now - began
        op.needed_s = world.now - self._new_at
        # What was not acknowledged may take effect later.
        if op.done or op.is_void:
            op.end = world.tick()
        if op.done:
            world.acknowledged()
        return op.error == "interrupted"

    def later(self, seconds: float) -> Any:
        """Does nothing until then."""
        self._world.sleep(seconds)

    def put(self, seed: int) -> Any:
        """Puts a component."""
        process, began = self._world.process, self._world.now
        stopped_s = process.stopped_s if process else 0.0
        digest = self.store.put(component(seed))
        if process:  # it was new just before, unless the process was stopped then
            ago_s = LAST_REQUESTS_S + process.stopped_s - stopped_s
            self._new_at = max(began, self._world.now - ago_s)
        return digest

    def publish(self, task: str, seed: int) -> Any:
        self.put(0)
        self.put(seed)
        return self.again(task, seed)

    def again(self, task: str, seed: int) -> Any:
        """Publishes a path of components that are there, or are not."""
        published = self.store.publish(path(task, seed))
        return published.version, published.digest

    def rollback(self, task: str, version: int) -> Any:
        return self.store.rollback(task, version).version

    def alias(self, task: str, name: str, version: int) -> Any:
        return self.store.alias(task, name, version).version

    def rm(self, task: str, version: int | None) -> Any:
        self.store.rm(task, version)

    def pin(self, name: str, task: str, seed: int) -> Any:
        self.store.pin(name, manifest_of(task, seed))

    def unpin(self, name: str) -> Any:
        self.store.unpin(name)

    def save(self, agent: str, seed: int) -> Any:
        self.store.save_agent(agent, {"seed": seed}, [self.put(100 + seed)])

    def index(self, seed: int) -> Any:
        """Lets the index of publications have this part alone."""
        part = self.store.put_part({"part": seed}, [self.put(200 + seed)])
        self.store.save_agent(INDEX, {"seed": seed}, [], parts=[part])

    def share(self, agent: str, seed: int) -> Any:
        """Saves a state with a part that is there, or is not."""
        self.store.save_agent(agent, {"seed": seed}, [], parts=[part_of(seed)])

    def sign(self, task: str, seed: int, signer: str) -> Any:
        self.store.add_signature(manifest_of(task, seed), signature(signer, task, seed))

    def signers(self, task: str, seed: int) -> Any:
        """Reads who signed a manifest."""
        found = self.store.signatures(manifest_of(task, seed))
        return [signature.payload.decode().split(" ")[0] for signature in found]

    def gc(self, grace_s: float) -> Any:
        return len(collect_garbage(self.store, grace_s=grace_s).removed)

    def look(self, task: str) -> Any:
        """Reads all of what is live."""
        published = self.store.resolve(task)
        for digest in published.path.components.values():
            self.store.component(digest)
        return published.version


def begin(url: str) -> None:
    """A store with several versions of two tasks, an agent and garbage.

    Of `t`, versions 1 to 3 are of seeds 1 to 3, 2 is live and 1 is `stable`. Of `u`, 1 is live;
    what 2 was, of seed 4, is garbage, and so is a component of seed 9.
    """
    actor = Actor(World.outside(), url, "first", [])
    actor.store = ModelStore(url, create=True)
    for seed in (1, 2, 3):
        actor.publish("t", seed)
    actor.publish("u", 1)
    actor.publish("u", 4)
    actor.rollback("u", 1)
    actor.rm("u", 2)
    actor.rollback("t", 2)
    actor.save("a", 1)
    actor.put(9)
    actor.alias("t", "stable", 1)
