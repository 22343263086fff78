"""What the list of tasks shows of a version. It is small, as one is kept for each task."""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from model_store import Digest, Published, TaskPath
from vit.activation import activation_of

QUALITIES = ("mean_average_precision", "accuracy")  # a path spec has one of them for each split


@dataclass(frozen=True, slots=True)
class Summary:
    """One published version in short."""

    digest: Digest  # of the manifest
    created: str
    classes: int
    activation: str | None  # None: one that is not known here
    quality: Mapping[str, float]  # by split: accuracy, or mean average precision
    parameters: Mapping[str, Any]
    parent: str | None
    private: bool
    components: tuple[Digest, ...]  # distinct
    sizes: tuple[int, ...]  # of the components, in bytes
    places: tuple[tuple[str, int], ...]  # names of all components, and where they are in these
    examples: Mapping[str, int]  # by split: how many pictures `quality` was measured with
    fingerprint: str | None  # of the data that it was trained on


def summarise(published: Published) -> Summary:
    """Digests that tasks share are kept once for all of them."""
    path, parent = published.path, published.path.lineage.get("parent_task")
    sizes = {path.components[name]: size for name, size in published.sizes.items()}
    where = {digest: place for place, digest in enumerate(sizes)}
    data = path.extra.get("data")
    fingerprint = data.get("fingerprint") if isinstance(data, Mapping) else None
    return Summary(
        digest=published.digest,
        created=published.created,
        classes=len(path.labels),
        activation=known_activation(path),
        quality=_quality(path.metrics),
        parameters=dict(path.parameters),
        parent=parent if isinstance(parent, str) else None,
        private=path.private,
        components=tuple(Digest(sys.intern(digest)) for digest in sizes),
        sizes=tuple(sizes.values()),
        places=_same(tuple((name, where[digest]) for name, digest in path.components.items())),
        examples=_examples(path.metrics),
        fingerprint=fingerprint if isinstance(fingerprint, str) else None,
    )


@functools.lru_cache(maxsize=256)
def _same(places: tuple[tuple[str, int], ...]) -> tuple[tuple[str, int], ...]:
    """One object for all tasks of an architecture."""
    return places


def known_activation(path: TaskPath) -> str | None:
    """What makes probabilities of a version's logits; None for what is not known here."""
    try:
        return activation_of(path.extra)
    except ValueError:
        return None


def _quality(metrics: Mapping[str, Any]) -> dict[str, float]:
    return {
        split: found[name]
        for split, found in metrics.items()
        if isinstance(found, Mapping)
        for name in QUALITIES
        if isinstance(found.get(name), int | float)
    }


def _examples(metrics: Mapping[str, Any]) -> dict[str, int]:
    return {
        split: found["examples"]
        for split, found in metrics.items()
        if isinstance(found, Mapping) and type(found.get("examples")) is int
    }
