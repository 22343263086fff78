"""A multipath model: a router mixes the answers of two or three frozen paths.

Rules: evolution/SYSTEMS.md, Mixing.
The main path answers with logits for the task. Each further path answers with features (what its
head would read) or, where it has a head of its own, with logits; a connector turns them into logits
for the task. Parameter trees are those of the published checkpoints.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from vit.config import Architecture
from vit.parameters import Tree

ROUTER = "multipath_router"
_CONNECTOR = "head_adapter_path_"


def connector_name(path: int) -> str:
    """The component that turns the answer of a further path, 1 or 2, into logits."""
    return f"{_CONNECTOR}{path}"


def mixer_names(num_paths: int) -> tuple[str, ...]:
    """The components that a multipath model has besides its paths."""
    return (ROUTER, *(connector_name(i) for i in range(1, num_paths)))


@dataclass(frozen=True, slots=True)
class SubPath:
    """One path of a multipath model: its network, and whether that ends in its head."""

    architecture: Architecture
    has_head: bool

    @property
    def component_names(self) -> tuple[str, ...]:
        """Names of its components, in the order of the forward pass."""
        names = self.architecture.component_names
        return names if self.has_head else names[:-1]

    @property
    def outputs(self) -> int:
        """How many numbers it answers with: logits, or features."""
        arch = self.architecture
        return arch.num_classes if self.has_head else arch.features


def subpath_component(path: int, name: str) -> str:
    """What a multipath model calls the component `name` of one of its paths."""
    return f"path_{path}/{name}"


def init_router(num_classes: int, num_paths: int, main_weight: float) -> Tree:
    """A router that gives every image the same weights: `main_weight` to the main path.

    The others share the rest. Raises ValueError unless 0 < main_weight < 1 and there are two paths.
    """
    if not 0 < main_weight < 1 or num_paths < 2:
        raise ValueError(
            f"a router of {num_paths} paths with {main_weight} for the main one: expected at least "
            "2 paths and a weight between 0 and 1"
        )
    bias = np.zeros(num_paths, np.float32)
    bias[0] = math.log(main_weight / (1 - main_weight) * (num_paths - 1))
    return {
        "LayerNorm_0": {
            "scale": np.ones(num_classes, np.float32),
            "bias": np.zeros(num_classes, np.float32),
        },
        "Dense_0": {"kernel": np.zeros((num_classes, num_paths), np.float32), "bias": bias},
    }


def init_connector(inputs: int, num_classes: int) -> Tree:
    """A connector whose logits are 0: at first a further path changes no image's class."""
    kernel = np.zeros((inputs, num_classes), np.float32)
    return {"Dense_0": {"kernel": kernel, "bias": np.zeros(num_classes, np.float32)}}
