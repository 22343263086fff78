"""/livez and /readyz on a port of their own, answered by a thread of its own.

Law: health is answered under every load. On the gateway's own port, a probe waits behind all
earlier requests. There a busy gateway would look broken, and all overloaded gateways would be taken
out of service together.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Mapping
from http import HTTPStatus

from service.errors import SettingsError
from service.http.listening import listener

HEAD_BYTES, HEAD_S = 8192, 5.0  # of a probe's request
MOST = 64  # probes at once; more are not answered
PATHS = {b"/livez": "alive", b"/healthz": "alive", b"/readyz": "ready"}


def require_port(port: int) -> None:
    """Raises SettingsError unless health could be answered there now."""
    _listener(port, shared=False).close()


class Health:
    """Answers probes from its start to its stop."""

    def __init__(self, port: int, looks: Mapping[str, Callable[[], bool]], shared: bool) -> None:
        """`looks` are `alive` and `ready`; several processes may have a `shared` port.

        Raises SettingsError if the port is taken.
        """
        self._looks = looks
        self._probes = 0
        self._socket = _listener(port, shared)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="health", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Ends it."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        started = asyncio.start_server(self._probe, sock=self._socket, limit=HEAD_BYTES)
        server = self._loop.run_until_complete(started)
        self._loop.run_forever()
        server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    async def _probe(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._probes += 1
        try:
            if self._probes <= MOST:
                async with asyncio.timeout(HEAD_S):
                    status = self._status(await reader.readuntil(b"\r\n\r\n"))
                    writer.write(
                        f"HTTP/1.1 {status} {status.phrase}\r\ncontent-length: 0\r\n"
                        "connection: close\r\n\r\n".encode()
                    )
                    await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # it gets no answer
        finally:
            self._probes -= 1
            writer.close()

    def _status(self, head: bytes) -> HTTPStatus:
        method, _, rest = head.partition(b" ")
        look = PATHS.get(rest.partition(b" ")[0].partition(b"?")[0])
        if look is None:
            return HTTPStatus.NOT_FOUND
        if method not in (b"GET", b"HEAD"):
            return HTTPStatus.METHOD_NOT_ALLOWED
        return HTTPStatus.OK if self._looks[look]() else HTTPStatus.SERVICE_UNAVAILABLE


def _listener(port: int, shared: bool) -> socket.socket:
    try:
        found = listener(port, shared=shared)
        found.listen()
        return found
    except OSError as error:
        raise SettingsError(
            f"starting the gateway: MUNET_HEALTH_PORT must be a free port, found {port}: "
            f"{error.strerror}"
        ) from None
