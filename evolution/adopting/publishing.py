"""Publishes an adopted network as a version of a task, and counts what it shares with others.

The law: equal arrays are one component in a store, from any source. So twenty heads on one frozen
backbone take the room of one backbone and twenty heads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from evolution.adopting.errors import AdoptError
from evolution.adopting.models import Model
from evolution.agents.snapshots import shape_hyperparameters
from evolution.training.programs import forward_flops
from model_store import Digest, ModelStore, Published, TaskPath, UnknownTask, digest_of, encode
from vit.activation import FIELD, SOFTMAX, TEMPERATURE
from vit.contract import Contract
from vit.preprocess import CONTRACT

METHOD = "adopted"
PUBLISHER = "adopted"  # in place of an agent or a run


@dataclass(frozen=True, slots=True)
class Adopted:
    """The result of an adoption."""

    model: Model
    published: Published
    added: bool  # whether there is a new version
    former: int | None  # the version that was live before
    added_bytes: int  # of components
    shared: Mapping[str, int]  # bytes shared with each other task, most first
    shared_bytes: int  # of components that the store had before


def publish(store: ModelStore, task: str, model: Model, *, private: bool) -> Adopted:
    """Publishes the network and makes it live. Raises AdoptError, and the store's StoreError.

    A network that is already live under this name adds no version.
    """
    former = _live(store, task)
    if former is not None and former.path.private and not private:
        raise AdoptError(
            f"task {task!r} is private in {store.url}: expected --private too; found no "
            "such flag\nor adopt it under another name"
        )
    encoded = {name: encode(tree) for name, tree in model.components.items()}
    digests = {name: digest_of(data) for name, data in encoded.items()}
    sizes = {digests[name]: len(data) for name, data in encoded.items()}
    missing = set(store.lacks(sizes))
    users = _users(store, task, set(sizes))
    spec = _spec(task, model, digests, users, private=private)
    for name, tree in model.components.items():
        if digests[name] in missing:
            store.put(tree)
    published = store.publish(spec)
    shared = {other: sum(sizes[digest] for digest in theirs) for other, theirs in users.items()}
    return Adopted(
        model=model,
        published=published,
        added=former is None or former.version != published.version,
        former=None if former is None else former.version,
        added_bytes=sum(sizes[digest] for digest in missing),
        shared=dict(sorted(shared.items(), key=lambda item: (-item[1], item[0]))),
        shared_bytes=sum(size for digest, size in sizes.items() if digest not in missing),
    )


def _live(store: ModelStore, task: str) -> Published | None:
    try:
        return store.resolve(task)
    except UnknownTask:
        return None


def _users(store: ModelStore, task: str, digests: set[Digest]) -> dict[str, set[Digest]]:
    """Other tasks whose live version has some of these components -> those components."""
    found = {
        other.task: digests & set(other.path.components.values())
        for other in store.served()
        if other.task != task
    }
    return {other: theirs for other, theirs in found.items() if theirs}


def _spec(
    task: str,
    model: Model,
    digests: Mapping[str, Digest],
    users: Mapping[str, set[Digest]],
    *,
    private: bool,
) -> TaskPath:
    arch = model.architecture
    counts = {name: _count(tree) for name, tree in model.components.items()}
    accounted = sum(
        count / (1 + sum(digests[name] in theirs for theirs in users.values()))
        for name, count in counts.items()
    )
    target = model.target
    activation = {} if model.activation == SOFTMAX else {FIELD: model.activation}
    temperature = {} if model.temperature == 1 else {TEMPERATURE: model.temperature}
    plain = {"size": arch.image_size, **CONTRACT}
    return TaskPath(
        task=task,
        labels=model.labels,
        architecture=arch.to_json(),
        components=digests,
        input={
            **(target.to_json() if isinstance(target, Contract) else plain),
            **model.decoding.to_json(),
        },
        hyperparameters=shape_hyperparameters(arch),
        metrics={"compute": {"forward_flops": forward_flops(arch)}},
        parameters={"total": sum(counts.values()), "accounted": accounted},
        lineage={
            "parent": None,
            "parent_task": None,
            "method": METHOD,
            "experiment": None,
            "agent": PUBLISHER,
            "generation": 0,
            "seed": None,
        },
        private=private,
        extra={"adopted": dict(model.told), **activation, **temperature},
    )


def _count(tree: Any) -> int:
    return sum(leaf.size for leaf in _leaves(tree))


def _leaves(tree: Any) -> Iterator[Any]:
    if isinstance(tree, Mapping):
        for inner in tree.values():
            yield from _leaves(inner)
    else:
        yield tree
