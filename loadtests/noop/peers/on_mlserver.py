"""The no-op as an MLServer runtime; its REST transport has no bytes, so the image is base64."""

# It runs in an environment of its own (make peers).
# pyright: reportMissingImports=false

from __future__ import annotations

import asyncio
import json
import socket
import sys

from answer import ANSWER
from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.codecs import Base64Codec, StringCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Noop(MLModel):
    """Decodes the input as MLServer's guide does and answers one string."""

    async def load(self) -> bool:
        """No model."""
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """The answer."""
        self.decode(payload.inputs[0], default_codec=Base64Codec)
        answer = StringCodec.encode_output("answer", [json.dumps(ANSWER)])
        return InferenceResponse(model_name=self.name, outputs=[answer])


async def serve(port: int) -> None:
    """In one process, as it is quickest for models that cost nothing."""
    settings = Settings(
        host="127.0.0.1",
        http_port=port,
        grpc_port=_free_port(),
        metrics_endpoint=None,
        parallel_workers=0,
        debug=False,
    )
    server = MLServer(settings)
    await server.start([ModelSettings(name="noop", implementation=Noop)])


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
