"""The runs of `munet evolve`: starts, continues and reports them.

Each task has its own runs, `evolve/TASK/1` and so on. With a baseline there is also
`evolve/TASK/1/finetune-all`, which is trained in the time that the search leaves. Both are saved
before either is trained, so the same command can continue after any stop. Only one command at a
time trains the two: it holds them until both have ended. The better of the two paths by validation
is served; if they are equal, that of the search.

A run keeps the options it was started with. A new budget counts as the total time, including the
time of earlier children. Other options that differ are ignored, and the command says so.
"""

from __future__ import annotations

import logging
import shlex
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import jax
from rich.console import Console

from evolution.data.errors import DataError
from evolution.data.places import open_place
from evolution.data.stored import near_names
from evolution.data.tasks import Task, TaskError, source_of
from evolution.data.tfds_builders import NoSuchTask
from evolution.experiments.baselines import baseline as baseline_of
from evolution.experiments.experiment import Experiment
from evolution.experiments.settings import SettingError
from evolution.growing import chosen_settings, results
from evolution.growing.child_lines import follow
from evolution.growing.linear_probe import probe
from evolution.growing.machine_speed import Machine, this_machine
from evolution.growing.options import Asked, GrowthError
from evolution.growing.plan import GrowthPlan
from evolution.growing.results import Grown
from evolution.growing.starting_point import population_of, system_of
from evolution.process.computing import computing
from evolution.process.exclusive import PATIENCE_S, hold
from evolution.process.time_budget import Clock
from evolution.roots.loading import RootError
from evolution.run import Run, Source
from evolution.runs.following import INDENT, say, tell
from evolution.runs.formats import duration
from evolution.runs.next_commands import BASELINE, GROWN, grown_by, remove_run
from evolution.state import StateError
from evolution.training.memory import exhausted
from evolution.training.programs import forward_flops
from model_store import AgentBusy, ModelStore, StoreError, StoreNotFound
from model_store.names import require_name

BASELINE_SHARE = 0.5  # of a task's time: as long as all children together
LEAST_BASELINE_S = 5.0  # a shorter time would be spent on compiling
KNOWN = (StateError, StoreError, TaskError, RootError, SettingError, DataError)


def run(
    asked: Asked,
    began: float,
    source: Source = source_of,
    clock: Clock = time.monotonic,
    console: Console | None = None,
    machine: Callable[[], Machine] = this_machine,
) -> None:
    """Runs the command; `began` is its start by the clock.

    Raises GrowthError, or Stopped if it was told to stop.
    """
    console = console or Console(emoji=False, highlight=False, markup=False)
    with computing(logging.WARNING):
        try:
            Growth(asked, began, console, source, clock, machine()).run()
        except (MemoryError, jax.errors.JaxRuntimeError, *KNOWN) as error:
            message = exhausted(error)
            if message is None and not isinstance(error, KNOWN):
                raise
            raise GrowthError(message or str(error)) from error


class Growth:
    """One command of `munet evolve`."""

    def __init__(
        self,
        asked: Asked,
        began: float,
        console: Console,
        source: Source,
        clock: Clock,
        machine: Machine,
    ) -> None:
        """Only stores the arguments."""
        self._asked = asked
        self._console = console
        self._source = source
        self._sources: dict[int, Callable[[str], Task]] = {}  # by the images' size
        self._clock = clock
        self._machine = machine
        self._end = None if asked.new_s is None else began + asked.new_s

    def run(self) -> None:
        """Runs one task after the other. Checks all tasks before anything is created."""
        tasks = self._asked.tasks
        for name in tasks:
            require_name("task", name)
        try:
            store = ModelStore(self._asked.store)
        except StoreNotFound:
            store = None
        first, *_ = [self._begun_or_plan(store, name, len(tasks)) for name in tasks]
        store = store or ModelStore(self._asked.store, create=True)
        for number, name in enumerate(tasks):
            # An earlier plan does not know the tasks published since.
            left = len(tasks) - number
            ready = first if number == 0 else self._begun_or_plan(store, name, left)
            self._grow(store, name, ready, left)

    def _begun_or_plan(self, store: ModelStore | None, name: str, left: int) -> str | GrowthPlan:
        """The task's unfinished run, or the plan of a new one."""
        begun = _unfinished(store, name) if store else None
        if store is None or begun is None:
            return self._plan(store, name, left)
        self._task(self._searches(store, begun)[0].experiment, name)
        return begun

    def _searches(self, store: ModelStore, run: str) -> list[Run]:
        """A saved run, and its baseline if it has one."""
        names = [name for name in (run, f"{run}/{BASELINE}") if name in store.agents()]
        return [Run.resume(store, name, self._known_source) for name in names]

    def _plan(self, store: ModelStore | None, name: str, left: int) -> GrowthPlan:
        """The plan for a new run, in its share of the time left for `left` tasks."""
        asked, machine = self._asked, self._machine
        first = asked.baseline if asked.baseline is not None else not (store and store.tasks())
        seconds = self._left(left)
        share = 1 - BASELINE_SHARE if first else 1.0
        wanted = chosen_settings.Wanted(
            None if seconds is None else seconds * share, asked.children
        )
        system = system_of(
            store, name, asked.root, chosen_settings.ROOT,
            lambda root, stored: chosen_settings.shape(root, stored, machine, wanted),
        )  # fmt: skip
        experiment = chosen_settings.experiment_of(
            name, system.root, system.architecture, system.params
        )
        task = self._task(experiment, name)
        system = system.of(task)
        arch = replace(system.architecture, num_classes=task.num_classes)
        experiment, cost = chosen_settings.sized(
            experiment, len(task.train), forward_flops(arch), machine, wanted
        )
        planned = experiment.samples_per_task
        most = planned
        if asked.children is None and seconds is not None:
            most = (
                chosen_settings.MOST_CHILDREN
            )  # if children are faster than planned, there are more
        return GrowthPlan(
            run=_next_name(store, name),
            task=task,
            system=system,
            experiment=replace(experiment, samples_per_task=most),
            children=planned,
            baseline=baseline_of(BASELINE, experiment) if first else None,
            costs=cost,
            machine=machine,
            budget_s=seconds,
            probed=probe(task, system, arch, machine),
        )

    def _left(self, tasks: int) -> float | None:
        """The share of the time left for one of `tasks` tasks."""
        return None if self._end is None else max(1.0, self._end - self._clock()) / tasks

    def _task(self, experiment: Experiment, name: str) -> Task:
        try:
            return self._known_source(experiment)(name)
        except NoSuchTask as error:
            raise GrowthError(_unknown(name)) from error

    def _known_source(self, experiment: Experiment) -> Callable[[str], Task]:
        size = experiment.defaults["ds_image_size"]
        if size not in self._sources:
            self._sources[size] = self._source(experiment)
        return self._sources[size]

    def _grow(self, store: ModelStore, name: str, ready: str | GrowthPlan, left: int) -> None:
        """Trains one task and reports it."""
        if isinstance(ready, GrowthPlan):
            ready.show(self._console)
        run = ready.run if isinstance(ready, GrowthPlan) else ready
        with ExitStack() as stack:
            self._hold(store, run, stack)
            if isinstance(ready, GrowthPlan) and run not in store.agents():
                searches, limited = self._begin(store, ready), True
            else:
                searches, limited = self._searches(store, run), self._asked.seconds is not None
                self._tell_begun(name, searches)
            task = self._task(searches[0].experiment, name)
            trained = self._trained(searches, task, left, limited)
        grown = [Grown.of(search, task) for search in trained]
        if grown[0] is None:
            tell(self._console, f"{name} has no path: each child diverged")
            return
        results.show(self._console, task, store, grown[0], grown[1] if grown[1:] else None)

    def _hold(self, store: ModelStore, run: str, stack: ExitStack) -> None:
        """Holds the run and its baseline until the end of the stack."""
        command = grown_by(run) or run
        waits = f"waiting up to {PATIENCE_S:.0f} s for it to end"
        try:
            for _ in hold(store, command, stack, PATIENCE_S, lambda: False):
                tell(self._console, f"{run} is trained by {store.holder(command)}; {waits}")
        except AgentBusy:
            raise GrowthError(
                f"run {run} is trained by {store.holder(command)}, expected by no other command; "
                "let it end, or stop it (Ctrl-C in its terminal)\n"
                f"how far it is: munet runs --store {shlex.quote(store.url)}"
            ) from None

    def _tell_begun(self, name: str, searches: Sequence[Run]) -> None:
        """Prints how a run continues, and which options are ignored."""
        asked, run = self._asked, searches[0].name
        how = "as it was begun"
        if asked.seconds is not None:
            how = f"within {duration(asked.seconds / len(asked.tasks))} in all"
        tell(self._console, f"{name}: going on with run {run}, {how}")
        if others := _not_taken(asked, searches):
            tell(self._console, f"{name}: begun without {', '.join(others)}; to start over, first:")
            say(self._console, f"{INDENT}{remove_run(run, searches[0].store.url)}")

    def _trained(self, searches: Sequence[Run], task: Task, left: int, limited: bool) -> list[Run]:
        """Trains the searches and returns them; leaves out the baseline if there is no time for it.

        `limited`: by the budget of this command, for both together.
        """
        before = sum(row["seconds"] for row in _rows(searches[0]))
        share = 1 - BASELINE_SHARE if searches[1:] else 1.0
        trained = []
        for search in searches:
            search.clock = self._clock
            seconds = self._left(left) if limited else None
            baseline = search.experiment.method.from_root_only
            if seconds is not None and search.progress.iteration < len(search.progress.schedule):
                seconds = seconds - before if baseline else seconds * share
                if baseline and seconds < LEAST_BASELINE_S:
                    tell(self._console, "no time is left for the baseline: give more, --budget")
                    search.store.remove_agent(search.name)
                    continue
                search.set_budget(seconds)
            if baseline:
                say(self._console, "the baseline, a copy of the whole root:")
            follow(search, task, self._console, self._asked.command(left))
            trained.append(search)
        return trained

    def _begin(self, store: ModelStore, plan: GrowthPlan) -> list[Run]:
        """Saves the search and its baseline, if it has one; the search last, as it is the run."""
        seed, task, system = self._asked.seed or 0, plan.task, plan.system
        alone = replace(system, published=())
        wanted = [(plan.run, plan.experiment, system, 1.0)]
        if plan.baseline:
            wanted[0] = (*wanted[0][:3], 1 - BASELINE_SHARE)
            wanted.append((f"{plan.run}/{BASELINE}", plan.baseline, alone, BASELINE_SHARE))
        searches = []
        for name, experiment, start, share in reversed(wanted):
            if name in store.agents():  # left by a command that was killed here
                store.remove_agent(name)
            population = population_of(start, store, task, experiment)
            search = Run.grow(
                experiment, store, seed, self._known_source,
                (system.architecture, population), name, system.contract,
            )  # fmt: skip
            if plan.budget_s is not None:
                search.set_budget(plan.budget_s * share)
            search.save()
            searches.insert(0, search)
        return searches


def _rows(search: Run) -> list[dict[str, Any]]:
    """Seconds of the children that it has trained for its task."""
    return [row for row in search.progress.history if row["iteration"] == 0]


def _not_taken(asked: Asked, searches: Sequence[Run]) -> list[str]:
    """Given options that differ from those of a run's start."""
    search, baseline = searches[0], len(searches) > 1
    found = []
    if asked.children not in (None, search.experiment.samples_per_task):
        found.append(f"--children {asked.children}")
    if asked.root not in (None, search.experiment.root):
        found.append(f"--root {asked.root}")
    if asked.seed not in (None, search.progress.seed):
        found.append(f"--seed {asked.seed}")
    if asked.baseline not in (None, baseline):
        found.append("--baseline" if asked.baseline else "--no-baseline")
    return found


def _unfinished(store: ModelStore, task: str) -> str | None:
    """The newest run of the task, unless it and its baseline are finished."""
    numbers = _numbers(store, task)
    name = f"{GROWN}{task}/{max(numbers, default=0)}"
    states = [store.load_agent(run) for run in (name, f"{name}/{BASELINE}")]
    left = [s for s in states if s and s.get("iteration", 0) < len(s.get("schedule", ()))]
    return name if numbers and left else None


def _next_name(store: ModelStore | None, task: str) -> str:
    return f"{GROWN}{task}/{max(_numbers(store, task) if store else (), default=0) + 1}"


def _numbers(store: ModelStore, task: str) -> list[int]:
    before = f"{GROWN}{task}/"
    ends = (name.removeprefix(before) for name in store.agents() if name.startswith(before))
    return [int(end) for end in ends if end.isascii() and end.isdecimal()]


def _unknown(name: str) -> str:
    """What to do about a task that no data set has."""
    return (
        f"no data set {name!r} among your own: {near_names(open_place(), name)}\n"
        f"add pictures as one: munet data add {name} --from FOLDER"
    )
