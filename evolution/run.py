"""The loop over the task iterations of a run; saves, resumes, publishes."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace

import numpy as np

from evolution import mutation, state
from evolution.cycle import Cycle, Publisher
from evolution.data.tasks import Task
from evolution.events import Event, Remark, TaskPublished
from evolution.experiments.experiment import (
    RESUMABLE,
    Experiment,
    outside,
    told_values,
    with_settings,
)
from evolution.experiments.settings import SettingError
from evolution.population import ROOT, Path, Population
from evolution.process.environment import moved
from evolution.process.exclusive import hold
from evolution.process.failures import failures_kept
from evolution.process.stopping import step
from evolution.process.time_budget import Budget, Clock
from evolution.promotion import BASELINE, RUN, qualities_told
from evolution.publication import published_by, require_its_classes, standing
from evolution.single_path import SinglePaths, architecture
from evolution.state import Progress, StateError
from evolution.training.programs import forward_flops
from evolution.training.trainer import Watch
from evolution.training.validation import told_by
from model_store import Digest, ModelStore, Published
from model_store.names import require_name
from vit import Architecture
from vit.components import Tree
from vit.contract import Contract

# Makes tasks of a task list's entries, for an experiment.
Source = Callable[[Experiment], Callable[[str], Task]]
Root = tuple[Architecture, dict[str, Tree]]  # components in forward order


class Run:
    """One run of an experiment: its state, and the steps that change it."""

    def __init__(
        self,
        experiment: Experiment,
        store: ModelStore,
        progress: Progress,
        population: Population,
        source: Source,
        name: str,
        saved: Digest | None = None,
    ) -> None:
        """Use `start`, `extend` or `resume`; `saved` is the digest of the state so far."""
        self.name = name  # of the run, in the store
        self.experiment = experiment
        self.store = store
        self._source = source(experiment)
        self.saved = saved
        self.progress = progress
        self.population = population
        self.stopping = False  # set from outside: stop after the present generation
        self.patience_s = 0.0  # how long to wait for another process that runs it
        self.clock: Clock = time.monotonic  # what a budget is measured with
        # Called with the steps done, all steps and the loss of the present child.
        self.on_steps: Callable[[int, int, float], object] | None = None

    @classmethod
    def start(
        cls,
        experiment: Experiment,
        root: Root,
        store: ModelStore,
        seed: int,
        source: Source,
        name: str | None = None,
    ) -> Run:
        """A new run from a root; by default its name is the experiment's.

        Raises StateError if the store holds a run of this name.
        """
        name = name or experiment.name
        _require_new(name, store)
        arch, params = root
        progress = _progress(experiment, seed, arch)
        population = population_of_root(experiment, params)
        return cls(experiment, store, progress, population, source, name)

    @classmethod
    def grow(
        cls,
        experiment: Experiment,
        store: ModelStore,
        seed: int,
        source: Source,
        system: tuple[Architecture, Population],
        name: str,
        contract: Contract | None = None,
    ) -> Run:
        """A new run from a root's architecture and a population whose paths are in the store.

        `contract` is that of the root's input; None for the plain one. Raises StateError if the
        store holds a run of this name.
        """
        _require_new(name, store)
        progress = _progress(experiment, seed, system[0])
        progress.contract = contract
        return cls(experiment, store, progress, system[1], source, name)

    @classmethod
    def extend(
        cls,
        experiment: Experiment,
        store: ModelStore,
        seed: int,
        source: Source,
        system: tuple[ModelStore, str],
        name: str | None = None,
    ) -> Run:
        """A new run that continues the system of another run, (its store, its name).

        All its retained paths can be parents, and are published in this store too. Raises
        StateError, also for a hyperparameter outside the experiment's range.
        """
        name = name or experiment.name
        _require_new(name, store)
        former, population = state.load(*system)
        _require_in_ranges(experiment, population)
        population.score = experiment.scorer
        population.newest_wins = experiment.method.newest_wins
        population.succeeds = experiment.method.succeeds
        for path in population:
            if path.task != ROOT:  # an import may lack it, or have counted differently
                path.metrics["flops"] = forward_flops(architecture(former.architecture, path))
        for task in [task for task in population.paths if task != ROOT]:
            population.finish(task)  # the other run may have stopped in the middle of it
        if system[0].url != store.url:
            _copy_system(population, system[0], store)
        progress = _progress(experiment, seed, former.architecture)
        progress.contract = former.contract
        progress.history = former.history
        state.archive_history(store, progress)
        return cls(experiment, store, progress, population, source, name)

    @classmethod
    def resume(
        cls,
        store: ModelStore,
        run: str,
        source: Source,
        further_tasks: tuple[str, ...] = (),
        settings: Sequence[str] = (),
    ) -> Run:
        """Continues a saved run, with further task iterations at its end; raises StateError.

        `settings` (those of RESUMABLE) replace what the run was started with.

        A further task that already waits, because an earlier call was cut short, is not added
        again.
        """
        digest, document = state.saved(store, run)
        progress = state.progress_of(store, run, document)
        if progress.agent:
            raise StateError(
                f"{run!r} is an agent: continue it with `munet experiments agents --store "
                f"{store.url} --agent {run.replace('/', ':', 1)} --cycles N`"
            )
        if not progress.settings:
            raise StateError(
                f"run {run!r} was imported and has no experiment of its own: start one with "
                f"`munet experiments run EXPERIMENT --continue-from {store.url}#{run}`"
            )
        waiting = progress.schedule[progress.iteration :]
        progress.schedule += [task for task in further_tasks if task not in waiting]
        try:
            experiment = Experiment.from_json(progress.settings)
            experiment = with_settings(experiment, settings, RESUMABLE)
        except SettingError as error:
            raise StateError(f"resuming {run!r}: {error}") from None
        progress.settings = experiment.to_json()
        population = state.population_of(store, document)
        return cls(experiment, store, progress, population, source, run, digest)

    def run(self) -> Generator[Event, None, None]:
        """Runs to the end of the schedule, or until `stopping`, saving after each generation.

        Raises AgentBusy if another process is running it, here or on another machine.
        """
        for entry in dict.fromkeys(self.progress.schedule[self.progress.iteration :]):
            # Errors in the data come first, before anything is saved or trained.
            task = self._source(entry)
            require_its_classes(self.store, task, self.population.paths.get(task.name, ()))
        with ExitStack() as stack:
            held = yield from hold(
                self.store, self.name, stack, self.patience_s, lambda: self.stopping
            )
            if held is None:
                return
            stack.enter_context(failures_kept(self.store, self.name))
            unfinished = self.progress.iteration < len(self.progress.schedule)
            remarks = moved(self.progress, f"run {self.name}") if unfinished else []
            self.save()
            yield from remarks
            while self.progress.iteration < len(self.progress.schedule) and not self.stopping:
                yield from self._task_iteration(self.progress.schedule[self.progress.iteration])

    def _task_iteration(self, entry: str) -> Iterator[Event]:
        task, progress = self._source(entry), self.progress
        budget = self._budget()
        if progress.generation == 0:
            self._begin(task)
        watch = self._watch(budget) if self.on_steps or self.experiment.budget_s else None
        children = SinglePaths(self.experiment, task, self.population, progress, task.name, watch)
        publisher = Publisher(
            self.store, self.name, self.save,
            BASELINE if self.experiment.method.from_root_only else RUN,
        )  # fmt: skip
        cycle = Cycle(self.experiment, self.population, progress, task.name, children, publisher)
        while not cycle.complete and budget.allows_child():
            with step():  # of the generation before, which another process may have trained
                event = cycle.publish_early()
            if isinstance(event, TaskPublished):
                yield Remark(f"{task.name}: version {event.version} is published; going on")
            if self.stopping:
                return
            with step():
                events = cycle.generation()
            budget.children_done(len(events))
            yield from events
        if budget.remark:
            yield Remark(f"{task.name}: {budget.remark}")
        with step():
            event = cycle.finish()
        yield event

    def _budget(self) -> Budget:
        progress = self.progress
        rows = progress.history[progress.archived :]
        former = [row for row in rows if row["iteration"] == progress.iteration]
        # A baseline may be cut: it only serves for comparison.
        whole = not self.experiment.method.from_root_only
        return Budget(self.experiment.budget_s, former, self.clock, first_whole=whole)

    def _watch(self, budget: Budget) -> Watch:
        def watch(done: int, steps: int, loss: float) -> bool:
            if self.on_steps:
                self.on_steps(done, steps, loss)
            return budget.allows_step()

        return watch

    def _begin(self, task: Task) -> None:
        self.population.start(task.name)
        seeds = [path.id for path in self.population.seeds(task.name)]
        if self.experiment.method.sweeps_seeds:
            self.progress.seeds = seeds[::-1]  # the newest first
        else:
            self.progress.seeds = [int(i) for i in self.progress.rng("seeds").permutation(seeds)]

    def set_budget(self, seconds: float) -> None:
        """Limits the wall time of the present task iteration and of all after it."""
        self.experiment = replace(self.experiment, budget_s=max(1, int(seconds)))
        self.progress.settings = self.experiment.to_json()

    def save(self) -> None:
        """Saves the state; any process can continue from it."""
        self.saved = state.save(self.store, self.name, self.progress, self.population, self.saved)


def population_of_root(experiment: Experiment, params: dict[str, Tree]) -> Population:
    """The population of a new run: the root alone, its components in forward order, locked."""
    population = Population(
        experiment.scorer, experiment.method.newest_wins, experiment.method.succeeds
    )
    components = tuple(mutation.new_component(population, *item) for item in params.items())
    hp = dict(experiment.defaults)
    root = Path(population.path_id(), ROOT, None, components, hp, generation=0)
    population.paths[ROOT] = [root]
    population.lock(root)
    return population


def require_run_name(name: str) -> None:
    """Raises InvalidName, and StateError for a name that agents use for their own states."""
    if require_name("agent", name).split("/")[0] in (state.ROOTS, state.PUBLICATIONS):
        raise StateError(f"name {name!r}: expected another one, agents save their own there")


def _require_new(name: str, store: ModelStore) -> None:
    require_run_name(name)
    if name in store.agents():
        raise StateError(
            f"store already holds a run {name!r}: continue it with "
            f"`munet experiments resume {name}`, or give this one another --name"
        )


def _require_in_ranges(experiment: Experiment, population: Population) -> None:
    """Raises StateError for a path of another run with a value that the experiment cannot have."""
    for path in population:
        for key, value in outside(path.hyperparameters, experiment.ranges).items():
            choices = told_values(experiment.ranges[key.partition("|")[0]])
            raise StateError(
                f"path {path.id} of task {path.task} has {key} {value!r}, expected one of "
                f"{choices}, the range of {experiment.name}; continue with an experiment whose "
                "range has it"
            )


def _progress(experiment: Experiment, seed: int, arch: Architecture) -> Progress:
    tasks = list(experiment.tasks)
    if experiment.shuffled:
        np.random.default_rng(seed).shuffle(tasks)
    schedule = tasks * experiment.passes
    return Progress(experiment.name, seed, schedule, arch, experiment.to_json())


def _copy_system(population: Population, source: ModelStore, store: ModelStore) -> None:
    """Puts all components into another store and publishes the retained paths there."""
    for component in population.components():
        store.put(component.params)
        if component.momentum is not None:
            store.put(component.momentum)
    for path in population:
        if path.published is not None:
            _copy_version(path, source, store)


def _copy_version(path: Path, source: ModelStore, store: ModelStore) -> None:
    """Publishes a path of another store here; only once, even if called again."""
    numbers = [n for n, found in source.versions(path.task).items() if found == path.published]
    if not numbers:
        raise StateError(
            f"task {path.task}: its version {path.published} is no longer in "
            f"{source.url}; continue in that store instead, or import it again"
        )
    original = source.resolve(path.task, numbers[0])
    served = source.live().get(path.task) == (original.version, original.digest)
    copy = standing(store, original.path, str(published_by(original.path)))
    copy = copy or store.publish(original.path, live=False)

    def chosen(live: Published | None) -> bool:
        if live is None or not served:
            return live is None
        # There are no data here to measure with.
        same = bool(told_by(live.path)) and told_by(live.path) == told_by(original.path)
        found = qualities_told(original.path, live.path) if same else None
        return RUN.replaces(own=False, same_examples=same, qualities=lambda: found)

    store.promote(path.task, copy.version, chosen)
    path.published = copy.digest
