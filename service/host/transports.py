"""The transport of a connection, which sends the head of an answer together with its body."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

BEGINNING = b"HTTP/1.1 "  # of every answer


class Joined:
    """A transport that sends the head of an answer together with the first of its body.

    uvicorn writes them one by one, which is two system calls and wakes the client for nothing.
    """

    __slots__ = ("_begun", "_head", "_lingers", "_transport", "ends")

    def __init__(self, transport: Any, lingers: Callable[[], bool]) -> None:
        """`lingers` says at a close whether what still comes is to be read first."""
        self._transport = transport
        self._lingers = lingers
        self.ends = False  # it is as good as closed
        self._head = b""
        self._begun = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Keeps a head, sends all else behind the head that is kept."""
        if not self._head and data[-4:] == b"\r\n\r\n" and data.startswith(BEGINNING):
            self._head = data[len(BEGINNING) :] if self._begun else data
            self._begun = False
            if data[9:12] == b"100":  # nothing follows before the client has heard of it
                self.flush()
        else:
            self._head, head = b"", self._head
            self._transport.writelines((head, data))

    def writelines(self, parts: Iterable[bytes]) -> None:
        """As `write`."""
        self.write(b"".join(parts))

    def write_whole(self, head: bytes, body: bytes) -> None:
        """Sends a whole answer."""
        if self._begun:
            self._begun, head = False, head[len(BEGINNING) :]
        self._transport.writelines((head, body))

    def begin(self) -> None:
        """Sends the bytes that every answer begins with, before the next answer is known."""
        self._begun = True
        self._transport.write(BEGINNING)

    def flush(self) -> None:
        """Sends a head that nothing follows."""
        if self._head and not self._transport.is_closing():
            self.write(b"")

    def is_closing(self) -> bool:
        """Whether nothing more can be sent."""
        return self.ends or self._transport.is_closing()

    def close(self) -> None:
        """Sends what there is first."""
        self.flush()
        if self._lingers():
            self.ends = True
            self._transport.write_eof()
        else:
            self._transport.close()
