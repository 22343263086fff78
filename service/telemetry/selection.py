"""A page of metrics for some tasks: their series, and all series without a task."""

from __future__ import annotations

import re
from collections.abc import Collection

_TASK = re.compile(rb'[{,]task="((?:[^"\\]|\\.)*)"')


def of_tasks(page: bytes, tasks: Collection[str]) -> bytes:
    """The page without the series of other tasks; help and type lines stay."""
    wanted = {task.encode() for task in tasks}
    lines = page.splitlines(keepends=True)
    return b"".join(line for line in lines if _is_wanted(line, wanted))


def _is_wanted(line: bytes, wanted: Collection[bytes]) -> bool:
    found = None if line.startswith(b"#") else _TASK.search(line)
    return found is None or not found[1] or found[1] in wanted
