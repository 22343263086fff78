"""The reports of running agents, on this machine or others, and how they are shown."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from evolution.agents.agent import Agent
from evolution.events import ChildTrained, Remark
from evolution.runs.following import line_of, print_event


@dataclass(frozen=True, slots=True)
class Report:
    """An agent's report of one event; its fields are JSON."""

    agent: str
    line: str
    done: int  # children trained in its life
    total: int  # children at its end
    best: float  # validation accuracy


def reports(agent: Agent, cycles: int) -> Generator[Report, None, None]:
    """Runs an agent until it has finished `cycles` cycles in its life."""
    done, total, best = 0, 0, 0.0
    with closing(agent.run(cycles)) as events:
        for event in events:
            line = line_of(event)
            if isinstance(event, ChildTrained):
                done = event.iteration * event.children + event.number + 1
                total, best = cycles * event.children, event.best_quality
            if not isinstance(event, Remark):
                line = f"{agent.id.split('/')[0]}/{line}"
            yield Report(agent.id, line, done, total, best)


class View:
    """One bar for each agent, on a terminal, and a line for each report."""

    def __init__(self, console: Console, agents: Sequence[str]) -> None:
        """A context manager; the bars are shown within it."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        self._console = console
        self._bars = Progress(*columns, console=console, disable=not console.is_terminal)
        self._rows: dict[str, TaskID] = {a: self._bars.add_task(a, total=None) for a in agents}

    def __enter__(self) -> View:
        """Shows the bars."""
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leaves them as they are."""
        self._bars.stop()

    def show(self, report: Report) -> None:
        """Prints the line and moves the agent's bar."""
        row, label = self._rows[report.agent], f"{report.agent} best {report.best:.3f}"
        self._bars.update(row, completed=report.done, total=report.total or None, description=label)
        self.say(report.line)

    def say(self, line: str) -> None:
        """Prints a line."""
        print_event(self._console, line)
