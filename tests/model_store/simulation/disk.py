"""A real folder whose system calls take turns and may fail, and a power cut.

Names that were made, replaced or removed and whose folder was not synced since may be as before
when the power comes back. A file that was not synced itself is empty then.
"""

from __future__ import annotations

import errno
import fcntl
import io
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.model_store.simulation.world import World

CHANGES = ("link", "replace", "unlink", "mkdir", "fsync", "utime")
LOOKS = ("open", "listdir", "scandir", "lstat")
LOCK_POLL_S = 20.0


class Disk:
    """Stands between the code and the system calls on one folder."""

    def __init__(self, world: World, root: Path) -> None:
        self._world = world
        self._root = str(root)
        self._real = {name: getattr(os, name) for name in (*CHANGES, *LOOKS)}
        self._unsynced: dict[str, list[Callable[[], None]]] = {}
        self._unsynced_files: set[int] = set()
        self._changes: Counter[str] = Counter()  # of each folder

    @contextmanager
    def installed(self) -> Iterator[None]:
        """While the calls of this process go through here; those of others are as ever."""
        changed: list[tuple[Any, str, Any]] = []

        def put(module: Any, name: str, value: Any) -> None:
            changed.append((module, name, getattr(module, name)))
            setattr(module, name, value)

        for name in (*CHANGES, *LOOKS):
            put(os, name, self._wrapped(name))
        put(os, "stat", self._stated(os.stat))
        put(io, "open", self._opened(io.open))
        put(fcntl, "flock", self._locked(fcntl.flock))
        try:
            yield
        finally:
            for module, name, value in reversed(changed):
                setattr(module, name, value)

    def _wrapped(self, name: str) -> Callable[..., Any]:
        real, effect = self._real[name], getattr(self, f"_{name}", None)

        def call(*arguments: Any, **named: Any) -> Any:
            if self._world.process is None:
                return real(*arguments, **named)
            self._turn(name, arguments)
            return (effect or real)(*arguments, **named)

        return call

    def _turn(self, name: str, arguments: tuple[Any, ...]) -> None:
        if self._world.is_calm:
            return
        what = " ".join([name, *(self._short(one) for one in arguments[:2])])
        looks = name == "open" and self._world.is_shared(self._short(arguments[0]))
        self._world.step(what, "step to look" if looks else "step")
        if name in CHANGES:
            self._world.changes()
            if self._world.event("call")[0]:
                self._world.note(self._world.process, f"EIO: {what}")
                raise OSError(errno.EIO, os.strerror(errno.EIO))

    def _short(self, argument: Any, most: int = 60) -> str:
        return str(argument).removeprefix(f"{self._root}/store/")[:most]

    def _opened(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(file: Any, mode: str = "r", *rest: Any, **named: Any) -> Any:
            if self._world.process is not None and not isinstance(file, int):
                self._turn("fsync" if "x" in mode else "open", (file,))
            opened = real(file, mode, *rest, **named)
            if self._world.process is not None and "x" in mode:
                self._unsynced_files.add(os.fstat(opened.fileno()).st_ino)
            return opened

        return call

    def _stated(self, real: Callable[..., Any]) -> Callable[..., Any]:
        """The time of a folder is how often it was changed, and so the same in each play."""

        def call(path: Any, **named: Any) -> Any:
            found = real(path, **named)
            if self._world.process is None or not stat.S_ISDIR(found.st_mode):
                return found
            return os.stat_result(list(found), {"st_mtime_ns": self._changes[str(path)]})

        return call

    def _locked(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(descriptor: Any, operation: int) -> None:
            if self._world.process is None or operation == fcntl.LOCK_UN:
                return real(descriptor, operation)
            while True:
                try:
                    return real(descriptor, operation | fcntl.LOCK_NB)
                except BlockingIOError:
                    if operation & fcntl.LOCK_NB:
                        raise
                    self._world.sleep(LOCK_POLL_S)

        return call

    # -- what changes names

    def _link(self, source: Any, target: Any, **named: Any) -> None:
        self._real["link"](source, target, **named)
        self._change(target)
        self._touch(target)
        self._note(target, lambda: self._real["unlink"](target))

    def _replace(self, source: Any, target: Any) -> None:
        before = self._content(target)
        self._real["replace"](source, target)
        self._touch(target)
        self._world.wrote(self._short(target, 200), self._content(target) or b"", before)
        self._note(target, lambda: self._restore(target, before))

    def _unlink(self, path: Any, *, dir_fd: int | None = None, **named: Any) -> None:
        if dir_fd is not None:
            path = f"{os.readlink(f'/proc/self/fd/{dir_fd}')}/{path}"
        before = self._content(path)
        self._real["unlink"](path, **named)
        if not os.path.basename(path).startswith("~"):
            self._change(path)
            self._note(path, lambda: self._restore(path, before))

    def _utime(self, path: Any, times: Any = None, **named: Any) -> None:
        now = self._wall()
        self._real["utime"](path, times or (now, now), **named)

    def _lstat(self, path: Any, **named: Any) -> Any:
        found = self._real["lstat"](path, **named)
        if "/blobs/" in str(path) and self._world.event("size")[0]:
            self._world.note(self._world.process, f"size read as 0: {self._short(path)}")
            values = list(found)
            values[6] = 0
            return os.stat_result(values, {"st_mtime": found.st_mtime})
        return found

    def _fsync(self, descriptor: int) -> None:
        folder = os.readlink(f"/proc/self/fd/{descriptor}")
        self._real["fsync"](descriptor)
        self._unsynced.pop(folder, None)
        self._unsynced_files.discard(os.fstat(descriptor).st_ino)

    def _touch(self, path: Any) -> None:
        now = self._wall()
        self._real["utime"](path, (now, now))

    def _change(self, path: Any) -> None:
        self._world.changed[self._short(path, 200)] = self._world.tick()

    def _wall(self) -> float:
        return self._world.now + self._world.skew_s

    def _content(self, path: Any) -> bytes | None:
        try:
            with open(self._real["open"](path, os.O_RDONLY), "rb") as file:
                return file.read()
        except FileNotFoundError:
            return None

    def _restore(self, path: Any, content: bytes | None) -> None:
        if content is None:
            self._real["unlink"](path)
        else:
            with open(os.fspath(path), "wb") as file:
                file.write(content)
            self._touch(path)

    def _note(self, path: Any, undo: Callable[[], None]) -> None:
        self._changes[os.path.dirname(path)] += 1
        self._unsynced.setdefault(os.path.dirname(path), []).append(undo)

    def power_fails(self, pattern: int) -> None:
        """Every process dies; of each folder the last changes that were not synced may be lost."""
        for process in self._world.processes:
            process.dead = True
        for number, undos in enumerate(self._unsynced.values()):
            # Of some folders all of it is lost, of others nothing, or the last half.
            lost = (len(undos), 0, (len(undos) + 1) // 2)[(number + pattern) % 3]
            for undo in reversed(undos[len(undos) - lost :]):
                with suppress(FileNotFoundError):
                    undo()
        self._unsynced.clear()
        for file in Path(self._root).rglob("*"):
            if file.is_file() and file.stat().st_ino in self._unsynced_files:
                os.truncate(file, 0)
        self._world.power_failed = True
        self._world.note(None, "the power fails")
