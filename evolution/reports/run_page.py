"""The page of one run: leaderboard, network, sharing, descent, convergence, hyperparameters."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from evolution.population import ROOT
from evolution.process.environment import computed_with
from evolution.reports import (
    figures,
    hyperparameters,
    learning_curves,
    measures,
    system_figures,
    system_snapshots,
)
from evolution.reports.html_page import (
    Report,
    Table,
    accuracy,
    duration,
    engineering,
    integer,
    percent,
    plain,
)
from evolution.reports.measures import RunRecord
from evolution.reports.own_pictures import add_pictures

RATE = "_mu_"  # the mutation rate; the rates of single mutations begin with it
MAX_LISTED = 300  # sampled paths on the page
Colours = Mapping[str, str]


def write(run: RunRecord, directory: Path) -> Path:
    """Writes the run's page, figures and tables to the directory; the page's path."""
    directory.mkdir(parents=True, exist_ok=True)
    counts = f"Sampled paths: {len(run.rows):,}; tasks: {len(run.retained):,}."
    lead = f"Experiment {run.experiment}, seed {run.seed}. {counts}"
    report = Report(directory, f"Run {run.name}", lead + computed_with(run.environments))
    colours = figures.task_colours(run.tasks, run.private)
    for title, add in _SECTIONS.items():
        report.section(title)
        if run.retained:
            add(report, run, colours)
        else:
            report.text("No task has a path yet: there is nothing to show.")
    return report.write()


def _leaderboard(report: Report, run: RunRecord, colours: Colours) -> None:
    report.key({**colours, "the root": figures.ROOT_COLOUR})
    columns = {
        "task": None, "private": None, "validation": accuracy, "test": accuracy,
        "score": accuracy, "parameters": integer, "accounted": integer, "own": integer,
        "FLOPs": engineering, "parent": None, "sampled": integer,
    }  # fmt: skip
    rows = []
    for line in measures.standings(run):
        private = "yes" if line.private else ""
        parent = "the root" if line.parent == ROOT else line.parent
        rows.append(tuple({**asdict(line), "private": private, "parent": parent}.values()))
    report.table(Table(columns, rows), "leaderboard")
    report.text(
        "Accounted parameters split those of a shared component evenly between the tasks that use "
        "it; own ones are of components that only this task uses. FLOPs are of one image's "
        "forward pass. Parent is the task of the nearest ancestor that is retained."
    )
    add_pictures(report, run)


def _summary(report: Report, run: RunRecord, colours: Colours) -> None:
    del colours
    found = measures.summary(run)
    lines: list[tuple[str, Any, Any]] = [
        ("tasks", found.tasks, integer),
        ("sampled paths", found.sampled, integer),
        ("of which kept as candidates", found.improved, integer),
        (f"mean validation {run.quality}", found.validation, accuracy),
        (f"mean test {run.quality}", found.test, accuracy),
        ("mean score", found.score, accuracy),
        ("accounted parameters of all tasks", found.accounted_params, integer),
        ("parameters per task (accounted)", found.params_per_task, integer),
        ("parameters with each component once", found.stored_params, integer),
        ("parameters if every task had its own model", found.separate_params, integer),
        ("parameters trained for the retained paths", found.trainable_params, integer),
        ("mean FLOPs of one image's forward pass", found.flops, engineering),
        ("wall time, summed over paths", found.wall_s, duration),
        ("time in compiled programs, summed over paths", found.device_s, duration),
        ("mean wall time of a path", found.child_s, duration),
        ("mean time of a path in compiled programs", found.child_device_s, duration),
        ("mean time of a generation", found.generation_s, duration),
        ("time from the first start to the last end", found.elapsed_s, duration),
    ]
    shown = [(name, None if v is None else form(v)) for name, v, form in lines]
    report.table(Table({"quantity": None, "value": plain}, shown))
    report.data(Table({"quantity": None, "value": None}, [line[:2] for line in lines]), "summary")
    report.text(
        "Wall time is that of training and validation with all around them; time in compiled "
        "programs is when the device computes, summed over the paths whose history tells it."
    )


def _network(report: Report, run: RunRecord, colours: Colours) -> None:
    owners, systems = measures.first_owners(run), _systems(run)
    with report.views("network", [label for label, _, _ in systems]):
        for label, file, system in systems:
            report.figure(
                system_figures.network(system, owners, colours),
                file,
                f"The system after {label} of the sampled paths. Each line is a task's path from "
                f"the input at the bottom to its head, with its validation {run.quality} in %; "
                "each box is a component, filled with the colour of the task that first "
                "contained it (grey: the root), so a box that several lines cross is shared. "
                "The final norm is left out. Black is the task for which a path was sampled last.",
            )


def _systems(run: RunRecord) -> list[tuple[str, str, system_snapshots.Snapshot]]:
    """Label, file and system at each quarter of the run; the last is the present system."""
    earlier = [
        (
            f"{share} %",
            f"network_{share}",
            system_snapshots.after(run, len(run.rows) * share // 100),
        )
        for share in (25, 50, 75)
    ]
    known = [entry for entry in earlier if entry[2].routes]
    return [*known, ("100 %", "network", system_snapshots.final(run))]


def _sharing(report: Report, run: RunRecord, colours: Colours) -> None:
    del colours
    tasks, shared = list(run.retained), measures.shared_components(run)
    report.figure(
        figures.heat_map(tasks, tasks, shared, ("", ""), "d"),
        "shared_components",
        "Number of components that the paths of two tasks have in common; the diagonal is the "
        "length of a task's path.",
    )
    _matrix(report, tasks, shared, "shared_components")


def _matrix(report: Report, tasks: Sequence[str], values: np.ndarray, name: str) -> None:
    rows = [(task, *line) for task, line in zip(tasks, values.tolist(), strict=True)]
    report.data(Table(dict.fromkeys(["task", *tasks]), rows), name)


def _descent(report: Report, run: RunRecord, colours: Colours) -> None:
    scores = {i: score for i, row in run.rows.items() if (score := _score(row)) is not None}
    if not scores:
        report.text("The history holds no scores.")
        return
    edges: dict[str, list[figures.Series]] = {}
    for i, score in scores.items():
        parent = run.rows[i].get("parent")
        line = ([parent, i], [scores[parent], score]) if parent in scores else ([i], [score])
        edges.setdefault(run.rows[i]["task"], []).append(line)
    ids = [path.id for path in run.retained.values() if path.id in scores]
    report.figure(
        figures.descent(edges, (ids, [scores[i] for i in ids]), colours, "score when sampled"),
        "descent",
        "Each line leads from a parent to its child, in the colour of the child's task; a cross "
        "marks the paths that are retained, so following lines back from it gives a path's "
        "ancestors. Children of the root begin without a line.",
    )


def _score(row: measures.Row) -> float | None:
    score = row.get("score")
    return row.get("quality") if score is None else score


def _costs(report: Report, run: RunRecord, colours: Colours) -> None:
    lines = measures.standings(run)
    label = "test" if any(line.test is not None for line in lines) else "validation"
    charts: list[tuple[str, dict[str, tuple[float, float]]]] = []
    for cost, name in _COSTS.items():
        known = [(line.task, getattr(line, cost), getattr(line, label)) for line in lines]
        points = {task: (x, y) for task, x, y in known if x is not None and y is not None}
        if points:
            charts.append((name, points))
    if charts:
        report.figure(
            figures.trade_off(charts, colours, f"{label} {run.quality}"),
            "accuracy_against_costs",
            f"{label.capitalize()} {run.quality} of each task against what its path costs; better "
            "is up and to the left.",
        )
    found = measures.summary(run)
    report.text(
        f"All tasks together account for {integer(found.accounted_params)} parameters, "
        f"{integer(found.params_per_task or 0)} per task, where models of their own would need "
        f"{integer(found.separate_params)}."
    )


_COSTS = {"accounted_params": "accounted parameters", "flops": "FLOPs of one image's forward pass"}


def _hyperparameters(report: Report, run: RunRecord, colours: Colours) -> None:
    _histories(
        report, run, colours, "hyperparameter_histories", lambda name: not name.startswith(RATE)
    )


def _mutation_rates(report: Report, run: RunRecord, colours: Colours) -> None:
    _histories(report, run, colours, "mutation_rate_histories", lambda n: n.startswith(RATE))


def _histories(report: Report, run: RunRecord, colours: Colours, file: str, chosen: Any) -> None:
    found: dict[str, dict[str, list[tuple[int, Any]]]] = {}
    for task, path in run.retained.items():
        for name, line in hyperparameters.histories(run, path).items():
            if chosen(name):
                found.setdefault(name, {})[task] = line
    changing = {
        title(name): found[name]
        for name in sorted(found)
        if len({json.dumps(v) for line in found[name].values() for _, v in line}) > 1
    }
    if not changing:
        report.text("No hyperparameter has changed along the ancestors of a retained path.")
        return
    report.figure(
        figures.histories(changing, colours),
        file,
        "Values along the chain of ancestors of each retained path, from the root at the left to "
        "the path itself; the horizontal axis is the id. What never changed is left out.",
    )


def title(name: str) -> str:
    """A hyperparameter's name as a chart's title."""
    if name == RATE:
        return "mutation probability"
    return name.removeprefix(f"{RATE}|") if name.startswith(f"{RATE}|") else name


def distributions(report: Report, runs: Sequence[RunRecord], file: str) -> None:
    """Adds the distributions of hyperparameters over the runs; `file` names the figure."""
    found = {
        title(name): distribution
        for name, distribution in hyperparameters.distributions(runs).items()
        if not name.startswith(f"{RATE}|")
    }
    if not found:
        report.text("The paths do not differ in their hyperparameters.")
        return
    report.figure(
        figures.bars(found),
        file,
        "Share of each value among all sampled paths (grey) and among the retained ones (blue): "
        "where blue stands above grey, selection preferred the value.",
    )


def _distributions(report: Report, run: RunRecord, colours: Colours) -> None:
    del colours
    distributions(report, [run], "hyperparameter_values")


def _ancestry(report: Report, run: RunRecord, colours: Colours) -> None:
    rows = [
        (task, " → ".join(_with_counts([*measures.ancestors(run, path), task])))
        for task, path in run.retained.items()
    ]
    report.table(Table({"task": None, "ancestors, oldest first": None}, rows), "ancestry")
    knowledge_flow(report, [run], colours, "knowledge_flow")
    lineage = [
        (task, name, " ".join(tasks))
        for task, path in run.retained.items()
        for name, tasks in measures.component_lineage(run, path).items()
    ]
    report.data(Table(dict.fromkeys(["task", "component", "trained by"]), lineage), "lineage")
    report.text("For every component, lineage.csv lists the tasks that trained it on its way here.")


def _with_counts(tasks: Sequence[str]) -> list[str]:
    """Equal neighbours once, with their count."""
    runs: list[tuple[str, int]] = []
    for task in tasks:
        if runs and runs[-1][0] == task:
            runs[-1] = task, runs[-1][1] + 1
        else:
            runs.append((task, 1))
    names = [("the root" if task == ROOT else task, count) for task, count in runs]
    return [name if count == 1 else f"{name} ×{count}" for name, count in names]  # noqa: RUF001


def knowledge_flow(report: Report, runs: Sequence[RunRecord], colours: Colours, file: str) -> None:
    """Adds a graph and a heat map of which task descends from which, over the runs."""
    tasks, counts = measures.knowledge_flow(runs)
    _matrix(report, tasks, counts, file)
    if not counts.any():
        report.text("Every retained path is a child of the root: no knowledge has flowed yet.")
        return
    report.figure(
        system_figures.knowledge_graph(tasks, counts, colours),
        f"{file}_graph",
        "An arrow leads from a task to one whose retained path descends from it, in the colour of "
        "the origin; the wider, the larger that task's share of all ancestors.",
    )
    totals = counts.sum(1, keepdims=True)
    shares = np.where(totals, 100 * counts / np.maximum(totals, 1), np.nan)
    report.figure(
        figures.heat_map(tasks, tasks, shares, ("ancestor's task", "task"), ".0f"),
        f"{file}_shares",
        "Of all ancestors of a task's retained path (row), the share in % that each task "
        "contributed (column); rows add up to 100, and tasks that descend from the root alone "
        "are empty.",
    )


def _children(report: Report, run: RunRecord, colours: Colours) -> None:
    """Writes every sampled path with all data of the history to a file."""
    del colours
    fields = list(dict.fromkeys(name for row in run.rows.values() for name in row))
    rows = [[_flat(row.get(name)) for name in fields] for row in run.rows.values()]
    report.data(Table(dict.fromkeys(fields), rows), "sampled_paths")
    counts = Counter(row["task"] for row in run.rows.values())
    improved = Counter(row["task"] for row in run.rows.values() if row.get("improved"))
    table = [(task, counts[task], improved[task], improved[task] / counts[task]) for task in counts]
    columns = {"task": None, "sampled": integer, "improved": integer, "share": percent}
    report.table(Table(columns, table), "sampled_by_task")
    _newest(report, run)
    known = {
        "num_layers": [
            n for row in run.rows.values() if (n := measures.num_layers(row)) is not None
        ],
        "quality": [q for row in run.rows.values() if (q := row.get("quality")) is not None],
    }
    if columns := {name: values for name, values in known.items() if values}:
        report.figure(
            figures.histograms(columns),
            "sampled_values",
            "Numbers of sampled paths by their transformer layers, and by ranges of their "
            f"validation {run.quality}.",
        )


def _newest(report: Report, run: RunRecord) -> None:
    rows = list(run.rows.values())[: -MAX_LISTED - 1 : -1]
    lines = [
        (row["id"], row["task"], measures.num_layers(row), row.get("quality"), row.get("score"))
        for row in rows
    ]
    columns = {
        "id": str, "task": None, "num_layers": integer, "quality": accuracy, "score": accuracy,
    }  # fmt: skip
    report.details(f"The newest {len(rows):,} sampled paths", Table(columns, lines))


def _flat(value: Any) -> Any:
    return json.dumps(value, sort_keys=True) if isinstance(value, Mapping | list | tuple) else value


_SECTIONS = {
    "Leaderboard": _leaderboard,
    "Summary": _summary,
    "Multitask network": _network,
    "Shared components": _sharing,
    "Scores and ancestors": _descent,
    "Convergence": learning_curves.add_convergence,
    "Training": learning_curves.add_training,
    "Quality, size and compute": _costs,
    "Hyperparameter histories": _hyperparameters,
    "Mutation rates": _mutation_rates,
    "Hyperparameter values": _distributions,
    "Ancestry": _ancestry,
    "Sampled paths": _children,
}
