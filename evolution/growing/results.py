"""The result of a task: accuracy, shared components, costs, and the baseline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from evolution.data.tasks import Task
from evolution.population import ROOT, Path
from evolution.run import Run
from evolution.runs.following import INDENT, say, tell
from evolution.runs.formats import counted, duration, measured, share
from evolution.runs.next_commands import rollback
from evolution.training.validation import MEASURED, number_in, part_of
from model_store import ModelStore, Published

OWNERS = 3  # named in the report


@dataclass(frozen=True, slots=True)
class Grown:
    """A finished search of a task, and the version of its best path."""

    search: Run
    path: Path
    version: Published
    metric: str  # the name of its quality

    @classmethod
    def of(cls, search: Run, task: Task) -> Grown | None:
        """The result of a search; None if the task has no path, or its version was removed."""
        path, store = search.population.best(task.name), search.store
        numbers = [
            n for n, found in store.versions(task.name).items() if path and found == path.published
        ]
        if path is None or not numbers:
            return None
        return cls(search, path, store.resolve(task.name, numbers[-1]), task.objective.metric)

    def quality(self, split: str) -> tuple[float, int]:
        """The quality on `validation` or `test`, and the number of pictures."""
        told = part_of(self.version.path.metrics, split)
        return number_in(told, self.metric) or 0.0, int(number_in(told, "examples") or 0)

    @property
    def own_names(self) -> list[str]:
        """Components that only this task uses."""
        return [c.name for c in self.path.components if c.locks <= {self.path.owner}]

    @property
    def own_params(self) -> int:
        """Parameters of these components."""
        own = set(self.own_names)
        return sum(c.num_params for c in self.path.components if c.name in own)

    @property
    def own_bytes(self) -> int:
        """Bytes of these components in the store."""
        return sum(self.version.sizes[name] for name in self.own_names)

    @property
    def rows(self) -> Sequence[dict[str, Any]]:
        """The rows of the history for the run's own children."""
        return [row for row in self.search.progress.history if row["task"] == self.path.task]


def show(
    console: Console, task: Task, store: ModelStore, grown: Grown, baseline: Grown | None
) -> None:
    """Prints the result, for 80 columns."""
    rows = Table.grid(padding=(0, 2))
    rows.add_column(style="bold", no_wrap=True)
    rows.add_column(overflow="fold")
    live = store.live().get(task.name, (0,))[0]
    for split in (MEASURED, "test"):
        quality, examples = grown.quality(split)
        rows.add_row(split, measured(quality, grown.metric, examples))
    rows.add_row("shared", Text(_shared(grown.path)))
    rows.add_row("own", f"{grown.own_params:,} of {grown.path.num_params:,} parameters, "
                 f"{decimal(grown.own_bytes)} in the store")  # fmt: skip
    children = grown.rows
    seconds = sum(row["seconds"] for row in children)
    rows.add_row("trained", f"{counted(len(children), 'child', 'children')} in {duration(seconds)}")
    if baseline is not None:
        rows.add_row("baseline", Text(_compared(grown, baseline)))
    ours = grown.version.version
    rows.add_row("served", Text(_served(live, grown, baseline)))
    console.print(Text(f"{task.name} is v{ours}", style="bold"))
    console.print(rows)
    if live != ours:
        tell(console, f"to serve v{ours}:")
        say(console, f"{INDENT}{rollback(task.name, ours, store.url)}")


def _shared(path: Path) -> str:
    owners: dict[str, int] = {}
    shared = 0
    for component in path.components:
        others = component.locks - {path.owner}
        shared += bool(others)
        for owner in others:
            owners[owner] = owners.get(owner, 0) + 1
    if not shared:
        return "nothing: all of its components are its own"
    ordered = sorted(owners, key=lambda owner: (-owners[owner], owner))
    names = ["the root" if owner == ROOT else owner for owner in ordered[:OWNERS]]
    more = len(owners) - OWNERS
    told = ", ".join(names) + (f" and {more} more" if more > 0 else "")
    return f"{shared} of {len(path.components)} components, with {told}"


def _compared(grown: Grown, baseline: Grown) -> str:
    quality, examples = baseline.quality("test")
    gap = grown.quality("test")[0] - quality
    told = "equal" if not gap else f"{share(abs(gap))} {'worse' if gap > 0 else 'better'}"
    own = f"{baseline.own_params:,} parameters of its own"
    return f"test {measured(quality, grown.metric, examples)}: {told}; {own}"


def _served(live: int, grown: Grown, baseline: Grown | None) -> str:
    ours = grown.version.version
    if live == ours:
        return f"v{ours}"
    if baseline is not None and live == baseline.version.version:
        gap = baseline.quality(MEASURED)[0] - grown.quality(MEASURED)[0]
        return f"v{live}, the baseline, which is {share(gap)} better by validation"
    return f"v{live}, which is better by validation than v{ours}"
