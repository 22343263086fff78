"""The figures of what happens within the training of children."""

import csv

import numpy as np
import pytest

from evolution.reports import figures, learning_curves, training_figures
from evolution.reports.html_page import Report
from evolution.reports.measures import run_of
from evolution.training.curves import Point
from tests.evolution.made_up_run import MADE_UP_STEPS, MadeUpRun


def drawn(tmp_path, made: MadeUpRun) -> str:
    run = run_of("made", "made up", 0, made.history, made.population)
    report = Report(tmp_path, "Run made", "")
    report.section("Training")
    with figures.style():
        learning_curves.add_training(report, run, figures.task_colours(run.tasks))
    return report.write().read_text()


def test_the_newest_children_of_each_task_are_drawn_and_the_retained_one(tmp_path):
    made = MadeUpRun(2, learning_curves.MOST_DRAWN + 8)
    page = drawn(tmp_path, made)
    assert "training_loss.svg" in page and "learning_rate.svg" in page
    lines = list(csv.DictReader((tmp_path / "training.csv").open()))
    retained = {task: paths[-1].id for task, paths in made.population.paths.items()}
    for task in ("made_up/task_00", "made_up/task_01"):
        children = {int(line["child"]) for line in lines if line["task"] == task}
        assert len(children) == learning_curves.MOST_DRAWN and retained[task] in children
    assert len(lines) == 2 * learning_curves.MOST_DRAWN * MADE_UP_STEPS


def test_children_from_before_losses_were_recorded_draw_nothing(tmp_path):
    made = MadeUpRun(1, 4)
    for row in made.history:
        del row["training"]
    assert "trained by an earlier version" in drawn(tmp_path, made)
    assert not list(tmp_path.glob("*.svg"))


def test_a_loss_that_was_no_number_is_a_gap():
    curve = [Point(1, 2.0, 0.1), Point(2, None, 0.1), Point(3, 1.0, 0.1)]
    with figures.style():
        figure = training_figures.by_step({"t": {7: curve}}, {"t": 7}, {"t": "#123456"}, "loss")
    (axes,) = figure.axes
    y = np.asarray(axes.lines[-1].get_ydata(), float)
    assert y == pytest.approx([2.0, np.nan, 1.0], nan_ok=True)
