"""The state of a run or an agent as a JSON document and back; its arrays are in the store.

Saving writes only components that the store does not hold yet. The document replaces the former one
in one step, so a run that is killed at any moment continues from its last finished generation.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from evolution.experiments.experiment import Experiment
from evolution.experiments.settings import SettingError
from evolution.population import Component, Path, Population, Score, Stored, components_of
from model_store import Digest, ModelStore
from model_store.names import INDEX
from vit import Architecture
from vit.contract import Contract, contract_of

FORMAT = 2
# Agents save these in addition to their states, under names of their own in the store.
ROOTS, PUBLICATIONS = "roots", INDEX


@dataclass(slots=True)
class Progress:
    """The progress of a run or an agent; all of it is saved."""

    experiment: str  # of an agent, its class
    seed: int
    schedule: list[str]  # entries of the task list, one for each iteration
    architecture: Architecture  # the root's
    settings: dict[str, Any] = field(default_factory=dict)  # Experiment.to_json; {} if imported
    iteration: int = 0  # index in `schedule` of the present or next iteration
    generation: int = 0  # generations of it that are finished
    seeds: list[int] = field(default_factory=list)  # ids, in their present order
    history: list[dict[str, Any]] = field(default_factory=list)  # a row for each child
    archived: int = 0  # rows at the start of the history that are stored for good
    archive: list[Digest] = field(default_factory=list)  # where
    agent: str = ""  # its id; empty for a run
    environments: list[dict[str, Any]] = field(
        default_factory=list
    )  # evolution.process.environment.moved
    contract: Contract | None = None  # of the root's input; None for the plain one

    @property
    def entropy(self) -> int:
        """The source of all its randomness; it differs between agents of one seed."""
        if not self.agent:
            return self.seed
        return int.from_bytes(hashlib.sha256(f"{self.seed}:{self.agent}".encode()).digest()[:8])

    def stream(self, purpose: str) -> tuple[int, ...]:
        """The key of a random stream, one for each purpose and generation."""
        number = ("seeds", "decisions", "batches").index(purpose)
        return self.iteration, self.generation, number

    def rng(self, purpose: str) -> np.random.Generator:
        """The generator of that stream."""
        key = self.stream(purpose)
        return np.random.default_rng(np.random.SeedSequence(self.entropy, spawn_key=key))


class StateError(Exception):
    """A saved run cannot be continued; the message says why."""


def save(
    store: ModelStore,
    run: str,
    progress: Progress,
    population: Population,
    former: Digest | Literal["any"] | None = "any",
) -> Digest:
    """Saves a run under its name; the digest of its state.

    `former` is that of the state it follows, None for the first, "any" where no other process
    saves. Raises AgentMoved if another state has been saved meanwhile.
    """
    document = document_of(store, progress, population, population)
    return store.save_agent(run, document, needed(document), replacing=former)


def document_of(
    store: ModelStore, progress: Progress, population: Population, paths: Iterable[Path]
) -> dict[str, Any]:
    """The document of a state with these paths of the population; stores their arrays."""
    return {
        "format": FORMAT,
        "experiment": progress.experiment,
        "seed": progress.seed,
        "agent": progress.agent,
        "schedule": progress.schedule,
        "architecture": progress.architecture.to_json(),
        **({"input": progress.contract.to_json()} if progress.contract else {}),
        "settings": progress.settings,
        "iteration": progress.iteration,
        "generation": progress.generation,
        "seeds": progress.seeds,
        "archive": progress.archive,
        "environments": progress.environments,
        "history": progress.history[progress.archived :],
        "next_path_id": population.next_path_id,
        "next_component_id": population.next_component_id,
        **rows(store, paths, population.pruned(paths)),
    }


def rows(store: ModelStore, paths: Iterable[Path], pruned: Iterable[Path] = ()) -> dict[str, Any]:
    """Paths, and their pruned ancestors, with components for a document; stores their arrays."""
    paths, pruned = list(paths), list(pruned)
    components = components_of([*paths, *pruned])
    for component in components:
        _put(store, component)
    return {
        "components": [_component_row(component) for component in components],
        "paths": [_path_row(path) for path in paths],
        **({"pruned": [_path_row(path) for path in pruned]} if pruned else {}),
    }


def needed(document: dict[str, Any]) -> list[Digest]:
    """The arrays that a document refers to."""
    components = document["components"]
    digests = [row["digest"] for row in components] + [row["momentum"] for row in components]
    return [digest for digest in [*digests, *document.get("archive", ())] if digest]


def _put(store: ModelStore, component: Component) -> None:
    """Stores what is not stored yet, and drops it from memory."""
    if component.digest is None:
        component.digest = store.put(component.params)
        component.source = Stored(store, component.digest)
    if component.momentum_digest is None and component.momentum is not None:
        component.momentum_digest = store.put(component.momentum)
        component.trace = Stored(store, component.momentum_digest)


def archive_history(store: ModelStore, progress: Progress) -> None:
    """Stores the newest rows of the history, so that later saves need not repeat them."""
    rows = progress.history[progress.archived :]
    if rows:
        # The store's one kind of bulk data is arrays: these are the bytes of a JSON text.
        text = json.dumps(rows, allow_nan=False, separators=(",", ":")).encode()
        progress.archive.append(store.put(np.frombuffer(text, np.uint8)))
        progress.archived = len(progress.history)


def load(store: ModelStore, run: str) -> tuple[Progress, Population]:
    """The run or agent saved under that name; raises StateError.

    For an agent, only its own paths.
    """
    _, document = saved(store, run)
    return progress_of(store, run, document), population_of(store, document)


def saved(store: ModelStore, run: str) -> tuple[Digest, dict[str, Any]]:
    """Digest and document of the state under that name; raises StateError."""
    found = store.agent_state(run)
    if found is None:
        known = ", ".join(runs(store)) or "none"
        raise StateError(f"store has no run called {run!r}; runs there: {known}")
    return found


def runs(store: ModelStore) -> list[str]:
    """Names of the runs and agents in the store, sorted."""
    return [name for name in store.agents() if name.split("/")[0] not in (ROOTS, PUBLICATIONS)]


def progress_of(store: ModelStore, run: str, document: dict[str, Any]) -> Progress:
    """The progress in a document; raises StateError for another format."""
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
    return Progress(
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
        agent=document.get("agent", ""),
        environments=document.get("environments", []),
        contract=contract_of(document.get("input", {})),
    )


def population_of(
    store: ModelStore, document: dict[str, Any], others: dict[str, Any] | None = None
) -> Population:
    """The population of a state, with the paths and components that another document adds."""
    settings = document["settings"]
    try:
        experiment = Experiment.from_json(settings) if settings else None
    except SettingError as error:
        raise StateError(f"run or agent {document['experiment']!r}: {error}") from None
    population = Population(
        experiment.scorer if experiment else Score(),
        experiment.method.newest_wins if experiment else True,
        experiment.method.succeeds if experiment else False,
        next_path_id=document["next_path_id"],
        next_component_id=document["next_component_id"],
    )

    def merged(kind: str) -> dict[int, dict[str, Any]]:
        # If both have a component, the state has the latest.
        return {row["id"]: row for part in (others or {}, document) for row in part.get(kind, ())}

    components = {i: _component(store, row) for i, row in merged("components").items()}
    living = merged("paths")
    path_rows = {**merged("pruned"), **living}
    paths = {i: _path(row, components) for i, row in sorted(path_rows.items())}
    for i, path in paths.items():
        path.parent = paths.get(path_rows[i]["parent"])
        if i in living:
            population.paths.setdefault(path.owner, []).append(path)
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
        "owner": path.owner,
        "parent": path.parent.id if path.parent else None,
        "parent_published": path.parent.published if path.parent else None,
        "components": [component.id for component in path.components],
        "hyperparameters": dict(path.hyperparameters),
        "generation": path.generation,
        "private": path.private,
        "quality": path.quality,
        "children_per_task": path.children_per_task,
        "metrics": path.metrics,
        "published": path.published,
    }


def _path(row: dict[str, Any], components: dict[int, Component]) -> Path:
    return Path(
        id=row["id"],
        task=row["task"],
        parent=None,
        components=tuple(components[i] for i in row["components"]),
        hyperparameters=row["hyperparameters"],
        generation=row["generation"],
        private=row["private"],
        quality=row["quality"],
        children_per_task=row["children_per_task"],
        metrics=row["metrics"],
        published=row["published"],
        owner=row.get("owner", ""),
    )
