"""How each server is started on a set of tasks, how it is asked, and what it answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loadtests.gateways import ROOT, bentoml
from loadtests.peers.plan import EMPTY, OURS, Form

APPS = ROOT / "loadtests/peers/apps"
PYTHON = ROOT / ".venv-peers/bin/python"  # both made by `make peers`
TRITON_PYTHON = ROOT / ".venv-peers-triton/bin/python"
BOUNDARY = "munet-loadtest"

TYPES: Mapping[Form, str] = {"png": "image/png", "jpeg": "image/jpeg", "photo": "image/jpeg"}
Request = Callable[[str, bytes, Form], bytes]  # of a task, a file and its form
Predictions = Callable[[bytes], Any]  # of a body: [{"index": ..., "probability": ...}, ...]


def _post(path: str, body: bytes, content_type: str, *more: str) -> bytes:
    lines = (
        f"POST {path} HTTP/1.1",
        "host: 127.0.0.1",
        f"content-type: {content_type}",
        f"content-length: {len(body)}",
        *more,
    )
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def _as_body(task: str, file: bytes, kind: Form) -> bytes:
    return _post(f"/classify/{task}", file, TYPES[kind])


def _by_header(task: str, file: bytes, kind: Form) -> bytes:
    return _post("/", file, TYPES[kind], f"serve_multiplexed_model_id: {task}")


def _as_form(task: str, file: bytes, kind: Form) -> bytes:
    start = (
        f'--{BOUNDARY}\r\ncontent-disposition: form-data; name="task"\r\n\r\n{task}\r\n'
        f'--{BOUNDARY}\r\ncontent-disposition: form-data; name="image"; filename="a.{kind}"\r\n'
        f"content-type: {TYPES[kind]}\r\n\r\n"
    )
    body = start.encode() + file + f"\r\n--{BOUNDARY}--\r\n".encode()
    return _post("/classify", body, f"multipart/form-data; boundary={BOUNDARY}")


def _as_tensors(task: str, file: bytes, kind: Form) -> bytes:
    """The Open Inference Protocol with binary tensors of one string each."""
    inputs: list[Any] = []
    data = b""
    for name, value in (("task", task.encode()), ("image", file)):
        size = {"binary_data_size": 4 + len(value)}
        inputs.append({"name": name, "datatype": "BYTES", "shape": [1, 1], "parameters": size})
        data += len(value).to_bytes(4, "little") + value
    head = json.dumps({"inputs": inputs}).encode()
    length = f"inference-header-content-length: {len(head)}"
    return _post("/v2/models/classify/infer", head + data, "application/octet-stream", length)


def _predictions(body: bytes) -> Any:
    return json.loads(body)["predictions"]


def _predictions_in_tensor(body: bytes) -> Any:
    return json.loads(json.loads(body)["outputs"][0]["data"][0])


@dataclass(frozen=True, slots=True)
class Kind:
    """One server; `command` has the word PORT where the port belongs."""

    command: Sequence[str]
    ready: str = "/readyz"  # answers with 200 once the server can be asked
    request: Request = _as_body
    predictions: Predictions = _predictions
    variables: Mapping[str, str] = field(default_factory=dict)
    models: str = "whole"  # the folder of its models, in which tasks are added
    directory: Path = ROOT  # that it is started in


def _peers() -> dict[str, Kind]:
    bare = (str(PYTHON), str(APPS / "on_starlette.py"), "PORT")
    served = bentoml("on_bentoml:Classifier", "--working-dir", str(APPS))
    return {
        "bare": Kind(bare),
        "split-batch": Kind(bare, variables={"BATCHES": "1"}, models="tails"),
        "split-batch2": Kind(bare, variables={"BATCHES": "2"}, models="tails"),
        "bentoml": Kind((str(PYTHON), *served[1:]), request=_as_form),
        "triton": Kind(
            (str(TRITON_PYTHON), str(APPS / "on_triton.py"), "PORT"),
            "/v2/models/classify/ready",
            _as_tensors,
            _predictions_in_tensor,
        ),
        "litserve": Kind(
            (str(PYTHON), str(APPS / "on_litserve.py"), "PORT"), "/health", request=_as_form
        ),
        "ray": Kind((str(PYTHON), str(APPS / "on_ray.py"), "PORT"), "/", request=_by_header),
        EMPTY: Kind(
            bentoml("empty_bentoml:Empty", "--working-dir", str(APPS)),
            request=lambda *_: _post("/answer", b"{}", "application/json"),
        ),
    }


def kind_of(name: str, folder: Path, pixels: int) -> Kind:
    """The server of this name on a folder of task files: `store`, `whole` and `tails`."""
    if name.partition("@")[0] == OURS:
        variables = {
            "MUNET_STORE": str(folder / "store"),
            "MUNET_COMPILATION_CACHE": str(folder / "programs" / name.replace("/", "_")),
        }
        directory = Path(name.partition("@")[2] or ROOT).resolve()
        return Kind(bentoml("."), variables=variables, models="store", directory=directory)
    kind = _peers()[name]
    variables = {
        **kind.variables,
        "MODELS": str(folder / kind.models),
        "PIXELS": str(pixels),
        "PYTHONPATH": str(APPS),
        "OMP_NUM_THREADS": "1",
        "HOME": str(folder / "home"),
        "RAY_TMPDIR": str(folder / "ray"),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    return Kind(kind.command, kind.ready, kind.request, kind.predictions, variables, kind.models)


def missing(name: str) -> str | None:
    """Why a peer cannot run here; None if it can."""
    if name.partition("@")[0] == OURS or name == EMPTY:
        return None
    python = Path(_peers()[name].command[0])
    return None if python.exists() else f"{name} is left out: {python} is not there (make peers)"
