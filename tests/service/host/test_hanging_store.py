"""A gateway whose store hangs, as a network file system may for hours, ends all the same."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from model_store import ModelStore
from tests.service.servers import ROOT, START_S, Server
from tests.service.systems import TINY, publish
from tests.service.waiting import PATIENCE_S, eventually

HANGS = """
import threading
from pathlib import Path
from model_store import ModelStore

def hang(*_, **__):
    Path({told!r}).touch()
    threading.Event().wait()

setattr(ModelStore, {what!r}, hang)
"""


@pytest.mark.parametrize("what", ["component", pytest.param("resolve", marks=pytest.mark.slow)])
def test_who_reads_a_store_that_hangs_holds_up_no_end(
    what: str, compilations: str, tmp_path: Path
) -> None:
    store, told = ModelStore(tmp_path / "store", create=True), tmp_path / "told"
    publish(store, "a", TINY)
    (tmp_path / "sitecustomize.py").write_text(HANGS.format(told=str(told), what=what))
    variables = {
        "PYTHONPATH": os.pathsep.join(map(str, (tmp_path, ROOT))),
        "MUNET_STORE": store.url,
        "MUNET_COMPILATION_CACHE": compilations,
        "MUNET_DRAIN_S": "0.01",
    }
    server = Server(".", tmp_path / "home", **variables)
    eventually(told.exists, START_S)
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(PATIENCE_S) == 0
    log = server.log.read_text()
    assert "seconds=30" not in log and "Traceback" not in log, log
