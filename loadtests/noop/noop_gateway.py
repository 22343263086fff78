"""The real gateway, BentoML and all, whose engine and decoder do nothing: what is left is its cost.

`bentoml serve loadtests.noop.noop_gateway:Gateway` needs a store with a task, as the gateway
does. Nothing else of it is changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.host.gateway import Gateway  # isort: skip  # first: it sets what others read on import
import service.http.classify
import service.runtime
from service.compute.paths import Row
from service.images import Decoded, named

__all__ = ["Gateway"]
DECODED = named(np.zeros((1, 1, 3), np.float32))


class NoEngine:
    """Takes the engine's place: loads nothing, compiles nothing, answers zeros."""

    streams = 1
    cost_clock = None  # the clock on the wall

    def __init__(self, *_: Any, **__: Any) -> None:
        self.programs = SimpleNamespace()  # there are none

    def close(self) -> None:
        """Nothing to end."""

    def place(self, kind: str, tree: Any) -> Any:
        """The arrays as they are."""
        return tree

    def warm(self, path: Any) -> None:
        """Nothing to compile."""

    def probe(self, path: Any) -> None:
        """Nothing to try out."""

    def run(self, rows: Sequence[Row]) -> list[NDArray[np.float32]]:
        """Logits [classes] of each row."""
        return [np.zeros(len(row.path.labels), np.float32) for row in rows]


class NoFile:
    """Takes an image's place: looks at nothing, decodes nothing."""

    pixels = 1

    def __init__(self, data: bytes) -> None:
        pass

    def look(self, max_pixels: int) -> NoFile:
        """Nothing to look at."""
        return self

    def by(self, decoding: Any) -> NoFile:
        """The same by all rules."""
        return self

    def memory(self, sizes: Iterable[int]) -> tuple[int, int]:
        """Nothing to hold."""
        return 0, 0

    def decoded(self, sizes: Iterable[int]) -> Mapping[int, Decoded]:
        """The same for every image."""
        return dict.fromkeys(sizes, DECODED)


service.runtime.Engine = NoEngine  # pyright: ignore[reportAttributeAccessIssue]
service.http.classify.File = NoFile  # pyright: ignore[reportAttributeAccessIssue]
