"""Parent -> child: the parent, the changed hyperparameters, the copied components.

Only decisions, from the population and a generator of random numbers; nothing is trained here.
Rules: SYSTEMS.md, Sampling. The experiment's method says which of them hold.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from evolution.experiments.experiment import Experiment
from evolution.methods import Method
from evolution.population import POSITION_SOURCE, ROOT, Component, Path, Population
from vit import Architecture, kind_of, shapes
from vit.components import Tree, init, position_embedding_for

Hyperparameters = Mapping[str, Any]
RATE = "_mu_"  # a path's mutation rate; RATE|<mutation> is that of one kind of mutation


def sample_parent(
    population: Population,
    owner: str,
    seeds: list[Path],
    method: Method,
    rng: np.random.Generator,
) -> Path:
    """The parent of an owner's next child; it counts the child.

    Goes through the owner's paths, best first, then perhaps the seeds in their present order. A
    path with many children for this owner is likely to be passed over. If all are, any path is
    drawn. A seed that is taken moves, with all before it, to the end of `seeds`.
    """

    def accepted(path: Path) -> bool:
        if rng.random() < method.parent_decay ** path.children_per_task.get(owner, 0):
            count_child(path, owner)
            return True
        return False

    own = population.by_score(owner)
    for path in own:
        if accepted(path):
            return path
    for i, path in enumerate(seeds if method.walks_seeds else ()):
        if accepted(path):
            seeds[:] = seeds[i + 1 :] + seeds[: i + 1]
            return path
    candidates = own + seeds
    drawn = candidates[rng.integers(len(candidates))]
    if method.counts_drawn:
        count_child(drawn, owner)
    return drawn


def count_child(parent: Path, owner: str) -> None:
    """Adds one to a path's number of children for an owner."""
    parent.children_per_task[owner] = parent.children_per_task.get(owner, 0) + 1


def neighbour(value: Any, choices: Sequence[Any], rng: np.random.Generator) -> Any:
    """The next or the previous choice with equal probability; at an end it may stay.

    A number that is not a choice counts as the nearest one: other publishers of a store may have
    other ranges (SYSTEMS.md, Deviations).
    """
    step = 1 if rng.random() < 0.5 else -1
    at = choices.index(value) if value in choices else _nearest(value, choices)
    return choices[min(max(at + step, 0), len(choices) - 1)]


def _nearest(value: Any, choices: Sequence[Any]) -> int:
    if isinstance(value, str):
        raise ValueError(f"value {value!r} is not among the choices {list(choices)}")
    # Momentum None means 0.
    return min((abs((choice or 0) - (value or 0)), i) for i, choice in enumerate(choices))[1]


def mutates(
    hp: dict[str, Any], mutation: str, experiment: Experiment, rng: np.random.Generator
) -> bool:
    """Draws whether a mutation happens.

    If rates are learned, this mutation has its own. Where rates have a range, that one first
    mutates itself, with the path's general rate, and is written to `hp`, the child's
    hyperparameters (SYSTEMS.md, Learned rates).
    """
    method, tuned = experiment.method, RATE in experiment.ranges
    rate = general = experiment.defaults[RATE]
    if method.inherits_rate or tuned:
        rate = general = hp.get(RATE, general)
    if method.learned_rates:
        rate = hp.get(f"{RATE}|{mutation}", general)
    if method.learned_rates and tuned:
        if rng.random() < general:
            rate = neighbour(rate, experiment.ranges[RATE], rng)
        hp[f"{RATE}|{mutation}"] = rate
    return rng.random() < rate


def shared_data_hyperparameters(
    experiment: Experiment, best: Path | None, mutate: bool, rng: np.random.Generator
) -> dict[str, Any]:
    """The `ds_*` values that all children of a generation share, and their learned rates.

    They start from the values of the task's best path. With `mutate`, each may move to a neighbour.
    """
    ranges, source = experiment.ranges, best.hyperparameters if best else {}
    values = {**experiment.defaults, **source}
    shared = {k: v for k, v in values.items() if k.startswith(("ds_", f"{RATE}|hp:ds_"))}
    for key in sorted(k for k in shared if mutate and k in ranges):
        if mutates(shared, f"hp:{key}", experiment, rng):
            shared[key] = neighbour(shared[key], ranges[key], rng)
    return shared


def mutate_hyperparameters(
    parent: Hyperparameters, experiment: Experiment, rng: np.random.Generator
) -> dict[str, Any]:
    """The parent's hyperparameters after mutation, perhaps with more adapters.

    The mutation rate sorts first, so its new value decides about all others. Data hyperparameters
    belong to the generation and do not mutate here, unless the method draws for them too.
    """
    child, with_data = dict(parent), experiment.method.draws_data
    for key in sorted(k for k in experiment.ranges if with_data or not k.startswith("ds_")):
        if mutates(child, f"hp:{key}", experiment, rng):
            child[key] = neighbour(child[key], experiment.ranges[key], rng)
    blocks, adapters = range(child["num_layers"]), set(child["adapters"])
    for i in blocks if experiment.mutate_adapters else ():
        if i not in adapters and mutates(child, f"add:residual_adapter_{i}", experiment, rng):
            adapters.add(i)
    child["adapters"] = sorted(adapters & set(blocks))  # none stays above the top
    return child


def drawn_hyperparameters(
    number: int, experiment: Experiment, rng: np.random.Generator
) -> dict[str, Any]:
    """A value of each range, all with equal probability; child 0 has the defaults."""
    ranges = experiment.ranges
    if number == 0:
        return {key: experiment.defaults[key] for key in ranges}
    return {key: ranges[key][int(rng.integers(len(ranges[key])))] for key in sorted(ranges)}


def architecture_of(base: Architecture, hp: Hyperparameters, num_classes: int) -> Architecture:
    """The architecture of these hyperparameters; all else is the root's."""
    return replace(
        base,
        image_size=hp["ds_image_size"],
        num_layers=hp["num_layers"],
        num_classes=num_classes,
        adapters=tuple(hp["adapters"]),
        adapter_dim=hp["adapter_dim"],
    )


def make_child(
    population: Population,
    parent: Path,
    task: str,
    arch: Architecture,
    hp: dict[str, Any],
    experiment: Experiment,
    mutate: bool,
    rng: np.random.Generator,
    copied: Container[str] = (),
) -> Path:
    """A child of `parent` for `task`, not yet trained; its components are copied, shared or new.

    Without `mutate` only trainable components are copied, and those named in `copied`. Learned
    rates of copying are written to `hp`, which becomes the child's.
    """
    number = population.path_id()
    seed = _fresh_seed(experiment.method, number, rng)

    def component(name: str) -> Component:
        found = _inherited(parent, name, shapes(arch, name))
        if found is None:
            found = _resampled_or_new(population, name, arch, experiment.method, seed)
            if found.trainable:
                return found
        forced = name in experiment.method.forced_copies
        if (
            found.trainable
            or name in copied
            or (mutate and (forced or mutates(hp, f"clone:{name}", experiment, rng)))
        ):
            return _copy(population, found)
        return found

    return Path(
        id=number,
        task=task,
        parent=parent,
        components=tuple(component(name) for name in arch.component_names),
        hyperparameters=hp,
        generation=parent.generation + 1,
    )


def _fresh_seed(method: Method, number: int, rng: np.random.Generator) -> int:
    """The seed of child `number`'s new components (SYSTEMS.md, Copying)."""
    if method.fresh_components == "draw":
        return int(rng.spawn(1)[0].integers(1 << 31))  # whether it is needed changes no other draw
    return number if method.fresh_components == "child" else 0


def _inherited(parent: Path, name: str, template: Any) -> Component | None:
    """The component `name` of the nearest ancestor that has one of the right shape."""
    ancestor: Path | None = parent
    while ancestor is not None:
        found = ancestor.named(name)
        # A locked head answers another task's question.
        if found is not None and (name != "head" or found.trainable):
            if _shapes(found.params) == _shapes(template):
                return found
            if kind_of(name) not in ("posembed_input", "residual_adapter"):
                raise ValueError(
                    f"{name} of path {ancestor.id}: expected shapes {_shapes(template)}, "
                    f"found {_shapes(found.params)}; components of one system share a width"
                )
        ancestor = ancestor.parent
    return None


def _resampled_or_new(
    population: Population,
    name: str,
    arch: Architecture,
    method: Method,
    seed: int,
) -> Component:
    """Position embeddings of another image size, from the root's; else a new component."""
    if name != "posembed_input":
        return new_component(population, name, init(arch, name, seed))
    root = population.paths[ROOT][0]
    stored = root.named(POSITION_SOURCE) or root.named(name)
    assert stored is not None
    resampled = new_component(population, name, position_embedding_for(arch, stored.params))
    if method.trains_resampled:
        return resampled
    resampled.locks.add(ROOT)  # it belongs to the root, like the stored one
    shape = _shapes(resampled.params)
    known = (c for c in population.components() if c.name == name and ROOT in c.locks)
    return next((c for c in known if _shapes(c.params) == shape), resampled)


def new_component(population: Population, name: str, params: Tree) -> Component:
    """A component without users."""
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    return Component(population.component_id(), name, params, count)


def _copy(population: Population, component: Component) -> Component:
    return Component(
        id=population.component_id(),
        name=component.name,
        source=component.source,
        num_params=component.num_params,
        trace=component.trace,
    )


def _shapes(tree: Any) -> list[tuple[Any, tuple[int, ...]]]:
    return [(path, leaf.shape) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]
