"""One agent: cycles of a search for one task; each starts from what all agents have published.

Rules: SYSTEMS.md, Agents. An agent is the only process of its name. It loads its state at the start
of each cycle, so an agent that was stopped continues as if it had never stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import replace

from evolution import state
from evolution.agents.kinds import class_of, publisher_of
from evolution.agents.publication_index import PublicationIndex
from evolution.agents.saved_state import STARTED_WITH, SavedState, Snapshot
from evolution.agents.shared_root import root_document
from evolution.agents.snapshots import Document, population_at
from evolution.cycle import Cycle, Publisher
from evolution.data.tasks import Task, task_name
from evolution.events import Event, Remark
from evolution.experiments.experiment import RESUMABLE, Experiment, with_settings
from evolution.experiments.settings import SettingError
from evolution.population import ROOT, Population
from evolution.process.environment import moved
from evolution.process.exclusive import hold
from evolution.process.failures import failures_kept
from evolution.process.stopping import step
from evolution.promotion import AGENT
from evolution.publication import require_its_classes
from evolution.run import Source
from evolution.state import Progress, StateError
from model_store import DamagedStore, Held, ModelStore

Turn = Callable[[], AbstractContextManager[object]]  # an agent computes only within it


class NoTurn(Exception):
    """Raised by a `Turn` if there will be no more turns: the agent stops."""


class Agent:
    """An agent of a class, bound to a task."""

    def __init__(
        self,
        store: ModelStore,
        agent_class: str,
        entry: str,
        source: Source,
        *,
        seed: int = 0,
        root: str | None = None,
        settings: Sequence[str] = (),
        turn: Turn = nullcontext,
        patience_s: float = 0.0,
    ) -> None:
        """`entry` is that of a task list. Nothing is read or written before `run`.

        If another process is the agent, `patience_s` is how long to wait for it. `root` and
        `settings` replace those of the class. Raises StateError for an unknown class.
        """
        self.id = f"{agent_class}/{task_name(entry)}"
        self.stopping = False  # set from outside: stop after the present generation
        try:
            self._class = class_of(self.id)
        except ValueError as error:
            raise StateError(str(error)) from None
        self._store = store
        self._entry = entry
        self._source = source
        self._seed = seed
        self._root = root
        self._settings = settings
        self._turn = turn
        self._patience_s = patience_s
        self._remarks: list[Remark] = []  # of the present cycle
        self._owner = f"{self.id}:{task_name(entry)}"
        self._task: Task | None = None
        self._index = PublicationIndex(store)

    def run(self, cycles: int) -> Generator[Event, None, None]:
        """Runs until the agent has finished `cycles` cycles in its life, or until `stopping`.

        Raises AgentBusy if another process is this agent, here or on another machine; StateError
        for settings that it cannot continue with; TaskError.
        """
        with ExitStack() as stack:
            held = yield from hold(
                self._store, self.id, stack, self._patience_s, lambda: self.stopping
            )
            stack.enter_context(failures_kept(self._store, self.id))
            while held and not self.stopping:
                try:
                    with self._turn():
                        cycle = self._cycle(held, cycles)
                    if cycle is None:
                        return
                    yield from self._remarks
                    yield from self._events(cycle)
                    del cycle  # frees its data on the device before the next cycle needs room
                except NoTurn:
                    return

    def _events(self, cycle: Cycle) -> Iterator[Event]:
        while not cycle.complete:
            if self.stopping:
                return
            with self._turn(), step():
                events = cycle.generation()
            yield from events
        with self._turn(), step():
            event = cycle.finish()
        yield event

    # ---- the start of a cycle, also of one that was stopped

    def _cycle(self, held: Held, cycles: int) -> Cycle | None:
        """The present or next cycle; None if all are finished."""
        saved, document = self._store.agent_state(self.id) or (None, self._first())
        progress = state.progress_of(self._store, self.id, document)
        if progress.agent != self.id:
            raise StateError(
                f"agent {self.id}: expected its state under that name, found a run's in "
                f"{self._store.url}; use another store"
            )
        if progress.iteration >= cycles:
            return None
        experiment = self._experiment(progress)
        task = self._require_task(experiment)
        snapshot, population = self._population(document)
        require_its_classes(self._store, task, population.paths.get(self._owner, ()))
        if not document["snapshot"]:
            progress.seeds = [path.id for path in population.seeds(self._owner)]
        children = self._class.children(experiment, task, population, progress, self._owner)
        own = SavedState(self._store, held, population, progress, self._owner, saved, snapshot)
        publisher = Publisher(self._store, self.id, own.save, AGENT, publisher_of)
        self._remarks = moved(progress, f"agent {self.id}")
        own.save()
        return Cycle(experiment, population, progress, self._owner, children, publisher)

    def _require_task(self, experiment: Experiment) -> Task:
        """The task, which is read once; raises TaskError."""
        if self._task is None:
            self._task = self._source(self._class.single or experiment)(self._entry)
        return self._task

    def _first(self) -> Document:
        """The state of an agent that has never run; only its root is saved already."""
        try:
            experiment = with_settings(self._class.of_task(self._entry), self._settings)
            experiment.require_defaults_in_ranges()
            self._require_task(experiment)
            publications = self._index.look().publications
            root = root_document(self._store, self._class, publications, self._root)
            experiment.require_patches(root["architecture"]["patch_size"])
        except SettingError as error:
            raise StateError(f"agent {self.id}: {error}") from None
        settings = replace(experiment, root=root["settings"]["root"]).to_json()
        return {
            **root,
            "experiment": experiment.name,
            "seed": self._seed,
            "agent": self.id,
            "schedule": [self._entry],
            "settings": settings,
            "snapshot": None,
        }

    def _experiment(self, progress: Progress) -> Experiment:
        """The agent's first experiment, with new sizes if these may change. Raises StateError."""
        try:
            saved = Experiment.from_json(progress.settings)
            wanted = with_settings(saved, self._settings)
        except SettingError as error:
            raise StateError(f"agent {self.id}: {error}") from None
        if self._root is not None:
            wanted = replace(wanted, root=self._root)
        kept = {size: getattr(saved, size) for size in RESUMABLE}
        if replace(wanted, **kept) != saved or self._seed != progress.seed:
            raise StateError(
                f"agent {self.id} began with another seed, root or setting, and goes on with "
                f"those; only {', '.join(RESUMABLE)} can change"
            )
        progress.settings = wanted.to_json()
        return wanted

    def _population(self, document: Document) -> tuple[Snapshot, Population]:
        """The cycle's snapshot, and the population that follows from it. Raises StateError."""
        if document["snapshot"]:
            if not isinstance(document["snapshot"], dict):
                raise StateError(
                    f"agent {self.id}: expected a cycle that this version began, found one of an "
                    "earlier version, which cannot be continued; let that version end it, or "
                    f"remove the agent's state (`munet runs rm {self.id}`)"
                )
            snapshot = Snapshot(**document["snapshot"])
            try:
                seen = self._index.seen(snapshot.parts)
            except DamagedStore as error:
                raise StateError(
                    f"agent {self.id}: expected all that its cycle began with, found {error}; "
                    "restore it from a copy of the store"
                ) from error
        else:
            seen = self._index.look()
            snapshot = Snapshot(seen.parts, {name: document[name] for name in STARTED_WITH})
        momenta = seen.momenta if self._class.experiment.method.inherits_momentum else {}
        start = {**document, **snapshot.began, "pruned": []}
        population = population_at(self._store, start, self._owner, seen.publications, momenta)
        if document["snapshot"]:
            others = [path for path in population if path.owner not in (ROOT, self._owner)]
            population = state.population_of(self._store, document, state.rows(self._store, others))
        return snapshot, population
