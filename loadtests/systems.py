"""Stores of synthetic tasks over one backbone, for benchmarks: real shapes, random weights."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

import numpy as np

from model_store import Digest, ModelStore, Rollout, Rules, TaskPath
from vit import Architecture, kind_of, shapes
from vit.decode import VIEWER, Decoding
from vit.preprocess import CONTRACT

CLASSES = 10


def backbone(
    size: str, *, image_size: int, layers: int = 12, classes: int = CLASSES
) -> Architecture:
    """The network of a name such as Ti/16: a named size and its patch size."""
    name, patch = size.split("/")
    return Architecture.named(
        name,
        patch_size=int(patch),
        image_size=image_size,
        num_layers=layers,
        num_classes=classes,
    )


def with_adapters(arch: Architecture, own: float) -> Architecture:
    """An adapter before each block, so wide that adapters are this part of all parameters."""
    blocks = arch.num_layers * (4 * arch.width**2 + 2 * arch.width * arch.mlp_dim)
    width = round(own * blocks / (2 * arch.width * arch.num_layers))
    return replace(arch, adapters=tuple(range(arch.num_layers)), adapter_dim=max(1, width))


def adapters_and_head(arch: Architecture) -> tuple[str, ...]:
    """The components that a task has for itself when it adapts a frozen backbone."""
    return tuple(n for n in arch.component_names if kind_of(n) in ("residual_adapter", "head"))


def last_blocks_and_head(arch: Architecture, blocks: int) -> tuple[str, ...]:
    """The components that a task has for itself when it continues from a shared prefix."""
    first = arch.num_layers - blocks
    return (*(f"encoderblock_{i}" for i in range(first, arch.num_layers)), "head")


class System:
    """One store whose tasks share every component but those that are `own`."""

    def __init__(
        self, url: str, arch: Architecture, own: Collection[str], decoding: Decoding = VIEWER
    ) -> None:
        """Makes the store and puts what is shared; `own` are names of components."""
        self.store = ModelStore(url, create=True)
        self.arch = arch
        self._decoding = decoding
        self.own = tuple(own)
        self._shared = {
            name: self._put(name, seed=0) for name in arch.component_names if name not in self.own
        }

    def publish(self, task: str, seed: int) -> None:
        """Publishes a version whose own components are drawn with this seed (above 0)."""
        own = {name: self._put(name, seed) for name in self.own}
        self.store.publish(
            TaskPath(
                task=task,
                labels=tuple(f"class {number}" for number in range(self.arch.num_classes)),
                architecture=self.arch.to_json(),
                components={
                    name: own.get(name) or self._shared[name] for name in self.arch.component_names
                },
                input={"size": self.arch.image_size, **CONTRACT, **self._decoding.to_json()},
                hyperparameters={},
                metrics={},
                parameters={},
                lineage={},
            )
        )

    def roll_out(self, task: str, seed: int, weight: float) -> None:
        """Publishes a version that gets a share of the requests, or copies of them if that is 0.

        No rule ends it: versions of random weights disagree.
        """
        live = self.store.resolve(task).version
        self.publish(task, seed)
        self.store.rollback(task, live)
        rollout = Rollout(weight, shadow=not weight, rules=Rules(10**9))
        self.store.alias(task, "next", live + 1, rollout)

    def _put(self, name: str, seed: int) -> Digest:
        rng = np.random.default_rng([seed, *name.encode()])
        return self.store.put(_random(shapes(self.arch, name), rng))


def _random(shape: Any, rng: np.random.Generator, key: str = "") -> Any:
    if isinstance(shape, dict):
        return {name: _random(inner, rng, name) for name, inner in shape.items()}
    if key == "scale":
        return np.ones(shape.shape, np.float32)
    return 0.02 * rng.standard_normal(shape.shape, np.float32)
