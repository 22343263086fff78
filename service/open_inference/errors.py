"""What the protocol refuses, in addition to the gateway's own refusals.

GatewayError
├── BadRequest            400  also: not the protocol, or tensors that do not fit
├── TooManyCalls          429  over gRPC: as many calls are open as may be
└── NotSupported          501  a call or extension of other servers that has no meaning here
"""

from __future__ import annotations

import reprlib

from service.errors import BadRequest, GatewayError

__all__ = ["NOT_SERVED", "BadRequest", "NotSupported", "TooManyCalls", "shown"]
NOT_SERVED = "shared memory, trace and log settings are not served here"
_short = reprlib.Repr()  # of a long list the first few elements
_short.maxstring = _short.maxother = 80


class TooManyCalls(GatewayError):
    """As many calls are open as may be, in all or of this caller."""

    status, kind, title = 429, "too-many-calls", "Too many calls"


class NotSupported(GatewayError):
    """A call of the protocol's extensions that this gateway does not have."""

    status, kind, title = 501, "not-supported", "Not supported"


def shown(value: object) -> str:
    """Something that a client sent, short enough to be told back."""
    return _short.repr(value)
