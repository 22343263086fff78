"""What makes probabilities of a head's numbers: the field `activation` of a path spec.

softmax: each picture has one class, and the probabilities of the classes are 1 in all; a spec that
says nothing means this. sigmoid: each picture has any number of labels, none too, and each label
has a probability of its own. The field `temperature` is what the head's numbers are divided by
first, so that the probabilities are neither too sure nor too careful.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

SOFTMAX, SIGMOID = ACTIVATIONS = ("softmax", "sigmoid")
FIELD = "activation"
TEMPERATURE = "temperature"  # the field


def activation_of(fields: Mapping[str, Any]) -> str:
    """What the fields of a path spec say. Raises ValueError for what is not known."""
    found = fields.get(FIELD, SOFTMAX)
    if found not in ACTIVATIONS:
        raise ValueError(f"{FIELD}: expected one of {', '.join(ACTIVATIONS)}, found {found!r:.60}")
    return found


def temperature_of(fields: Mapping[str, Any]) -> float:
    """What logits are divided by before they become probabilities; 1 where nothing is said.

    Raises ValueError for what is no number above 0.
    """
    found = fields.get(TEMPERATURE, 1.0)
    if type(found) not in (int, float) or not 0 < found <= sys.float_info.max:
        raise ValueError(f"{TEMPERATURE}: expected a number above 0, found {found!r:.60}")
    return float(found)


def softmax(logits: NDArray[np.floating]) -> NDArray[np.float32]:
    """Probabilities [..., classes], which sum to 1; computed in float64."""
    exact = logits.astype(np.float64)
    odds = np.exp(exact - exact.max(-1, keepdims=True))
    return (odds / odds.sum(-1, keepdims=True)).astype(np.float32)


def sigmoid(logits: NDArray[np.floating]) -> NDArray[np.float32]:
    """Probabilities, as they are answered and as qualities are measured on them.

    Exact to float32, for large logits too: computed in float64, of powers that do not overflow.
    """
    exact = logits.astype(np.float64)
    small = np.exp(-np.abs(exact))
    return (np.where(exact >= 0, 1.0, small) / (1.0 + small)).astype(np.float32)
