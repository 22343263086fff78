"""What clients are told of an error of the store."""

from __future__ import annotations

from model_store import UnknownTask, UnknownVersion


def reason(error: Exception) -> str:
    """Why something cannot be read or loaded.

    Of a task or version that is gone never in the words of the store, which name other tasks.
    """
    if isinstance(error, UnknownTask):
        return "the task has been removed"
    if isinstance(error, UnknownVersion):
        return "this version has been removed"
    return f"{type(error).__name__}: {error}"
