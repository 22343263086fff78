"""Checks beyond the parser's, so that a proxy and the gateway read a request's head alike.

A proxy in front decides by the head where a request ends and whom it is for. If the gateway could
decide otherwise, it might take one client's body for another's request.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from http import HTTPStatus

from starlette.types import Scope

from service.request import TRACEPARENT as TRACEPARENT_HEADER

HOST = re.compile(
    rb"(?:[A-Za-z0-9._~%!$&'()*+,;=-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?"  # a name or [IPv6]
)
SCHEMES = (b"http", b"https")
TRACEPARENT = TRACEPARENT_HEADER.encode()
Headers = Sequence[tuple[bytes, bytes]]  # names in lower case


def refusal(version: str, method: bytes, target: bytes, headers: Headers) -> HTTPStatus | None:
    """The status that this head is refused with, before its connection is closed."""
    if version not in ("1.0", "1.1"):
        return HTTPStatus.HTTP_VERSION_NOT_SUPPORTED
    if method == b"CONNECT":  # what follows would be for somebody else
        return HTTPStatus.NOT_IMPLEMENTED
    hosts: list[bytes] = []
    encodings: list[bytes] = []
    credentials = 0
    for name, value in headers:
        if name == b"host":
            hosts.append(value)
        elif name == b"transfer-encoding":
            encodings.append(value)
        elif name == b"authorization":
            credentials += 1
    if not _one_host(version, target, hosts) or credentials > 1:  # a proxy may have read another
        return HTTPStatus.BAD_REQUEST
    if not encodings:
        return None
    if version == "1.0":  # it had none: a proxy of that time takes the body otherwise
        return HTTPStatus.BAD_REQUEST
    chunked = [one.lower() for one in encodings] == [b"chunked"]
    return None if chunked else HTTPStatus.NOT_IMPLEMENTED


def _one_host(version: str, target: bytes, hosts: Sequence[bytes]) -> bool:
    """Whether there is one host, equal to that of an absolute target; HTTP/1.0 may have none."""
    if len(hosts) > 1 or (hosts and not HOST.fullmatch(hosts[0])):
        return False
    if target[:1] in (b"/", b"*"):
        return bool(hosts) or version == "1.0"
    scheme, _, rest = target.partition(b"://")
    authority = re.split(rb"[/?#]", rest, maxsplit=1)[0]
    return scheme.lower() in SCHEMES and [authority.lower()] == [host.lower() for host in hosts]


def values(scope: Scope, *wanted: bytes) -> Sequence[str | None]:
    """The first header of each name, which is in lower case; what Starlette's mapping says."""
    found: dict[bytes, str | None] = dict.fromkeys(wanted)
    for name, text in scope["headers"]:
        if name in found and found[name] is None:
            found[name] = text.decode("latin-1")
    return list(found.values())
