"""A protective step of the protocol, taken out."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """How to take a step out until a stack ends, and a history that loses something then."""

    take_out: Callable[[ExitStack], None]
    seed: int | None  # None: that history is written in test_simulated_histories.py
