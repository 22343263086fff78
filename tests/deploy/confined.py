"""Starts a gateway confined as a manifest says: user, environment, read-only root, volumes, memory.

A mount namespace has a root of its own, and a cgroup of version 1 or 2 bounds the memory, where
this process may make one. This environment's Python and packages stand in for an image's.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

HOST = ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/sys", "/proc", "/dev")
ETC = ("ld.so.cache", "ld.so.conf", "ssl", "hosts", "nsswitch.conf", "localtime", "alternatives")
CGROUPS = Path("/sys/fs/cgroup")
PROGRAMS = ("unshare", "setpriv", "mount", "chroot")


@dataclass(frozen=True)
class Confinement:
    """How a process is started by a manifest and an image together."""

    user: int
    group: int
    environment: Mapping[str, str]
    memory: int  # bytes
    read_only_root: bool
    writable: Mapping[str, int]  # path -> bytes that fit
    mounted: Mapping[str, Path]  # path -> what lies there, read-only
    folder: str  # that it is started in

    def prefix(self, root: Path, memory: Path | None) -> tuple[str, ...]:
        """The command that runs another one so confined, and becomes it, so that signals reach it.

        Its root is seen at the empty folder `root`; `memory` is its cgroup.
        """
        script = "\n".join(self._script(root, memory))
        return ("unshare", "--mount", "--propagation=private", "sh", "-euc", script, "sh")

    def _script(self, root: Path, memory: Path | None) -> Iterator[str]:
        top = shlex.quote(str(root))
        if memory:
            yield f"echo $$ > {shlex.quote(str(memory))}/cgroup.procs"
        yield f"mount -t tmpfs -o mode=755 root {top}"
        host = (*HOST, sys.prefix, sys.base_prefix, *(f"/etc/{name}" for name in ETC))
        seen = {path: Path(path) for path in host if os.path.exists(path)}
        places = {**seen, **self.mounted, **self.writable}
        for path in sorted(places):  # one that lies in another comes after it
            place = places[path]
            if isinstance(place, Path):
                yield from _bound(place, f"{root}{path}")
            else:
                at = shlex.quote(f"{root}{path}")
                yield f"mkdir -p {at}"
                yield f"mount -t tmpfs -o mode=1777,size={place} volume {at}"
        if self.read_only_root:
            yield f"mount -o remount,ro {top}"
        given = self.environment.items()
        variables = " ".join(shlex.quote(f"{name}={value}") for name, value in given)
        user = f"--reuid={self.user} --regid={self.group} --clear-groups"
        yield (
            f"exec chroot {top} setpriv {user} --no-new-privs --bounding-set=-all"
            f' env -i -C {self.folder} {variables} "$@"'
        )


def _bound(source: Path, target: str) -> Iterator[str]:
    at = shlex.quote(target)
    if source.is_dir():
        yield f"mkdir -p {at}"
    else:
        yield f"mkdir -p {shlex.quote(os.path.dirname(target))}; touch {at}"
    yield f"mount --rbind {shlex.quote(str(source))} {at}"
    if target.endswith(("/proc", "/sys", "/dev")):  # which have no place for files
        return
    yield f"mount -o remount,bind,ro {at}"


def require() -> None:
    """Skips, or fails in continuous integration, where nobody can be confined."""
    if os.geteuid() != 0:
        pytest.skip("only root can take another user's id and mount volumes of a size")
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        cannot = pytest.fail if os.environ.get("CI") else pytest.skip
        cannot(f"no program {', '.join(missing)}: install util-linux, mount and coreutils")
    command = ["unshare", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"]
    tried = subprocess.run(command, capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"this machine allows no mount namespaces: {tried.stderr.strip()}")


@contextmanager
def memory_of(limit: int) -> Iterator[Path | None]:
    """A cgroup of at most this many bytes; None where this process may not make one."""
    folder = _made(limit)
    try:
        yield folder
    finally:
        if folder is not None:
            _remove(folder)


def _remove(folder: Path) -> None:
    """With what is left in it, as after a gateway that did not become ready."""
    while folder.exists():
        for pid in (folder / "cgroup.procs").read_text().split():
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        with suppress(OSError):  # they end a moment later
            folder.rmdir()
        time.sleep(0.02)


def _made(limit: int) -> Path | None:
    for parent, setting in _hierarchies():
        folder = parent / f"munet-test-{os.getpid()}"
        with suppress(OSError):
            folder.mkdir()
            try:
                (folder / setting).write_text(str(limit))
                return folder
            except OSError:
                folder.rmdir()
    return None


def _hierarchies() -> Iterator[tuple[Path, str]]:
    """Where a cgroup of memory may be made, and the file that has its limit."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            yield CGROUPS / "memory" / path.lstrip("/"), "memory.limit_in_bytes"
    yield CGROUPS, "memory.max"
