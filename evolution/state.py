"""A run's state as a JSON document and back; its arrays lie in the store by digest.

Saving writes only components that the store does not hold yet; the document replaces the former
one at once, so that a run killed anywhere continues from its last finished generation.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from evolution.experiments import Experiment
from evolution.population import Component, Path, Population, Score, Stored
from model_store import Digest, ModelStore
from vit import Architecture

FORMAT = 2


@dataclass(slots=True)
class Progress:
    """How far a run has come; all of it is saved."""

    experiment: str
    seed: int
    schedule: list[str]  # entries of the task list, one for each task iteration
    architecture: Architecture  # the root's
    settings: dict[str, Any] = field(default_factory=dict)  # Experiment.to_json; {} if imported
    iteration: int = 0  # index in `schedule` of the iteration under way or next
    generation: int = 0  # generations of it that are finished
    seeds: list[int] = field(default_factory=list)  # ids, in their present order
    history: list[dict[str, Any]] = field(default_factory=list)  # a row for each child
    archived: int = 0  # rows at the start of the history that are stored for good
    archive: list[Digest] = field(default_factory=list)  # where


class StateError(Exception):
    """A saved run cannot be continued; the message says why."""


def save(store: ModelStore, run: str, progress: Progress, population: Population) -> None:
    """Saves the run under its name."""
    components = population.components()
    for component in components:
        _put(store, component)
    document = {
        "format": FORMAT,
        "experiment": progress.experiment,
        "seed": progress.seed,
        "schedule": progress.schedule,
        "architecture": progress.architecture.to_json(),
        "settings": progress.settings,
        "iteration": progress.iteration,
        "generation": progress.generation,
        "seeds": progress.seeds,
        "archive": progress.archive,
        "history": progress.history[progress.archived :],
        "next_path_id": population.next_path_id,
        "next_component_id": population.next_component_id,
        "components": [_component_row(component) for component in components],
        "paths": [_path_row(path) for path in population],
    }
    digests = [c.digest for c in components] + [c.momentum_digest for c in components]
    store.save_agent(run, document, [digest for digest in [*digests, *progress.archive] if digest])


def _put(store: ModelStore, component: Component) -> None:
    """Stores what is not stored yet; memory holds it no longer than it is used."""
    if component.digest is None:
        component.digest = store.put(component.params)
        component.source = Stored(store, component.digest)
    if component.momentum_digest is None and component.momentum is not None:
        component.momentum_digest = store.put(component.momentum)
        component.trace = Stored(store, component.momentum_digest)


def archive_history(store: ModelStore, progress: Progress) -> None:
    """Stores the newest rows of the history for good, so that later saves need not repeat them."""
    rows = progress.history[progress.archived :]
    if rows:
        # The store's one kind of bulk data is arrays: these are the bytes of a JSON text.
        text = json.dumps(rows, allow_nan=False, separators=(",", ":")).encode()
        progress.archive.append(store.put(np.frombuffer(text, np.uint8)))
        progress.archived = len(progress.history)


def load(store: ModelStore, run: str) -> tuple[Progress, Population]:
    """The run saved under that name; raises StateError."""
    document = store.load_agent(run)
    if document is None:
        known = ", ".join(store.agents()) or "none"
        raise StateError(f"store has no run called {run!r}; runs there: {known}")
    if document.get("format") != FORMAT:
        raise StateError(
            f"run {run!r} was saved in format {document.get('format')}, this version reads "
            f"format {FORMAT}; finish it with the version that began it"
        )
    archived = [
        row
        for digest in document["archive"]
        for row in json.loads(np.asarray(store.component(digest)).tobytes())
    ]
    progress = Progress(
        experiment=document["experiment"],
        seed=document["seed"],
        schedule=document["schedule"],
        architecture=Architecture.from_json(document["architecture"]),
        settings=document["settings"],
        iteration=document["iteration"],
        generation=document["generation"],
        seeds=document["seeds"],
        history=archived + document["history"],
        archived=len(archived),
        archive=document["archive"],
    )
    return progress, _population(store, document)


def _population(store: ModelStore, document: dict[str, Any]) -> Population:
    settings = document["settings"]
    experiment = Experiment.from_json(settings) if settings else None
    population = Population(
        experiment.scorer if experiment else Score(),
        experiment.method.newest_wins if experiment else True,
        next_path_id=document["next_path_id"],
        next_component_id=document["next_component_id"],
    )
    components = {row["id"]: _component(store, row) for row in document["components"]}
    paths: dict[int, Path] = {}
    for row in sorted(document["paths"], key=lambda row: row["id"]):  # parents have lower ids
        path = paths[row["id"]] = _path(row, components, paths)
        population.paths.setdefault(path.task, []).append(path)
    return population


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
        source=Stored(store, row["digest"]),
        num_params=row["num_params"],
        trace=Stored(store, momentum) if momentum else None,
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
