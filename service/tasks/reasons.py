"""What clients are told of an error: what kind it is, and of which bytes.

The words of the store, of the system and of libraries name files, folders and addresses of the
server, and other tasks: they go to the log only. What is told comes from this file, from errors
whose words are made for clients (GatewayError, Told), or is the digest that an error names.
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
    """What to say about a name that is no task's; `near` are names that it may be meant for."""
    shown = task if len(task) <= SHOWN_CHARACTERS else task[:SHOWN_CHARACTERS] + "…"
    hint = f"did you mean {' or '.join(near)}?" if near else "GET /tasks lists all tasks"
    return UnknownTask(f"there is no task {shown!r}; {hint}", nearest=near)


def no_version(task: str, version: int) -> UnknownTask:
    """What to say about a number that is no version's of a task."""
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
