"""Copies of OpenVINO programs: one for each thread that needs one, within the memory there is."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest

from service.compute.backends import openvino_backend
from service.compute.backends.openvino_backend import OpenVinoBackend
from service.compute.paths import stages_of
from service.compute.programs import Programs
from service.metrics.instruments import Metrics
from tests.service.servers import ROOT
from tests.service.systems import TINY
from tests.service.waiting import eventually


def test_a_trial_reads_no_memory_that_is_freed() -> None:
    """Inputs of this size are taken from the system one by one, and given back at once."""
    code = """
import numpy as np
from openvino import Core, Model, opset13
from service.compute.backends.openvino_backend import _Copy
inputs = [opset13.parameter([4096, 4096], np.float32) for _ in range(2)]
graph = Model([opset13.reduce_max(opset13.add(*inputs), np.array([0, 1]))], inputs)
_Copy(Core().compile_model(graph, "CPU"), 1)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_program_is_copied_when_a_thread_finds_it_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the background, and never more often than threads may run it."""
    monkeypatch.setattr(openvino_backend, "_Copy", lambda model, rows: model)
    asked: list[openvino_backend._Copies] = []
    copies = openvino_backend._Copies("first", 1, 2, asked.append)  # type: ignore[arg-type]
    first = copies.get()
    assert first == "first" and not asked
    copies.put(first)
    assert copies.get() is first and not asked, "one thread after the other needs no copy"
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(copies.get) for _ in range(2)]
        eventually(lambda: bool(asked))
        asked[0].add("second")  # type: ignore[arg-type]
        eventually(lambda: any(one.done() for one in waiting))
        copies.put(first)
        assert {one.result() for one in waiting} == {"first", "second"}
    assert len(asked) == 1


@pytest.mark.parametrize("spare", [True, False])
def test_a_copy_that_cannot_be_made_is_put_off(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, spare: bool
) -> None:
    """Those that there are go on to answer; it is tried again later, not at once."""
    openvino = OpenVinoBackend(None, 2)
    monkeypatch.setattr(openvino_backend, "_Copy", lambda model, rows: model)
    now, looks, asked_at = 100.0, 0, []

    def clock() -> float:
        nonlocal looks
        looks += 1
        return now

    monkeypatch.setattr(openvino_backend, "time", SimpleNamespace(monotonic=clock))
    first: Any = "first"
    copies = openvino_backend._Copies(first, 1, 2, lambda _: asked_at.append(now))
    copies.get()
    with ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(copies.get)]
        eventually(lambda: asked_at)
        openvino._add_copy(b"no program", lambda: spare, copies)
        assert ("event=program_not_copied" in caplog.text) == spare
        seen = looks
        waiting.append(pool.submit(copies.get))
        eventually(lambda: looks > seen)  # it finds that it is too early
        now += openvino_backend.COPY_AGAIN_S
        waiting.append(pool.submit(copies.get))
        eventually(lambda: len(asked_at) == 2)
        assert not any(one.done() for one in waiting)
        for number in range(3):
            copies.put(number)  # type: ignore[arg-type]
    assert asked_at == [100.0, 100.0 + openvino_backend.COPY_AGAIN_S]
    openvino.close()


def test_each_program_and_each_copy_asks_for_the_memory_of_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However many threads may run it."""
    first: list[int] = []
    more: list[int] = []

    class Asked:
        def require_room(self, size: int) -> None:
            first.append(size)

        def has_spare(self, size: int) -> bool:
            more.append(size)
            return len(more) == 1

    backend = OpenVinoBackend(None, 3)
    programs = Programs(backend, Metrics(), 1)
    programs.memory = Asked()
    program, _ = stages_of(TINY)[1]
    kept: list[openvino_backend._Copies] = []
    runner = openvino_backend._runner

    def kept_runner(copies: openvino_backend._Copies, *rest: Any, **more: Any) -> Any:
        kept.append(copies)
        return runner(copies, *rest, **more)

    monkeypatch.setattr(openvino_backend, "_runner", kept_runner)
    monkeypatch.setattr(OpenVinoBackend, "fuses", False)
    programs.make((program,))
    (copies,) = kept
    mine = copies.get()
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(copies.get) for _ in range(2)]
        eventually(lambda: len(more) == 2)  # of which one was granted
        eventually(lambda: sum(one.done() for one in waiting) == 1)
        copies.put(mine)
    assert len(first) == 1 and set(more) == set(first)
    programs.close()
    backend.close()
