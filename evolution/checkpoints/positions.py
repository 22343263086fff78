"""Where position embeddings of other image sizes come from in an imported system.

The published code resamples them from the pretrained file that a system began with. A state holds
only those of the root's own size (SYSTEMS.md, Copying).
"""

from __future__ import annotations

import numpy as np

from evolution.mutation import new_component
from evolution.population import POSITION_SOURCE, ROOT, Population
from vit import Architecture
from vit.components import Tree, position_embedding_for

ALIKE = 1e-4  # largest difference of the root's own from those of the file, resampled to its size


def began_with(arch: Architecture, own: Tree, published: Tree) -> bool:
    """Whether a root of this architecture and these position embeddings began with the file's."""
    if published["pos_embedding"].shape[2] != arch.width:
        return False
    try:
        resampled = position_embedding_for(arch, published)["pos_embedding"]
    except ValueError:  # no square grid
        return False
    return bool(np.abs(resampled - own["pos_embedding"]).max() <= ALIKE)


def add_published(population: Population, arch: Architecture, published: Tree) -> None:
    """Gives the root the file's position embeddings, unless they are its own."""
    if published["pos_embedding"].shape[1] == arch.tokens:
        return
    source = new_component(population, POSITION_SOURCE, published)
    source.locks.add(ROOT)
    root = population.paths[ROOT][0]
    root.components = (*root.components, source)


def told(run: str, arch: Architecture, published: Tree | None) -> str:
    """A line of the report; `published` is None if no file was given, or if the run has another."""
    what = f"run {run}: position embeddings of other image sizes are resampled from"
    if published is None:
        return (
            f"{what} the root's own, {arch.grid} x {arch.grid}; with --positions augreg:FILE they "
            "are from the file that the system began with"
        )
    side = int(np.sqrt(published["pos_embedding"].shape[1]))
    return f"{what} the published {side} x {side}"
