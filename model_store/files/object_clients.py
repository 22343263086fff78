"""obstore's clients for a bucket, and what is known of the object store behind them."""

import math
import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast

from obstore.exceptions import (
    BaseError,
    NotFoundError,
    PermissionDeniedError,
    UnauthenticatedError,
)
from obstore.store import from_url

from model_store.errors import StorageError

REQUEST_TIMEOUT_S = 30
BULK_TIMEOUT_S = 3600  # of one that moves the bytes of a blob
MESSAGE_CHARACTERS = 500
RETRIES = {"max_retries": 4, "retry_timeout": timedelta(seconds=20)}  # of 5xx and lost connections
ONCE = {"max_retries": 0, "retry_timeout": timedelta(seconds=20)}  # for what is not to be repeated
LATE_S = 1800.0  # until a request that was not answered is certainly not executed any more
LATE = "MUNET_STORE_LATE_S"  # the variable that sets it


@dataclass(frozen=True, slots=True)
class Clients:
    """obstore's clients for one bucket."""

    small: Any  # for small objects
    bulk: Any  # for large ones, which take long
    once: Any  # repeats nothing by itself

    @classmethod
    def of(cls, url: str) -> "Clients":
        """Connects to s3://bucket/prefix, gs://… or az://…. Raises StorageError."""
        try:
            return cls(
                _client(url, REQUEST_TIMEOUT_S, RETRIES),
                _client(url, BULK_TIMEOUT_S, RETRIES),
                _client(url, REQUEST_TIMEOUT_S, ONCE),
            )
        except (BaseError, ValueError, TypeError) as error:
            raise StorageError(f"opening the store {url}: {one_line(error)}") from None


def late_s() -> float:
    """Raises StorageError."""
    text = os.environ.get(LATE) or str(LATE_S)
    try:
        seconds = float(text)
        if not 0 <= seconds < math.inf:
            raise ValueError
    except ValueError:
        raise StorageError(
            f"{LATE}: expected seconds, 0 or more, after which the object store executes no request"
            f" that it has not answered, found {text!r}"
        ) from None
    return seconds


def _client(url: str, timeout_s: int, retries: Any) -> Any:
    options = {
        "allow_http": True,
        "connect_timeout": timedelta(seconds=10),
        "timeout": timedelta(seconds=timeout_s),
    }
    return from_url(url, client_options=cast(Any, options), retry_config=retries)


def one_line(error: Exception) -> str:
    """What obstore says, without its many lines of debugging."""
    text = " ".join(str(error).split("\n\nDebug source")[0].split())
    return text if len(text) <= MESSAGE_CHARACTERS else f"{text[:MESSAGE_CHARACTERS]}…"


def told(error: Exception) -> str:
    """An error of a request, for the person who has to do something about it."""
    if isinstance(error, (PermissionDeniedError, UnauthenticatedError)):
        advice = "give credentials that may do this"
    elif isinstance(error, (NotFoundError, FileNotFoundError)):
        advice = "look whether the bucket is there, and whether its name is right"
    else:
        advice = "try again, and if it stays so, look at the object store"
    return f"expected the object store to do it, found: {one_line(error)}; {advice}"
