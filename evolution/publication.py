"""What a finished cycle publishes: its best path, once, with its path spec."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from evolution.data.errors import listed
from evolution.data.tasks import Split, StreamedSplit, Task, TaskError
from evolution.events import TaskPublished, TaskWithdrawn
from evolution.population import ROOT, Path, Population, accounted_params
from evolution.state import Progress
from evolution.training.validation import MEASURED
from model_store import (
    DamagedStore,
    Digest,
    ModelStore,
    Published,
    TaskPath,
    UnknownVersion,
)
from vit import Architecture
from vit.activation import FIELD, SOFTMAX, TEMPERATURE
from vit.preprocess import CONTRACT


def task_path(
    path: Path,
    task: Task,
    arch: Architecture,
    population: Population,
    progress: Progress,
    run: str,
    method: str,
) -> TaskPath:
    """The path spec of a retained path whose components are stored."""
    return TaskPath(
        task=task.name,
        labels=task.labels,
        architecture=arch.to_json(),
        components=digests_of(path),
        input=input_of(task, arch),
        hyperparameters=dict(path.hyperparameters),
        metrics=metrics_of(path, task),
        parameters={
            "total": path.num_params,
            "accounted": accounted_params(path, population.score.root_counts),
        },
        lineage=lineage_of(path, progress, run, method),
        private=path.private,
        extra=fields_of(path, task),
    )


def input_of(task: Task, arch: Architecture) -> dict[str, Any]:
    """How the path spec says that images become the network's input."""
    contract = task.contract.at(arch.image_size).to_json() if task.contract else CONTRACT
    return {"size": arch.image_size, **contract, **task.decoding.to_json()}


def fields_of(path: Path, task: Task) -> dict[str, Any]:
    """Optional fields of a path spec.

    `data` for tasks from a user's own set; `activation` for other heads than softmax; the
    `temperature` that was fitted.
    """
    data = {"data": dict(task.data)} if task.data else {}
    kind = {} if task.activation == SOFTMAX else {FIELD: task.activation}
    return {**data, **kind, **_part(path.metrics.get("calibration"), TEMPERATURE)}


def digests_of(path: Path) -> dict[str, Digest]:
    """The components of a path whose state has been saved, by name."""
    digests = {component.name: component.digest for component in path.components}
    assert None not in digests.values(), "the state is saved before a path is published"
    return {name: digest for name, digest in digests.items() if digest}


def metrics_of(path: Path, task: Task) -> dict[str, Any]:
    """The path spec's metrics: quality, the examples that measured it, and cost."""
    name, measured = task.objective.metric, path.metrics[MEASURED]
    validation = {**measured, **_positives(task, task.validation, measured["examples"])}
    count = len(task.test)
    test = {"split": task.test.name, "examples": count, **_positives(task, task.test, count)}
    return {
        MEASURED: {name: path.quality, **validation},
        "test": {
            name: path.metrics["test_quality"],
            **_part(path.metrics.get("calibration"), "ece_before", "ece_after"),
            **test,
        },
        "compute": {"forward_flops": path.metrics["flops"]},
    }


def _part(found: Mapping[str, Any] | None, *names: str) -> dict[str, Any]:
    """These items, as far as there are any."""
    return {name: found[name] for name in names if name in found} if found else {}


def _positives(task: Task, split: Split | StreamedSplit, count: int) -> dict[str, list[int]]:
    """How many of the first `count` examples have each label, in tasks of several labels.

    Mean average precision says little without these counts.
    """
    return {} if task.activation == SOFTMAX else {"positives": split.positives(count)}


def lineage_of(path: Path, progress: Progress, run: str, method: str) -> dict[str, Any]:
    """Where the path comes from: its parent is the nearest ancestor that is still alive."""
    parent = path.parent
    return {
        "parent": parent.published if parent else None,  # the root is in no manifest
        "parent_task": parent.task if parent and parent.task != ROOT else None,
        "method": method,
        "experiment": progress.experiment,
        "agent": run,
        "generation": path.generation,
        "seed": progress.seed,
    }


def published_by(version: TaskPath) -> str | None:
    """The run or agent that published a version."""
    return version.lineage.get("agent")


def publish_once(
    store: ModelStore,
    path: Path,
    run: str,
    spec: Callable[[], TaskPath],
    may_replace: Callable[[Published | None], bool],
) -> int | None:
    """Makes a retained path a version of its task, and returns its number.

    A path is published once, even if the run is killed and resumed. Only its publication makes the
    version live, if it `may_replace` the live one. What somebody rolls back or removes stays so
    until a better path is published. The number is None if the path's version was removed.
    """
    if path.published is not None:
        return _number_of(store, path.task, path.published)
    wanted = spec()
    version = standing(store, wanted, run)  # published, and the process killed before it was saved
    if version is not None:

        def chosen(live: Published | None) -> bool:
            earlier = live is not None and live.version < version.version
            rolled_back = earlier and store.chosen_since(path.task, version.version)
            return not rolled_back and may_replace(live)

        store.promote(path.task, version.version, chosen)
    else:
        version = store.publish(wanted, live=False)
        store.promote(path.task, version.version, may_replace)
    path.published = version.digest
    return version.version


def standing(store: ModelStore, spec: TaskPath, run: str) -> Published | None:
    """The newest version that a run has published of a task, if it has the path's components.

    Metrics may differ: they depend on the settings and the machine of a resumed run.
    """
    for number in reversed(store.versions(spec.task)):
        try:
            version = store.resolve(spec.task, number)
        except (DamagedStore, UnknownVersion):
            continue  # its publisher is unknown, and it cannot be served
        if published_by(version.path) == run:
            return version if version.path.components == spec.components else None
    return None


def require_its_classes(store: ModelStore, task: Task, paths: Iterable[Path]) -> None:
    """Raises TaskError if the task's newest published path has other classes or another activation.

    A user's own set may have been replaced under its name. A run needs the same classes.
    """
    published = [path.published for path in paths if path.published and path.task == task.name]
    number = _number_of(store, task.name, published[-1]) if published else None
    if number is None:
        return
    try:
        former = store.resolve(task.name, number).path
    except (DamagedStore, UnknownVersion):
        return  # it cannot be served either
    labels, activation = former.labels, former.extra.get(FIELD, SOFTMAX)
    if activation != task.activation:
        raise TaskError(
            f"task {task.name}: expected labels for {activation}, as its version {number} has, "
            f"found labels for {task.activation}\nits data set was replaced: add those pictures "
            "under a name of their own, or start another run"
        )
    if not has_classes(former, task.labels):
        raise TaskError(
            f"task {task.name}: expected the {len(labels):,} classes of its version {number} "
            f"({listed(labels)}), found {len(task.labels):,} ({listed(task.labels)}): its data set "
            "was replaced\nadd those pictures under a name of their own, or start another run"
        )


def has_classes(spec: TaskPath, labels: tuple[str, ...]) -> bool:
    """Whether a version has these classes.

    An import knows the number of its classes, but not their names. There the number decides.
    """
    imported = "model" in spec.lineage
    return spec.labels == labels or (imported and spec.labels == numbered(len(labels)))


def numbered(classes: int) -> tuple[str, ...]:
    """Labels of classes whose names are not known."""
    return tuple(str(i) for i in range(classes))


def _number_of(store: ModelStore, task: str, manifest: Digest) -> int | None:
    """The version with that manifest; the live one if there are several."""
    version, live = store.live_version(task) or (None, None)
    numbers = [number for number, found in store.versions(task).items() if found == manifest]
    return version if live == manifest else next(iter(numbers), None)


def published_event(
    store: ModelStore, path: Path, version: int | None, added: bool
) -> TaskPublished | TaskWithdrawn:
    """The event of a path that is this version in the store."""
    if version is None:
        return TaskWithdrawn(path.task)
    return TaskPublished(
        task=path.task,
        version=version,
        added=added,
        live=(store.live_version(path.task) or (0,))[0] == version,
        validation_quality=path.quality or 0.0,
        test_quality=path.metrics["test_quality"],
        total_params=path.num_params,
        new_params=sum(c.num_params for c in path.components if c.locks == {path.owner}),
    )
