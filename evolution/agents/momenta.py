"""Momenta of published paths: kept in their publishers' states, not in the versions."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from model_store import DamagedStore, Digest, InvalidName, ModelStore, Published

logger = logging.getLogger(__name__)

Momenta = Mapping[Digest, Digest]  # component -> its momentum, both as they are stored


def momenta_of(
    store: ModelStore, publications: Iterable[Published], known: Mapping[Digest, Momenta]
) -> dict[Digest, Momenta]:
    """The momenta of published paths, from their publishers' states, by manifest.

    `known` are those that are kept already; they are not read again. A publisher that has moved on
    may have none left: then a copy starts from zero.
    """
    states: dict[str, Momenta] = {}
    wanted = {published.digest: published for published in publications}
    asked = {d: _asked(store, p, states) for d, p in wanted.items() if d not in known}
    gone = set(store.lacks({m for momenta in asked.values() for m in momenta.values()}))
    there = {
        manifest: {digest: m for digest, m in momenta.items() if m not in gone}
        for manifest, momenta in asked.items()
    }
    return {digest: known[digest] if digest in known else there[digest] for digest in wanted}


def _asked(store: ModelStore, published: Published, states: dict[str, Momenta]) -> Momenta:
    used, lineage = set(published.path.components.values()), published.path.lineage
    momenta: dict[Digest, Digest] = {}
    for name in (lineage.get("experiment"), lineage.get("agent")):  # an import's is a run
        if isinstance(name, str):
            if name not in states:
                states[name] = _momenta_in(store, name)
            momenta |= {d: m for d, m in states[name].items() if d in used}
    return momenta


def _momenta_in(store: ModelStore, name: str) -> Momenta:
    """The momenta in the state of a run or an agent, if there is a state."""
    try:
        document: dict[str, Any] = store.load_agent(name) or {}
    except (InvalidName, DamagedStore) as error:  # an invalid name, or a damaged state
        logger.warning("event=no_momenta agent=%s error=%r", name, str(error))
        return {}
    rows = document.get("components", ())
    return {row["digest"]: row["momentum"] for row in rows if row["momentum"]}
