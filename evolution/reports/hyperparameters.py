"""The changes of hyperparameters along ancestors, and the distributions of their values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evolution.population import Path
from evolution.reports.measures import RunRecord, chain

# Set by the task or the experiment, not by the search, so not in distributions.
_NOT_SEARCHED = frozenset({"num_classes", "adapters"})


def histories(run: RunRecord, path: Path) -> dict[str, list[tuple[int, Any]]]:
    """Hyperparameter -> (id, value) along the chain of ancestors, oldest first."""
    histories: dict[str, list[tuple[int, Any]]] = {}
    for i, values in _hyperparameters(run, path):
        for name, value in values.items():
            histories.setdefault(name, []).append((i, value))
    return histories


def _hyperparameters(run: RunRecord, path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    paths = {p.id: p for p in (*run.retained.values(), *([run.root] if run.root else []))}
    for i in chain(run, path):
        held = paths[i].hyperparameters if i in paths else None
        yield i, run.rows.get(i, {}).get("hyperparameters") or held or {}


@dataclass(frozen=True, slots=True)
class Distribution:
    """How often each value of a hyperparameter occurs, as shares of 1."""

    values: tuple[Any, ...]
    sampled: tuple[float, ...]
    retained: tuple[float, ...]


def distributions(runs: Sequence[RunRecord]) -> dict[str, Distribution]:
    """The shares for each hyperparameter with more than one value among sampled paths."""
    sampled = [row.get("hyperparameters") or {} for run in runs for row in run.rows.values()]
    retained = [path.hyperparameters for run in runs for path in run.retained.values()]
    names = {name for values in (*sampled, *retained) for name in values}
    found = {}
    for name in sorted(names - _NOT_SEARCHED):
        counts = [
            Counter(_plain(v[name]) for v in kind if name in v) for kind in (sampled, retained)
        ]
        values = sorted(counts[0] | counts[1], key=sort_key)
        if len(values) > 1:
            shares = [tuple(c[v] / max(c.total(), 1) for v in values) for c in counts]
            found[name] = Distribution(tuple(values), *shares)
    return found


def _plain(value: Any) -> Any:
    """A value as a key for counting; True and 1 stay different."""
    return str(value) if isinstance(value, bool | list | tuple | dict) else value


def sort_key(value: Any) -> tuple[int, float, str]:
    """A sorting key: None first, then numbers by size, then the rest by name."""
    if value is None:
        return 0, 0.0, ""
    if isinstance(value, int | float):
        return 1, float(value), ""
    return 2, 0.0, str(value)
