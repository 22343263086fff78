"""The starting point of a task: the paths that a store serves, and their root.

A store may hold systems of several kinds (width, heads, patches, pooling), which share nothing. A
task that exists keeps its kind. A new one takes the kind of most served paths; if there are
several, the widest. The root is that of a run which published one of them. If no run did, as in a
store of adopted networks, the root is the deepest network without its head.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax

from evolution import state
from evolution.agents.snapshots import Kind, Taking, kind_of_network, set_parents
from evolution.data.tasks import Task
from evolution.experiments.experiment import Experiment
from evolution.multipath.frozen_paths import is_multipath
from evolution.population import ROOT, Population
from evolution.publication import has_classes
from evolution.roots.loading import RootError, fitted, read_root
from evolution.run import population_of_root
from evolution.state import StateError
from evolution.training.programs import forward_flops
from model_store import ModelStore, Published, TaskPath
from vit import Architecture, shapes
from vit.activation import activation_of
from vit.components import Tree
from vit.contract import Contract, contract_of
from vit.decode import decoding_of
from vit.preprocess import CONTRACT

# Of a root, and whether the root is that of a system in the store.
ShapeOf = Callable[[Architecture, bool], tuple[int, int]]


@dataclass(frozen=True, slots=True)
class System:
    """The starting point of a task."""

    root: str  # a root's name for `load_root`, or its origin in the store
    architecture: Architecture  # the root's
    components: dict[str, Tree]  # the root's, in forward order
    params: int  # of the root
    published: tuple[Published, ...]  # possible parents
    contract: Contract | None = None  # of the input; None for the plain one

    def of(self, task: Task) -> System:
        """Without the task's own version, if that has other classes or sees other pixels."""

        def fits(published: Published) -> bool:
            spec = published.path
            own = spec.task == task.name
            ours = task.decoding, task.activation
            theirs = decoding_of(spec.input), activation_of(spec.extra)
            return not own or (has_classes(spec, task.labels) and ours == theirs)

        return replace(self, published=tuple(p for p in self.published if fits(p)))


def system_of(
    store: ModelStore | None, task: str, root: str | None, default: str, shape_of: ShapeOf
) -> System:
    """The starting point of a task in a store.

    `root` is the one the user gave, `default` that of an empty store. `shape_of` gives the side of
    the images and the number of blocks. Raises RootError.
    """
    served = [p for p in store.served() if _parent(p, task)] if store else []
    if root is None and store is not None and served:
        kind = _chosen(served, task)
        alike = tuple(p for p in served if _kind(p) == kind)
        name, arch, components, contract = _stored_root(store, alike)
        side, blocks = shape_of(arch, True)
        arch = replace(arch, image_size=side, num_layers=blocks)
        return System(name, arch, components, _params_of(arch), alike, contract)
    spec = root or default
    published, components = read_root(spec)
    try:
        arch, components = fitted(published, components, *shape_of(published, False))
    except ValueError as error:
        raise RootError(f"root {spec!r}: {error}") from error
    alike = tuple(p for p in served if _kind(p) == kind_of_network(arch, None))
    return System(spec, arch, components, _params_of(arch), alike)


def population_of(
    system: System, store: ModelStore, task: Task, experiment: Experiment
) -> Population:
    """The population at the start of a run: the root and each served path."""
    population = population_of_root(experiment, system.components)
    for component in population.components():
        component.digest = store.put(component.params)
    taking = Taking(store, population, system.architecture, task.name, system.contract)
    manifests = {}
    for published in system.published:
        path = taking.path(published.task, published, {})
        if path is not None:
            path.metrics["flops"] = forward_flops(_architecture(published))
            manifests[path.id] = published.path.lineage.get("parent")
    set_parents(population, manifests)
    for path in population:
        population.lock(path)
    return population


def _parent(published: Published, task: str) -> bool:
    """Whether a served version may be a parent of the task's paths."""
    spec = published.path
    try:
        Architecture.from_json(spec.architecture)
        known = decoding_of(spec.input) and activation_of(spec.extra)
        known = known and (contract_of(spec.input) is not None or _plain_input(spec))
    except ValueError:  # of another version of munet
        return False
    return bool(known) and (spec.task == task or not spec.private) and not is_multipath(spec)


def _plain_input(spec: TaskPath) -> bool:
    """Whether its pictures are prepared in the plain way."""
    known = {"size", *decoding_of(spec.input).to_json()}
    return {k: v for k, v in spec.input.items() if k not in known} == CONTRACT


def _chosen(served: Sequence[Published], task: str) -> Kind:
    kinds: Counter[Kind] = Counter()
    for published in served:
        kind = _kind(published)
        if published.task == task:
            return kind
        kinds[kind] += 1
    return max(kinds, key=lambda kind: (kinds[kind], kind[0].width))


def _params_of(arch: Architecture) -> int:
    leaves = (leaf for name in arch.component_names for leaf in jax.tree.leaves(shapes(arch, name)))
    return sum(math.prod(leaf.shape) for leaf in leaves)


def _kind(published: Published) -> Kind:
    return kind_of_network(_architecture(published), contract_of(published.path.input))


def _architecture(published: Published) -> Architecture:
    return Architecture.from_json(published.path.architecture)


def _stored_root(
    store: ModelStore, published: Sequence[Published]
) -> tuple[str, Architecture, dict[str, Tree], Contract | None]:
    """The root of served paths of one kind: its origin and its components."""
    known = set(store.agents())
    for run in dict.fromkeys(str(p.path.lineage.get("agent")) for p in published):
        if run not in known:
            continue
        try:
            progress, population = state.load(store, run)
        except StateError:
            continue  # of another version of munet
        if kind_of_network(progress.architecture, progress.contract) == _kind(published[0]):
            root = population.paths[ROOT][0]
            components = {c.name: c.params for c in root.components}
            return f"of run {run}", progress.architecture, components, progress.contract
    deepest = max(published, key=lambda p: _architecture(p).num_layers)
    arch = replace(_architecture(deepest), adapters=())
    parts: dict[str, Any] = {
        name: store.component(digest)
        for name, digest in deepest.path.components.items()
        if name in arch.component_names
    }
    contract = contract_of(deepest.path.input)
    return f"of {deepest.task} v{deepest.version}", arch, parts, contract
