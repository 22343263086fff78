"""The saved state of an agent in a cycle: its own paths, and the snapshot it began with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from evolution import state
from evolution.population import ROOT, Population
from evolution.state import Progress
from model_store import Digest, Held, ModelStore

STARTED_WITH = ("components", "paths", "next_component_id", "next_path_id")  # of a state


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a cycle began with: the paths of others follow from it, with their numbers."""

    parts: Mapping[str, Digest]  # of the index of publications, by name
    began: Mapping[str, Any]  # STARTED_WITH, of the agent's own state


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
        snapshot: Snapshot,
    ) -> None:
        """`saved` is the agent's last state."""
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
        snapshot = self._snapshot if progress.iteration == self._cycle else None
        document["snapshot"] = asdict(snapshot) if snapshot else None
        self._held.check()
        self._saved = self._store.save_agent(
            progress.agent,
            document,
            state.needed(document),
            replacing=self._saved,
            parts=snapshot.parts.values() if snapshot else (),
        )
