"""Processes that are forked, by one that has no threads."""

import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from tests.model_store.processes import processes


def in_a_fresh_process(function: Callable[..., Any], *arguments: object) -> Any:
    """What the function returns or raises in another process."""
    with ProcessPoolExecutor(1, mp_context=processes) as pool:
        return pool.submit(function, *arguments).result(timeout=300)


def fork(action: Callable[[], object]) -> int:
    """Run something in a child process; its process id."""
    child = os.fork()
    if child:
        return child
    try:
        action()
        os._exit(0)
    finally:
        os._exit(1)
