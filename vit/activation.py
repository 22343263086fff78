"""What makes probabilities of a head's numbers: the field `activation` of a path spec.

softmax: each picture has one class, and the probabilities of the classes are 1 in all; a spec that
says nothing means this. sigmoid: each picture has any number of labels, none too, and each label
has a probability of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

SOFTMAX, SIGMOID = ACTIVATIONS = ("softmax", "sigmoid")
FIELD = "activation"


def activation_of(fields: Mapping[str, Any]) -> str:
    """What the fields of a path spec say. Raises ValueError for what is not known."""
    found = fields.get(FIELD, SOFTMAX)
    if found not in ACTIVATIONS:
        raise ValueError(f"{FIELD}: expected one of {', '.join(ACTIVATIONS)}, found {found!r:.60}")
    return found


def sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Probabilities, as they are answered and as qualities are measured on them.

    Exact to float32, for large logits too: computed in float64, of powers that do not overflow.
    """
    exact = logits.astype(np.float64)
    small = np.exp(-np.abs(exact))
    return (np.where(exact >= 0, 1.0, small) / (1.0 + small)).astype(np.float32)
