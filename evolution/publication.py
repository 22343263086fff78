"""What a finished iteration publishes: the path spec of its best path, and what it tells of it."""

from __future__ import annotations

from typing import Any

from evolution.outcome import TaskPublished
from evolution.population import ROOT, Path, Population, accounted_params
from evolution.state import Progress
from evolution.tasks import Task
from model_store import Digest, ModelStore, Published, TaskPath
from vit import Architecture
from vit.preprocess import CONTRACT


def task_path(
    path: Path,
    task: Task,
    arch: Architecture,
    population: Population,
    progress: Progress,
    run: str,
    method: str,
    validation_count: int,
) -> TaskPath:
    """The path spec of a retained path whose components are stored."""
    return TaskPath(
        task=task.name,
        labels=task.labels,
        architecture=arch.to_json(),
        components=digests_of(path),
        input={"size": arch.image_size, **CONTRACT},
        hyperparameters=dict(path.hyperparameters),
        metrics=metrics_of(path, task, validation_count),
        parameters={
            "total": path.num_params,
            "accounted": accounted_params(path, population.score.root_counts),
        },
        lineage=lineage_of(path, progress, run, method),
        private=path.private,
    )


def digests_of(path: Path) -> dict[str, Digest]:
    """The components of a path whose state has been saved, by name."""
    digests = {component.name: component.digest for component in path.components}
    assert None not in digests.values(), "the state is saved before a path is published"
    return {name: digest for name, digest in digests.items() if digest}


def metrics_of(path: Path, task: Task, validation_count: int) -> dict[str, Any]:
    """What the path spec tells of quality, with the splits that measured it, and of cost."""
    splits = {"validation": (task.validation, validation_count, path.quality)}
    splits["test"] = (task.test, len(task.test), path.metrics["test_accuracy"])
    return {
        **{
            kind: {"accuracy": accuracy, "split": split.name, "examples": examples}
            for kind, (split, examples, accuracy) in splits.items()
        },
        "compute": {"forward_flops": path.metrics["flops"]},
    }


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


def published_event(
    store: ModelStore, path: Path, published: Published, added: bool
) -> TaskPublished:
    """What is told of a path that stands in the store as that version."""
    return TaskPublished(
        task=path.task,
        version=published.version,
        added=added,
        live=store.live().get(path.task, (0,))[0] == published.version,
        validation_accuracy=path.quality or 0.0,
        test_accuracy=path.metrics["test_accuracy"],
        total_params=path.num_params,
        new_params=sum(c.num_params for c in path.components if c.locks == {path.owner}),
    )
