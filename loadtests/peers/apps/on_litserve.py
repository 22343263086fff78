"""The tasks as a LitServe API with dynamic batches over tasks, in the one process of its models."""

# It runs in an environment of its own (make peers).
# pyright: reportMissingImports=false

import sys
from typing import Any

import litserve
import numpy as np
from fastapi import Request
from models import Models, best, decode

MOST_ROWS, WAIT_S = 16, 0.002


class Classifier(litserve.LitAPI):
    """A form with the fields `task` and `image`."""

    def setup(self, device: str) -> None:
        """Tasks are loaded by their first request."""
        self.models = Models()

    def decode_request(self, request: Request) -> tuple[str, Any]:
        """One row. LitServe reads the annotation, and gives the form that it read of the body."""
        return request["task"], decode(request["image"].file.read())

    def batch(self, inputs: list[tuple[str, Any]]) -> tuple[list[str], Any]:
        """Rows of several tasks."""
        return [task for task, _ in inputs], np.stack([x for _, x in inputs])

    def predict(self, x: tuple[list[str], Any]) -> list[Any]:
        """Logits of each row."""
        return self.models.logits(*x)

    def unbatch(self, output: list[Any]) -> list[Any]:
        """As it is."""
        return output

    def encode_response(self, output: Any) -> dict[str, Any]:
        """The body."""
        return {"predictions": best(output)}


if __name__ == "__main__":
    api = Classifier(max_batch_size=MOST_ROWS, batch_timeout=WAIT_S, api_path="/classify")
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1, timeout=60)
    server.run(
        host="127.0.0.1",
        port=int(sys.argv[1]),
        log_level="warning",
        generate_client_file=False,
        access_log=False,
    )
