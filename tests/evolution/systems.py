"""A tiny experiment on made-up images, so that a whole run takes seconds."""

from dataclasses import replace

import numpy as np

from evolution.data.tasks import PRIVATE_PREFIX, Split, Task, task_name
from evolution.experiments.experiment import Experiment
from evolution.experiments.search_space import DEFAULTS, MU2NET_V2
from evolution.methods import MU2NET
from evolution.population import Score
from evolution.roots.loading import random_root
from evolution.run import Run
from evolution.training import programs
from model_store import ModelStore
from vit import Architecture

ROOT = Architecture(
    width=16, heads=2, mlp_dim=32, patch_size=4, image_size=8, num_layers=1, num_classes=1
)

TINY = Experiment(
    name="demo",
    method=MU2NET,
    tasks=("toy/a", "toy/b", "private:toy/c"),
    passes=2,
    samples_per_task=3,
    root="random",
    batch_size=32,
    train_examples_per_round=64,
    rounds_per_child=2,
    validation_examples=96,
    defaults={**DEFAULTS, "_mu_": 0.2, "num_layers": 1, "ds_image_size": 8, "opt_lr": 0.1},
    ranges=MU2NET_V2,
    score=Score(),
)


def toy_task(entry: str, examples: int = 64) -> Task:
    """Which of three corners of a noisy 8 x 8 image is bright, in an order of each task's own."""
    name = task_name(entry)
    rng = np.random.default_rng([ord(name[-1])])
    corners = rng.permutation(3)

    def split(kind: str, count: int) -> Split:
        images = rng.integers(0, 120, (count, 8, 8, 1), dtype=np.uint8)
        labels = rng.integers(3, size=count).astype(np.int32)
        for image, label in zip(images, labels, strict=True):
            row, column = divmod(int(corners[label]), 2)
            image[4 * row : 4 * row + 4, 4 * column : 4 * column + 4] += 120
        return Split(kind, images, labels)

    return Task(
        name=name,
        private=entry.startswith(PRIVATE_PREFIX),
        labels=("x", "y", "z"),
        train=split("train", examples),
        validation=split("validation", 48),
        test=split("test", 40),
    )


def tiny(**changes) -> Experiment:
    """The tiny experiment with other settings."""
    return replace(TINY, **changes)


def tasks(_: Experiment):
    """Where a run finds the toy tasks."""
    return toy_task


def start(directory, experiment: Experiment = TINY, seed: int = 0, name: str | None = None) -> Run:
    """A new run of a tiny experiment in a store of its own."""
    store = ModelStore(directory, create=True)
    return Run.start(experiment, (ROOT, random_root(ROOT)), store, seed, tasks, name)


def forget_programs() -> None:
    """So that those which are needed from now on count; the cache of the run still has them."""
    for program in (programs.train_steps, programs.run_prefix, programs.judge):
        program.clear_cache()


def published(store: ModelStore) -> dict[str, list[str]]:
    """Everything that two equal runs must agree on: every version's digest of every task."""
    return {task: [p.digest for p in store.history(task)] for task in store.tasks()}
