"""A store that changes while it is checked."""

import fcntl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from model_store.files.local import LocalStorage


def _is_free(root: Path) -> bool:
    """Whether nobody holds a lock that another process would wait for."""
    for lock in (root / "lock", root / "lock.gc"):
        with lock.open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
    return True


class Overtaken:
    """Counts this thread's calls of local storages, and does something else before one of them, or
    before the next one that is made without a lock. Gateways of other tests have their own threads.
    """

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._thread = threading.get_ident()
        self.made = 0
        self.overtaken = True
        self._number = 0
        self._action: Callable[[], object] = lambda: None
        for name in ("read", "load", "stat", "names", "walk", "read_many"):
            patch.setattr(LocalStorage, name, self._counting(getattr(LocalStorage, name)))

    def _counting(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any) -> Any:
            if threading.get_ident() != self._thread:
                return method(*arguments)
            self.made += 1
            due = not self.overtaken and self.made >= self._number
            if due and _is_free(Path(arguments[0].url)):
                self.overtaken = True
                self._action()
            return method(*arguments)

        return counted

    def count(self, work: Callable[[], object]) -> None:
        """The calls of this."""
        self.made = 0
        work()

    def overtake(self, number: int, action: Callable[[], object]) -> None:
        """Do this before the call of this number, from now on."""
        self.made, self._number, self._action, self.overtaken = 0, number, action, False
