"""The page that compares several runs: groups of equal settings, their seeds as replicas."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evolution.reports import figures, measures, run_page, task_order
from evolution.reports.decision import COLUMNS, Groups, cells, decision
from evolution.reports.html_page import (
    Report,
    Table,
    accuracy,
    duration,
    engineering,
    integer,
)
from evolution.reports.measures import RunRecord, Summary, mean, spread

MAX_VALUE = 40  # characters of a setting's value in a label


@dataclass(frozen=True, slots=True)
class Aggregate:
    """Mean over the replicas of a group, and their standard deviation (None for a single one)."""

    mean: float | None
    deviation: float | None


def aggregate(runs: Sequence[RunRecord], value: Callable[[Summary], float | None]) -> Aggregate:
    """A number of the summary over replicas."""
    values = [value(measures.summary(run)) for run in runs]
    return Aggregate(mean(values), spread(values))


def groups_of(runs: Sequence[RunRecord]) -> dict[str, list[RunRecord]]:
    """Label -> runs of one experiment with equal settings, which are replicas."""
    alike: dict[tuple[str, str], list[RunRecord]] = {}
    for run in runs:
        alike.setdefault((run.experiment, json.dumps(_settings(run))), []).append(run)
    groups: dict[str, list[RunRecord]] = {}
    for run, *others in alike.values():
        rivals = [group[0] for group in alike.values() if group[0].experiment == run.experiment]
        label = _label(run, rivals)
        groups[label if label not in groups else f"{label} [{len(groups) + 1}]"] = [run, *others]
    return groups


def _settings(run: RunRecord) -> dict[str, str]:
    """Setting -> value as JSON, and the number of paths from other runs; {} if unknown."""
    if not run.settings:
        return {}
    found = dict(_flat(run.settings)) | {"earlier paths": measures.inherited(run)}
    return {name: json.dumps(found[name]) for name in sorted(found)}


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _differing(run: RunRecord, rivals: Sequence[RunRecord]) -> dict[str, str]:
    """The run's settings that differ from those of a rival (if known)."""
    known = [settings for rival in rivals if (settings := _settings(rival))]
    return {
        name: value
        for name, value in _settings(run).items()
        if any(settings.get(name) != value for settings in known)
    }


def _label(run: RunRecord, rivals: Sequence[RunRecord]) -> str:
    if len(rivals) == 1:
        return run.experiment
    if not run.settings:
        return f"{run.experiment} (settings unknown)"
    found = _differing(run, rivals).items()
    return f"{run.experiment} ({', '.join(f'{name}={_end(value)}' for name, value in found)})"


def _end(value: str) -> str:
    return value if len(value) <= MAX_VALUE else f"…{value[1 - MAX_VALUE :]}"


def write(runs: Sequence[RunRecord], pages: Mapping[str, str], directory: Path) -> Path:
    """Writes the comparison; `pages` are the directories of the runs' own pages."""
    groups = groups_of(runs)
    lead = (
        f"Runs: {len(runs):,}; groups: {len(groups):,}. The replicas in a group are of one "
        "experiment with equal settings and differ in their seed."
    )
    report = Report(directory, "Comparison of runs", lead)
    report.section("Which is best")
    _decision(report, groups)
    report.section("Experiments")
    _table_of_groups(report, groups)
    report.section("Runs")
    _table_of_runs(report, groups, pages)
    report.section("Quality and parameters per task")
    _trade_off(report, groups)
    report.section("Convergence")
    _convergence(report, groups)
    report.section("Quality by task")
    _tasks(report, groups)
    report.section("Task after task")
    task_order.write(report, groups)
    report.section("Hyperparameter values")
    for i, (group, members) in enumerate(groups.items(), 1):
        report.heading(group)
        run_page.distributions(report, members, f"hyperparameter_values_{i}")
    report.section("Knowledge flow")
    tasks = tuple(dict.fromkeys(task for run in runs for task in run.tasks))
    colours = figures.task_colours(tasks)
    for i, (group, members) in enumerate(groups.items(), 1):
        report.heading(group)
        run_page.knowledge_flow(report, members, colours, f"knowledge_flow_{i}")
    return report.write()


def _decision(report: Report, groups: Groups) -> None:
    lines = decision(groups)
    names: tuple[str, ...] = ("experiment", *COLUMNS)
    report.table(Table(dict.fromkeys(names), [(line.experiment, *cells(line)) for line in lines]))
    report.text(
        f"Mean test {_word(groups)} over tasks and seeds; how far each experiment is behind the "
        "first one on the tasks and seeds that both have, with the 95 % interval over tasks (seeds "
        "of a task are averaged first); on how many tasks it is worse; accounted parameters of a "
        "task; 1e12 operations of its search, with features and validations. Where the interval "
        "contains 0, these tasks do not tell the two apart."
    )


# Column -> its number in a summary, and its format.
_COLUMNS: Mapping[str, tuple[Callable[[Summary], float | None], Callable[[float], str]]] = {
    "test": (lambda s: s.test, accuracy),
    "validation": (lambda s: s.validation, accuracy),
    "parameters per task": (lambda s: s.params_per_task, integer),
    "FLOPs": (lambda s: s.flops, engineering),
    "FLOPs of the search": (lambda s: s.search_flops, engineering),
    "ancestors": (lambda s: s.lineage, lambda v: f"{v:.1f}"),
    "wall time": (lambda s: s.wall_s, duration),
    "time in compiled programs": (lambda s: s.device_s, duration),
    "sampled": (lambda s: s.sampled, integer),
}


def _table_of_groups(report: Report, groups: Groups) -> None:
    shown, raw = [], []
    for group, runs in groups.items():
        found = [(aggregate(runs, value), form) for value, form in _COLUMNS.values()]
        tasks = max(len(run.retained) for run in runs)
        shown.append((group, len(runs), tasks, *(_with_deviation(a, form) for a, form in found)))
        raw.append((group, len(runs), tasks, *(v for a, _ in found for v in (a.mean, a.deviation))))
    first = {"experiment": None, "replicas": integer, "tasks": integer}
    report.table(Table({**first, **dict.fromkeys(_COLUMNS, str)}, shown))
    names = [name for column in _COLUMNS for name in (column, f"{column}, deviation")]
    report.data(Table(dict.fromkeys([*first, *names]), raw), "experiments")
    report.text("Means over tasks, then over replicas, with the standard deviation of replicas.")
    members = [run for runs in groups.values() for run in runs]
    differing = [
        (group, name, value)
        for group, (run, *_) in groups.items()
        for name, value in _differing(
            run, [other for other in members if other.experiment == run.experiment]
        ).items()
    ]
    if differing:
        report.text("Settings in which groups of one experiment differ:")
        report.table(
            Table(dict.fromkeys(["experiment", "setting", "value"]), differing), "settings"
        )


def _with_deviation(found: Aggregate, form: Callable[[float], str]) -> str | None:
    if found.mean is None:
        return None
    deviation = "" if found.deviation is None else f" ± {form(found.deviation)}"
    return form(found.mean) + deviation


def _table_of_runs(report: Report, groups: Groups, pages: Mapping[str, str]) -> None:
    report.links({name: f"{page}/index.html" for name, page in pages.items()})
    rows = [
        (
            run.name,
            group,
            run.seed,
            *(v(measures.summary(run)) for v, _ in _COLUMNS.values()),
        )
        for group, runs in groups.items()
        for run in runs
    ]
    forms = {name: form for name, (_, form) in _COLUMNS.items()}
    report.table(Table({"run": None, "experiment": None, "seed": str, **forms}, rows), "runs")


def _word(groups: Groups) -> str:
    """The name of the qualities of all runs."""
    return measures.quality_word(run for runs in groups.values() for run in runs)


def _trade_off(report: Report, groups: Groups) -> None:
    points = {}
    for group, runs in groups.items():
        cost = aggregate(runs, lambda s: s.params_per_task)
        quality = aggregate(runs, lambda s: s.test)
        if cost.mean is not None and quality.mean is not None:
            points[group] = (
                (cost.mean, cost.deviation or 0.0),
                (quality.mean, quality.deviation or 0.0),
            )
    if not points:
        report.text("No run has a test quality yet.")
        return
    report.figure(
        figures.groups_trade_off(
            points, figures.group_colours(list(groups)), f"mean test {_word(groups)}"
        ),
        "accuracy_against_parameters",
        f"Mean test {_word(groups)} against accounted parameters per task, with the standard "
        "deviation of the replicas as bars; better is up and to the left.",
    )


def _convergence(report: Report, groups: Groups) -> None:
    colours = figures.group_colours(list(groups))
    means = {
        group: measures.mean_of_curves([measures.mean_best_so_far(run) for run in runs])
        for group, runs in groups.items()
    }
    if not any(len(centre) for centre, _ in means.values()):
        report.text("No path has been sampled yet.")
        return
    report.figure(
        figures.group_curves(means, colours, f"mean best validation {_word(groups)}"),
        "convergence",
        f"Best validation {_word(groups)}, averaged over the tasks that a run has met so far and "
        "over replicas, by number of sampled paths; the band is one standard deviation of the "
        "replicas.",
    )
    tasks = dict.fromkeys(t for runs in groups.values() for run in runs for t in run.tasks)
    by_task = {
        task: {
            group: measures.mean_of_curves(curves)
            for group, runs in groups.items()
            if (curves := [c for run in runs if (c := measures.best_so_far(run, task))])
        }
        for task in tasks
    }
    report.key(colours)
    report.figure(
        figures.group_task_curves(by_task, colours),
        "convergence_by_task",
        f"Best validation {_word(groups)} of a task by number of its sampled paths, by "
        "experiment, mean and standard deviation of the replicas.",
    )


def _tasks(report: Report, groups: Groups) -> None:
    tasks = dict.fromkeys(t for runs in groups.values() for run in runs for t in run.tasks)
    shown, raw = [], []
    for task in tasks:
        tests = [[run.test.get(task) for run in runs] for runs in groups.values()]
        found = [Aggregate(mean(values), spread(values)) for values in tests]
        shown.append((task, *(_with_deviation(a, accuracy) for a in found)))
        raw.append((task, *(v for a in found for v in (a.mean, a.deviation))))
    report.text(f"Test {_word(groups)} by task, mean and standard deviation of the replicas.")
    report.table(Table({"task": None, **dict.fromkeys(groups, str)}, shown))
    names = [name for group in groups for name in (group, f"{group}, deviation")]
    report.data(Table(dict.fromkeys(["task", *names]), raw), "test_accuracy_by_task")
