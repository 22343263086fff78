"""Holds MUNET_GRPC_PORT in the process that starts the workers, without importing gRPC."""

from __future__ import annotations

import errno
import socket

from service.errors import SettingsError
from service.http.listening import listener
from service.settings import Settings

_HELD: list[socket.socket] = []  # bound, but nobody listens on them


def hold(settings: Settings) -> None:
    """For the process that starts the workers: raises SettingsError if MUNET_GRPC_PORT is taken.

    Several workers share the port. Another gateway could share it too, and get a part of the calls.
    So this process holds it: the other one finds the port taken.
    """
    if not settings.grpc_port:
        return
    found = listening(settings, shared=False)
    if settings.workers == 1:  # it lets nobody share
        found.close()
        return
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    _HELD.append(found)


def listening(settings: Settings, *, shared: bool) -> socket.socket:
    """A socket on the port; raises SettingsError if it is taken."""
    try:
        return listener(settings.grpc_port, shared=shared)
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        reason = "another process listens on it" if taken else str(error)
        raise SettingsError(
            f"starting the gateway: MUNET_GRPC_PORT must be a free port, "
            f"found {settings.grpc_port}: {reason}"
        ) from None
