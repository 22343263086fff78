"""Names and shapes of the components' parameters; nothing is computed, and JAX is not needed.

Parameter trees are those that the modules in `vit/components.py` make.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from vit.config import Architecture

Tree = Any  # nested dict of arrays, or one bare array (component `cls`)
LAYER_NORM_EPSILON = 1e-6
FLOAT32 = np.dtype(np.float32)


@dataclass(frozen=True, slots=True)
class Shape:
    """What is known of an array that is not there."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any] = FLOAT32

    @property
    def size(self) -> int:
        """How many numbers."""
        return math.prod(self.shape)


def kind_of(name: str) -> str:
    """The kind of a component: its name without the block number."""
    return name.rstrip("0123456789").rstrip("_")


def shapes(arch: Architecture, name: str) -> Tree:
    """The parameter tree of one component, with a Shape in the place of each array.

    Raises ValueError for a name of no kind.
    """
    kind = kind_of(name)
    if kind not in _TREES:
        raise ValueError(f"unknown component {name!r}: expected a kind of {', '.join(_TREES)}")
    return _TREES[kind](arch)


def _embedding(arch: Architecture) -> Tree:
    size = arch.patch_size
    return {"kernel": Shape((size, size, 3, arch.width)), "bias": Shape((arch.width,))}


def _position_embedding(arch: Architecture) -> Tree:
    found: dict[str, Tree] = {"pos_embedding": Shape((1, arch.tokens, arch.width))}
    return {**found, "LayerNorm_0": _norm(arch)} if arch.input_norm else found


def _block(arch: Architecture) -> Tree:
    width, heads, each = arch.width, arch.heads, arch.width // arch.heads
    projection = {"kernel": Shape((width, heads, each)), "bias": Shape((heads, each))}
    return {
        "LayerNorm_0": _norm(arch),
        "MultiHeadDotProductAttention_0": {
            **{name: dict(projection) for name in ("query", "key", "value")},
            "out": {"kernel": Shape((heads, each, width)), "bias": Shape((width,))},
        },
        "LayerNorm_1": _norm(arch),
        "MlpBlock_0": {
            "Dense_0": _dense(width, arch.mlp_dim),
            "Dense_1": _dense(arch.mlp_dim, width),
        },
    }


def _adapter(arch: Architecture) -> Tree:
    return {
        "LayerNorm_0": _norm(arch),
        "Dense_0": _dense(arch.width, arch.adapter_dim),
        "Dense_1": _dense(arch.adapter_dim, arch.width),
    }


def _norm(arch: Architecture) -> Tree:
    return {"scale": Shape((arch.width,)), "bias": Shape((arch.width,))}


def _dense(inputs: int, outputs: int) -> Tree:
    return {"kernel": Shape((inputs, outputs)), "bias": Shape((outputs,))}


_TREES: dict[str, Callable[[Architecture], Tree]] = {
    "embedding": _embedding,
    "cls": lambda arch: Shape((1, arch.prefix_tokens, arch.width)),
    "posembed_input": _position_embedding,
    "encoderblock": _block,
    "residual_adapter": _adapter,
    "encoder_norm": _norm,
    "head": lambda arch: _dense(arch.features, arch.num_classes),
}
