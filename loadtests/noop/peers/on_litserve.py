"""The no-op as a LitServe API; it takes JSON and forms only, so the image comes as base64."""

# It runs in an environment of its own (make peers).
# pyright: reportMissingImports=false

import base64
import sys
from typing import Any

import litserve
from answer import ANSWER
from fastapi import Request


class Noop(litserve.LitAPI):
    """What LitServe's guide does with an image."""

    def setup(self, device: str) -> None:
        """No model."""

    def decode_request(self, request: Request) -> bytes:
        """The image's bytes. LitServe reads the annotation, and gives what it read of the body."""
        return base64.b64decode(request["image"])

    def predict(self, x: bytes) -> dict[str, Any]:
        """The answer."""
        return ANSWER

    def encode_response(self, output: dict[str, Any]) -> dict[str, Any]:
        """As it is."""
        return output


if __name__ == "__main__":
    server = litserve.LitServer(Noop(api_path="/noop"), accelerator="cpu", fast_queue=True)
    server.run(
        host="127.0.0.1",
        port=int(sys.argv[1]),
        num_api_servers=1,
        log_level="warning",
        generate_client_file=False,
        access_log=False,
    )
