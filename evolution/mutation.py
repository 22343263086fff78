"""Parent -> child: whom to start from, which hyperparameters change, which components are copied.

Pure decisions over the population and a generator of random numbers; nothing is trained here.
Rules: spec/mu2net.md §4, with what it takes over from spec/munet.md §4.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from evolution.methods import Method
from evolution.population import ROOT, Component, Path, Population
from vit import Architecture, init, kind_of, position_embedding_for, shapes
from vit.components import Tree

Hyperparameters = Mapping[str, Any]
Ranges = Mapping[str, Sequence[Any]]


def sample_parent(
    population: Population,
    task: str,
    seeds: list[Path],
    method: Method,
    rng: np.random.Generator,
) -> Path:
    """Whom the next child of `task` starts from.

    Walks the task's own paths from the best down, then the seeds in their present order, and takes
    the first that its number of children for this task lets through. A seed that is taken moves,
    with all before it, behind the others (`seeds` is changed).
    """

    def accepted(path: Path) -> bool:
        return rng.random() < method.parent_decay ** path.children_per_task.get(task, 0)

    own = population.by_score(task)
    for path in own:
        if accepted(path):
            return path
    for i, path in enumerate(seeds):
        if accepted(path):
            seeds[:] = seeds[i + 1 :] + seeds[: i + 1]
            return path
    candidates = own + seeds
    return candidates[rng.integers(len(candidates))]


def neighbour(value: Any, choices: Sequence[Any], rng: np.random.Generator) -> Any:
    """The next or the previous choice with equal probability; at an end it may stay."""
    if value not in choices:
        raise ValueError(f"value {value!r} is not among the choices {list(choices)}")
    step = 1 if rng.random() < 0.5 else -1
    return choices[min(max(choices.index(value) + step, 0), len(choices) - 1)]


def shared_data_hyperparameters(
    defaults: Hyperparameters, ranges: Ranges, best: Path | None, rng: np.random.Generator
) -> dict[str, Any]:
    """The `ds_*` values of one generation, which all its children share.

    They start from those of the task's best path, and each moves to a neighbour with the default
    mutation probability.
    """
    source = best.hyperparameters if best else defaults
    shared = {key: source[key] for key in defaults if key.startswith("ds_")}
    for key in sorted(k for k in shared if k in ranges):
        if rng.random() < defaults["_mu_"]:
            shared[key] = neighbour(shared[key], ranges[key], rng)
    return shared


def mutate_hyperparameters(
    parent: Hyperparameters, ranges: Ranges, rng: np.random.Generator
) -> dict[str, Any]:
    """The parent's hyperparameters, each that has a range moved with probability `_mu_`.

    `_mu_` sorts first, so its new value decides about all others. Data hyperparameters are the
    generation's, but a draw is made for them too, as in the published system.
    """
    child = dict(parent)
    for key in sorted(ranges):
        if rng.random() < child["_mu_"] and not key.startswith("ds_"):
            child[key] = neighbour(child[key], ranges[key], rng)
    return child


def mutate_adapters(hp: Hyperparameters, rng: np.random.Generator) -> list[int]:
    """The blocks with an adapter before them: each may gain one, and none stays above the top."""
    gained = [i for i in range(hp["num_layers"]) if rng.random() < hp["_mu_"]]
    return sorted({*hp["adapters"], *gained} & set(range(hp["num_layers"])))


def architecture_of(base: Architecture, hp: Hyperparameters, num_classes: int) -> Architecture:
    """The architecture that hyperparameters ask for; width and patch size are the root's."""
    return Architecture(
        width=base.width,
        heads=base.heads,
        mlp_dim=base.mlp_dim,
        patch_size=base.patch_size,
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
    hp: Hyperparameters,
    method: Method,
    rng: np.random.Generator,
) -> Path:
    """A child of `parent` for `task`: its components copied, shared or new, not yet trained."""
    components = tuple(
        _child_component(population, parent, name, arch, hp["_mu_"], method, rng)
        for name in arch.component_names
    )
    return Path(
        id=population.path_id(),
        task=task,
        parent=parent,
        components=components,
        hyperparameters=hp,
        generation=parent.generation + 1,
    )


def _child_component(
    population: Population,
    parent: Path,
    name: str,
    arch: Architecture,
    mu: float,
    method: Method,
    rng: np.random.Generator,
) -> Component:
    found = _inherited(parent, name, shapes(arch, name))
    if found is None:
        return _resampled_or_new(population, name, arch)
    drawn = rng.random() < mu
    if found.trainable or name in method.forced_copies or drawn:
        return _copy(population, found)
    return found


def _inherited(parent: Path, name: str, template: Any) -> Component | None:
    """The component of that name of the nearest ancestor that has one of the right shape."""
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


def _resampled_or_new(population: Population, name: str, arch: Architecture) -> Component:
    """Position embeddings of another image size come from the root's; all else is born new."""
    if name == "posembed_input":
        root = next(p for p in population.paths[ROOT] if p.named(name) is not None)
        stored = root.named(name)
        assert stored is not None
        return new_component(population, name, position_embedding_for(arch, stored.params))
    return new_component(population, name, init(arch, name))


def new_component(population: Population, name: str, params: Tree) -> Component:
    """A component that nobody uses yet."""
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    return Component(population.component_id(), name, params, count)


def _copy(population: Population, component: Component) -> Component:
    return Component(
        id=population.component_id(),
        name=component.name,
        params=component.params,
        num_params=component.num_params,
        momentum=component.momentum,
    )


def _shapes(tree: Any) -> list[tuple[Any, tuple[int, ...]]]:
    return [(path, leaf.shape) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]
