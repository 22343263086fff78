"""Ports: whether one can be listened on, asked before anything is started, and listening."""

from __future__ import annotations

import ipaddress
import socket

from service.errors import SettingsError


def require_port(host: str, port: int) -> None:
    """Raises SettingsError unless a server could listen there now, for TCP."""
    try:
        family = socket.AF_INET6 if ipaddress.ip_address(host).version == 6 else socket.AF_INET
    except ValueError:
        raise SettingsError(
            "starting the gateway: --host (or BENTOML_HOST) must be an IP address, such as "
            f"127.0.0.1 or 0.0.0.0, found {host!r}"
        ) from None
    try:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except (OSError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) else "a port is 0 to 65535"
        raise SettingsError(
            f"starting the gateway: cannot listen on port {port} of {host}: {reason}; free it, or "
            "choose others with --port and --host (or BENTOML_PORT and BENTOML_HOST)"
        ) from None


def listener(port: int, *, shared: bool) -> socket.socket:
    """A socket on this port of all addresses; raises OSError if somebody else has it.

    A `shared` one lets other processes of this user listen too, if theirs are shared.
    """
    dual = socket.has_dualstack_ipv6()
    found = socket.socket(socket.AF_INET6 if dual else socket.AF_INET)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # over what is closing
        if shared:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if dual:
            found.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        found.bind(("", port))
    except OSError:
        found.close()
        raise
    return found
