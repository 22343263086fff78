"""The largest size of a run, printed and limited before it starts."""

from __future__ import annotations

from dataclasses import dataclass

from evolution.experiments.experiment import Experiment
from evolution.experiments.settings import SettingError

# Several times what the longest published experiments take.
MOST_CHILDREN = 100_000
MOST_STEPS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Plan:
    """Children and training steps of a run, at most; small data sets take fewer steps."""

    children: int
    steps: int

    @classmethod
    def of(cls, experiment: Experiment, iterations: int | None = None) -> Plan:
        """The plan for `iterations` task iterations, or for a new run."""
        if iterations is None:
            iterations = len(experiment.tasks) * experiment.passes
        children = iterations * experiment.samples_per_task
        per_round = experiment.steps_per_round(experiment.train_examples_per_round)
        return cls(children, children * experiment.rounds_per_child * per_round)

    def __str__(self) -> str:
        """For people."""
        return f"{self.children:,} children, {self.steps:,} training steps at most"


def require_reasonable(plan: Plan, what: str, confirmed: bool) -> None:
    """Raises SettingError for a plan that would take months, unless `long` confirms it."""
    if confirmed or (plan.children <= MOST_CHILDREN and plan.steps <= MOST_STEPS):
        return
    raise SettingError(
        f"{what} would be {plan}: expected no more than {MOST_CHILDREN:,} children and "
        f"{MOST_STEPS:,} steps; lower passes, samples_per_task, rounds_per_child or "
        "train_examples_per_round, or confirm with --long"
    )
