"""How a multipath child is sampled; nothing is trained here (SYSTEMS.md, Children)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from evolution.data.vtab import is_thousand
from evolution.experiments.experiment import Experiment
from evolution.multipath.frozen_paths import PARTS, Part, part_of, parts_of
from evolution.mutation import (
    architecture_of,
    count_child,
    mutates,
    neighbour,
    new_component,
)
from evolution.population import Component, Path, Population
from evolution.state import StateError
from vit import Architecture
from vit.components import Tree
from vit.mixer import ROUTER, connector_name, init_connector, init_router

MAIN_WEIGHT, ROUTER_RATE, NUM_PATHS = "router_init_main_path_weight", "router_lr_mult", "num_paths"


@dataclass(frozen=True, slots=True)
class Origin:
    """The owner and task of children, and the root's architecture."""

    owner: str
    task: str
    num_classes: int
    base: Architecture  # the root's


def main_paths(population: Population, origin: Origin) -> list[Path]:
    """The published single paths of the task; raises StateError if there are none.

    Private ones too: a path made of them solves the same task, and is private.
    """
    others = (p for p in population if p.task == origin.task and p.owner != origin.owner)
    found = [path for path in others if _classes(path, origin.base) == origin.num_classes]
    if not found:
        raise StateError(
            f"task {origin.task}: expected a published single path of width {origin.base.width}, "
            f"patch size {origin.base.patch_size} and {origin.num_classes} classes to build on, "
            "found none; run a single-path agent of the task first (adopted networks and their"
            " children do not count: they see pixels of another scale)"
        )
    return found


def _classes(path: Path, base: Architecture) -> int:
    head = path.named("head")
    return head.num_params // (base.features + 1) if head else 0


def make_child(
    population: Population,
    origin: Origin,
    experiment: Experiment,
    data_hp: dict[str, Any],
    rng: np.random.Generator,
) -> tuple[Path, Path]:
    """An untrained child and its parent: an own path, which counts it, or the main path."""
    mains = main_paths(population, origin)
    main = mains[rng.integers(len(mains))]
    own = sample_own(population, origin.owner, experiment.method.parent_decay, rng)
    best = own or population.best(origin.owner)
    hp = {**experiment.defaults, **(best.hyperparameters if best else {})}
    hp = mutate_hyperparameters(hp, experiment, rng) | data_hp
    kept = parts_of(own)[1:] if own else ()
    chosen = sample_paths(main, kept, candidates(population, origin.owner), hp[NUM_PATHS], rng)
    parts = [
        each if isinstance(each, Part) else _new_part(population, origin, each, place)
        for place, each in enumerate(chosen)
    ]
    hp[NUM_PATHS] = len(parts)
    mixer = _mixer(population, origin, hp, parts, own)
    parent = own or main
    child = Path(
        id=population.path_id(),
        task=origin.task,
        parent=parent,
        components=(*(c for part in parts for c in part.components), *mixer),
        hyperparameters=hp,
        generation=parent.generation + 1,
        private=main.private or population.is_private(origin.owner),
        metrics={PARTS: [part.to_json() for part in parts]},
        owner=origin.owner,
    )
    return child, parent


def sample_own(
    population: Population, owner: str, decay: float, rng: np.random.Generator
) -> Path | None:
    """The first own path, best first, that the draw by its number of children accepts."""
    for path in population.by_score(owner):
        if rng.random() < decay ** path.children_per_task.get(owner, 0):
            count_child(path, owner)
            return path
    return None


def mutate_hyperparameters(
    hp: dict[str, Any], experiment: Experiment, rng: np.random.Generator
) -> dict[str, Any]:
    """The hyperparameters after mutation; the mutation rate mutates first."""
    child = dict(hp)
    for key in sorted(experiment.ranges):
        if mutates(child, f"hp:{key}", experiment, rng):
            child[key] = neighbour(child[key], experiment.ranges[key], rng)
    return child


def candidates(population: Population, owner: str) -> list[Path]:
    """The candidates for further paths: the root and public paths of others, without VTAB-1k's."""
    return [p for p in population.seeds(owner) if not is_thousand(p.task)]


def sample_paths(
    main: Path,
    kept: Sequence[Part],
    candidates: Sequence[Path],
    count: int,
    rng: np.random.Generator,
) -> list[Path | Part]:
    """The main path and `count` - 1 further ones in their places, fewer if there are no more.

    A place keeps the parent's path. Otherwise one is drawn uniformly. No owner has two paths.
    """
    chosen: list[Path | Part] = [main]
    for place in range(count - 1):
        owners = {path.owner for path in chosen}
        if place < len(kept) and kept[place].owner not in owners:
            chosen.append(kept[place])
            continue
        owners |= {part.owner for part in kept[place + 1 : count - 1]}
        free = [path for path in candidates if path.owner not in owners]
        if not free:
            break
        chosen.append(free[rng.integers(len(free))])
    return chosen


def _new_part(population: Population, origin: Origin, path: Path, place: int) -> Part:
    """A new part. A path of the same task keeps its head, so it answers with logits."""
    has_head = path.task == origin.task
    classes = _classes(path, origin.base) if has_head else 1
    arch = architecture_of(origin.base, path.hyperparameters, classes)
    return part_of(population, path, arch, place, has_head)


def _mixer(
    population: Population,
    origin: Origin,
    hp: dict[str, Any],
    parts: Sequence[Part],
    parent: Path | None,
) -> list[Component]:
    """Router and connectors: the parent's if shape and path are the same, else new."""
    fresh = {ROUTER: init_router(origin.num_classes, len(parts), hp[MAIN_WEIGHT])}
    inherited = {ROUTER: parent.named(ROUTER)} if parent else {}
    before = parts_of(parent) if parent else ()
    for place, part in enumerate(parts[1:], 1):
        name = connector_name(place)
        fresh[name] = init_connector(part.network.outputs, origin.num_classes)
        if parent and place < len(before) and before[place].digests == part.digests:
            inherited[name] = parent.named(name)

    def component(name: str, new: Tree) -> Component:
        found = inherited.get(name)
        same = found is not None and _shapes(found.params) == _shapes(new)
        return new_component(population, name, found.params if found and same else new)

    return [component(name, new) for name, new in fresh.items()]


def _shapes(tree: Tree) -> Any:
    return jax.tree.map(lambda leaf: leaf.shape, tree)
