"""A run's state as a JSON document and back; its arrays lie in the store by digest.

Saving writes only components that the store does not hold yet; the document replaces the former
one at once, so that a run killed anywhere continues from its last finished generation.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from evolution.population import Component, Path, Population, Score
from model_store import Digest, ModelStore

FORMAT = 1


@dataclass(slots=True)
class Progress:
    """How far a run has come; all of it is saved."""

    experiment: str
    seed: int
    schedule: list[str]  # entries of the task list, one for each task iteration
    iteration: int = 0  # index in `schedule` of the iteration under way or next
    generation: int = 0  # generations of it that are finished
    seeds: list[int] = field(default_factory=list)  # ids, in their present order
    history: list[dict[str, Any]] = field(default_factory=list)  # a row for each child


class StateError(Exception):
    """A saved run cannot be continued; the message says why."""


def save(store: ModelStore, agent: str, progress: Progress, population: Population) -> None:
    """Saves the run under the agent's name."""
    components = population.components()
    for component in components:
        if component.digest is None:
            component.digest = store.put(component.params)
        if component.momentum is not None and component.momentum_digest is None:
            component.momentum_digest = store.put(component.momentum)
    document = {
        "format": FORMAT,
        "experiment": progress.experiment,
        "seed": progress.seed,
        "schedule": progress.schedule,
        "iteration": progress.iteration,
        "generation": progress.generation,
        "seeds": progress.seeds,
        "history": progress.history,
        "next_path_id": population.next_path_id,
        "next_component_id": population.next_component_id,
        "components": [_component_row(component) for component in components],
        "paths": [_path_row(path) for path in population],
    }
    digests = [c.digest for c in components] + [c.momentum_digest for c in components]
    store.save_agent(agent, document, [digest for digest in digests if digest])


def load(store: ModelStore, agent: str, score: Score) -> tuple[Progress, Population]:
    """The run saved under the agent's name; raises StateError."""
    document = store.load_agent(agent)
    if document is None:
        known = ", ".join(store.agents()) or "none"
        raise StateError(f"store has no run called {agent!r}; runs there: {known}")
    if document.get("format") != FORMAT:
        raise StateError(
            f"run {agent!r} was saved in format {document.get('format')}, this version reads "
            f"format {FORMAT}"
        )
    progress = Progress(
        experiment=document["experiment"],
        seed=document["seed"],
        schedule=document["schedule"],
        iteration=document["iteration"],
        generation=document["generation"],
        seeds=document["seeds"],
        history=document["history"],
    )
    population = Population(
        score,
        next_path_id=document["next_path_id"],
        next_component_id=document["next_component_id"],
    )
    components = {row["id"]: _component(store, row) for row in document["components"]}
    paths: dict[int, Path] = {}
    for row in sorted(document["paths"], key=lambda row: row["id"]):  # parents have lower ids
        path = paths[row["id"]] = _path(row, components, paths)
        population.paths.setdefault(path.task, []).append(path)
    return progress, population


def _component_row(component: Component) -> dict[str, Any]:
    return {
        "id": component.id,
        "name": component.name,
        "num_params": component.num_params,
        "locks": sorted(component.locks),
        "digest": component.digest,
        "momentum": component.momentum_digest,
    }


def _component(store: ModelStore, row: dict[str, Any]) -> Component:
    momentum: Digest | None = row["momentum"]
    return Component(
        id=row["id"],
        name=row["name"],
        params=store.component(row["digest"]),
        num_params=row["num_params"],
        momentum=store.component(momentum) if momentum else None,
        locks=set(row["locks"]),
        digest=row["digest"],
        momentum_digest=momentum,
    )


def _path_row(path: Path) -> dict[str, Any]:
    return {
        "id": path.id,
        "task": path.task,
        "parent": path.parent.id if path.parent else None,
        "components": [component.id for component in path.components],
        "hyperparameters": dict(path.hyperparameters),
        "generation": path.generation,
        "private": path.private,
        "quality": path.quality,
        "children_per_task": path.children_per_task,
        "metrics": path.metrics,
        "published": path.published,
    }


def _path(row: dict[str, Any], components: dict[int, Component], paths: dict[int, Path]) -> Path:
    return Path(
        id=row["id"],
        task=row["task"],
        parent=None if row["parent"] is None else paths[row["parent"]],
        components=tuple(components[i] for i in row["components"]),
        hyperparameters=row["hyperparameters"],
        generation=row["generation"],
        private=row["private"],
        quality=row["quality"],
        children_per_task=row["children_per_task"],
        metrics=row["metrics"],
        published=row["published"],
    )
