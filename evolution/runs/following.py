"""The output of a run: a bar with the time left, and a line for each child.

Ctrl-C ends the run after the present generation, a second one at once. The run is saved after each
generation, so it can be resumed in both cases.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from evolution.events import ChildTrained, Event, Remark, TaskPublished, TaskWithdrawn
from evolution.mutation import RATE
from evolution.population import ROOT
from evolution.process import stopping
from evolution.process.exclusive import PATIENCE_S
from evolution.run import Run
from evolution.runs import next_commands

INDENT = "    "


def follow(search: Run, console: Console) -> None:
    """Runs the search to its end and shows it.

    Raises Stopped if it was told to stop before its end.
    """
    progress, per_task = search.progress, search.experiment.samples_per_task
    if progress.iteration == len(progress.schedule):
        say(console, f"run {search.name} is finished; resume --task adds a task to it")
    done = progress.iteration * per_task
    done += progress.generation * search.experiment.children_per_generation
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    bar = Progress(*columns, console=console, disable=not console.is_terminal)
    with stoppable(search, console, _command), bar, closing(search.run()) as events:
        known = search.experiment.budget_s is None  # else there may be fewer
        total = len(progress.schedule) * per_task if known else None
        row = bar.add_task("children", total=total, completed=done)
        for event in events:
            if isinstance(event, ChildTrained):
                bar.advance(row)
                bar.update(row, description=f"{event.task} best {event.best_quality:.3f}")
            print_event(console, line_of(event))


@contextmanager
def stoppable(search: Run, console: Console, command: Callable[[Run], str]) -> Iterator[None]:
    """Within it Ctrl-C stops the search; `command` is the one that continues it.

    Raises Stopped if it was told to stop before its end.
    """

    def stop() -> None:
        search.stopping = True
        say(console, "stopping after the generation under way; Ctrl-C again stops at once")

    search.patience_s = PATIENCE_S
    with stopping.stoppable(stop):
        # Interrupted between steps. What it holds is given back in any case.
        with suppress(KeyboardInterrupt):
            yield
        if search.progress.iteration < len(search.progress.schedule):
            say(console, "stopped; go on with:")
            say(console, f"{INDENT}{command(search)}")
            raise stopping.Stopped(stopping.exit_code())


def _command(search: Run) -> str:
    """The command that continues a run."""
    if search.saved is None:
        return "the same command (nothing was saved yet)"
    return next_commands.resume(search.name, search.store.url)


def say(console: Console, line: str) -> None:
    """Prints a line as it is, above the bars."""
    console.print(line, highlight=False, soft_wrap=True, markup=False)


def tell(console: Console, text: str) -> None:
    """Prints a sentence in lines of the page's width; all but the first are indented.

    Lines break between words only: a name or a command can be copied as it is.
    """
    lines = textwrap.fill(
        text, console.width, subsequent_indent=INDENT, break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip
    say(console, lines)


def print_event(console: Console, line: str) -> None:
    """Prints an event: in lines of a terminal's width; elsewhere as one line, to be searched."""
    (tell if console.is_terminal else say)(console, line)


def line_of(event: Event) -> str:
    """An event as one line that begins with the task, or the name of the run."""
    if isinstance(event, Remark):
        return event.text
    if isinstance(event, ChildTrained):
        return _child_line(event)
    if isinstance(event, TaskPublished):
        return _published_line(event)
    if isinstance(event, TaskWithdrawn):
        return f"{event.task} stays as it is: its version was removed, and is not published again"
    return f"{event.task} has no path: each child diverged; lower opt_lr"


def _child_line(event: ChildTrained) -> str:
    outcome = event.outcome
    child, parent = outcome.child, outcome.parent
    origin = "the root" if parent.task == ROOT else parent.task
    gain = ""
    if parent.task == child.task:
        gain = f" ({(child.quality or 0) - (parent.quality or 0):+.3f})"
    kept = "kept" if outcome.improved else "discarded"
    changes = [
        f"{key} {old}→{new}"
        for key, (old, new) in sorted(outcome.mutations.items())
        if not key.startswith(f"{RATE}|")
    ]
    return (
        f"{child.task} {event.told}, from {origin}: "
        f"validation {child.quality:.3f}{gain}, {'diverged, ' if outcome.diverged else ''}{kept}; "
        f"trained {', '.join(outcome.trained)}{'; ' if changes else ''}{', '.join(changes)} "
        f"({outcome.seconds:.1f} s)"
    )


def _published_line(event: TaskPublished) -> str:
    how = "published as" if event.added else "stays"
    return (
        f"{event.task} {how} v{event.version}{'' if event.live else ' (not live)'}: "
        f"validation {event.validation_quality:.3f}, "
        f"test {event.test_quality:.3f}, {event.total_params:,} parameters, of which "
        f"{event.new_params:,} are this task's alone"
    )
