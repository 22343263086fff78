"""Deadlines that pass when a test says so, however fast the machine is."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace

import pytest

from tests.service.in_process import Gateway


def without(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow machine does not answer too late."""
    runtime = gateway.app.state.runtime
    patient = replace(runtime.settings)
    object.__setattr__(patient, "deadline_ms", 600_000)  # beyond what may be set
    monkeypatch.setattr(runtime, "settings", patient)


class Deadlines:
    """Those of all requests that this process answers from now on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._begun: list[asyncio.Timeout] = []
        real = asyncio.timeout

        def timeout(seconds: float | None) -> asyncio.Timeout:
            self._begun.append(real(seconds))
            return self._begun[-1]

        monkeypatch.setattr(asyncio, "timeout", timeout)

    def passes(self) -> None:
        """The deadline of what waits now is over."""
        now = asyncio.get_running_loop().time()
        for one in self._begun:
            with suppress(RuntimeError):  # it waits no more
                one.reschedule(now)
        self._begun.clear()
