"""The mutable part of a store: small files that name manifests (FORMAT.md, "Refs").

refs/tasks/<task>/v<N>    a published version: a manifest digest, written once
refs/tasks/<task>/live    the version that is served: "v<N>", replaced whole
refs/agents/<agent>/state evolution's own state: a manifest digest, replaced whole
"""

import logging
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from model_store import atomic
from model_store.blobs import Digest, parse_digest
from model_store.errors import CorruptRef, InvalidName
from model_store.names import quote, unquote

logger = logging.getLogger(__name__)

# A file time can be this coarse, so that two changes in a row may show the same time.
SETTLE_S = 2.0
# However unchanged everything looks, look again after so long: a network file system may cache.
RESCAN_S = 30.0

_VERSION = re.compile(r"v([1-9][0-9]{0,8})")
_Signature = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class _Seen:
    """What a poll knows of one file or directory; times are monotonic seconds."""

    signature: _Signature
    since: float  # when this signature was first seen
    read: float  # when the content was last read

    def still_holds(self, signature: _Signature) -> bool:
        """Whether the content read then is certainly the content now."""
        return signature == self.signature and self.read - self.since >= SETTLE_S


class Refs:
    """The refs of a store in a local directory.

    Reading needs no lock. Methods that change something expect the caller to hold the store's lock.
    """

    def __init__(self, directory: Path, scratch: Path) -> None:
        self._tasks = directory / "tasks"
        self._agents = directory / "agents"
        self._scratch = scratch
        self._directory_seen: _Seen | None = None
        self._seen: dict[str, tuple[_Seen, tuple[int, Digest] | None]] = {}
        self._served: dict[str, tuple[int, Digest]] = {}

    # -- tasks

    def tasks(self) -> list[str]:
        """Every task that has a directory, sorted; it may be empty."""
        return sorted(_names(self._tasks))

    def versions(self, task: str) -> list[int]:
        """Published versions of a task, ascending; empty for an unknown task."""
        return sorted(self._version_files(task))

    def version(self, task: str, number: int) -> Digest | None:
        """The manifest of a version; None if there is no such version."""
        return _read_digest(self.version_path(task, number))

    def created(self, task: str, number: int) -> str | None:
        """When a version was added (RFC 3339, UTC); None if there is no such version."""
        try:
            modified = self.version_path(task, number).stat().st_mtime
        except FileNotFoundError:
            return None
        moment = datetime.fromtimestamp(modified, UTC)
        return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")

    def live_version(self, task: str) -> int | None:
        """The version that is served; None if none is."""
        return _read_live(self.live_path(task))

    def add_version(self, task: str, manifest: Digest) -> int:
        """Publish a manifest under the next version number; durable on return."""
        directory = self._tasks / quote(task)
        if not directory.is_dir():
            directory.mkdir()
            atomic.sync_directory(self._tasks)
        number = max(self._version_files(task), default=0) + 1
        # Create-only: even a writer that ignores the lock cannot take a number twice.
        while not atomic.create(
            self.version_path(task, number), f"{manifest}\n".encode(), self._scratch
        ):
            number += 1
        atomic.sync_directory(directory)
        return number

    def set_live(self, task: str, number: int) -> None:
        """Serve this version from now on; durable on return."""
        # The temporary file lies in refs/tasks, so that the rename changes the time of that
        # directory in the same instant: `snapshot` then sees that nothing changed by one look.
        atomic.replace(self.live_path(task), f"v{number}\n".encode(), self._tasks)

    def remove_version(self, task: str, number: int) -> None:
        """Forget a version."""
        self.version_path(task, number).unlink()
        atomic.sync_directory(self._tasks / quote(task))

    def remove_task(self, task: str) -> None:
        """Stop serving a task, then forget its versions; files that are no refs stay."""
        away = atomic.temporary_path(self._tasks)
        try:
            os.replace(self.live_path(task), away)  # a rename for the reason given in set_live
        except FileNotFoundError:
            pass
        else:
            away.unlink()
        directory = self._tasks / quote(task)
        atomic.sync_directory(directory)
        for number in self.versions(task):
            self.version_path(task, number).unlink()
        self.remove_if_empty(task)

    def remove_if_empty(self, task: str) -> None:
        """Remove the directory of a task if nothing is left in it."""
        directory = self._tasks / quote(task)
        if not any(directory.iterdir()):
            directory.rmdir()
            atomic.sync_directory(self._tasks)

    def version_path(self, task: str, number: int) -> Path:
        """The file of a version."""
        return self._tasks / quote(task) / f"v{number}"

    def live_path(self, task: str) -> Path:
        """The file that says which version is served."""
        return self._tasks / quote(task) / "live"

    def _version_files(self, task: str) -> list[int]:
        try:
            names = os.listdir(self._tasks / quote(task))
        except (FileNotFoundError, NotADirectoryError):
            return []
        return [int(match[1]) for match in map(_VERSION.fullmatch, names) if match]

    # -- watching

    def snapshot(self) -> dict[str, tuple[int, Digest]]:
        """Task -> (live version, its manifest). Costs one stat when nothing has changed.

        A task whose refs cannot be read is logged and keeps what was last read of it, or is left
        out if nothing was: damage is no removal, and must not hide other tasks.
        """
        now = time.monotonic()
        signature = _signature(os.stat(self._tasks))
        known = self._directory_seen
        if known and known.still_holds(signature) and now - known.read < RESCAN_S:
            return dict(self._served)
        found: dict[str, tuple[_Seen, tuple[int, Digest] | None]] = {}
        for task in _names(self._tasks):
            entry = self._look(task, now)
            if entry:
                found[task] = entry
        since = known.since if known and known.signature == signature else now
        served = {task: value for task, (_, value) in found.items() if value}
        # The directory last: another thread must not trust it before the rest is in place.
        self._seen, self._served = found, served
        self._directory_seen = _Seen(signature, since, now)
        return dict(served)

    def _look(self, task: str, now: float) -> tuple[_Seen, tuple[int, Digest] | None] | None:
        known, value = self._seen.get(task, (None, None))
        try:
            signature = _signature(os.stat(f"{self._tasks}/{quote(task)}/live"))
        except FileNotFoundError:
            return None
        except OSError as error:
            logger.warning("event=ref_unreadable task=%s error=%r", task, str(error))
            return (known, value) if known else None
        if known and known.still_holds(signature):
            return known, value
        since = known.since if known and known.signature == signature else now
        return _Seen(signature, since, now), self._read_served(task, value)

    def _read_served(self, task: str, last: tuple[int, Digest] | None) -> tuple[int, Digest] | None:
        try:
            number = self.live_version(task)
            manifest = number and self.version(task, number)
        except (CorruptRef, OSError) as error:
            logger.warning("event=ref_unreadable task=%s error=%r", task, str(error))
            return last  # damage is no removal
        return (number, manifest) if number and manifest else None

    # -- agents

    def agents(self) -> list[str]:
        """Agents with any state, sorted."""
        return sorted(name for name in _names(self._agents) if self.agent_path(name).exists())

    def agent(self, agent: str) -> Digest | None:
        """The manifest of an agent's state; None if it has saved none."""
        return _read_digest(self.agent_path(agent))

    def set_agent(self, agent: str, manifest: Digest) -> None:
        """Replace an agent's state; durable on return."""
        path = self.agent_path(agent)
        if not path.parent.is_dir():
            path.parent.mkdir()
            atomic.sync_directory(self._agents)
        atomic.replace(path, f"{manifest}\n".encode(), self._scratch)

    def agent_path(self, agent: str) -> Path:
        """The file of an agent's state."""
        return self._agents / quote(agent) / "state"


def _names(directory: Path) -> Iterator[str]:
    with os.scandir(directory) as entries:
        for entry in entries:
            try:
                name = unquote(entry.name)
            except InvalidName:
                continue  # temporary, or not ours; verify reports it
            if entry.is_dir():
                yield name


def _signature(status: os.stat_result) -> _Signature:
    return status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_size


def _read_line(path: Path) -> str | None:
    """The single line of a ref file; None if there is no file."""
    try:
        with path.open("rb") as file:
            data = file.read(200)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except IsADirectoryError:
        raise CorruptRef(f"ref {path}: is a directory, expected a file; remove it") from None
    text = data.decode("ascii", errors="replace")
    if not text.endswith("\n") or "\n" in text[:-1]:
        raise CorruptRef(f"ref {path}: {text[:80]!r}, expected one line; restore or remove it")
    return text[:-1]


def _read_digest(path: Path) -> Digest | None:
    line = _read_line(path)
    try:
        return None if line is None else parse_digest(line)
    except InvalidName as error:
        raise CorruptRef(f"ref {path}: {error}; restore or remove it") from error


def _read_live(path: Path) -> int | None:
    line = _read_line(path)
    if line is None:
        return None
    match = _VERSION.fullmatch(line)
    if not match:
        raise CorruptRef(
            f'ref {path}: {line[:80]!r}, expected "v<N>"; make a version live with rollback'
        )
    return int(match[1])
