"""The saved state of an agent in a cycle: its own paths, and the snapshot it began with."""

from __future__ import annotations

from evolution import state
from evolution.population import ROOT, Population
from evolution.state import Progress
from model_store import Digest, Held, ModelStore


class SavedState:
    """An agent's state in the store, replaced step by step."""

    def __init__(
        self,
        store: ModelStore,
        held: Held,
        population: Population,
        progress: Progress,
        owner: str,
        saved: Digest | None,
        snapshot: Digest,
    ) -> None:
        """`saved` is the agent's last state, `snapshot` the saved publications of the others."""
        self._store = store
        self._held = held
        self._population = population
        self._progress = progress
        self._owner = owner
        self._saved = saved
        self._snapshot = snapshot
        self._cycle = progress.iteration

    def save(self) -> None:
        """Saves the agent's own paths; nothing if it raises LeaseLost or AgentMoved."""
        paths, progress = self._population.paths, self._progress
        own = [*paths[ROOT], *paths.get(self._owner, ())]
        document = state.document_of(self._store, progress, self._population, own)
        # The next cycle takes a snapshot of its own.
        document["snapshot"] = self._snapshot if progress.iteration == self._cycle else None
        self._held.check()
        self._saved = self._store.save_agent(
            progress.agent, document, state.needed(document), replacing=self._saved
        )
