"""A cycle of an agent: one iteration, its saved states, and the publication at the end."""

from __future__ import annotations

from evolution import state
from evolution.agents.kinds import publisher
from evolution.comparison import qualities
from evolution.cycle import Iteration, Kind
from evolution.events import ChildTrained, Ended, TaskFailed
from evolution.experiments.experiment import Experiment
from evolution.population import ROOT, Path, Population
from evolution.publication import publish_once, published_event
from evolution.state import Progress
from model_store import Digest, Held, ModelStore, Published


class Cycle:
    """One cycle, from its first generation to its end."""

    def __init__(
        self,
        store: ModelStore,
        held: Held,
        experiment: Experiment,
        population: Population,
        progress: Progress,
        owner: str,
        kind: Kind,
        saved: Digest | None,
        snapshot: Digest,
    ) -> None:
        """`saved` is the agent's last state, `snapshot` the saved publications of the others."""
        self._store = store
        self._held = held
        self._population = population
        self._progress = progress
        self._owner = owner
        self._kind = kind
        self._saved = saved
        self._snapshot: Digest | None = snapshot
        self._iteration = Iteration(experiment, population, progress, owner, kind)

    @property
    def complete(self) -> bool:
        """Whether all its children have been trained."""
        return self._iteration.complete

    def generation(self) -> list[ChildTrained]:
        """Runs the next generation and saves the result."""
        events = self._iteration.generation()
        self.save()
        return events

    def save(self) -> None:
        """Saves the agent's own paths; nothing if it raises LeaseLost or AgentMoved."""
        paths = self._population.paths
        own = [*paths[ROOT], *paths.get(self._owner, ())]
        document = state.document_of(self._store, self._progress, self._population, own)
        document["snapshot"] = self._snapshot
        self._held.check()
        self._saved = self._store.save_agent(
            self._progress.agent, document, state.needed(document), replacing=self._saved
        )

    def finish(self) -> Ended:
        """Keeps the best path, publishes it if that is new, and ends the cycle."""
        best = self._population.finish(self._owner)
        failed = TaskFailed(self._owner.removeprefix(f"{self._progress.agent}:"))
        outcome = self._publish(best) if best else failed
        self._progress.iteration += 1
        self._progress.generation, self._progress.seeds, self._snapshot = 0, [], None
        state.archive_history(self._store, self._progress)
        self.save()
        return outcome

    def _publish(self, best: Path) -> Ended:
        if "test_quality" not in best.metrics:
            best.metrics["test_quality"] = self._kind.test_quality(best)
        self.save()  # gives every component its digest
        agent, kind = self._progress.agent, self._kind

        def better(live: Published | None) -> bool:
            """Whether it is better by validation; if equal, another publisher's version stays."""
            if live is None:
                return True
            found = qualities(self._store, kind.task, kind.spec(best, agent), live)
            if found is None:
                return False
            ours, theirs = found
            return theirs <= ours if publisher(live.path) == agent else theirs < ours

        version, added = publish_once(
            self._store, best, agent, lambda: kind.spec(best, agent), better
        )
        return published_event(self._store, best, version, added)
