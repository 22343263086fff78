"""The protocol without one of its protective steps: with each of them a loss has to be found.

Nearly each has the seed of a history that loses something without it. `--without all --known` plays
these; `--without STEP` looks for the first one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from tests.model_store.simulation.histories import written
from tests.model_store.simulation.mutants import (
    collecting,
    deletions,
    documents,
    durability,
    signatures,
    writers,
)
from tests.model_store.simulation.mutants.mutant import Mutant
from tests.model_store.simulation.themes import Plan

MUTANTS: dict[str, Mutant] = {
    **writers.MUTANTS,
    **collecting.MUTANTS,
    **deletions.MUTANTS,
    **documents.MUTANTS,
    **signatures.MUTANTS,
    **durability.MUTANTS,
}


@contextmanager
def without(step: str) -> Iterator[None]:
    """While the code does not do this."""
    for place in ("disk", "bucket"):
        written(Plan(place, []), (), {})  # the first store is made by all of the code
    with ExitStack() as stack:
        MUTANTS[step].take_out(stack)
        yield
