"""Ways to compute rows of many tasks in one program, in bfloat16, next to one task's program."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from loadtests.gpu.plans import (
    Plan,
    Told,
    apart,
    bfloat16,
    images_of,
    is_own,
    median_seconds,
    random_params,
    random_tree,
)
from vit import Architecture, kind_of, shapes
from vit.components import LAYER_NORM_EPSILON, apply
from vit.forward import forward


def grouped_throughput(plan: Plan, name: str) -> Told:
    """Of a whole network in one program: own parts gathered by row, or as grouped products."""
    arch, tasks = plan.networks[name], max(plan.tasks)
    params = bfloat16(random_params(arch))
    own = {n: random_tree(shapes(arch, n), 7, (tasks,)) for n in params if is_own(n)}
    stacked, images = bfloat16(own), jnp.asarray(images_of(arch, plan.rows), jnp.bfloat16)
    one = jax.jit(partial(forward, arch))
    ways = {"gathered": jax.jit(partial(gathered, arch)), "ragged": jax.jit(partial(ragged, arch))}
    turns: dict[str, Callable[[], Any]] = {"one": lambda: one(params, images)}
    answers: dict[int, list[Any]] = {}
    for count in plan.tasks:
        of_row = np.sort(np.arange(plan.rows) % count)  # rows of a task stand together
        sizes = jnp.asarray(np.bincount(of_row, minlength=tasks), jnp.int32)
        told = {"gathered": jnp.asarray(of_row), "ragged": sizes}
        for way, run in ways.items():
            turns[f"{way} {count}"] = partial(run, params, stacked, told[way], images)
        answers[count] = [np.asarray(turns[f"{way} {count}"](), np.float32) for way in ways]
    seconds = median_seconds(turns, plan.rounds)
    return {
        "one_task_images_per_s": plan.rows / seconds["one"],
        **{
            way: {str(count): seconds["one"] / seconds[f"{way} {count}"] for count in plan.tasks}
            for way in ways
        },
        "ways_apart": max(apart(*found) for found in answers.values()),
    }


def gathered(arch: Architecture, params: Any, stacked: Any, of_row: Any, x: Any) -> Any:
    """Each row with its task's own weights, copied for it."""
    for name in arch.component_names:
        if name in stacked:
            mine = jax.tree.map(lambda leaf: leaf[of_row], stacked[name])
            run = partial(apply, arch, name)
            x = jax.vmap(lambda tree, row, run=run: run(tree, row[None])[0])(mine, x)
        else:
            x = apply(arch, name, params[name], x)
    return x


def ragged(arch: Architecture, params: Any, stacked: Any, sizes: Any, x: Any) -> Any:
    """Rows of a task stand together; the products of all tasks are one grouped product."""
    of_row = jnp.repeat(jnp.arange(len(sizes)), sizes, total_repeat_length=len(x))
    for name in arch.component_names:
        if name not in stacked:
            x = apply(arch, name, params[name], x)
        elif kind_of(name) == "head":
            x = _grouped(x, stacked[name], sizes, of_row)
        else:
            x = _ragged_adapter(arch, stacked[name], sizes, of_row, x)
    return x


def _ragged_adapter(arch: Architecture, tree: Any, sizes: Any, of_row: Any, x: Any) -> Any:
    tokens = x.shape[1]
    norm = jax.tree.map(lambda leaf: leaf[of_row][:, None], tree["LayerNorm_0"])
    exact = x.astype(jnp.float32)
    mean, variance = exact.mean(-1, keepdims=True), exact.var(-1, keepdims=True)
    y = ((exact - mean) * jax.lax.rsqrt(variance + LAYER_NORM_EPSILON)).astype(x.dtype)
    y = (y * norm["scale"] + norm["bias"]).reshape(-1, arch.width)
    of_token, sizes = jnp.repeat(of_row, tokens), sizes * tokens
    y = jax.nn.gelu(_grouped(y, tree["Dense_0"], sizes, of_token), approximate=True)
    return x + _grouped(y, tree["Dense_1"], sizes, of_token).reshape(x.shape)


def _grouped(x: Any, tree: Any, sizes: Any, of_row: Any) -> Any:
    return jax.lax.ragged_dot(x, tree["kernel"], sizes) + tree["bias"][of_row]
