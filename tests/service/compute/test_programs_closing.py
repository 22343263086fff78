"""A gateway that ends does not wait for programs that nobody has begun to make."""

from __future__ import annotations

import threading
from typing import Any

from service.compute.backends import Compiled
from service.compute.paths import stages_of
from service.compute.programs import COMPILING_THREADS, Programs
from service.metrics.instruments import Metrics
from tests.service.systems import TINY
from tests.service.waiting import eventually


class Slow:
    """A back end whose programs for more than one row take until the gate opens."""

    name, device, streams, inline, call_tokens, fuses = "slow", "cpu", 1, True, 2**20, False

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.begun: list[int] = []

    def compile(self, chain: Any, rows: int, **_: Any) -> Compiled:
        if rows > 1:
            self.begun.append(rows)
            self.gate.wait()
        return Compiled(lambda *_: None, cached=False)


def test_only_what_was_begun_is_finished() -> None:
    backend: Any = Slow()
    programs = Programs(backend, Metrics(), 64)
    program, _ = stages_of(TINY)[1]
    programs.make((program,))
    eventually(lambda: len(backend.begun) == COMPILING_THREADS)
    closing = threading.Thread(target=programs.close)
    closing.start()
    eventually(lambda: programs._following._shutdown)
    backend.gate.set()
    closing.join()
    assert len(backend.begun) == COMPILING_THREADS
