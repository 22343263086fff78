"""Stores of any number of tasks that grew from one another, as evolution leaves them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from model_store import ModelStore, TaskPath
from tests.service.systems import TINY, publish, random_component

ARCH = replace(TINY, num_layers=6)
FAMILIES = ("plants", "insects", "signs", "glyphs", "textiles", "minerals")


def grow(store: ModelStore, count: int) -> Sequence[str]:
    """Publishes tasks of six families. Those of a family share a block of their own; each task has
    its own head, and every tenth one its own last block too.
    """
    root = publish(store, "root", ARCH).path
    family = [
        store.put(random_component(ARCH, f"encoderblock_{2 + place % 4}", 1 + place))
        for place in range(len(FAMILIES))
    ]
    names = [f"{FAMILIES[i % len(FAMILIES)]}/set-{i:05d}" for i in range(count - 1)]
    for i, name in enumerate(names):
        place = i % len(FAMILIES)
        own = {f"encoderblock_{2 + place % 4}": family[place], "head": _part(store, "head", i)}
        if i % 10 == 9:
            own["encoderblock_5"] = _part(store, "encoderblock_5", i)
        parent = names[i - len(FAMILIES)] if i >= len(FAMILIES) else "root"
        store.publish(_child(root, name, own, parent, i))
    return ["root", *names]


def _part(store: ModelStore, name: str, seed: int) -> str:
    return store.put(random_component(ARCH, name, 1000 + seed))


def _child(root: TaskPath, name: str, own: dict[str, str], parent: str, i: int) -> TaskPath:
    quality = {"accuracy": 0.6 + i % 37 / 100, "split": "validation", "examples": 200 + i % 50}
    return replace(
        root,
        task=name,
        components={**root.components, **own},  # pyright: ignore[reportArgumentType]
        labels=tuple(f"class {c}" for c in range(ARCH.num_classes)),
        metrics={"validation": quality},
        lineage={"parent": None, "parent_task": parent, "generation": i},
        extra={"data": {"fingerprint": f"sha256:{i:064x}"}},
    )
