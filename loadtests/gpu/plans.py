"""What is measured, and what all measurements share."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vit import Architecture, kind_of, shapes

Told = dict[str, Any]
GOAL = 0.8  # of one task's throughput, with any number of tasks
OWN_WIDTHS = {"Ti/16": 32, "B/16": 128}  # of adapters: some 3 % of all parameters


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured; all of it at once in a rehearsal."""

    networks: Mapping[str, Architecture]  # for throughput, with adapters before each block
    trained: Mapping[str, Architecture]
    rows: int
    tasks: tuple[int, ...]
    batch: int
    rounds: int
    peak_size: int
    requests: int


def _named(name: str, layers: int = 12, adapters: bool = True) -> Architecture:
    size, patch = name.split("/")
    arch = Architecture.named(
        size, patch_size=int(patch), image_size=224, num_layers=layers, num_classes=100
    )
    if not adapters:
        return arch
    return replace(arch, adapters=tuple(range(layers)), adapter_dim=OWN_WIDTHS[name])


TINY = Architecture(
    width=16, heads=2, mlp_dim=32, patch_size=8, image_size=16, num_layers=1, num_classes=4,
    adapters=(0,), adapter_dim=4,
)  # fmt: skip


def full() -> Plan:
    """For a large accelerator."""
    sizes = ("Ti/16", "S/16", "B/16")
    return Plan(
        networks={name: _named(name) for name in OWN_WIDTHS},
        trained={name: _named(name, adapters=False) for name in sizes},
        rows=256, tasks=(1, 8, 64, 256), batch=256, rounds=5, peak_size=8192, requests=4096,
    )  # fmt: skip


def rehearsal() -> Plan:
    """For any machine, in seconds."""
    return Plan(
        networks={"tiny": TINY}, trained={"tiny": replace(TINY, adapters=())}, rows=4,
        tasks=(1, 4), batch=4, rounds=1, peak_size=64, requests=8,
    )  # fmt: skip


def median_seconds(turns: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Of a call; all take turns in each round, after one call of each that does not count."""
    found: dict[str, list[float]] = {name: [] for name in turns}
    for turn in turns.values():
        jax.block_until_ready(turn())
    for _ in range(rounds):
        for name, turn in turns.items():
            started = time.perf_counter()
            jax.block_until_ready(turn())
            found[name].append(time.perf_counter() - started)
    return {name: statistics.median(times) for name, times in found.items()}


def random_tree(tree: Any, seed: int, count: tuple[int, ...] = ()) -> Any:
    """Arrays of the shapes of a tree, float32, with axes of `count` before them; scales are 1."""
    rng = np.random.default_rng(seed)

    def drawn(path: Any, leaf: Any) -> Any:
        shape = (*count, *leaf.shape)
        if path and path[-1].key == "scale":
            return np.ones(shape, np.float32)
        return 0.04 * rng.standard_normal(shape, np.float32)

    return jax.tree_util.tree_map_with_path(drawn, tree)


def random_params(arch: Architecture, seed: int = 0) -> dict[str, Any]:
    """Components by name."""
    names = enumerate(arch.component_names)
    return {name: random_tree(shapes(arch, name), seed + n) for n, name in names}


def is_own(name: str) -> bool:
    """Whether a task has the component for itself: its adapters, and its head."""
    return kind_of(name) in ("residual_adapter", "head")


def images_of(arch: Architecture, count: int) -> Any:
    """[count, size, size, 3], in [-1, 1]."""
    size = arch.image_size
    return np.random.default_rng(1).uniform(-1, 1, (count, size, size, 3)).astype(np.float32)


def peak_flops(size: int, rounds: int) -> float:
    """Of a large matrix product in bfloat16, per second: what the floors are made of."""
    matrix = jnp.ones((size, size), jnp.bfloat16)
    product = jax.jit(lambda a: a @ a)
    return 2 * size**3 / median_seconds({"": lambda: product(matrix)}, max(3, rounds))[""]


def bfloat16(tree: Any) -> Any:
    """The arrays on the device, in half as many bytes."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.bfloat16), tree)


def apart(one: Any, other: Any) -> float:
    """The largest difference."""
    return float(np.abs(one - other).max())
