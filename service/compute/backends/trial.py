"""Tries JAX and OpenVINO on a block of a small network: `python -m` this, see `choice`.

Prints as JSON the processor seconds of each and whether their answers are equal. Where all cores
have work, these decide how much is answered; and they hardly depend on what else the machine does.
"""

from __future__ import annotations

import json
import sys
import time
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.compute.backends import Backend
from service.compute.backends.jax_backend import JaxBackend
from service.compute.backends.openvino_backend import OpenVinoBackend
from service.compute.paths import stages_of
from vit import Architecture, shapes

# A block of a small network in a batch of middling size.
SAMPLE = Architecture.named("Ti", patch_size=16, image_size=80, num_layers=2, num_classes=1)
SAMPLE_ROWS = 8
ROUNDS = 15
EQUAL = 1e-3  # answers are about 1


def measure(jax: Backend, openvino: Backend) -> dict[str, Any]:
    """Processor seconds of one block with each, alternating, medians; and if they agree."""
    rng = np.random.default_rng(0)
    program, _ = stages_of(SAMPLE)[1]
    tree = _random(shapes(program.shape, "encoderblock"), rng)
    x = rng.standard_normal((SAMPLE_ROWS, *program.row_shape), np.float32)
    runs = {
        backend.name: (
            backend.compile((program,), SAMPLE_ROWS, stacked=False).run,
            [(backend.place("encoderblock", tree),)],
        )
        for backend in (jax, openvino)
    }
    results = {name: np.asarray(run(weights, x)) for name, (run, weights) in runs.items()}
    spent: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, (run, weights) in runs.items():
            started = time.process_time()
            np.asarray(run(weights, x))
            spent[name].append(time.process_time() - started)
    equal = bool(np.abs(results["jax"] - results["openvino"]).max() < EQUAL)
    return {"equal": equal, **{f"{name}_s": median(found) for name, found in spent.items()}}


def _random(shape: Any, rng: np.random.Generator) -> Any:
    if isinstance(shape, dict):
        return {name: _random(inner, rng) for name, inner in shape.items()}  # pyright: ignore
    array: NDArray[np.float32] = 0.05 * rng.standard_normal(shape.shape, np.float32)
    return array


if __name__ == "__main__":
    folder = sys.argv[1] if sys.argv[1:] else None
    found = measure(JaxBackend(folder), OpenVinoBackend(folder, threads=1))
    sys.stdout.write(json.dumps(found))
