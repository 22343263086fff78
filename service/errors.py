"""What the gateway refuses, and with which status.

GatewayError
├── BadImage              400  not an image, truncated, empty
├── BadRequest            400  a body that is not what it says it is
├── Unauthenticated       401  the token is missing or not known
├── Forbidden             403  the token does not allow this
├── UnknownTask           404  with the nearest names
├── UploadTimeout         408  the body did not arrive in time
├── TooLarge              413  bytes or pixels
├── UnsupportedMedia      415  content type
├── BadParameter          422  query or header
├── TaskQueueFull         429  this task's queue is full
├── RateExceeded          429  more requests than the token's rate allows
├── ClientGone            499  the client closed the connection: nobody reads this
├── InternalError         500  a row failed in the engine
├── Unavailable           503  overloaded, loading, failed to load, stopping
└── DeadlineExceeded      504  the request's deadline passed
Told                           a version that cannot be served, in words made for clients
SettingsError                  an environment variable that cannot be used; start-up fails
"""

from __future__ import annotations

from collections.abc import Sequence


class GatewayError(Exception):
    """A refusal that becomes an `application/problem+json` answer."""

    status = 500
    kind = "internal"  # the last part of the problem's type, and of metric label `reason`
    title = "Internal error"

    def __init__(self, detail: str, *, retry_after_s: float | None = None) -> None:
        """`detail` is shown to the client; `retry_after_s` becomes the Retry-After header."""
        super().__init__(detail)
        self.detail = detail
        self.retry_after_s = retry_after_s


class BadImage(GatewayError):
    """The body is not an image that can be decoded."""

    status, kind, title = 400, "bad-image", "Not a readable image"


class BadRequest(GatewayError):
    """A body that cannot be read as what it says it is."""

    status, kind, title = 400, "bad-request", "Bad request"


class Unauthenticated(GatewayError):
    """No token, or none that is known here."""

    status, kind, title = 401, "unauthenticated", "A token is needed"


class Forbidden(GatewayError):
    """This caller may not do that."""

    status, kind, title = 403, "forbidden", "Not allowed"


class UnknownTask(GatewayError):
    """No such task, or no such version of it."""

    status, kind, title = 404, "unknown-task", "Unknown task"

    def __init__(self, detail: str, *, nearest: Sequence[str] = ()) -> None:
        """`nearest` are names of tasks that exist."""
        super().__init__(detail)
        self.nearest = tuple(nearest)


class UploadTimeout(GatewayError):
    """The client did not send its body before the deadline."""

    status, kind, title = 408, "upload-timeout", "Upload too slow"


class TooLarge(GatewayError):
    """More bytes or pixels than allowed."""

    status, kind, title = 413, "too-large", "Too large"


class UnsupportedMedia(GatewayError):
    """A content type that carries no image."""

    status, kind, title = 415, "unsupported-media", "Unsupported content type"


class BadParameter(GatewayError):
    """A query parameter, header or form that cannot be used."""

    status, kind, title = 422, "bad-parameter", "Bad parameter"


class TaskQueueFull(GatewayError):
    """The most rows of this task that may wait are waiting."""

    status, kind, title = 429, "task-queue-full", "Too many requests for this task"


class RateExceeded(GatewayError):
    """The token has asked more often than its rate allows."""

    status, kind, title = 429, "rate-exceeded", "Too many requests of this token"


class ClientGone(GatewayError):
    """The client closed the connection before its answer; only logs and metrics see the status."""

    status, kind, title = 499, "client-gone", "Client closed the connection"


class InternalError(GatewayError):
    """The engine failed on this row."""


class Unavailable(GatewayError):
    """The gateway or the task cannot answer now; asking again later may help."""

    status, kind, title = 503, "unavailable", "Unavailable"


class DeadlineExceeded(GatewayError):
    """The answer would come later than the client wants it."""

    status, kind, title = 504, "deadline", "Deadline exceeded"


class Told(Exception):
    """Why a version cannot be served; the message may be shown to clients.

    It names tasks, components and numbers, but no file, folder or address of the server.
    """


class SettingsError(Exception):
    """An environment variable holds something unusable."""
