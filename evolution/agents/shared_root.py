"""The root that all agents of a class start from: saved once in the store, never served."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

from evolution import state
from evolution.agents.kinds import AgentClass, publisher_of
from evolution.agents.snapshots import Document, shape_hyperparameters
from evolution.experiments.experiment import Experiment
from evolution.population import ROOT, Population
from evolution.roots import loading
from evolution.run import population_of_root
from evolution.state import Progress, StateError
from model_store import AgentMoved, ModelStore, Published
from vit import Architecture


def root_document(
    store: ModelStore,
    agent_class: AgentClass,
    publications: Iterable[Published],
    spec: str | None,
) -> Document:
    """A state with only the root of a class; the first agent of the class saves it.

    `spec` replaces the class's own root. If agents of the class were imported, its own root is
    theirs. Raises RootError, and StateError if agents of the class already start from another.
    """
    experiment = agent_class.rooted
    name = f"{state.ROOTS}/{experiment.name}"
    document = store.load_agent(name)
    if document is None:
        run = None if spec else _imported_run(store, experiment, publications)
        found = _of_run(store, run) if run else _loaded(experiment, spec or experiment.root)
        made = _document(store, experiment, run or spec or experiment.root, *found)
        with suppress(AgentMoved):  # another agent of the class was first
            store.save_agent(name, made, state.needed(made), replacing=None)
        document = store.load_agent(name) or made
    saved = document["settings"]["root"]
    if spec not in (None, saved):
        raise StateError(
            f"root {spec!r}: agents of class {experiment.name} in {store.url} start from "
            f"{saved!r}; leave out --root, or use another store"
        )
    return document


def _loaded(experiment: Experiment, spec: str) -> tuple[Architecture, Population]:
    defaults = experiment.defaults
    arch, params = loading.load_root(spec, defaults["ds_image_size"], defaults["num_layers"])
    population = population_of_root(experiment, params)
    root = population.paths[ROOT][0]
    root.hyperparameters = {**root.hyperparameters, **shape_hyperparameters(arch)}
    return arch, population


def _imported_run(
    store: ModelStore, experiment: Experiment, publications: Iterable[Published]
) -> str | None:
    """The run of imported agents of the class; the newest if there are several."""
    runs = [
        published.path.lineage.get("experiment")
        for published in publications
        if publisher_of(published.path).split("/")[0] == experiment.name
    ]
    known = set(store.agents())
    return next((run for run in reversed(runs) if run in known), None)


def _of_run(store: ModelStore, run: str) -> tuple[Architecture, Population]:
    progress, population = state.load(store, run)
    population.paths = {ROOT: population.paths[ROOT][:1]}
    return progress.architecture, population


def _document(
    store: ModelStore,
    experiment: Experiment,
    spec: str,
    arch: Architecture,
    population: Population,
) -> Document:
    settings = {**experiment.to_json(), "root": spec}
    progress = Progress(experiment.name, 0, [], arch, settings)
    return state.document_of(store, progress, population, population)
