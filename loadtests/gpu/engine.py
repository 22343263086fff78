"""The gateway's engine as it is: many tasks next to one, and equality of answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any
from unittest.mock import MagicMock

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
from service.compute.backends.jax_backend import JaxBackend
from service.compute.engine import Engine
from service.compute.paths import Component, LoadedPath, Row, Stage, Walk, stages_of
from service.images import named
from vit import Architecture, kind_of, shapes
from vit.forward import forward


class Loaded:
    """An engine with tasks that share all but their own components; no store is needed."""

    def __init__(self, arch: Architecture, tasks: int, rows: int, tokens: int | None) -> None:
        """`tokens`: at most in one call, instead of the engine's own number."""
        self.arch, self.usual = arch, JaxBackend.call_tokens
        JaxBackend.call_tokens = tokens or self.usual
        self.engine = Engine(MagicMock(), max_rows=rows, compilation_cache=None, backend="jax")
        if tokens:
            self.engine.programs.buckets = (
                1,
                rows,
            )  # two programs of each kind, not one for each size
        shared = self._stages(random_params(arch), None)
        self.paths = [self._path(shared, task) for task in range(tasks)]
        for path in self.paths:
            self.engine.warm(path)
        self.engine.programs.wait()

    def close(self) -> None:
        """Ends its threads, and gives the engine's own number back."""
        self.engine.close()
        JaxBackend.call_tokens = self.usual

    def _component(self, name: str, tree: Any) -> Component:
        classes = self.arch.num_classes if name == "head" else 0
        placed = self.engine.place(kind_of(name), tree)
        return Component(digest=name, size_bytes=0, weights=placed, classes=classes)  # pyright: ignore

    def _stages(self, params: Mapping[str, Any], others: Sequence[Stage] | None) -> list[Stage]:
        """Of a path; those of `others` where none of its components is a task's own."""
        found = []
        for number, (program, names) in enumerate(stages_of(self.arch)):
            if others and not any(is_own(name) for name in names):
                found.append(others[number])
            else:
                parts = [self._component(name, params[name]) for name in names if name in params]
                if others and len(parts) < len(names):  # the norm before an own head
                    parts = [*others[number].components[: len(names) - len(parts)], *parts]
                found.append(Stage(program, tuple(parts)))
        return found

    def _path(self, shared: Sequence[Stage], task: int) -> LoadedPath:
        own = [name for name in self.arch.component_names if is_own(name)]
        seeds = {name: 1000 * (task + 1) + n for n, name in enumerate(own)}
        params = {n: random_tree(shapes(self.arch, n), seed) for n, seed in seeds.items()}
        stages = tuple(self._stages(params, shared))
        walk = Walk(stages, self.arch.image_size, self.arch.num_classes)
        return LoadedPath(MagicMock(), (walk,), cost=1.0)

    def batch(self, tasks: int, images: Any) -> list[Row]:
        """A row of each image, of the tasks in turn."""
        size = self.arch.image_size
        return [
            Row(self.paths[number % tasks], {size: named(image)})
            for number, image in enumerate(images)
        ]


def engine_throughput(plan: Plan, name: str, tokens: int | None) -> Told:
    """Images/s of one batch of each number of distinct tasks, and their share of one task's."""
    arch = plan.networks[name]
    loaded = Loaded(arch, max(plan.tasks), plan.rows, tokens)
    try:
        images = images_of(arch, plan.rows)
        turns = {
            str(tasks): partial(loaded.engine.run, loaded.batch(tasks, images))
            for tasks in plan.tasks
        }
        seconds = median_seconds(turns, plan.rounds)
    finally:
        loaded.close()
    return _shares(plan, seconds)


def _shares(plan: Plan, seconds: Mapping[str, float]) -> Told:
    return {
        "images_per_s": {tasks: plan.rows / took for tasks, took in seconds.items()},
        "of_one_task": {tasks: seconds["1"] / took for tasks, took in seconds.items()},
    }


def equality(plan: Plan, name: str) -> Told:
    """Largest differences of logits, and the spread to compare them with."""
    arch, few = plan.networks[name], min(plan.rows, 8)
    loaded = Loaded(arch, few, few, None)
    try:
        images = images_of(arch, few)
        rows = loaded.batch(few, images)
        together = np.stack(loaded.engine.run(rows))
        alone = np.stack([loaded.engine.run([row])[0] for row in rows])
    finally:
        loaded.close()
    params = random_params(arch)
    with jax.default_device(jax.devices("cpu")[0]):
        expected = np.asarray(jax.jit(partial(forward, arch))(params, images))
    here = jax.jit(partial(forward, arch))
    usual = np.asarray(here(params, images))
    with jax.default_matmul_precision("highest"):
        exact = np.asarray(jax.jit(partial(forward, arch))(params, images))
    halves = np.asarray(here(bfloat16(params), jnp.asarray(images, jnp.bfloat16)), np.float32)
    return {
        "spread": float(expected.std()),
        "batched_with_strangers_and_alone": apart(together, alone),
        "device_and_cpu": apart(usual, expected),
        "device_and_cpu_at_highest_precision": apart(exact, expected),
        "bfloat16_and_cpu": apart(halves, expected),
    }
