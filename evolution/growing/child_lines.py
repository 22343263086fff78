"""The output while a task grows: a line for each child that says why it was kept or not."""

from __future__ import annotations

from contextlib import closing

from rich.console import Console

from evolution.data.tasks import Task
from evolution.events import ChildTrained, Ended
from evolution.growing.progress_line import ChildLine
from evolution.run import Run
from evolution.runs.following import line_of, stoppable, tell
from evolution.runs.formats import ACCURACY, share, spread
from evolution.training.validation import MEASURED


def follow(search: Run, task: Task, console: Console, command: str) -> None:
    """Runs the search to its end and prints its events, without the result, which a report has.

    `command` is the one that continues it. Raises Stopped if it was told to stop before its end.
    """
    reasons = Reasons(search, task)
    line = ChildLine(search, console, search.clock)
    with (
        stoppable(search, console, lambda _: command),
        line.shown(),
        closing(search.run()) as events,
    ):
        for event in events:
            if isinstance(event, ChildTrained):
                tell(console, reasons.line(event))
                line.next_child()
            elif not isinstance(event, Ended):
                tell(console, line_of(event))


class Reasons:
    """Explains for each child why it was kept or not, with the scores."""

    def __init__(self, search: Run, task: Task) -> None:
        """Explains the children that the search trains from now on."""
        self._search = search
        self._metric = task.objective.metric
        best = search.population.best(task.name)
        self._best = search.population.score(best) if best else None

    def line(self, event: ChildTrained) -> str:
        """The explanation for one child."""
        child = event.outcome.child
        quality, examples = child.quality or 0.0, child.metrics[MEASURED]["examples"]
        told = f"{event.told}: "
        if event.outcome.diverged:
            return f"{told}not kept: its training diverged (learning rate too high?)"
        score = self._search.population.score(child)
        known = f" ± {spread(quality, examples)}" if self._metric == ACCURACY else ""
        found = f"validation {share(quality)}{known}, score {share(score)}"
        return f"{told}{found}, {self._reason(event, score)}"

    def _reason(self, event: ChildTrained, score: float) -> str:
        outcome, best = event.outcome, self._best
        succeeds = self._search.experiment.method.succeeds
        if best is None or (outcome.improved and (succeeds or score > best)):
            self._best = score
            if best is None:
                return "kept: the first"
            return f"kept: the best, before it {share(best)}"
        same = outcome.parent.task == outcome.child.task
        if not outcome.improved:
            if succeeds:
                return f"not kept: no clear gain over {share(best)}"
            parent = self._search.population.score(outcome.parent)
            return f"not kept: its parent has {share(parent)}"
        if same and score == best:
            return f"kept: equal to the best, {share(best)}"
        return f"kept as a parent, best {share(best)}"
