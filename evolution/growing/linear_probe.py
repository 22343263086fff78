"""The quality of a linear classifier on the root's features: a task should reach at least this.

Ridge regression to the classes, from the standardised class token, or from the mean of all tokens
if the head reads others too. It uses as many pictures as take a few seconds.
"""

from __future__ import annotations

import jax
import numpy as np

from evolution.data.images import Labels
from evolution.data.tasks import Task
from evolution.growing.machine_speed import Machine
from evolution.growing.starting_point import System
from evolution.roots.probes import Floats, features, ridge_answers
from evolution.training.batches import AnySplit
from evolution.training.objectives import mean_average_precision
from evolution.training.programs import forward_flops
from vit import Architecture
from vit.components import Tree, init, position_embedding_for

SECONDS = 3.0  # that it may take
MOST_PICTURES = 1_000  # of training; half as many of validation
FEWEST_A_CLASS = 2


def probe(task: Task, system: System, arch: Architecture, machine: Machine) -> float | None:
    """The quality of its answers to validation pictures; None if that takes too long.

    `arch` is the root's for the size of the images.
    """
    task = task.under(system.contract)
    affordable = int(SECONDS * machine.flops / forward_flops(arch) / 1.5)
    count = min(MOST_PICTURES, affordable, len(task.train))
    if count < FEWEST_A_CLASS * task.num_classes:
        return None
    params = _params(system, arch)
    features, labels = _features(task.train, count, arch, params)
    asked, answers = _features(task.validation, min(count, len(task.validation)), arch, params)
    several = labels.ndim == 2  # labels a picture
    wanted = labels if several else np.eye(task.num_classes)[labels]
    found = ridge_answers(features, wanted, asked)
    if several:
        return mean_average_precision(found, answers > 0)
    return float((found.argmax(1) == answers).mean())


def _params(system: System, arch: Architecture) -> dict[str, Tree]:
    names = arch.component_names[:-1]  # without the head
    found = {n: system.components[n] if n in system.components else init(arch, n) for n in names}
    found["posembed_input"] = position_embedding_for(arch, found["posembed_input"])
    return jax.device_put(found)


def _features(
    split: AnySplit, count: int, arch: Architecture, params: dict[str, Tree]
) -> tuple[Floats, Labels]:
    rows = np.unique(np.linspace(0, len(split) - 1, count, dtype=np.int64))
    inputs, labels = split.evaluation_inputs(rows, arch.image_size)
    tokens = features(arch, params, inputs).reshape(len(labels), -1, arch.width)
    return (tokens[:, 0] if arch.one_token_answers else tokens.mean(1)), labels
