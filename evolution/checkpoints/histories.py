"""A published state as a run of ours: its population and its history, to continue from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from evolution.checkpoints.layouts import Key, Model, SavedRun, StoredLayer
from evolution.checkpoints.networks import Network, num_params
from evolution.checkpoints.tables import Row, mutations, single_path_hyperparameters
from evolution.population import ROOT, Component, Path, Population, Score
from evolution.state import Progress

_SECONDS = (
    "init",
    "train_compile",
    "eval_compile",
    "train",
    "eval",
)  # an agent's record of a child
_IN_ROW = (  # metrics that a row of the history has under another name
    "evals", "mutations", "quality", "score", "training_score", "training_accounted_params",
    "accounted_params", "num_params", "num_trainable_params", "flops", "improved", "new_best",
    "loop_time", "end_time", "timestamp_end",
)  # fmt: skip


def population_of(
    run: SavedRun, networks: Mapping[Key, Network], layers: Mapping[Key, StoredLayer]
) -> tuple[Population, dict[Key, Path], dict[Key, Component]]:
    """The run's population, without arrays and digests; its paths and components by key.

    Locks are those of the retained models. A missing parent is replaced by the first root, as in
    the original.
    """
    population = Population(Score())
    paths: dict[Key, Path] = {}
    components: dict[Key, Component] = {}
    for model in run.retained:
        network = networks[model.key]
        for name, key in network.components.items():
            if key not in components:
                # Without arrays: they go straight to the store, as they may not fit in memory.
                count, number = num_params(layers[key]), run.layer_numbers[key]
                components[key] = Component(number, name, {}, count)
        parts = tuple(components[key] for key in network.components.values())
        path = paths[model.key] = _path(model, run, network, parts)
        population.paths.setdefault(model.task, []).append(path)
        population.lock(path)
    roots = population.paths.get(ROOT, [])
    for model in run.retained:
        parent = paths.get(model.parent) if model.parent else None
        if model.task != ROOT:
            paths[model.key].parent = parent or next(iter(roots), None)
    population.next_path_id = 1 + max(run.numbers.values())
    population.next_component_id = 1 + max(run.layer_numbers.values())
    return population, paths, components


def _path(model: Model, run: SavedRun, network: Network, parts: tuple[Component, ...]) -> Path:
    row = model.row
    metrics = {
        "evaluations": row.numbers("metrics.evals"),
        "test_quality": row.share("metrics.test_quality"),
        "flops": row.number("metrics.flops"),
    }
    children = row.counts("metrics.offsprings_per_task")
    if children is None:  # agents count the children of their own task only
        count = row.integer("metrics.offsprings")
        children = {model.task: count} if count else {}
    return Path(
        id=run.numbers[model.key],
        task=model.task,
        parent=None,
        components=parts,
        hyperparameters=network.hyperparameters,
        generation=row.integer("metrics.generation") or 0,
        private=row.flag("metrics.private") or False,
        quality=row.share("metrics.quality"),
        children_per_task=children,
        metrics={name: value for name, value in metrics.items() if value is not None},
    )


def progress_of(run: SavedRun, root: Network) -> Progress:
    """A finished run with the imported history and the architecture of its first root."""
    tasks = [model.task for model in (*run.sampled, *run.retained) if model.task != ROOT]
    schedule = list(dict.fromkeys(tasks))
    return Progress(
        experiment=run.name,
        seed=0,
        schedule=schedule,
        architecture=root.architecture,
        iteration=len(schedule),
        history=list(_history(run)),
    )


def _history(run: SavedRun) -> Iterator[dict[str, Any]]:
    """A row for each sampled model; unknown values are None."""
    hyperparameters = {
        model.key: single_path_hyperparameters(model.row) for model in (*run.retained, *run.sampled)
    }
    seen = {key for model in run.retained if model.task == ROOT for key in model.layers}
    for model in run.sampled:
        names = {key: run.layer_names.get(key, (None, 0))[0] for key in model.layers}
        # A child never trains a layer of its parent, only layers that did not exist before.
        trained = [name for key, name in names.items() if key not in seen]
        seen.update(model.layers)
        known = None not in names.values()
        yield {
            "id": run.numbers[model.key],
            "task": model.task,
            "parent": run.numbers.get(model.parent) if model.parent else None,
            "parent_task": model.parent_task,
            "iteration": None,
            "generation": model.row.integer("metrics.generation_id"),
            "hyperparameters": hyperparameters[model.key],
            "mutations": _mutations(model, hyperparameters),
            "components": (
                {name: run.layer_numbers[key] for key, name in names.items()} if known else None
            ),
            "trained": trained if known else None,
            "total_params": sum(run.layer_names[k][1] for k in names) if known else None,
            **_measured(model.row),
        }


def _mutations(
    model: Model, hyperparameters: Mapping[Key, Mapping[str, Any]]
) -> dict[str, list[Any]] | None:
    """As recorded; else the difference from the parent, if that is known."""
    recorded = model.row.json("metrics.mutations")
    if recorded is not None:
        return mutations(recorded, model.row.where)
    before = hyperparameters.get(model.parent) if model.parent else None
    after = hyperparameters[model.key]
    if before is None:
        return None
    return {k: [before.get(k), v] for k, v in after.items() if before.get(k) != v}


def _measured(row: Row) -> dict[str, Any]:
    """A metric; agents and μ2Net have different names for some."""
    parts = [row.number(f"metrics.time_{part}") for part in _SECONDS]
    spent = [part for part in parts if part is not None]
    recorded = row.starting("metrics.")
    return {
        "evaluations": row.numbers("metrics.evals"),
        "quality": row.share("metrics.quality"),
        "score": row.first("score", "metrics.score"),
        "accounted_params": row.first(
            "metrics.training_accounted_params", "metrics.accounted_params"
        ),
        "trainable_params": row.integer("metrics.num_trainable_params"),
        "flops": row.number("metrics.flops"),
        "improved": row.flag("metrics.improved"),
        "new_best": row.flag("metrics.new_best"),
        "diverged": None,
        "seconds": row.number("metrics.loop_time") or (sum(spent) if spent else None),
        "ended": row.ended(),
        "recorded": {name: text for name, text in recorded.items() if name not in _IN_ROW},
    }
