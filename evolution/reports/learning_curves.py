"""Learning curves of a run: validation by sampled path, loss and rate by training step."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from evolution.reports import figures, measures, training_figures
from evolution.reports.html_page import Report, Table
from evolution.reports.measures import RunRecord
from evolution.training.curves import Point, points

MOST_DRAWN = 40  # children of a task


def add_convergence(report: Report, run: RunRecord, colours: Mapping[str, str]) -> None:
    """The best validation quality of each task by number of sampled paths."""
    positions: dict[str, list[int]] = {}
    for at, row in enumerate(run.rows.values(), 1):
        positions.setdefault(row["task"], []).append(at)
    best = {task: measures.best_so_far(run, task) for task in positions}
    if not np.isfinite([value for line in best.values() for value in line]).any():
        report.text("The history holds no validation qualities.")
        return
    lines = {task: (positions[task], best[task]) for task in positions}
    average = (range(1, len(run.rows) + 1), measures.mean_best_so_far(run))
    report.figure(
        figures.curves(lines, colours, average, f"best validation {run.quality}"),
        "convergence",
        f"Best validation {run.quality} of each task by number of sampled paths of the run; "
        "a line begins when its task does, and the dashed mean jumps when a task joins.",
    )
    points = {
        task: [_number(run.rows[i].get("quality")) for i in run.rows if run.rows[i]["task"] == task]
        for task in positions
    }
    report.figure(
        figures.task_curves(points, best, colours),
        "convergence_by_task",
        f"Validation {run.quality} of every sampled path of a task in the order of sampling "
        "(dots), and the best so far (line).",
    )


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def add_training(report: Report, run: RunRecord, colours: Mapping[str, str]) -> None:
    """Loss and learning rate by step of the newest children of each task."""
    drawn: dict[str, dict[int, list[Point]]] = {}
    retained = {task: path.id for task, path in run.retained.items()}
    for task in retained:
        rows = {i: row for i, row in run.rows.items() if row["task"] == task}
        known = {i: points(row.get("training")) for i, row in rows.items()}
        newest = [i for i, curve in known.items() if curve][-MOST_DRAWN:]
        if known.get(retained[task]) and retained[task] not in newest:
            newest[0] = retained[task]
        if newest:
            drawn[task] = {i: known[i] for i in newest}
    if not drawn:
        report.text("The history holds no losses: its children were trained by an earlier version.")
        return
    which = (
        f"A line for each child of a task, the newest {MOST_DRAWN} of them at most; black is the "
        "retained path. The horizontal axis is the step. A long training is cut into stretches of "
        "equal length, and a point is the mean over one."
    )
    report.figure(
        training_figures.by_step(drawn, retained, colours, "loss", spread_out=True),
        "training_loss",
        f"Training loss by step. {which} A gap is a loss that was no finite number.",
    )
    report.figure(
        training_figures.by_step(drawn, retained, colours, "rate"),
        "learning_rate",
        f"Learning rate by step. {which}",
    )
    rows = [
        (task, child, *point)
        for task, children in drawn.items()
        for child, curve in children.items()
        for point in curve
    ]
    columns = ("task", "child", "step", "loss", "learning rate")
    report.data(Table(dict.fromkeys(columns), rows), "training")
