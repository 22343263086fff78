"""The messages are those of the protocol, and the document's example runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tritonclient.grpc import service_pb2

from service.open_inference import models
from service.open_inference.inference_pb2 import DESCRIPTOR
from tests.service.open_inference.conftest import WIDE, Spoken
from tests.service.systems import png

README = Path(models.__file__).with_name("README.md")


def test_the_messages_are_the_protocols() -> None:
    theirs = service_pb2.DESCRIPTOR.pool
    for message in DESCRIPTOR.message_types_by_name.values():
        other = theirs.FindMessageTypeByName(message.full_name)
        for field in message.fields:
            twin = other.fields_by_name[field.name]
            for what in ("number", "type", "is_repeated"):
                assert getattr(field, what) == getattr(twin, what), field.full_name
    for name, service in DESCRIPTOR.services_by_name.items():
        other = service_pb2.DESCRIPTOR.services_by_name[name]
        for method in service.methods:
            twin = other.methods_by_name[method.name]
            assert method.input_type.full_name == twin.input_type.full_name
            assert method.output_type.full_name == twin.output_type.full_name
            assert method.client_streaming == twin.client_streaming
            assert method.server_streaming == twin.server_streaming
    enum = DESCRIPTOR.enum_types_by_name["DataType"]
    assert (
        enum.values_by_name.keys()
        == theirs.FindEnumTypeByName(enum.full_name).values_by_name.keys()
    )


@pytest.mark.parametrize("transport", ["http", "grpc"])
def test_the_documents_example_runs(spoken: Spoken, transport: str, tmp_path: Path) -> None:
    code = README.read_text().split("```python\n")[1].split("```")[0]
    url = {"http": spoken.http, "grpc": spoken.grpc}[transport]
    (tmp_path / "image.png").write_bytes(png(1))
    done = subprocess.run(
        [
            *(sys.executable, "-c", code.replace("import http as", f"import {transport} as")),
            *(WIDE, str(tmp_path / "image.png")),
        ],
        env={**os.environ, "GATEWAY": url},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    best = spoken.server.classify(WIDE, png(1)).json["predictions"][0]
    assert f":{best['index']}:{best['label']}'" in done.stdout.split(",")[0]
