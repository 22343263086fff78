"""What differs between two versions: components, hyperparameters, metrics, lineage."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from model_store.reading import Published

FACTS = ("architecture", "input", "hyperparameters", "metrics", "parameters", "lineage")


@dataclass(frozen=True, slots=True)
class ComponentChange:
    """A component that only one of two versions has, or of which each has another."""

    kind: Literal["added", "removed", "changed"]
    name: str
    size: int  # bytes, in the version that has it; in the later one if both do


@dataclass(frozen=True, slots=True)
class FactChange:
    """A field that differs; None where a version lacks it."""

    name: str  # such as hyperparameters.opt_lr
    before: Any
    after: Any


@dataclass(frozen=True, slots=True)
class Difference:
    """All that differs between two versions."""

    components: tuple[ComponentChange, ...]
    kept: int  # components that both have
    kept_bytes: int
    facts: tuple[FactChange, ...]


def difference(before: Published, after: Published) -> Difference:
    """Compares two versions, usually of one task."""
    old, new = before.path.components, after.path.components
    changes = [
        ComponentChange("changed" if name in old else "added", name, after.sizes[name])
        for name in new
        if new[name] != old.get(name)
    ] + [ComponentChange("removed", name, before.sizes[name]) for name in old if name not in new]
    kept = [name for name in new if new[name] == old.get(name)]
    facts = {
        name: (getattr(before.path, name), getattr(after.path, name))
        for name in (*FACTS, "labels", "private")
    }
    changed = [change for name, pair in facts.items() for change in _changes(name, *pair)]
    kept_bytes = sum(after.sizes[name] for name in kept)
    return Difference(tuple(changes), len(kept), kept_bytes, tuple(changed))


def _changes(name: str, before: Any, after: Any) -> list[FactChange]:
    if before == after:
        return []
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        keys = dict.fromkeys([*before, *after])
        return [
            change
            for key in keys
            for change in _changes(f"{name}.{key}", before.get(key), after.get(key))
        ]
    return [FactChange(name, before, after)]
