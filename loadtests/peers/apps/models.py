"""What every peer does with a request: read the picture, run the task's network, name the best.

MODELS is a folder of `<task>.onnx`, each a whole network; PIXELS is the networks' side. In a folder
of tails there is a `backbone.onnx` next to them, the part that all tasks share.
"""

# It runs in an environment of its own (make peers).
# pyright: reportMissingImports=false

from __future__ import annotations

import io
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image

FOLDER = Path(os.environ["MODELS"])
PIXELS = int(os.environ["PIXELS"])
BACKBONE = "backbone.onnx"
TOP = 5

Network = Callable[[Any], Any]


def load(file: Path) -> Network:
    """A session of one thread, so that two requests compute on two cores."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: session.run(None, {name: x})[0]


def file_of(task: str) -> Path:
    """Where a task's network or tail lies."""
    return FOLDER / f"{task.replace('/', '_')}.onnx"


class Models:
    """Every task's network, each loaded by the first request for it."""

    def __init__(self) -> None:
        self._loaded: dict[str, Network] = {}
        self._lock = threading.Lock()
        self._loading: dict[str, threading.Lock] = {}
        shared = FOLDER / BACKBONE
        self._backbone = load(shared) if shared.exists() else None

    def get(self, task: str) -> Network:
        """The network or tail of a task."""
        if found := self._loaded.get(task):
            return found
        with self._lock:
            mine = self._loading.setdefault(task, threading.Lock())
        with mine:
            if task not in self._loaded:
                self._loaded[task] = load(file_of(task))
        return self._loaded[task]

    def logits(self, tasks: Sequence[str], x: Any) -> list[Any]:
        """Of rows [n, side, side, 3] for these tasks: what they share once, each task's once."""
        if self._backbone is not None:
            x = self._backbone(x)
        rows: dict[str, list[int]] = {}
        for row, task in enumerate(tasks):
            rows.setdefault(task, []).append(row)
        found: list[Any] = [None] * len(tasks)
        for task, mine in rows.items():
            for row, logits in zip(mine, self.get(task)(x[mine]), strict=True):
                found[row] = logits
        return found


def decode(data: bytes) -> Any:
    """float32 [side, side, 3] of a PNG or JPEG file."""
    with Image.open(io.BytesIO(data)) as image:
        return pixels(image)


def pixels(image: Image.Image) -> Any:
    """float32 [side, side, 3] in [-1, 1]."""
    x = np.asarray(image.convert("RGB"))
    if x.shape[:2] != (PIXELS, PIXELS):
        x = _between(_between(x, 0), 1)
    return x.astype(np.float32) / np.float32(127.5) - np.float32(1)


def _between(x: Any, axis: int) -> Any:
    """Bilinear without antialias, as the networks were trained: two pixels an axis are read."""
    length = x.shape[axis]
    point = ((np.arange(PIXELS) + 0.5) * (length / PIXELS) - 0.5).clip(0, length - 1)
    low = point.astype(np.intp)
    part = (point - low).astype(np.float32).reshape((-1, 1, 1) if axis == 0 else (-1, 1))
    first = x.take(low, axis).astype(np.float32)
    return first + part * (x.take(np.minimum(low + 1, length - 1), axis) - first)


def best(logits: Any) -> list[dict[str, Any]]:
    """The most likely classes, best first."""
    likely = np.exp(logits - logits.max())
    likely /= likely.sum()
    return [
        {"label": f"class {i}", "index": int(i), "probability": round(float(likely[i]), 6)}
        for i in np.argsort(-likely)[:TOP]
    ]
