"""The command `bentoml serve` itself: it loads little more than it needs to start workers."""

from __future__ import annotations

import subprocess
import sys

from tests.service.servers import ROOT

OF_WORKERS = ("PIL", "grpc", "numpy", "openvino", "service.app", "service.runtime", "vit")
CODE = """
import sys
import click

@click.command
def serve():
    from service.host.gateway import Gateway
    print(*sys.modules)

serve()
"""


def modules(code: str) -> set[str]:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_the_main_process_loads_nothing_that_answers_requests() -> None:
    assert modules(CODE).isdisjoint(OF_WORKERS)


def test_who_answers_requests_loads_grpc_only_where_its_port_is_set() -> None:
    loaded = modules("import sys, service.host.gateway; print(*sys.modules)")
    assert loaded.issuperset({"PIL", "service.app", "service.runtime", "vit"})
    assert loaded.isdisjoint({"grpc", "google.protobuf", "openvino"})
