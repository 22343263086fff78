"""A small network and a picture that need no store: what a gateway tries itself out with."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from model_store import Digest, Published, TaskPath
from service.compute.paths import Component, LoadedPath, Stage, Walk, stages_of
from vit import Architecture, shapes
from vit.preprocess import CONTRACT

# Four coloured pixels, as a PNG file.
PICTURE = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAIAAAACCAIAAAD91JpzAAAAFklEQVR42mMQsdGYPl2Dwdem9ML0"
    "UgAa8ASpveOQxAAAAABJRU5ErkJggg=="
)
NETWORK = Architecture(
    width=8, heads=1, mlp_dim=8, patch_size=8, image_size=16, num_layers=1, num_classes=2
)
NAME = "built-in"  # of no task in a store
NO_DIGEST = Digest("sha256:" + "0" * 64)


def path(place: Callable[[str, Any], Any]) -> LoadedPath:
    """The network as a version; `place` puts a component's arrays where the programs need them."""
    stages = tuple(
        Stage(
            program,
            tuple(
                Component(NO_DIGEST, 0, place(kind, _ones(shapes(NETWORK, kind))))
                for kind in program.kinds
            ),
        )
        for program, _ in stages_of(NETWORK)
    )
    spec = TaskPath(
        task=NAME,
        labels=("one", "other"),
        architecture=NETWORK.to_json(),
        components=dict.fromkeys(NETWORK.component_names, NO_DIGEST),
        input={"size": NETWORK.image_size, **CONTRACT},
        hyperparameters={},
        metrics={},
        parameters={},
        lineage={},
    )
    published = Published(NAME, 0, NO_DIGEST, spec, {}, "")
    walk = Walk(stages, NETWORK.image_size, NETWORK.num_classes)
    return LoadedPath(published, (walk,), cost=0.0)


def _ones(tree: Any) -> Any:
    if isinstance(tree, Mapping):
        return {name: _ones(inner) for name, inner in tree.items()}  # pyright: ignore
    return np.ones(tree.shape, np.float32)
