"""The index of publications, which all agents of a store share.

It holds the newest publication of each publisher of each task, and its momenta, in parts of some
tasks each. A part never changes: a publication makes a new one. So an agent reads the parts that
are new since it last looked, and what no agent has read before, which it adds. The parts that a
cycle began with are its snapshot: its state refers to them, and gc keeps them, and all that they
refer to.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

from evolution.agents.momenta import Momenta, momenta_of
from evolution.multipath.frozen_paths import is_multipath
from evolution.state import PUBLICATIONS
from model_store import AgentMoved, DamagedStore, Digest, ModelStore, Published
from model_store.publishers import published_in

logger = logging.getLogger(__name__)

PARTS = 32  # of the tasks, by a hash of their names
Rows = dict[str, Mapping[str, Any]]  # by task, as ModelStore.publications_told gives them


@dataclass(frozen=True, slots=True)
class _Part:
    """What a part holds."""

    tasks: Rows
    momenta: Mapping[Digest, Momenta]  # by manifest, of the tasks' newest publications


@dataclass(frozen=True, slots=True)
class Seen:
    """What an agent sees of all publications."""

    parts: Mapping[str, Digest]  # by name
    publications: list[Published]  # by task and number
    momenta: Mapping[Digest, Momenta]  # by manifest


class PublicationIndex:
    """The index, as one process knows it."""

    def __init__(self, store: ModelStore) -> None:
        self._store = store
        self._known: dict[Digest, _Part] = {}  # the parts that were read last

    def look(self) -> Seen:
        """All publications there are now; what the index lacks is added to it.

        Raises StoreError.
        """
        former, parts = self._index()
        for digest in parts.values():
            self._store.learn_publications(self._known[digest].tasks)
        self._store.publications()
        new = self._new_parts(parts)
        found = {name: d for name, d in {**parts, **new}.items() if d is not None}
        if found != parts:
            # If another agent was quicker, this one has seen enough: a later one adds the rest.
            with suppress(AgentMoved):
                self._store.save_agent(
                    PUBLICATIONS, {"parts": found}, (), replacing=former, parts=found.values()
                )
        return self.seen(found)

    def seen(self, parts: Mapping[str, Digest]) -> Seen:
        """What an agent saw that has these parts. Raises DamagedStore."""
        self._read(parts)
        known = [self._known[digest] for digest in parts.values()]
        publications = [
            published
            for part in known
            for task, row in part.tasks.items()
            for published in published_in(task, row)
        ]
        return Seen(
            dict(parts),
            sorted(publications, key=lambda published: (published.task, published.version)),
            {manifest: momenta for part in known for manifest, momenta in part.momenta.items()},
        )

    def _index(self) -> tuple[Digest | Literal["any"] | None, dict[str, Digest]]:
        """The digest of the index's state, and its parts; one that is damaged is made again."""
        try:
            former, document = self._store.agent_state(PUBLICATIONS) or (None, {"parts": {}})
            self._read(document["parts"])
            return former, document["parts"]
        except DamagedStore as error:
            logger.warning("event=index_made_again error=%r", str(error))
            return "any", {}

    def _read(self, parts: Mapping[str, Digest]) -> None:
        """Learn what these parts hold, and forget all others."""
        self._known = {digest: self._part(digest) for digest in parts.values()}

    def _part(self, digest: Digest) -> _Part:
        if digest in self._known:
            return self._known[digest]
        document = self._store.part(digest)
        return _Part(document["tasks"], document["momenta"])

    def _new_parts(self, parts: Mapping[str, Digest]) -> dict[str, Digest | None]:
        """The parts that have changed; None for one that has no task any more."""
        now: dict[str, Rows] = {}
        for task, row in self._store.publications_told().items():
            now.setdefault(part_of(task), {})[task] = row
        new: dict[str, Digest | None] = {}
        for name in {*now, *parts}:
            former = self._known[parts[name]] if name in parts else _Part({}, {})
            tasks = now.get(name, {})
            if tasks != former.tasks:
                new[name] = self._put(_Part(tasks, self._momenta(tasks, former))) if tasks else None
        return new

    def _momenta(self, tasks: Rows, former: _Part) -> dict[Digest, Momenta]:
        publications = [p for task, row in tasks.items() for p in published_in(task, row)]
        single = [published for published in publications if not is_multipath(published.path)]
        return momenta_of(self._store, single, former.momenta)

    def _put(self, part: _Part) -> Digest:
        publications = [p for task, row in part.tasks.items() for p in published_in(task, row)]
        components = {d for p in publications for d in p.path.components.values()}
        components |= {m for momenta in part.momenta.values() for m in momenta.values()}
        document = {"tasks": part.tasks, "momenta": part.momenta}
        digest = self._store.put_part(document, sorted(components))
        self._known[digest] = part
        return digest


def part_of(task: str) -> str:
    """The name of the part that a task is in."""
    return f"{hashlib.sha256(task.encode()).digest()[0] % PARTS:02}"
