"""The answers of paths to the examples of a split, with the operations that they take."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from evolution.population import Component, Path
from evolution.training.batches import AnySplit, Chunk, chunks, may_stay, power_of_two
from evolution.training.heads import Seen
from evolution.training.objectives import Judged
from evolution.training.programs import forward_flops, judge, prefix_flops, run_prefix
from vit import Architecture
from vit.components import Tree


class Work:
    """Counts floating-point operations."""

    flops = 0.0

    def add(self, images: int, each: float) -> None:
        """Counts the operations of this number of images."""
        self.flops += images * each

    def taken(self) -> float:
        """The operations since the last call."""
        taken, self.flops = self.flops, 0.0
        return taken


class Evaluation:
    """The first `count` examples of a split as they enter a path, without augmentation."""

    def __init__(self, split: AnySplit, count: int, work: Work) -> None:
        self._split = split
        self.count = count
        self._work = work
        self._kept: tuple[Any, list[Chunk]] | None = None  # of one prefix

    def judged(
        self, arch: Architecture, path: Path, prefix: int, params: Mapping[str, Tree]
    ) -> tuple[list[Judged], bool]:
        """The path's answers with `params` above its first `prefix` components.

        Also whether all are finite.
        """
        above = {name: params[name] for name in arch.component_names[prefix:]}
        judged: list[Judged] = []
        finite: Any = True
        self._work.add(self.count, forward_flops(arch) - prefix_flops(arch, prefix))
        for c in self.inputs(arch, path, prefix):
            found, sound = judge(arch, prefix, above, c.inputs, c.labels, c.count)
            judged.append(Judged(found, c.labels, c.count))
            finite &= sound
        return judged, bool(finite)

    def inputs(self, arch: Architecture, path: Path, prefix: int) -> Iterator[Chunk]:
        """The outputs of the path's first `prefix` components, chunk by chunk."""
        key = prefix_key(path, arch, prefix)
        if self._kept is not None and self._kept[0] == key:
            yield from self._kept[1]
            return
        self._kept, kept = None, []
        self._work.add(self.count, prefix_flops(arch, prefix))
        fits = may_stay(feature_bytes(arch, prefix) * power_of_two(self.count))
        frozen = jax.device_put(params_of(path.components[:prefix]))
        for chunk in chunks(self._split, self.count, arch.image_size):
            features = run_prefix(arch, prefix, frozen, chunk.inputs) if prefix else chunk.inputs
            kept.append(Chunk(features, chunk.labels, chunk.count))
            yield kept[-1]
            if not fits:
                kept.clear()
        if fits:
            self._kept = key, kept


def seen(split: AnySplit, count: int, arch: Architecture, params: Mapping[str, Tree]) -> Seen:
    """What the head reads of a split's first `count` examples, without augmentation."""
    body = replace(arch, num_classes=1)  # programs are the same for any head
    prefix = len(body.component_names) - 1
    below = {name: params[name] for name in body.component_names[:prefix]}
    features, labels = [], []
    for c in chunks(split, count, arch.image_size):
        found = run_prefix(body, prefix, below, c.inputs)
        features.append(np.asarray(found[: c.count], np.float64))
        labels.append(np.asarray(c.labels[: c.count]))
    return Seen(np.concatenate(features), np.concatenate(labels))


def prefix_key(path: Path, arch: Architecture, prefix: int) -> tuple[Any, ...]:
    """What the output of the path's first `prefix` components depends on, besides the images."""
    return (
        arch.image_size,
        _ends_in_last_block(arch, prefix),
        *(component.id for component in path.components[:prefix]),
    )


def _ends_in_last_block(arch: Architecture, prefix: int) -> bool:
    """Whether only the first token comes out of the prefix (vit.components.apply)."""
    return (
        arch.one_token_answers
        and arch.num_layers > 0
        and prefix == arch.component_names.index("encoder_norm")
    )


def feature_bytes(arch: Architecture, prefix: int) -> int:
    """float32 bytes of one example where it enters the component after the prefix."""
    if prefix == 0:
        return arch.image_size**2 * 3 * 4
    return (1 if _ends_in_last_block(arch, prefix) else arch.tokens) * arch.width * 4


def params_of(components: tuple[Component, ...]) -> dict[str, Tree]:
    """The parameters of components, by their names."""
    return {component.name: component.params for component in components}
