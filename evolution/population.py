"""Candidates: components and locks, paths and lineage, accounted size, score, survivors.

Paths belong to owners: a task within a run, a publisher among agents. Owners lock components and
share their cost. Paths count their children for each owner.

Rules: SYSTEMS.md, Components, and SYSTEMS.md, Score. Plain Python and NumPy.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from model_store import Digest, ModelStore
from model_store.tensors import Tree

ROOT = "NOT_TRAINABLE"  # the pseudo task that owns the root and locks its components
# A root's published position embeddings; other sizes are resampled from them.
POSITION_SOURCE = "posembed_source"


@dataclass(frozen=True, slots=True)
class Stored:
    """Arrays in a store, read and verified when they are first needed."""

    store: ModelStore
    digest: Digest


@dataclass(slots=True, eq=False)
class Component:
    """A named group of arrays; shared between paths by reference."""

    id: int
    name: str
    source: Tree | Stored
    num_params: int
    trace: Tree | Stored | None = None  # momentum, as `source` is parameters
    locks: set[str] = field(default_factory=set)  # owners whose retained path uses it
    digest: Digest | None = None  # of the parameters in the store, once saved
    momentum_digest: Digest | None = None

    @property
    def params(self) -> Tree:
        """The parameters. Raises DamagedStore if they are stored and cannot be read."""
        if isinstance(self.source, Stored):
            self.source = self.source.store.component(self.source.digest)
        return self.source

    @property
    def momentum(self) -> Tree | None:
        """In bfloat16, of the training that made the parameters. Raises DamagedStore."""
        if isinstance(self.trace, Stored):
            self.trace = self.trace.store.component(self.trace.digest)
        return self.trace

    @property
    def trainable(self) -> bool:
        """Whether a child may train it: no retained path uses it."""
        return not self.locks


@dataclass(slots=True, eq=False)
class Path:
    """One candidate: an ordered list of components with hyperparameters and lineage."""

    id: int
    task: str
    parent: Path | None  # the nearest ancestor that is alive, or was pruned in this iteration
    components: tuple[Component, ...]  # in forward order
    hyperparameters: Mapping[str, Any]
    generation: int  # 0 for the root
    private: bool = False
    quality: float | None = None  # validation accuracy; None for the root
    children_per_task: dict[str, int] = field(default_factory=dict)  # by the children's owner
    metrics: dict[str, Any] = field(default_factory=dict)
    published: Digest | None = None  # manifest of its version in the store
    owner: str = ""  # whose path it is; unless given, its task

    def __post_init__(self) -> None:
        """Gives a path of a run to its task."""
        self.owner = self.owner or self.task

    def named(self, name: str) -> Component | None:
        """The component of that name, if the path has one."""
        return next((c for c in self.components if c.name == name), None)

    @property
    def trainable(self) -> tuple[Component, ...]:
        """The components that training changes."""
        return tuple(c for c in self.components if c.trainable)

    @property
    def num_params(self) -> int:
        """Parameters of all its components."""
        return sum(c.num_params for c in self.components)


@dataclass(frozen=True, slots=True)
class Score:
    """quality * factor ** (accounted parameters / reference) * factor ** (flops / reference).

    A reference of 0 leaves its term out; factor 1 is the quality alone.
    """

    factor: float = 1.0
    reference_params: float = 1_484_162  # Ti/16 with 3 blocks at 32 px and a head of 2 classes
    reference_flops: float = 0.0  # of a forward pass of one image
    root_counts: bool = False  # the root counts as a user of a component

    def __call__(self, path: Path) -> float:
        """The score of an evaluated path, which changes as others share its components."""
        if path.quality is None:
            raise ValueError(f"path {path.id} of task {path.task} has not been evaluated")
        cost = 0.0
        if self.reference_params:
            cost += accounted_params(path, self.root_counts) / self.reference_params
        if self.reference_flops:
            cost += path.metrics["flops"] / self.reference_flops
        return path.quality * self.factor**cost


def accounted_params(path: Path, root_counts: bool = False) -> float:
    """Parameters, each component's split evenly between the owners that use it.

    With `root_counts`, the root is a user like any other (SYSTEMS.md, Score).
    """
    nobody = set() if root_counts else {ROOT}
    return sum(c.num_params / len((c.locks | {path.owner}) - nobody) for c in path.components)


@dataclass(slots=True)
class Population:
    """All paths that are alive, by owner; the root's are under ROOT."""

    score: Score
    newest_wins: bool = True  # the best of equal score is the newest; otherwise the oldest
    succeeds: bool = False  # each path was compared with the best before it: the newest is the best
    paths: dict[str, list[Path]] = field(default_factory=dict)
    next_path_id: int = 0
    next_component_id: int = 0

    def path_id(self) -> int:
        """A new path id."""
        self.next_path_id += 1
        return self.next_path_id - 1

    def component_id(self) -> int:
        """A new component id."""
        self.next_component_id += 1
        return self.next_component_id - 1

    def __iter__(self) -> Iterator[Path]:
        """All living paths, by id."""
        return iter(sorted((p for group in self.paths.values() for p in group), key=lambda p: p.id))

    def components(self) -> list[Component]:
        """All components of living paths, by id."""
        return components_of(self)

    def best(self, owner: str) -> Path | None:
        """The path of the highest score, or the last to succeed; None if the owner has none."""
        paths = self.paths.get(owner, ())
        if self.succeeds:
            return max(paths, key=lambda path: path.id, default=None)
        age = 1 if self.newest_wins else -1
        return max(paths, key=lambda path: (self.score(path), age * path.id), default=None)

    def by_score(self, owner: str) -> list[Path]:
        """The owner's paths, best first, and the oldest first among equals."""
        paths = self.paths.get(owner, ())
        if self.succeeds:
            return sorted(paths, key=lambda path: -path.id)
        return sorted(paths, key=lambda path: (-self.score(path), path.id))

    def prune(self, owner: str, most: int) -> None:
        """Keeps the `most` best paths of an owner; the others stay ancestors until `finish`."""
        self.paths[owner] = self.by_score(owner)[:most]

    def pruned(self, paths: Iterable[Path]) -> list[Path]:
        """The ancestors of these paths that are no longer alive, by id."""
        alive = {path.id for path in self}
        found: dict[int, Path] = {}
        for path in paths:
            ancestor = path.parent
            while ancestor is not None and ancestor.id not in found:
                if ancestor.id not in alive:
                    found[ancestor.id] = ancestor
                ancestor = ancestor.parent
        return [found[i] for i in sorted(found)]

    def is_private(self, owner: str) -> bool:
        """Whether a path of the owner is private; a later task list does not change that."""
        return any(path.private for path in self.paths.get(owner, ()))

    def seeds(self, owner: str) -> list[Path]:
        """The paths of others that an owner may start from: the root and public retained paths."""
        return [path for path in self if path.owner != owner and not path.private]

    def start(self, owner: str) -> None:
        """Starts an iteration: components that only this owner uses become trainable again."""
        for path in self.paths.get(owner, ()):
            for component in path.components:
                component.locks.discard(owner)

    def finish(self, owner: str) -> Path | None:
        """Ends an iteration: keeps the best path only, locks its components, and returns it."""
        best = self.best(owner)
        if best is None:
            return None
        self.paths[owner] = [best]
        alive = {path.id for path in self}
        for path in self:
            path.parent = _nearest(path.parent, alive)
        self.lock(best)
        return best

    def lock(self, path: Path) -> None:
        """Marks every component of a retained path as used by its owner."""
        for component in path.components:
            component.locks.add(path.owner)


def components_of(paths: Iterable[Path]) -> list[Component]:
    """The components of these paths, each once, by id."""
    unique = {c.id: c for path in paths for c in path.components}
    return [unique[i] for i in sorted(unique)]


def _nearest(path: Path | None, alive: Iterable[int]) -> Path | None:
    while path is not None and path.id not in alive:
        path = path.parent
    return path
