"""What a finished task iteration publishes: the path spec of its best path."""

from __future__ import annotations

from evolution.population import ROOT, Path, Population, accounted_params
from evolution.state import Progress
from evolution.tasks import Task
from model_store import TaskPath
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
    parent = path.parent
    digests = {component.name: component.digest for component in path.components}
    assert None not in digests.values(), "the state is saved before a path is published"
    splits = {"validation": (task.validation, validation_count, path.quality)}
    splits["test"] = (task.test, len(task.test), path.metrics["test_accuracy"])
    return TaskPath(
        task=task.name,
        labels=task.labels,
        architecture=arch.to_json(),
        components={name: digest for name, digest in digests.items() if digest},
        input={"size": arch.image_size, **CONTRACT},
        hyperparameters=dict(path.hyperparameters),
        metrics={
            **{
                kind: {"accuracy": accuracy, "split": split.name, "examples": examples}
                for kind, (split, examples, accuracy) in splits.items()
            },
            "compute": {"forward_flops": path.metrics["flops"]},
        },
        parameters={
            "total": path.num_params,
            "accounted": accounted_params(path, population.score.root_counts),
        },
        lineage={
            # The nearest ancestor that is still alive; the root is in no manifest.
            "parent": parent.published if parent else None,
            "parent_task": parent.task if parent and parent.task != ROOT else None,
            "method": method,
            "experiment": progress.experiment,
            "agent": run,
            "generation": path.generation,
            "seed": progress.seed,
        },
        private=path.private,
    )
