"""An adopted network with its head, labels and input, from any publisher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evolution.adopting.errors import AdoptError
from vit import Architecture
from vit.activation import SOFTMAX
from vit.components import Tree
from vit.contract import Target
from vit.decode import Decoding


@dataclass(frozen=True, slots=True)
class Model:
    """A fine-tuned network, ready to be published."""

    architecture: Architecture
    components: Mapping[str, Tree]  # in the order of the forward pass
    labels: tuple[str, ...]
    target: Target  # how pictures are prepared
    decoding: Decoding
    told: Mapping[str, Any]  # where it comes from, for the path spec
    activation: str = SOFTMAX  # of the head's numbers
    temperature: float = 1.0  # by which these are divided before


def checked_labels(
    source: str, given: Sequence[str] | None, own: Sequence[Any] | None, classes: int
) -> tuple[str, ...]:
    """One label for each class: the given ones, else the network's own. Raises AdoptError."""
    labels = own if given is None else given
    source = source if given is None else "--labels"
    if labels is None:
        raise AdoptError(
            f"{source}: expected labels for {classes} classes, found none\n"
            "give them, one a line in the order of the classes: --labels FILE"
        )
    if len(labels) != classes:
        raise AdoptError(
            f"{source}: expected {classes} labels, as its head has classes; found {len(labels)}\n"
            "give them, one a line in the order of the classes: --labels FILE"
        )
    for number, label in enumerate(labels, 1):
        if not isinstance(label, str) or not label:
            raise AdoptError(
                f"{source}: expected a text that is not empty as label {number}, found "
                f"{label!r:.60}\ngive all, one a line in the order of the classes: --labels FILE"
            )
    return tuple(labels)
