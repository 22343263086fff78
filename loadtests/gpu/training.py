"""Evolution's own training program, next to the time that its operations take at least."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from evolution.training.augment import DRAWS, Strengths
from evolution.training.objectives import OBJECTIVES
from evolution.training.programs import (
    Hyperparameters,
    TrainState,
    compute_dtype,
    forward_flops,
    train_steps,
)
from loadtests.gpu.plans import Plan, Told, images_of, median_seconds, random_params
from vit.activation import SOFTMAX


def training(plan: Plan, name: str, peak: float) -> Told:
    """Steps/s of evolution's own program with all components trained, and their share of the floor:
    the time that three forward passes would take at the speed of a large matrix product.
    """
    arch, batch = plan.trained[name], plan.batch
    params = random_params(arch)
    momentum = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.bfloat16), params)
    state, steps = jax.device_put(TrainState(params, momentum)), 2 * plan.rounds
    inputs = jnp.asarray(images_of(arch, batch))
    labels = jnp.arange(batch) % arch.num_classes
    order = jnp.tile(jnp.arange(batch), (steps, 1))
    strengths = Strengths(0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    hp = Hyperparameters(0.01, 1, 0.0, 10 * steps, 0.0, 0.0, 0.9, 1.0, strengths)
    masks = dict.fromkeys(arch.component_names, True)
    run = partial(
        train_steps, OBJECTIVES[SOFTMAX], arch, 0, "none", compute_dtype(bfloat16=True), {}, state,
        masks, hp, inputs, labels, order, jnp.zeros((steps, batch, DRAWS)), jnp.int32(0),
        jnp.int32(steps),
    )  # fmt: skip
    took = median_seconds({"": run}, max(2, plan.rounds // 2))[""] / steps
    floor = 3 * forward_flops(arch) * batch / peak
    return {
        "steps_per_s": 1 / took, "images_per_s": batch / took, "floor_steps_per_s": 1 / floor,
        "of_floor": floor / took,
    }  # fmt: skip
