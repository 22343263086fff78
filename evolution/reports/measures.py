"""Numbers from a run's history and population: sizes, sharing, ancestry, convergence.

Pure functions of the data in the store; nothing is drawn here. Unknown values, as in imported runs,
are None and are left out of means. Rules: SYSTEMS.md, Analysis, and SYSTEMS.md, Score.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from statistics import fmean, stdev
from typing import Any

import numpy as np

from evolution.population import ROOT, Path, Population, Score, accounted_params

Row = Mapping[str, Any]  # one sampled child; its fields are those of Progress.history


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One run: every sampled child, and the paths that are retained."""

    name: str
    experiment: str
    seed: int
    score: Score
    rows: Mapping[int, Row]  # by id, in the order in which they were sampled
    tasks: tuple[str, ...]  # in the order in which the run met them
    retained: Mapping[str, Path]  # task -> its best path, in the order of `tasks`
    root: Path | None
    test: dict[str, float | None]  # test quality of the retained path
    settings: Mapping[str, Any] = field(default_factory=dict)  # {} where unknown
    environments: Sequence[Mapping[str, Any]] = ()  # as in Progress
    data: dict[str, Mapping[str, Any]] = field(default_factory=dict)  # of tasks of own pictures
    metrics: dict[str, str] = field(default_factory=dict)  # what qualities are, of published tasks

    @property
    def quality(self) -> str:
        """The name of its qualities."""
        return quality_word([self])

    @property
    def private(self) -> frozenset[str]:
        """Tasks that no other task may start from."""
        return frozenset(task for task, path in self.retained.items() if path.private)


def run_of(
    name: str,
    experiment: str,
    seed: int,
    history: Sequence[Row],
    population: Population,
    settings: Mapping[str, Any] | None = None,
    environments: Sequence[Mapping[str, Any]] = (),
) -> RunRecord:
    """A saved run, its history one row for each sampled child in the order of sampling."""
    retained = {
        paths[0].task: max(paths, key=lambda p: (_score(p, population.score) or -1.0, p.id))
        for owner, paths in population.paths.items()
        if paths and owner != ROOT
    }
    tasks = tuple(dict.fromkeys([*(row["task"] for row in history), *retained]))
    roots = population.paths.get(ROOT, [])
    return RunRecord(
        name=name,
        experiment=experiment,
        seed=seed,
        score=population.score,
        rows={row["id"]: row for row in history},
        tasks=tasks,
        retained={task: retained[task] for task in tasks if task in retained},
        root=roots[0] if roots else None,
        test={t: retained[t].metrics.get("test_quality") for t in tasks if t in retained},
        settings=settings or {},
        environments=environments,
    )


def quality_word(runs: Iterable[RunRecord]) -> str:
    """The name of the qualities of these runs: accuracy, mean average precision, or both.

    It comes from a task's versions. A task without versions counts as one of accuracies.
    """
    found = {run.metrics.get(task, "accuracy") for run in runs for task in run.tasks}
    return " or ".join(sorted(found or {"accuracy"})).replace("_", " ")


def _score(path: Path, score: Score) -> float | None:
    """The score; only the quality if another quantity of the score is unknown."""
    if path.quality is None or (score.reference_flops and path.metrics.get("flops") is None):
        return path.quality
    return score(path)


def mean(values: Iterable[float | None]) -> float | None:
    """The mean of the known values; None if there are none."""
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def spread(values: Iterable[float | None]) -> float | None:
    """Standard deviation (n - 1) of the known values; None for fewer than two."""
    known = [value for value in values if value is not None]
    return stdev(known) if len(known) > 1 else None


def total(values: Iterable[float | None]) -> float | None:
    """The sum of the known values; None if there are none."""
    known = [value for value in values if value is not None]
    return math.fsum(known) if known else None


# ---- sizes and quality


@dataclass(frozen=True, slots=True)
class Standing:
    """A task's row of the leaderboard."""

    task: str
    private: bool
    validation: float | None
    test: float | None
    score: float | None
    total_params: int
    accounted_params: float  # shared components count in parts
    own_params: int  # of components that only this task uses, not the root
    flops: float | None  # of a forward pass of one image
    parent: str | None  # task of the nearest ancestor that is retained; ROOT for the root
    sampled: int  # children of the task, retained or not


def standings(run: RunRecord) -> list[Standing]:
    """The leaderboard, in the order in which the run met the tasks."""
    sampled = Counter(row["task"] for row in run.rows.values())
    return [_standing(run, task, path, sampled[task]) for task, path in run.retained.items()]


def _standing(run: RunRecord, task: str, path: Path, sampled: int) -> Standing:
    row = run.rows.get(path.id, {})
    flops = path.metrics.get("flops")
    return Standing(
        task=task,
        private=path.private,
        validation=path.quality,
        test=run.test.get(task),
        score=_score(path, run.score),
        total_params=path.num_params,
        accounted_params=accounted_params(path, run.score.root_counts),
        own_params=sum(c.num_params for c in path.components if not c.locks - {path.owner}),
        flops=row.get("flops") if flops is None else flops,
        parent=path.parent.task if path.parent else row.get("parent_task"),
        sampled=sampled,
    )


@dataclass(frozen=True, slots=True)
class Summary:
    """A run in numbers; means are over its retained paths."""

    tasks: int
    sampled: int
    improved: int  # children that were kept as candidates
    validation: float | None
    test: float | None
    score: float | None
    accounted_params: float  # of all tasks
    params_per_task: float | None  # accounted
    stored_params: int  # each component of a retained path once
    separate_params: int  # if every task had a model of its own
    trainable_params: float | None  # trained for the retained paths, in all
    flops: float | None
    search_flops: float | None  # of choosing, training and validating all children
    lineage: float | None  # mean number of ancestors of a retained path, with the root
    wall_s: float | None  # summed over children
    device_s: float | None  # of it in compiled programs, summed over children with a record
    child_s: float | None  # mean wall time of a child
    child_device_s: float | None
    generation_s: float | None  # mean, from the start of its first child to the end of its last
    elapsed_s: float | None  # from the start of the first child to the end of the last


def summary(run: RunRecord) -> Summary:
    """The run's totals and means."""
    lines = standings(run)
    unique = {c.id: c.num_params for path in run.retained.values() for c in path.components}
    accounted = math.fsum(line.accounted_params for line in lines)
    rows = run.rows.values()
    retained = [run.rows.get(path.id, {}) for path in run.retained.values()]
    return Summary(
        tasks=len(lines),
        sampled=len(run.rows),
        improved=sum(bool(row.get("improved")) for row in rows),
        validation=mean(line.validation for line in lines),
        test=mean(line.test for line in lines),
        score=mean(line.score for line in lines),
        accounted_params=accounted,
        params_per_task=accounted / len(lines) if lines else None,
        stored_params=sum(unique.values()),
        separate_params=sum(line.total_params for line in lines),
        trainable_params=total(row.get("trainable_params") for row in retained),
        flops=mean(line.flops for line in lines),
        search_flops=total(row.get("search_flops") for row in rows),
        lineage=mean(len(chain(run, path)) - 1 for path in run.retained.values()),
        wall_s=total(row.get("seconds") for row in rows),
        device_s=total(row.get("device_s") for row in rows),
        child_s=mean(row.get("seconds") for row in rows),
        child_device_s=mean(row.get("device_s") for row in rows),
        generation_s=mean(_elapsed(g) for g in generations(run) if _place(g[0])[2] is not None),
        elapsed_s=_elapsed(rows),
    )


def _elapsed(rows: Iterable[Row]) -> float | None:
    ended = [(row["ended"], row.get("seconds") or 0.0) for row in rows if row.get("ended")]
    return max(e for e, _ in ended) - min(e - s for e, s in ended) if ended else None


def generations(run: RunRecord) -> list[list[Row]]:
    """The children of each generation, which are consecutive: a continued run counts from 0."""
    return [list(rows) for _, rows in groupby(run.rows.values(), _place)]


def _place(row: Row) -> tuple[str, int | None, int | None]:
    return row["task"], row.get("iteration"), row.get("generation")


def inherited(run: RunRecord) -> int:
    """The number of sampled paths of the runs that this one continues."""
    found = before = 0
    for rows in generations(run):
        if _place(rows[0])[1:] == (0, 0):
            found = before
        before += len(rows)
    return found


def num_layers(row: Row) -> int | None:
    """Transformer layers of a sampled path."""
    if row.get("components") is not None:
        return sum(name.startswith("encoderblock_") for name in row["components"])
    return (row.get("hyperparameters") or {}).get("num_layers")


# ---- sharing and ancestry


def shared_components(run: RunRecord) -> np.ndarray:
    """[task, task] numbers of components in common, in the order of `run.retained`."""
    sets = [{c.id for c in path.components} for path in run.retained.values()]
    return np.array([[len(a & b) for b in sets] for a in sets], int).reshape(len(sets), len(sets))


def first_owners(run: RunRecord) -> dict[int, str]:
    """Component id -> the task whose child first contained it; ROOT for the root's."""
    owners = {c.id: ROOT for c in run.root.components} if run.root else {}
    for row in run.rows.values():
        for component in (row.get("components") or {}).values():
            owners.setdefault(component, row["task"])
    for path in sorted(run.retained.values(), key=lambda path: path.id):
        for component in path.components:
            owners.setdefault(component.id, path.task)
    return owners


def chain(run: RunRecord, path: Path) -> list[int]:
    """Ids from the root, or the oldest ancestor that is known, to the path itself."""
    nearest = {p.id: p.parent.id for p in run.retained.values() if p.parent}
    ids: dict[int, None] = {}
    at: int | None = path.id
    while at is not None and at not in ids:
        ids[at] = None
        parent = run.rows.get(at, {}).get("parent")
        at = nearest.get(at) if parent is None else parent
    return list(reversed(ids))


def ancestors(run: RunRecord, path: Path) -> list[str]:
    """Tasks of the chain's members before the path itself; ROOT stands for the root."""
    return [task for i in chain(run, path)[:-1] if (task := _task_of(run, i))]


def _task_of(run: RunRecord, path_id: int) -> str | None:
    if path_id in run.rows:
        return run.rows[path_id]["task"]
    if run.root and run.root.id == path_id:
        return ROOT
    return next((p.task for p in run.retained.values() if p.id == path_id), None)


def knowledge_flow(runs: Sequence[RunRecord]) -> tuple[tuple[str, ...], np.ndarray]:
    """Tasks, and [task, ancestor's task] counts of ancestors of retained paths, over all runs.

    The root is not a task and does not count.
    """
    tasks = tuple(dict.fromkeys(task for run in runs for task in run.tasks))
    index = {task: i for i, task in enumerate(tasks)}
    counts = np.zeros((len(tasks), len(tasks)), int)
    for run in runs:
        for task, path in run.retained.items():
            for ancestor in ancestors(run, path):
                if ancestor in index:
                    counts[index[task], index[ancestor]] += 1
    return tasks, counts


def component_lineage(run: RunRecord, path: Path) -> dict[str, list[str]]:
    """Component name -> tasks that trained it or an ancestor's component of that name, in order.

    A child trained the components whose ids its parent does not have, except the root's: a deeper
    child takes more blocks from the root.
    """
    trained: dict[str, dict[str, None]] = {c.name: {} for c in path.components}
    given = {c.id for c in run.root.components} if run.root else set()
    before: Mapping[str, int] = {}
    for i in chain(run, path):
        row = run.rows.get(i)
        if row is None or row.get("components") is None:
            continue
        for name, component in row["components"].items():
            if name in trained and component not in given and before.get(name) != component:
                trained[name][row["task"]] = None
        before = row["components"]
    return {name: list(tasks) for name, tasks in trained.items()}


# ---- convergence


def best_so_far(run: RunRecord, task: str) -> list[float]:
    """Best validation quality after each sampled child of the task; NaN before the first."""
    qualities = [row.get("quality") for row in run.rows.values() if row["task"] == task]
    known = np.array([np.nan if q is None else q for q in qualities], float)
    return list(np.fmax.accumulate(known)) if len(known) else []


def mean_best_so_far(run: RunRecord) -> list[float]:
    """Mean over the tasks met so far of the best validation quality, after each child."""
    best: dict[str, float] = {}
    curve = []
    for row in run.rows.values():
        if row.get("quality") is not None:
            best[row["task"]] = max(row["quality"], best.get(row["task"], 0.0))
        curve.append(fmean(best.values()) if best else math.nan)
    return curve


def mean_of_curves(curves: Sequence[Sequence[float]]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (n - 1; 0 of a single one) at each step.

    A curve that ends earlier stays at its last value.
    """
    length = max((len(curve) for curve in curves), default=0)
    padded = np.array([[*c, *[c[-1]] * (length - len(c))] for c in curves if c], float)
    padded = padded.reshape(-1, length)
    known = np.isfinite(padded).sum(0)
    centre = np.where(known, np.nansum(padded, 0) / np.maximum(known, 1), np.nan)
    squares = np.nansum((padded - centre) ** 2, 0)
    return centre, np.sqrt(squares / np.maximum(known - 1, 1))
