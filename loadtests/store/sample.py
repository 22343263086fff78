"""Paths to store: the components of a vision transformer by their shapes, filled with noise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from model_store import Digest, TaskPath

CLASSES = 100
ADAPTER_WIDTH = 32


@dataclass(frozen=True, slots=True)
class Size:
    """Sizes of a network; those of the ViT paper (arXiv 2010.11929, table 1) and DeiT."""

    width: int
    mlp_width: int
    blocks: int = 12
    patch: int = 16
    tokens: int = 197


SIZES = {
    "B/16": Size(768, 3072),
    "S/16": Size(384, 1536),
    "Ti/16": Size(192, 768),
    "tiny": Size(8, 16, blocks=2, patch=2, tokens=5),  # only to try the benchmark
}

Component = dict[str, npt.NDArray[np.float32]]  # tensor name -> tensor


@dataclass(frozen=True, slots=True)
class Model:
    """The components of one path: shared ones, and those of its task alone."""

    shared: Mapping[str, Component]
    own: Mapping[str, Component] = field(default_factory=dict[str, Component])

    @property
    def components(self) -> dict[str, Component]:
        """All of them."""
        return {**self.shared, **self.own}

    @property
    def size_bytes(self) -> int:
        """Of all tensors."""
        return size_bytes(self.components)


def size_bytes(components: Mapping[str, Component]) -> int:
    """Bytes of all tensors of components."""
    return sum(t.nbytes for component in components.values() for t in component.values())


def model(size: Size, seed: int) -> Model:
    """A whole path of this size."""
    return Model(shared=dict(_filled(_shared(size), seed)), own=own(size, seed))


def own(size: Size, seed: int) -> dict[str, Component]:
    """What a task adds: a head, and an adapter before each block (about 3 % of a Ti/16)."""
    return dict(_filled(_own(size), 1_000_000 + seed))


Shapes = Iterator[tuple[str, dict[str, tuple[int, ...]]]]


def _shared(size: Size) -> Shapes:
    width, mlp = size.width, size.mlp_width
    yield "embedding", {"kernel": (size.patch, size.patch, 3, width), "bias": (width,)}
    yield "cls", {"cls": (1, 1, width)}
    yield "pos_embedding", {"pos_embedding": (1, size.tokens, width)}
    for block in range(size.blocks):
        tensors: dict[str, tuple[int, ...]] = {}
        for norm in ("norm_0", "norm_1"):
            tensors |= {f"{norm}.scale": (width,), f"{norm}.bias": (width,)}
        for name in ("query", "key", "value", "out"):
            tensors |= {f"{name}.kernel": (width, width), f"{name}.bias": (width,)}
        tensors |= {"mlp_0.kernel": (width, mlp), "mlp_0.bias": (mlp,)}
        tensors |= {"mlp_1.kernel": (mlp, width), "mlp_1.bias": (width,)}
        yield f"block/{block}", tensors
    yield "norm", {"scale": (width,), "bias": (width,)}


def _own(size: Size) -> Shapes:
    width = size.width
    for block in range(size.blocks):
        down, up = (width, ADAPTER_WIDTH), (ADAPTER_WIDTH, width)
        yield f"adapter/{block}", {"down": down, "up": up, "bias": (width,)}
    yield "head", {"kernel": (width, CLASSES), "bias": (CLASSES,)}


def _filled(shapes: Shapes, seed: int) -> Iterator[tuple[str, Component]]:
    random = np.random.default_rng(seed)
    for name, tensors in shapes:
        yield name, {key: random.random(shape, np.float32) for key, shape in tensors.items()}


def task_path(task: str, components: Mapping[str, Digest], revision: int = 0) -> TaskPath:
    """A path spec as evolution writes them; another `revision` is another version."""
    lineage = {"agent": task, "experiment": "benchmark", "generation": revision, "seed": 0}
    fields: dict[str, Any] = {
        "labels": tuple(f"class {number}" for number in range(CLASSES)),
        "architecture": {"size": "Ti/16", "depth": 12, "adapter_width": ADAPTER_WIDTH},
        "input": {"size": 224, "channels": 3, "resize": "bilinear", "antialias": True},
        "hyperparameters": {"opt_lr": 0.02, "opt_warmup": 0.05, "ds_image_size": 224},
        "metrics": {"validation": {"accuracy": 0.97, "split": "train[:10%]", "examples": 1000}},
        "parameters": {"total": 5_700_000, "accounted": 170_000.0},
        "lineage": {**lineage, "parent": None, "method": "mu2net"},
    }
    return TaskPath(task=task, components=components, **fields)
