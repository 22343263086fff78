"""Small populations, made by the rules themselves, and draws that are given."""

import numpy as np

from evolution import mutation
from evolution.population import ROOT, Path, Population
from evolution.roots.loading import random_root
from evolution.run import population_of_root
from tests.evolution.systems import ROOT as ROOT_ARCH
from tests.evolution.systems import TINY


class Draws:
    """A generator whose draws are given, so that a rule can be followed by hand."""

    def __init__(self, *values: float) -> None:
        self.values = list(values)

    def random(self) -> float:
        return self.values.pop(0)

    def integers(self, high: int) -> int:
        return int(self.values.pop(0))


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def population() -> Population:
    return population_of_root(TINY, random_root(ROOT_ARCH))


def add(system: Population, task: str, parent: Path, quality: float, **hp) -> Path:
    """A kept child of `parent`, made by the rules themselves."""
    values = {**parent.hyperparameters, **hp}
    arch = mutation.architecture_of(ROOT_ARCH, values, 3)
    child = mutation.make_child(system, parent, task, arch, values, TINY, True, rng())
    child.quality = quality
    system.paths.setdefault(task, []).append(child)
    return child


def root_of(system: Population) -> Path:
    return system.paths[ROOT][0]
