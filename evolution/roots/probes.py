"""Linear probes: how well a linear classifier does on what a frozen network sees."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from evolution.data.eurosat import probe_pictures
from evolution.data.images import Labels, TaskError
from evolution.data.tasks import load
from evolution.roots.loading import load_root
from evolution.training.programs import run_prefix
from vit import Architecture
from vit.components import Tree
from vit.preprocess import preprocess

Floats = NDArray[np.floating[Any]]
Inputs = Callable[[int], tuple[Floats, Labels, Floats, Labels]]  # of a size: training, then test

RIDGE = 100.0  # measured: from 1 to 1,000, the best or nearly the best on five sets
SIZES = (32, 48, 64)  # of the images, pixels
MOST_TRAIN, MOST_TEST = 6_000, 3_000  # pictures
AT_ONCE = 64  # pictures


def ridge_answers(features: Floats, wanted: NDArray[Any], asked: Floats) -> Floats:
    """What ridge regression from standardised features [n, f] to [n, k] answers for [m, f]."""
    mean, deviation = features.mean(0), features.std(0) + 1e-6
    x, asked = (_with_one((f - mean) / deviation) for f in (features, asked))
    return asked @ np.linalg.solve(x.T @ x + RIDGE * np.eye(x.shape[1]), x.T @ wanted)


def features(arch: Architecture, components: Mapping[str, Tree], images: Floats) -> Floats:
    """What a network without its head makes of images [n, size, size, 3]: float64 [n, …]."""
    arch = replace(arch, num_classes=1)
    prefix = len(arch.component_names) - 1
    padded = np.pad(images, [(0, -len(images) % AT_ONCE), (0, 0), (0, 0), (0, 0)])
    blocks = (padded[i : i + AT_ONCE] for i in range(0, len(padded), AT_ONCE))
    found = [np.asarray(run_prefix(arch, prefix, components, block)) for block in blocks]
    return np.concatenate(found)[: len(images)].astype(np.float64)


def probe_root(spec: str, layers: int, data_dir: Path) -> dict[str, list[float] | str]:
    """The accuracy of each probe at each of SIZES, or why there is none. Raises RootError.

    spec, layers: as for load_root. Of EuroSAT there are 1,000 pictures to train on and 500 to test,
    none of which the shipped root was trained on.
    """
    roots = {size: load_root(spec, size, layers) for size in SIZES}
    found: dict[str, list[float] | str] = {}
    for name, open_probe in PROBES.items():
        try:
            inputs = open_probe(name, data_dir)
        except TaskError as error:
            found[name] = str(error).splitlines()[0]
            continue
        found[name] = [_accuracy(*root, *inputs(size)) for size, root in roots.items()]
    return found


def _task(name: str, data_dir: Path) -> Inputs:
    task = load(name, (data_dir,))

    def inputs(size: int) -> tuple[Floats, Labels, Floats, Labels]:
        train, test = (
            split.evaluation_inputs(np.arange(min(most, len(split))), size)
            for split, most in ((task.train, MOST_TRAIN), (task.test, MOST_TEST))
        )
        return (*train, *test)

    return inputs


def _eurosat(_: str, data_dir: Path) -> Inputs:
    (train, classes), (test, answers) = probe_pictures(data_dir)
    return lambda size: (preprocess(train, size), classes, preprocess(test, size), answers)


PROBES: dict[str, Callable[[str, Path], Inputs]] = {
    "eurosat": _eurosat,
    "cmaterdb/bangla": _task,
    "cmaterdb/devanagari": _task,
    "cmaterdb/telugu": _task,
    "mnist": _task,
}


def _accuracy(
    arch: Architecture,
    components: Mapping[str, Tree],
    train: Floats,
    classes: Labels,
    test: Floats,
    answers: Labels,
) -> float:
    params = jax.device_put({name: components[name] for name in arch.component_names})
    wanted = np.eye(int(classes.max()) + 1)[classes]
    found = ridge_answers(features(arch, params, train), wanted, features(arch, params, test))
    return float((found.argmax(1) == answers).mean())


def _with_one(features: Floats) -> Floats:
    return np.hstack([features, np.ones((len(features), 1))])
