"""The sockets on which a process of `bentoml serve` listens, shut before its workers end."""

from __future__ import annotations

import contextlib
import os
import select
import socket
from collections.abc import Iterator


def stop_listening(*, last: bool) -> bool:
    """Shuts every listening socket of this process, and of others that hold it; for an only worker.

    BentoML's main process holds it too: new connections would hang until that ends, and then be
    reset. Shutting also resets connections that nobody has accepted yet. So if one waits, nothing
    is done and False is returned, unless this is the `last` attempt.
    """
    with _sockets() as sockets:
        found = [one for one in sockets if _listens(one)]
        poll = select.poll()
        for one in found:
            poll.register(one, select.POLLIN)
        if not last and poll.poll(0):
            return False
        for one in found:
            with contextlib.suppress(OSError):  # shut already
                one.shutdown(socket.SHUT_RDWR)
    return True


@contextlib.contextmanager
def _sockets() -> Iterator[list[socket.socket]]:
    """All sockets of this process; they stay open, as others own them."""
    found: list[socket.socket] = []
    for name in os.listdir("/dev/fd"):
        with contextlib.suppress(OSError):  # no socket, or closed since
            found.append(socket.socket(fileno=int(name)))
    try:
        yield found
    finally:
        for one in found:
            one.detach()


def _listens(one: socket.socket) -> bool:
    """Whether it listens for clients; Unix sockets are for the metrics of workers."""
    try:
        listens = one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError:  # closed meanwhile by another thread: that must not keep the gateway alive
        return False
    return bool(listens) and one.family != socket.AF_UNIX
