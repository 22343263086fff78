"""The mutable part of a store: small files that name manifests (FORMAT.md, "Refs").

refs/tasks/<task>/v<N>     a published version: a manifest digest; "removing <digest>" while it is
                           being removed, then "removed"
refs/tasks/<task>/live     the version that is served: "v<N>", or "none"
refs/tasks/<task>/<alias>  another name of a version: "v<N>"
refs/agents/<agent>/state  evolution's own state: a manifest digest
refs/pins/<pin>            a manifest that gc keeps
refs/signatures/<hex>      the signatures of a manifest, as a manifest of their own
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from model_store.blobs import Digest, parse_digest
from model_store.errors import (
    CorruptRef,
    DamagedStore,
    InvalidName,
    StorageError,
    StoreNotFound,
    UnknownName,
)
from model_store.keys import (
    AGENTS,
    LIVE,
    PINS,
    SIGNATURES,
    TASKS,
    VERSION,
    agent_key,
    pin_key,
    pointer_key,
    signature_key,
    version_key,
)
from model_store.names import quote, unquote
from model_store.storage import Entry, Read, Small, Storage

_REMOVING = b"removing "
_REMOVED = b"removed\n"
_NONE = b"none\n"

ALIAS_PATTERN = r"(?!v[0-9]+$|live$)[a-z][a-z0-9_-]{0,31}"
ALIAS = re.compile(ALIAS_PATTERN)
UNREADABLE = (CorruptRef, StorageError, OSError)  # what reading one ref may end with


def require_alias(name: str) -> str:
    """`name` if it may be an alias; else InvalidName."""
    if not ALIAS.fullmatch(name):
        raise InvalidName(
            f"alias {name!r}: expected up to 32 lower case letters, digits, `_` and `-`, beginning"
            " with a letter, other than `live` and v<N>"
        )
    return name


@dataclass(frozen=True, slots=True)
class Change:
    """A ref that was written, to be undone if need be."""

    key: str
    wrote: bytes
    before: bytes  # what it said; for a new one, what says that there is nothing


class Refs:
    """The refs of a store. Every change is one create or one compare-and-swap of one file."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    # -- versions

    def tasks(self) -> list[str]:
        """Every task that has any ref, sorted; it need not be served. Raises StoreNotFound."""
        found = self._owners(TASKS)
        if not found:
            self.require_store()
        return found

    def require_store(self) -> None:
        """Raises StoreNotFound if the store is there no longer."""
        if not self._storage.exists():
            raise StoreNotFound(f"store {self._storage.url}: it was there, and is no longer")

    def versions(self, task: str) -> dict[int, Digest]:
        """The published versions of a task, ascending. Raises CorruptRef for one it cannot read."""
        numbers = sorted(self.numbers(task))
        keys = {number: version_key(task, number) for number in numbers}
        read = self._storage.read_many(keys.values())
        found = {number: self.parse_digest(key, read[key]) for number, key in keys.items()}
        return {number: digest for number, digest in found.items() if digest}

    def numbers(self, task: str) -> list[int]:
        """The numbers a task has ever used that are still on record; of removed versions too."""
        names = self._storage.names(f"{TASKS}/{quote(task)}")
        return [int(match[1]) for match in map(VERSION.fullmatch, names) if match]

    def version(self, task: str, number: int) -> Digest | None:
        """The manifest of a version; None if there is no such version. Raises CorruptRef."""
        return self._read_digest(version_key(task, number))

    def created(self, task: str, number: int) -> str | None:
        """When a version was added (RFC 3339, UTC); None if there is no such version."""
        entry = self._storage.stat(version_key(task, number))
        return entry and moment(entry)

    def add_version(self, task: str, manifest: Digest) -> tuple[int, Change]:
        """Publish a manifest under the next version number; durable on return."""
        data = f"{manifest}\n".encode()
        number = max(self.numbers(task), default=0) + 1
        while not self._storage.create(version_key(task, number), data):
            taken = self._storage.read(version_key(task, number))
            if taken and taken.data == data:
                break  # by this very manifest: the first try of a write that was not answered
            number += 1
        self._storage.settle(f"{TASKS}/{quote(task)}")
        return number, Change(version_key(task, number), data, _REMOVED)

    # A version is removed in two steps, and looked for names in between. Who gives it a name looks
    # afterwards whether it is still there, and takes a first step back.

    def begin_removal(self, task: str, number: int) -> None:
        """Say that a version is being removed; it still is there for all who read it."""

        def mark(current: Small | None) -> bytes | None:
            digest = current and self.parse_digest(version_key(task, number), current)
            return _REMOVING + f"{digest}\n".encode() if digest else None

        self._swap(version_key(task, number), mark, _REMOVED)

    def end_removal(self, task: str, number: int) -> bool:
        """Forget a version; False if somebody has kept it meanwhile. Its number stays taken, so
        that it never means something else.
        """
        key = version_key(task, number)
        current = self._storage.read(key)
        if current is None or not current.data.startswith(_REMOVING):
            return current is None or current.data == _REMOVED
        return self._storage.replace(key, _REMOVED, current.version)

    def keep_version(self, task: str, number: int) -> bool:
        """End a removal that has begun; whether the version is there now."""

        def unmark(current: Small | None) -> bytes | None:
            return current.data.removeprefix(_REMOVING) if current else None

        self._swap(version_key(task, number), unmark, _REMOVED)
        return self.version(task, number) is not None

    def forgettable(self, task: str, before: float) -> list[str]:
        """Keys of versions removed that long ago, without the highest number: it stays taken."""
        keys = [version_key(task, number) for number in sorted(self.numbers(task))[:-1]]
        read = self._storage.read_many(keys)
        removed = [key for key in keys if isinstance(r := read[key], Small) and r.data == _REMOVED]
        entries = [self._storage.stat(key) for key in removed]
        return [entry.key for entry in entries if entry and entry.modified <= before]

    # -- pointers: `live` and the aliases

    def pointer(self, task: str, name: str) -> int | None:
        """The version that `live` or an alias names; None if none. Raises CorruptRef."""
        key = pointer_key(task, name)
        return self.parse_pointer(key, self._read(key))

    def parse_pointer(self, key: str, read: Read) -> int | None:
        """The version in a pointer that was read. Raises CorruptRef."""
        line = self._line(key, read)
        if line is None or line == "none":
            return None
        match = VERSION.fullmatch(line)
        if not match:
            raise CorruptRef(
                f'ref {self._storage.where(key)}: {line[:80]!r}, expected "v<N>" or "none"; make a'
                " version live with rollback"
            )
        return int(match[1])

    def point(self, task: str, name: str, number: int) -> Change:
        """Let `live` or an alias name this version; durable on return."""
        data = f"v{number}\n".encode()
        change = self._swap(pointer_key(task, name), lambda _: data, _NONE)
        return change or Change(pointer_key(task, name), data, data)

    def point_live_if(
        self, task: str, number: int, wanted: Callable[[int | None], bool]
    ) -> Change | None:
        """Let `live` name this version if that is `wanted` of the one it names; None if not.

        `wanted` is asked again when somebody else changes `live` meanwhile. It is given None where
        no version is live, or it cannot be read which.
        """
        key = pointer_key(task, LIVE)

        def change(current: Small | None) -> bytes | None:
            try:
                live = self.parse_pointer(key, current)
            except CorruptRef:
                live = None  # replaced
            return f"v{number}\n".encode() if wanted(live) else None

        return self._swap(key, change, _NONE)

    def chosen_since(self, task: str, number: int) -> bool:
        """Whether `live` was last written after a version was added, by the storage's own clock."""
        live = self._storage.stat(pointer_key(task, LIVE))
        version = self._storage.stat(version_key(task, number))
        return live is not None and version is not None and live.modified >= version.modified

    def stop(self, task: str) -> None:
        """Serve no version of a task. The file stays: removing it could undo another's write."""
        self._swap(pointer_key(task, LIVE), lambda current: _NONE if current else None, _NONE)

    def alias_names(self, task: str) -> list[str]:
        """The aliases of a task, sorted."""
        return sorted(filter(ALIAS.fullmatch, self._storage.names(f"{TASKS}/{quote(task)}")))

    def aliases(self, task: str) -> dict[str, int]:
        """Alias -> version. Raises CorruptRef."""
        found = {name: self.pointer(task, name) for name in self.alias_names(task)}
        return {name: number for name, number in found.items() if number is not None}

    def remove_aliases(self, task: str, names: Iterable[str]) -> None:
        """Forget aliases, whatever they say."""
        self._storage.remove(pointer_key(task, name) for name in names)

    # -- refs that hold a digest

    def agents(self) -> list[str]:
        """Agents with any state, sorted."""
        return [name for name in self._owners(AGENTS) if self._storage.stat(agent_key(name))]

    def agent(self, agent: str) -> Digest | None:
        """The manifest of an agent's state; None if it has saved none. Raises CorruptRef."""
        return self._read_digest(agent_key(agent))

    def set_agent(self, agent: str, manifest: Digest) -> Change:
        """Replace an agent's state, whatever it is; durable on return."""
        return self._set(agent_key(agent), manifest)

    def swap_agent(self, agent: str, old: Digest | None, new: Digest) -> Change | None:
        """Replace an agent's state; None if it is not the old one."""
        return self._swap_digest(agent_key(agent), old, new)

    def pin_names(self) -> list[str]:
        """All pins, sorted."""
        return self._owners(PINS)

    def pin(self, name: str) -> Digest | None:
        """The manifest that a pin keeps; None if there is no such pin. Raises CorruptRef."""
        return self._read_digest(pin_key(name))

    def pins(self) -> dict[str, Digest]:
        """Pin -> manifest. Raises CorruptRef."""
        found = {name: self.pin(name) for name in self.pin_names()}
        return {name: digest for name, digest in found.items() if digest}

    def set_pin(self, name: str, manifest: Digest) -> Change:
        """Keep a manifest and all it needs."""
        return self._set(pin_key(name), manifest)

    def remove_pin(self, name: str) -> None:
        """Keep it no longer, whatever it says. Raises UnknownName."""
        names = self.pin_names()
        if name not in names:
            raise UnknownName(f"no pin {name!r}; there are {', '.join(names) or 'none'}")
        self._storage.remove([pin_key(name)])

    def signed(self) -> list[Digest]:
        """Manifests that have signatures."""
        names = self._storage.names(SIGNATURES)
        return [
            Digest(f"sha256:{name}") for name in sorted(names) if re.fullmatch("[0-9a-f]{64}", name)
        ]

    def signatures(self, manifest: Digest) -> Digest | None:
        """The manifest that holds the signatures of another. Raises CorruptRef."""
        return self._read_digest(signature_key(manifest))

    def swap_signatures(self, manifest: Digest, old: Digest | None, new: Digest) -> Change | None:
        """Replace the signatures of a manifest; None if they are not the old ones any more."""
        return self._swap_digest(signature_key(manifest), old, new)

    def signed_before(self, before: float) -> list[Digest]:
        """Manifests whose signatures have not changed since then."""
        entries = {m: self._storage.stat(signature_key(m)) for m in self.signed()}
        return [m for m, entry in entries.items() if entry and entry.modified <= before]

    def remove_signatures(self, manifest: Digest) -> None:
        """Forget the signatures of a manifest."""
        self._storage.remove([signature_key(manifest)])

    def undo(self, change: Change) -> None:
        """Take a change back, unless somebody has changed the ref since."""
        current = self._storage.read(change.key)
        if current and current.data == change.wrote:
            self._storage.replace(change.key, change.before, current.version)

    def where(self, key: str) -> str:
        """The path or URL of a ref."""
        return self._storage.where(key)

    # -- helpers

    def _owners(self, directory: str) -> list[str]:
        found: list[str] = []
        for name in self._storage.names(directory):
            try:
                found.append(unquote(name))
            except InvalidName:
                continue  # not ours; verify reports it
        return sorted(found)

    def _set(self, key: str, manifest: Digest) -> Change:
        data = f"{manifest}\n".encode()
        return self._swap(key, lambda _: data, _REMOVED) or Change(key, data, data)

    def _swap_digest(self, key: str, old: Digest | None, new: Digest) -> Change | None:
        """Compare and swap once; None if it says neither the old nor already the new."""
        data = f"{new}\n".encode()
        current = self._storage.read(key)
        found = self.parse_digest(key, current)
        if found == new:
            return Change(key, data, data)  # by a first try of this that was not answered
        if found != old:
            return None
        if not self._storage.replace(key, data, current.version if current else None):
            return None
        return Change(key, data, current.data if current else _REMOVED)

    def _swap(
        self, key: str, change: Callable[[Small | None], bytes | None], nothing: bytes
    ) -> Change | None:
        """Compare and swap until it works; None if nothing had to be changed.

        `change` gives the new content, None for no change; `nothing` stands for no file. Raises
        NotAFile.
        """
        while True:
            current = self._storage.read(key)
            data = change(current)
            if data is None or (current and current.data == data):
                return None
            if self._storage.replace(key, data, current.version if current else None):
                return Change(key, data, current.data if current else nothing)

    def _read(self, key: str) -> Read:
        return self._storage.read_many([key])[key]

    def _read_digest(self, key: str) -> Digest | None:
        return self.parse_digest(key, self._read(key))

    def parse_digest(self, key: str, read: Read) -> Digest | None:
        """The digest in a ref that was read; None if there is none, or it is removed.

        Raises CorruptRef.
        """
        line = self._line(key, read)
        if line is None or line == "removed":
            return None
        try:
            return parse_digest(line.removeprefix(_REMOVING.decode()))
        except InvalidName as error:
            where = self._storage.where(key)
            raise CorruptRef(f"ref {where}: {error}; restore or remove it") from error

    def _line(self, key: str, read: Read) -> str | None:
        """The single line of a ref file; None if there is no file.

        Raises CorruptRef, or the OSError or StorageError that its read ended with.
        """
        if read is None:
            return None
        if isinstance(read, DamagedStore):
            raise CorruptRef(f"ref {read}") from read
        if isinstance(read, Exception):
            raise read
        text = read.data[:200].decode("ascii", errors="replace")
        if not text.endswith("\n") or "\n" in text[:-1]:
            where = self._storage.where(key)
            raise CorruptRef(f"ref {where}: {text[:80]!r}, expected one line; restore or remove it")
        return text[:-1]


def moment(entry: Entry) -> str:
    """When a file was last written (RFC 3339, UTC)."""
    written = datetime.fromtimestamp(entry.modified, UTC)
    return written.isoformat(timespec="microseconds").replace("+00:00", "Z")
