"""uvicorn's server, which is told of its end: its own looks ten times a second whether it has to.

A gateway that nobody asks then wakes up only for the date that answers carry.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from types import FrameType

import uvicorn

DATE_S = 1.0  # answers tell their date in seconds


class Server(uvicorn.Server):
    """Runs until a signal."""

    _loop: asyncio.AbstractEventLoop | None = None  # that waits for the end

    async def main_loop(self) -> None:
        """Until it should end."""
        self._signalled = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        while not await self.on_tick(0):  # which also sets the date
            with suppress(TimeoutError):
                await asyncio.wait_for(self._signalled.wait(), DATE_S)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """What a signal asks for; a signal before the loop began is found by its first look."""
        super().handle_exit(sig, frame)
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._signalled.set)


def install() -> None:
    """BentoML makes this one from now on."""
    uvicorn.Server = Server
