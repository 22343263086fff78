"""What the list of tasks says of a version: little, as it is kept for every task of the store."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from model_store import Digest, Published


@dataclass(frozen=True, slots=True)
class Summary:
    """One published version in short."""

    digest: Digest  # of the manifest
    created: str
    classes: int
    quality: Mapping[str, float]  # accuracy by split
    parameters: Mapping[str, Any]
    parent: str | None
    private: bool
    components: tuple[Digest, ...]  # distinct
    sizes: tuple[int, ...]  # of the components, in bytes


def summarise(published: Published) -> Summary:
    """Digests that tasks share are kept once for all of them."""
    path, parent = published.path, published.path.lineage.get("parent_task")
    sizes = {path.components[name]: size for name, size in published.sizes.items()}
    return Summary(
        digest=published.digest,
        created=published.created,
        classes=len(path.labels),
        quality=_quality(path.metrics),
        parameters=dict(path.parameters),
        parent=parent if isinstance(parent, str) else None,
        private=path.private,
        components=tuple(Digest(sys.intern(digest)) for digest in sizes),
        sizes=tuple(sizes.values()),
    )


def _quality(metrics: Mapping[str, Any]) -> dict[str, float]:
    return {
        split: found["accuracy"]
        for split, found in metrics.items()
        if isinstance(found, Mapping) and isinstance(found.get("accuracy"), int | float)
    }
