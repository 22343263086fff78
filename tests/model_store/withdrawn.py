"""A folder of a store may not be entered any more, from some system call of an operation on: for a
while, or until the operation has ended. What was acknowledged is there when it may be again.

    python -m tests.model_store.withdrawn FOLDER EVERY

plays each operation, with each EVERYth of its calls as the moment. To be run by a process that
heeds permissions. Prints how many moments there were; an error ends it.
"""

import builtins
import io
import itertools
import os
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from model_store import StoreError
from tests.model_store.gates import ACTIONS
from tests.model_store.histories import prepared, require_sound
from tests.model_store.places import Place, local_place

FOLDERS = ("blobs/sha256", "refs/tasks", "copies/tasks", "tmp", "refs", "copies/signatures", ".")
CALLS_LONG = (1, 5, 1000)  # for this many calls
OS = ("open", "scandir", "stat", "lstat", "link", "replace", "unlink", "utime", "mkdir", "fsync")


class Withdrawn:
    """Counts system calls, and lets a folder be closed at some of them."""

    def __init__(self, folder: Path, first: int, calls: int) -> None:
        self._folder = folder
        self._closed = range(first, first + calls)
        self._mode = stat.S_IMODE(folder.stat().st_mode)
        self.count = 0

    def called(self) -> None:
        """A system call is about to be made."""
        self.count += 1
        if self.count == self._closed.start:
            self._folder.chmod(0)
        if self.count == self._closed.stop:
            self.open()

    def open(self) -> None:
        """As before."""
        self._folder.chmod(self._mode)


@contextmanager
def withdrawn(folder: Path, first: int, calls: int) -> Iterator[Withdrawn]:
    """A folder that is closed from one call on, for this many calls."""
    found = Withdrawn(folder, first, calls)
    with pytest.MonkeyPatch.context() as patch:
        for name in OS:
            patch.setattr(os, name, _counted(found, getattr(os, name)))
        counted = _counted(found, io.open)
        patch.setattr(io, "open", counted)
        patch.setattr(builtins, "open", counted)
        yield found
    found.open()


def _counted(found: Withdrawn, real: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any, **named: Any) -> Any:
        found.called()
        return real(*arguments, **named)

    return call


def attempt(place: Place, action: str) -> set[str]:
    """The action, if it was done. An error is an answer, if it is one of the known kinds."""
    try:
        ACTIONS[action](place.open())
    except (StoreError, OSError):
        return set()
    return {action}


def play(original: Path, place: Place, action: str, moment: int) -> bool:
    """One operation; False if it had ended before this moment."""
    shutil.copytree(original, place.url)
    folder = Path(place.url) / FOLDERS[moment % len(FOLDERS)]
    with withdrawn(folder, moment, CALLS_LONG[moment % len(CALLS_LONG)]) as found:
        done = attempt(place, action)
    require_sound(place, done)
    again = attempt(place, action)
    # What was refused may have been done: then it is signed twice.
    require_sound(place, set() if action.startswith("sign") else done | again)
    assert not list((Path(place.url) / "tmp").iterdir())
    shutil.rmtree(place.url)
    return found.count >= moment


def main() -> None:
    """All operations at all moments."""
    top, every = Path(sys.argv[1]), int(sys.argv[2])
    os.fsync = lambda fd: None  # power cuts are not the subject
    prepared(local_place(top / "original"))
    moments = 0
    for number, action in enumerate(ACTIONS):
        for moment in itertools.count(1 + number % every, every):
            try:
                goes_on = play(top / "original/store", local_place(top), action, moment)
            except BaseException:
                sys.stderr.write(f"{action}, closed at call {moment}\n")
                raise
            if not goes_on:
                break
            moments += 1
    sys.stdout.write(f"{moments}\n")


if __name__ == "__main__":
    main()
