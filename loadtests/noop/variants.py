"""What is compared: the same no-op behind each server, and how each is started and asked."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from loadtests.gateways import ROOT, bentoml
from loadtests.noop.client import post

PEERS = Path("loadtests/noop/peers")
PEERS_PYTHON = ROOT / ".venv-peers/bin/python"  # made by `make peers`
TASK = "noop"
BARE = "Starlette"
OURS = "gateway"


@dataclass(frozen=True, slots=True)
class Variant:
    """One server; `command` has the word PORT where the port belongs."""

    name: str
    command: Sequence[str]
    ready: str  # path that answers with 200 once it can be asked
    request: bytes


def variants(image: bytes) -> tuple[Variant, ...]:
    """All of them, each to be sent the same image; those that take no bytes get it as base64."""
    text = base64.b64encode(image).decode()
    tensor = {"name": "image", "shape": [1], "datatype": "BYTES", "data": [text]}
    infer = {"inputs": [{**tensor, "parameters": {"content_type": "base64"}}]}
    as_bytes = post("/noop", image, "image/png")
    return (
        Variant(BARE, _uvicorn("on_starlette:app"), "/ready", as_bytes),
        Variant(
            OURS,
            bentoml("loadtests.noop.noop_gateway:Gateway"),
            "/readyz",
            post(f"/classify/{TASK}", image, "image/png"),
        ),
        Variant(
            "BentoML",
            bentoml("on_bentoml:Noop", "--working-dir", str(PEERS)),
            "/readyz",
            as_bytes,
        ),
        Variant(
            "LitServe", _peer("on_litserve.py"), "/health", _post_json("/noop", {"image": text})
        ),
        Variant(
            "MLServer",
            _peer("on_mlserver.py"),
            "/v2/health/ready",
            _post_json("/v2/models/noop/infer", infer),
        ),
    )


def _uvicorn(app: str) -> Sequence[str]:
    command = (sys.executable, "-m", "uvicorn", app, "--app-dir", str(PEERS), "--port", "PORT")
    fast = ("--loop", "uvloop", "--http", "httptools", "--no-access-log")
    return (*command, *fast, "--log-level", "warning")


def _peer(file: str) -> Sequence[str]:
    return (str(PEERS_PYTHON), str(PEERS / file), "PORT")


def _post_json(path: str, content: object) -> bytes:
    return post(path, json.dumps(content).encode(), "application/json")
