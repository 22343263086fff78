"""How fast this machine trains, measured quickly, for plans."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array

from evolution.process.environment import cores
from evolution.training.programs import compute_dtype

MATRIX = 1024  # side of the matrices whose product is measured
PRODUCTS = 8
# The share of a matrix product's speed that training reaches: small networks on 2 cores, augmented
# (munet experiments bench: 40 to 50 % without other jobs).
EFFICIENCY = 0.35


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine that trains."""

    name: str  # such as `2 cores`
    accelerator: bool
    flops: float  # of training, per second

    def __str__(self) -> str:
        """Its name and speed."""
        return f"{self.name}, about {self.flops / 1e9:,.0f} GFLOP/s in training"


def this_machine() -> Machine:
    """The machine that this process runs on, with its present speed."""
    devices = jax.devices()
    accelerator = devices[0].platform != "cpu"
    name = devices[0].device_kind if accelerator else f"{cores()} cores"
    return Machine(name, accelerator, EFFICIENCY * _peak())


def _peak() -> float:
    """Floating-point operations a second of matrix products."""
    side = MATRIX
    matrix = jnp.ones((side, side), compute_dtype(bfloat16=True))
    product = jax.jit(lambda a, b: a @ b)
    product(matrix, matrix).block_until_ready()  # compiles
    quickest = min(_seconds(product, matrix) for _ in range(PRODUCTS))
    return 2 * side**3 / quickest


def _seconds(product: Callable[[Array, Array], Array], matrix: Array) -> float:
    started = time.perf_counter()
    product(matrix, matrix).block_until_ready()
    return time.perf_counter() - started
