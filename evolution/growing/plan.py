"""The plan that is printed before training: what, how long, and what to expect."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from evolution.data.printing import one_line
from evolution.data.tasks import Task
from evolution.experiments.experiment import Experiment
from evolution.growing.chosen_settings import Costs
from evolution.growing.machine_speed import Machine
from evolution.growing.starting_point import System
from evolution.runs.formats import ACCURACY, counted, duration, share, spread

PARENTS = 3  # named in the plan


@dataclass(frozen=True, slots=True)
class GrowthPlan:
    """The plan of one task."""

    run: str  # its name
    task: Task
    system: System
    experiment: Experiment
    children: int  # that fit, by the estimate; the experiment has the largest number
    baseline: Experiment | None
    costs: Costs
    machine: Machine
    budget_s: float | None  # of search and baseline
    probed: float | None  # validation quality of a linear probe on the root

    @property
    def steps(self) -> int:
        """Training steps of a child."""
        each = self.experiment.steps_per_round(len(self.task.train))
        return each * self.experiment.rounds_per_child

    @property
    def seconds(self) -> float:
        """The estimated time."""
        search = self.children * self.costs.child_s(self.steps)
        return self.costs.start_s + search * (2 if self.baseline else 1)

    def show(self, console: Console) -> None:
        """Prints the plan, for 80 columns."""
        task, experiment = self.task, self.experiment
        rows = Table.grid(padding=(0, 2))
        rows.add_column(style="bold", no_wrap=True)
        rows.add_column(overflow="fold")
        counts = [len(split) for split in (task.train, task.validation, task.test)]
        rows.add_row("pictures", "{:,} train, {:,} select, {:,} test".format(*counts)
                     + f"; {counted(task.num_classes, 'class', 'classes')}")  # fmt: skip
        for finding in (task.data or {}).get("findings", {}).values():
            rows.add_row("note", Text(one_line(finding)))
        rows.add_row("parents", Text(self._parents()))
        arch = self.system.architecture
        blocks = counted(experiment.defaults["num_layers"], "block")
        rows.add_row("network", f"{blocks}, {experiment.defaults['ds_image_size']} px, patches of "
                     f"{arch.patch_size} px")  # fmt: skip
        children = counted(self.children, "child", "children")
        if self.children < experiment.samples_per_task:
            children = f"about {children}, {experiment.samples_per_task} at most,"
        rows.add_row("training", f"{children} of {self.steps:,} steps of "
                     f"{counted(experiment.batch_size, 'picture')}")  # fmt: skip
        if self.baseline:
            steps = self.steps * self.children
            rows.add_row("baseline", f"a copy of the whole root, afterwards, for {steps:,} steps")
        within = f", {duration(self.budget_s)} at most" if self.budget_s else ""
        rows.add_row("time", f"about {duration(self.seconds)}{within} ({self.machine})")
        rows.add_row("expect", self._expectation())
        console.print(Text(f"{task.name}: run {self.run}", style="bold"))
        console.print(rows)

    def _parents(self) -> str:
        names = [f"{p.task} v{p.version}" for p in self.system.published]
        more = len(names) - PARENTS
        told = ", ".join(names[:PARENTS]) + (f" and {more} more" if more > 0 else "")
        root = f"the root {self.system.root}"
        return f"{told}, and {root}" if told else root

    def _expectation(self) -> str:
        tested = len(self.task.test)
        least = f"more than {share(1 / self.task.num_classes, 2)}, which guessing reaches"
        if self.probed is not None:
            least = f"{share(self.probed, 2)} or more, as a linear probe on the root reaches"
        if self.task.objective.metric != ACCURACY:
            return least
        return f"{least}; the test tells .9 to ± {spread(0.9, tested)}"
