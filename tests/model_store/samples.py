"""Small arrays, paths and stores for the tests of the model store."""

from pathlib import Path
from typing import Any

import numpy as np

from model_store import Digest, ModelStore, TaskPath
from model_store.names import copy_key, quote, task_key
from model_store.refs import Document
from model_store.upkeep import verify_store


def arrays(seed: int, size: int = 8) -> dict[str, Any]:
    """A component of two tensors, different for each seed."""
    random = np.random.default_rng(seed)
    return {
        "kernel": random.normal(size=(size, size)).astype(np.float32),
        "bias": np.full(size, seed, np.float32),
    }


def path(task: str, components: dict[str, Digest], **changes: Any) -> TaskPath:
    """A path with these components; `changes` replaces other fields."""
    fields: dict[str, Any] = {
        "labels": ("zero", "one"),
        "architecture": {"size": "Ti/16", "depth": 1},
        "input": {"size": 32, "channels": 3},
        "hyperparameters": {"opt_lr": 0.1},
        "metrics": {"validation": {"accuracy": 0.5, "split": "train[:20%]", "examples": 10}},
        "parameters": {"total": 72, "accounted": 72.0},
        "lineage": {"parent": None, "generation": 0},
    }
    return TaskPath(task=task, components=components, **{**fields, **changes})


def new_store(directory: Path) -> ModelStore:
    """An empty store."""
    return ModelStore(directory / "store", create=True)


def publish(store: ModelStore, task: str, seed: int, **changes: Any) -> int:
    """Publish a path of one component all tasks share and a head of its own; its version."""
    components = {"embedding": store.put(arrays(0)), "head": store.put(arrays(seed))}
    return store.publish(path(task, components, **changes)).version


def files(store: ModelStore) -> list[Path]:
    """Every file of a store except its locks, its reserve and the note of its gc."""
    passing = ("lock", "lock.gc", "gc", "reserve")
    return sorted(p for p in Path(store.url).rglob("*") if p.is_file() and p.name not in passing)


def document(store: ModelStore, task: str) -> Path:
    """The file of a task's document."""
    return Path(store.url) / "refs/tasks" / quote(task)


def copy_document(store: ModelStore, task: str, copy: str) -> None:
    """Make another task of the same versions, as nobody does who announces it."""
    found = Document.from_bytes(task_key(task), document(store, task).read_bytes())
    document(store, copy).write_bytes(found.to_bytes(task_key(copy)))


def write_value(store: ModelStore, key: str, value: Any) -> None:
    """Let a document say something, whether or not that makes sense."""
    for place in (key, copy_key(key)):
        (Path(store.url) / place).write_bytes(Document(value, count=1).to_bytes(place))


def blob_file(store: ModelStore, digest: str) -> Path:
    """The file of a blob."""
    return Path(store.url) / "blobs/sha256" / digest.removeprefix("sha256:")


def small_store(directory: Path) -> ModelStore:
    """A store of one task with two versions, and one agent."""
    made = new_store(directory)
    for seed in (1, 2):
        publish(made, "a/t", seed)
    made.save_agent("agent", {"generation": 1}, [made.put(arrays(5))])
    assert verify_store(made) == []
    return made


def manifest(store: ModelStore) -> Digest:
    """The manifest of the live version of small_store's task."""
    return store.resolve("a/t").digest
