"""The tasks behind Triton's dynamic batcher: one Python model whose input names the task."""

# It runs in an environment of its own (make peers).
# pyright: reportMissingImports=false

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import sysconfig
from typing import Any

import numpy as np
from models import Models, best, decode
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

MOST_ROWS, INSTANCES = 16, 2
models = Models()


@batch
def classify(task: Any, image: Any) -> dict[str, Any]:
    """Rows [n, 1] of bytes: names of tasks, and files."""
    tasks = [name.decode() for name in task[:, 0]]
    logits = models.logits(tasks, np.stack([decode(file) for file in image[:, 0]]))
    found = [[json.dumps(best(one)).encode()] for one in logits]
    return {"predictions": np.array(found, dtype=object)}


def free_port() -> int:
    """For the transports that nobody asks."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    # Its processes look for the shared library of this very interpreter.
    os.environ["LD_LIBRARY_PATH"] = sysconfig.get_config_var("LIBDIR")
    config = TritonConfig(
        http_address="127.0.0.1",
        http_port=int(sys.argv[1]),
        grpc_address="127.0.0.1",
        grpc_port=free_port(),
        allow_metrics=False,
    )
    with Triton(config=config) as triton:
        triton.bind(
            "classify",
            [classify] * INSTANCES,
            [Tensor(name=name, dtype=bytes, shape=(1,)) for name in ("task", "image")],
            [Tensor(name="predictions", dtype=bytes, shape=(1,))],
            config=ModelConfig(max_batch_size=MOST_ROWS, batcher=DynamicBatcher()),
        )
        triton.serve()
