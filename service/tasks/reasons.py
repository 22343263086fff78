"""What clients are told about an error: its kind, and the digest of the bytes concerned.

Messages of the store, the system and libraries name files, folders and addresses of the server, and
other tasks. So they go only to the log. Clients get texts of this file, messages that are made for
clients (GatewayError, Told), and the digest that an error names.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from model_store import StoreError, UnknownVersion
from model_store import UnknownTask as NoSuchTask
from service.errors import GatewayError, Told, UnknownTask

SHOWN_CHARACTERS = 100  # of a name that somebody sent
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def reason(error: BaseException) -> str:
    """Why something cannot be read or loaded, in words that name no place of the server."""
    if isinstance(error, GatewayError):
        return error.detail
    if isinstance(error, NoSuchTask):
        return "the task has been removed"
    if isinstance(error, UnknownVersion):
        return "this version has been removed"
    return f"{type(error).__name__}: {_told(error)}"


def no_task(task: str, near: Sequence[str] = ()) -> UnknownTask:
    """The message for a name that no task has; `near` are names that may be meant."""
    shown = task if len(task) <= SHOWN_CHARACTERS else task[:SHOWN_CHARACTERS] + "…"
    hint = f"did you mean {' or '.join(near)}?" if near else "GET /tasks lists all tasks"
    return UnknownTask(f"there is no task {shown!r}; {hint}", nearest=near)


def no_version(task: str, version: int) -> UnknownTask:
    """The message for a number that no version of a task has."""
    return UnknownTask(f"task {task!r} has no version {version}")


def _told(error: BaseException) -> str:
    if isinstance(error, Told):
        return str(error)
    if isinstance(error, StoreError):
        kind = (type(error).__doc__ or "the store").partition("\n")[0].rstrip(".")
        digest = DIGEST.search(str(error))
        return f"{kind[0].lower()}{kind[1:]}" + (f" ({digest[0]})" if digest else "")
    if isinstance(error, OSError) and error.errno is not None:
        return f"{os.strerror(error.errno)}, when the store was read"
    return "the gateway's log says more"
