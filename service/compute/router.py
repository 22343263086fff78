"""The last step of a multipath version: its router weighs what its paths answer.

The maths of `vit/mixer.py` in NumPy, a row at a time: too little work for compiled programs of
each number of classes and rows, and so no row depends on its batch mates.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.compute.paths import Mixer, Shapes
from vit import kind_of
from vit.mixer import ROUTER, mixer_names
from vit.parameters import LAYER_NORM_EPSILON

F32 = NDArray[np.float32]
KINDS = tuple(kind_of(name) for name in mixer_names(2))


def shapes_of(classes: int, answers: Sequence[int]) -> dict[str, Shapes]:
    """Shapes of the router and of each connector, by name; `answers`: numbers per path."""
    _, *connectors = mixer_names(len(answers))
    return {ROUTER: _router(classes, len(answers))} | {
        name: _dense(inputs, classes) for name, inputs in zip(connectors, answers[1:], strict=True)
    }


def smallest(kind: str) -> Shapes:
    """The shapes of a component of this kind where every size is one."""
    return _router(1, 1) if kind == ROUTER else _dense(1, 1)


def _router(classes: int, paths: int) -> Shapes:
    norm = (("/LayerNorm_0/bias", (classes,)), ("/LayerNorm_0/scale", (classes,)))
    return (*_dense(classes, paths), *norm)


def _dense(inputs: int, outputs: int) -> Shapes:
    return ("/Dense_0/bias", (outputs,)), ("/Dense_0/kernel", (inputs, outputs))


def mix(mixer: Mixer, answers: Sequence[F32]) -> F32:
    """Logits [classes] from what the paths answer: logits of the main one, [outputs] of each."""
    router, *connectors = (component.weights.arrays for component in mixer.components)
    main, *others = answers
    with np.errstate(all="ignore"):  # numbers that are not finite are refused with the answer
        logits = [main]
        for tree, answer in zip(connectors, others, strict=True):
            logits.append(answer @ tree["Dense_0"]["kernel"] + tree["Dense_0"]["bias"])
        return _weights(router, main) @ np.stack(logits)


def _weights(router: Any, main: F32) -> F32:
    """Of each path, [paths]."""
    norm, dense = router["LayerNorm_0"], router["Dense_0"]
    centred = main - main.mean()
    normed = centred / np.sqrt(np.square(centred).mean() + np.float32(LAYER_NORM_EPSILON))
    scores = (normed * norm["scale"] + norm["bias"]) @ dense["kernel"] + dense["bias"]
    odds = np.exp(scores - scores.max())
    return odds / odds.sum()
