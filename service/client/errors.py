"""What goes wrong between a client and a gateway.

ClientError
├── NoGateway     nothing answers there, or not in time
├── NotAGateway   something answers that is no gateway
└── Refused       the gateway refused, with a status and a message
    └── BadImage  it refused this image; others may be answered
"""

from __future__ import annotations


class ClientError(Exception):
    """A request that was not answered; the message says what to do."""


class NoGateway(ClientError):
    """Nothing answers at the address."""


class NotAGateway(ClientError):
    """What answers at the address does not speak as a gateway does."""


class Refused(ClientError):
    """The gateway refused; the message is the gateway's own."""

    def __init__(self, detail: str, status: int, kind: str) -> None:
        """`kind` is the last part of the problem's type, such as `unknown-task`."""
        super().__init__(detail)
        self.detail = detail
        self.status = status
        self.kind = kind

    def __reduce__(self) -> tuple[type[Refused], tuple[str, int, str]]:
        """Errors of worker processes keep their status and kind."""
        return type(self), (self.detail, self.status, self.kind)


class BadImage(Refused):
    """This image cannot be answered: no picture, too large, or not to be read."""


UNREADABLE = "unreadable"  # the kind of a file that could not be read, and so was not sent


def unreadable(why: str) -> BadImage:
    """The error of an image that could not be read where it is kept."""
    return BadImage(why, 400, UNREADABLE)
