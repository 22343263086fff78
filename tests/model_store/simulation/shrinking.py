"""Makes a history that fails shorter while it fails, and prints it as a test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from tests.model_store.simulation.actors import Script
from tests.model_store.simulation.fate import Turns
from tests.model_store.simulation.histories import Found, written
from tests.model_store.simulation.themes import Plan

MOST_TRIES = 2000


def script_of(found: Found) -> str:
    """The shortest history found that ends like this one, as the text of a test."""
    return text_of(shortened(found))


def shortened(found: Found) -> Found:
    """A history that ends like this one, in which nothing can be left out."""
    kind = _kind(found)
    tries = 0
    best = written(replace(found.plan), found.turns, found.events)
    if _kind(best) != kind:  # it is not played again as it was
        return found
    progress = True
    while progress:
        progress = False
        for shorter in _steps(best):
            tries += 1
            if tries > MOST_TRIES:
                return best
            tried = shorter(best)
            if tried is not None and _kind(tried) == kind:
                best, progress = tried, True
    return best


def _kind(found: Found) -> str:
    """How a history ends, in a word or two."""
    return " ".join(found.wrong[0].split("(")[0].split(" ")[:3]) if found.wrong else ""


def _steps(found: Found) -> Iterator[Callable[[Found], Found | None]]:
    """Ways to leave something out; each is tried on the best history there is by then."""
    for process in reversed(range(len(found.plan.scripts))):
        for number in reversed(range(len(found.plan.scripts[process]))):
            yield lambda f, p=process, n=number: _without_operation(f, p, n)
    for change in ({"power": None}, {"signal": None}, {"jumps": ()}, {"cut": None}, {"naps": ()}):
        yield lambda f, c=change: _changed(f, c)
    for name in list(found.events):
        yield lambda f, n=name: _without_event(f, n)
    size = len(found.turns)
    while size:
        for start in range(0, len(found.turns), size):
            yield lambda f, a=start, z=start + size: _without_turns(f, a, z)
        size //= 2
    for index in range(len(found.turns)):
        yield lambda f, i=index: _joined(f, i)
    for index in range(len(found.turns)):
        yield lambda f, i=index: _fewer(f, i)


def _without_operation(found: Found, process: int, number: int) -> Found | None:
    plan = found.plan
    if number >= len(plan.scripts[process]):
        return None
    scripts: list[Script] = [list(script) for script in plan.scripts]
    del scripts[process][number]
    events: dict[str, tuple[str, float]] = {}
    for name, event in found.events.items():
        who, operation, decision = name.split(".")
        index = int(operation) - 1  # 0 is what comes before the first
        if who != f"P{process}" or index < number:
            events[name] = event
        elif index > number:
            events[f"{who}.{index}.{decision}"] = event
    return written(replace(plan, scripts=scripts), found.turns, events)


def _changed(found: Found, change: dict[str, Any]) -> Found | None:
    plan = replace(found.plan, **change)
    return None if plan == found.plan else written(plan, found.turns, found.events)


def _without_event(found: Found, name: str) -> Found | None:
    if name not in found.events:
        return None
    events = {n: event for n, event in found.events.items() if n != name}
    return written(found.plan, found.turns, events)


def _without_turns(found: Found, start: int, end: int) -> Found | None:
    if start >= len(found.turns):
        return None
    return written(found.plan, [*found.turns[:start], *found.turns[end:]], found.events)


def _joined(found: Found, index: int) -> Found | None:
    """Let the process before go on instead."""
    turns = list(found.turns)
    if not 0 < index < len(turns):
        return None
    turns[index] = turns[index - 1][0], turns[index][1]
    return written(found.plan, _merged(turns), found.events)


def _fewer(found: Found, index: int) -> Found | None:
    turns = list(found.turns)
    if index >= len(turns) or turns[index][1] == 1:
        return None
    turns[index] = turns[index][0], turns[index][1] // 2
    return written(found.plan, turns, found.events)


def _merged(turns: Turns) -> list[tuple[str, int]]:
    merged: list[tuple[str, int]] = []
    for name, count in turns:
        if merged and merged[-1][0] == name:
            merged[-1] = name, merged[-1][1] + count
        else:
            merged.append((name, count))
    return merged


# -- as text


def text_of(found: Found) -> str:
    """A test that plays this history."""
    plan = found.plan
    default = Plan("", [])
    more = [
        f"{name}={getattr(plan, name)!r}"
        for name in ("power", "signal", "jumps", "cut", "naps")
        if getattr(plan, name) != getattr(default, name)
    ]
    lines = [
        "def test_() -> None:",
        f"    # {found.wrong[0][:150] if found.wrong else 'ends well'}",
        "    found = written(",
        f"        Plan({', '.join([repr(plan.place), repr(plan.scripts), *more])}),",
        f"        turns={list(found.turns)!r},",
        f"        events={dict(found.events)!r},",
        "    )",
        "    assert not found.wrong",
    ]
    return "\n".join(lines)
