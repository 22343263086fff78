"""Children that train on the toy tasks, and what they train with."""

import jax
import numpy as np

from evolution.experiments.search_space import DEFAULTS
from evolution.population import Component, Path
from evolution.roots.loading import random_root
from evolution.training.batches import Batches
from evolution.training.programs import Hyperparameters
from tests.evolution.systems import tiny
from vit import Architecture


def hyperparameters(
    steps: int = 8, rounds: int = 2, warmup_start: float = 0.01, **changes
) -> Hyperparameters:
    values = {**DEFAULTS, "opt_lr": 0.1, "ds_crop": False, "ds_flip_left_right": False, **changes}
    return Hyperparameters.of(values, steps, rounds, warmup_start)


ARCH = Architecture(
    width=16, heads=2, mlp_dim=32, patch_size=4, image_size=8, num_layers=1, num_classes=3
)
PLAIN = {**DEFAULTS, "opt_lr": 0.1, "ds_crop": False, "ds_flip_left_right": False}
AUGMENTED = {**PLAIN, "ds_flip_left_right": True}
EXPERIMENT = tiny()  # its programs are those of the tiny runs
THREE_STEPS = 3 * EXPERIMENT.batch_size * 64  # bytes of their images


def path(arch: Architecture, trainable, hp=PLAIN, params=None) -> Path:
    params = params or random_root(arch)
    # A head of zeros would pass no gradient down.
    head = np.random.default_rng(0).normal(size=params["head"]["kernel"].shape)
    params["head"]["kernel"] = head.astype(np.float32)
    components = tuple(
        Component(i, name, tree, 1000, locks=set() if name in trainable else {"other"})
        for i, (name, tree) in enumerate(params.items())
    )
    return Path(0, "toy/a", None, components, hp, 1)


def batches(steps: int = 8, per_round: int = 4) -> Batches:
    return Batches(0, (1,), 64, EXPERIMENT.batch_size, per_round, steps // per_round)


def flat(tree):
    return np.concatenate([np.asarray(leaf, np.float32).ravel() for leaf in jax.tree.leaves(tree)])
