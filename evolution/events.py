"""The result of a child, and the events of a run."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from evolution.population import Path, Score, accounted_params


@dataclass(frozen=True, slots=True)
class Outcome:
    """A child after its training."""

    child: Path
    parent: Path
    trained: tuple[str, ...]  # components that were trained
    improved: bool  # kept
    diverged: bool  # a loss, an answer or a weight was out of bounds, which ended the training
    training: Mapping[str, Any]  # losses and learning rates (curves.Curve.record)
    seconds: float
    device_s: float  # of them, in compiled programs
    # Floating-point operations of choosing, training and validating it; None: not counted.
    search_flops: float | None = None
    ended: float = field(default_factory=time.time)  # seconds since 1970

    @property
    def mutations(self) -> dict[str, tuple[Any, Any]]:
        """Hyperparameters in which the child differs from its parent: (parent's, child's)."""
        before, after = self.parent.hyperparameters, self.child.hyperparameters
        return {k: (before.get(k), v) for k, v in after.items() if before.get(k) != v}

    def history_row(
        self, iteration: int, generation: int, score: Score, new_best: bool
    ) -> dict[str, Any]:
        """Its row in the run's history, as JSON."""
        child, parent = self.child, self.parent
        return {
            "id": child.id,
            "task": child.task,
            "parent": parent.id,
            "parent_task": parent.task,
            "iteration": iteration,
            "generation": generation,
            "hyperparameters": dict(child.hyperparameters),
            "mutations": {k: list(v) for k, v in self.mutations.items()},
            "components": {c.name: c.id for c in child.components},
            "trained": list(self.trained),
            "training": dict(self.training),
            "evaluations": child.metrics["evaluations"],
            "quality": child.quality,
            "measured": child.metrics.get("validation"),
            "score": score(child),
            "accounted_params": accounted_params(child, score.root_counts),
            "total_params": child.num_params,
            "trainable_params": sum(c.num_params for c in child.trainable),
            "flops": child.metrics["flops"],
            "improved": self.improved,
            "new_best": new_best,
            "diverged": self.diverged,
            "seconds": self.seconds,
            "device_s": self.device_s,
            "search_flops": self.search_flops,
            "ended": self.ended,
        }


def child_of(number: int, children: int, *, at_most: bool) -> str:
    """Which child: `child 3 of 24`, or `child 3, at most 24` where a budget may end it sooner."""
    return f"child {number}, at most {children}" if at_most else f"child {number} of {children}"


@dataclass(frozen=True, slots=True)
class ChildTrained:
    """A child has been trained and kept or discarded."""

    outcome: Outcome
    iteration: int  # counted from 0
    number: int  # of the child in its task iteration, counted from 0
    children: int  # of the task iteration
    best_quality: float  # of the task, after the child's generation
    at_most: bool = False  # there may be fewer children: a budget ends them

    @property
    def task(self) -> str:
        """The task it was made for."""
        return self.outcome.child.task

    @property
    def told(self) -> str:
        """Which child it is."""
        return child_of(self.number + 1, self.children, at_most=self.at_most)


@dataclass(frozen=True, slots=True)
class TaskPublished:
    """A task iteration is over and its best path is in the store."""

    task: str
    version: int
    added: bool  # by this iteration; False if the task keeps its former path
    live: bool  # served; False while another run's version is better by validation
    validation_quality: float
    test_quality: float
    total_params: int
    new_params: int  # of components that no other path of the system uses


@dataclass(frozen=True, slots=True)
class TaskWithdrawn:
    """A task iteration is over; its best path is the former one, whose version was removed."""

    task: str


@dataclass(frozen=True, slots=True)
class TaskFailed:
    """A task iteration is over and the task has no path: every child diverged."""

    task: str


@dataclass(frozen=True, slots=True)
class Remark:
    """A message about a run or an agent."""

    text: str  # begins with its name


Ended = TaskPublished | TaskWithdrawn | TaskFailed  # how a task iteration ends
Event = ChildTrained | Ended | Remark
