"""An engine over a store of small paths, and what its answers are compared with."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from model_store import ModelStore, Published
from service.compute.engine import Engine
from service.compute.paths import LoadedPath, Row
from service.images import Pixels
from service.metrics.instruments import Metrics
from service.tasks.eviction import Budget, Recency
from service.tasks.residency import Residency
from tests.service.systems import tree_of
from vit import Architecture
from vit.forward import forward

# Batched with strangers against alone, in float32, where logits are about 1. The largest seen is
# 2.4e-7 here, 1.4e-6 on a Ti/16 of twelve blocks.
BOUND = 1e-5
MAX_ROWS = 4
FORWARD = jax.jit(forward, static_argnums=0)


class System:
    """A store, an engine and loaded paths."""

    def __init__(self, root: Path, compilations: str, backend: str = "auto") -> None:
        self.store = ModelStore(root, create=True)
        self.metrics = Metrics()
        self.engine = Engine(
            self.metrics, max_rows=MAX_ROWS, compilation_cache=compilations, backend=backend
        )
        budget = Budget(2**30, Recency(self.metrics))
        self.residency = Residency(self.store, self.engine.place, self.metrics, budget)

    def load(self, published: Published) -> LoadedPath:
        path = self.residency.load(published)
        self.engine.warm(path)
        self.engine.programs.wait()
        return path

    def count(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0

    @property
    def programs(self) -> float:
        """Programs made ready, compiled or from the cache on disk."""
        sources = ("compiler", "cache")
        return sum(self.count("munet_compilations_total", source=name) for name in sources)

    @property
    def fused(self) -> float:
        """Fused programs made ready."""
        sources = ("compiler", "cache")
        return sum(self.count("munet_fused_programs_total", source=name) for name in sources)

    def expected(self, row: Row) -> NDArray[np.float32]:
        """The same row through the network as evolution runs it."""
        published = row.path.published
        arch = Architecture.from_json(published.path.architecture)
        params = tree_of(self.store, published)
        return np.asarray(FORWARD(arch, params, row.images[arch.image_size].pixels[None]))[0]


def row(path: LoadedPath, seed: int) -> Row:
    """A random image's, the same at each size for all paths."""
    picture = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), np.uint8)
    return Row(path, Pixels(picture).decoded({walk.target for walk in path.walks}))


def distance(one: Sequence[NDArray], other: Sequence[NDArray]) -> float:
    return max(float(np.abs(a - b).max()) for a, b in zip(one, other, strict=True))


def _module(found: Any) -> str:
    scope = found.f_globals["__name__"] if isinstance(found, FrameType) else None
    return str(scope or getattr(found, "__module__", None))


@contextmanager
def no_garbage() -> Iterator[None]:
    """Checks that no object of the gateway's is left for the garbage collector to find.

    Libraries leave garbage of their own, whenever they like: it does not count.
    """
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        yield
        gc.collect()
        modules = [_module(found) for found in gc.garbage]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert [module for module in modules if module.startswith("service.")] == []
