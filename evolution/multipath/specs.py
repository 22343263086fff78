"""The path spec of a version that is made of several paths.

All its components are in its own manifest. So it can be assembled even if the versions of its paths
are removed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from model_store import Digest, TaskPath
from vit.decode import Decoding
from vit.mixer import SubPath, connector_name, subpath_component
from vit.preprocess import CONTRACT


@dataclass(frozen=True, slots=True)
class PublishedPart:
    """One of the paths, as in a path spec."""

    task: str | None  # a root has none
    agent: str | None  # whose path it is
    manifest: Digest | None  # of its own version
    network: SubPath
    components: Mapping[str, Digest]  # by their own names, in forward order

    def to_json(self, place: int, decoding: Decoding) -> dict[str, Any]:
        """As path `place`: with a connector unless it is the main one."""
        arch = self.network.architecture
        return {
            "name": f"path_{place}",
            "task": self.task,
            "agent": self.agent,
            "manifest": self.manifest,
            "architecture": arch.to_json(),
            "input": {"size": arch.image_size, **CONTRACT, **decoding.to_json()},
            "components": {name: subpath_component(place, name) for name in self.components},
            "answers": "logits" if self.network.has_head else "features",
            "connector": connector_name(place) if place else None,
        }


def multipath_spec(
    task: str,
    labels: tuple[str, ...],
    parts: Sequence[PublishedPart],
    mixer: Mapping[str, Digest],
    *,
    decoding: Decoding,
    hyperparameters: Mapping[str, Any],
    metrics: Mapping[str, Any],
    parameters: Mapping[str, float],
    lineage: Mapping[str, Any],
    private: bool,
) -> TaskPath:
    """The version of these parts, the main one first, and `mixer`, the router and connectors.

    The components of part i are named `path_i/NAME`. A part answers with logits if it has a head,
    with features otherwise; its connector turns its answer into logits (SYSTEMS.md, Mixing). All
    parts see the same pixels, even if they come from versions with other rules.
    """
    sizes = sorted({part.network.architecture.image_size for part in parts})
    components = {
        subpath_component(place, name): digest
        for place, part in enumerate(parts)
        for name, digest in part.components.items()
    }
    return TaskPath(
        task=task,
        labels=labels,
        architecture={
            "kind": "multipath",
            "num_paths": len(parts),
            "num_classes": len(labels),
        },
        components={**components, **mixer},
        input={"sizes": sizes, **CONTRACT, **decoding.to_json()},
        hyperparameters=hyperparameters,
        metrics=metrics,
        parameters=parameters,
        lineage=lineage,
        private=private,
        subpaths=tuple(part.to_json(place, decoding) for place, part in enumerate(parts)),
    )
