"""Reads and checks everything in a store: refs, manifests, path specs, the bytes of every blob."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from model_store.blobs import Blobs, Digest, key_of
from model_store.canonical_json import MAX_BYTES
from model_store.errors import BlobNotFound, DamagedStore, InvalidName, StorageError
from model_store.keys import LIVE, agent_key, pin_key, pointer_key, signature_key, version_key
from model_store.manifest import COMPONENT, MAX_MANIFEST_BYTES, Descriptor
from model_store.names import unquote
from model_store.published import load_manifest, load_path, load_state
from model_store.refs import ALIAS_PATTERN, UNREADABLE, Refs
from model_store.storage import Storage
from model_store.tensors import decode

_TASK = rf"refs/tasks/(?P<task>[^/]+)/(?:v[1-9][0-9]{{0,8}}|live|{ALIAS_PATTERN})"
_FILES = re.compile(
    r"lock(?:\.gc)?|gc|tmp/~[^/]+|blobs/sha256/[0-9a-f]{64}|refs/changes"
    r"|leases/gc|(?:leases/|lock\.)agents/(?P<held>[^/]+)"
    r"|touched/(?:blobs/sha256/[0-9a-f]{64}|probe-[0-9a-f]{16})|refs/signatures/[0-9a-f]{64}"
    r"|refs/agents/(?P<agent>[^/]+)/state|refs/pins/(?P<pin>[^/]+)"
    rf"|{_TASK}"
)


@dataclass(frozen=True, slots=True)
class Problem:
    """Something found wrong. A warning harms nobody; an error will reach whoever reads it."""

    severity: Literal["error", "warning"]
    path: str  # of the file
    digest: Digest | None  # of the blob, or of the manifest a ref names
    message: str


def verify(storage: Storage, blobs: Blobs, refs: Refs) -> list[Problem]:
    """Everything that is wrong with a store; empty when it is sound.

    Unreachable blobs are hashed too, because `put` would take them for the real ones.
    """
    for digest, _ in blobs.all():
        storage.forget(key_of(digest))  # the store is to be read, not the copies this machine has
    found = _Verification(blobs, refs)
    for task in refs.tasks():
        try:
            found.check_task(task)
        except (StorageError, OSError) as error:  # of its folder: its refs cannot be listed
            found.add("error", refs.where(pointer_key(task, LIVE)), None, str(error))
    for agent in refs.agents():
        found.check_root(
            agent_key(agent),
            lambda agent=agent: refs.agent(agent),
            lambda digest, agent=agent: load_state(blobs, agent, digest),
        )
    for pin in refs.pin_names():
        found.check_root(pin_key(pin), lambda pin=pin: refs.pin(pin))
    for manifest in refs.signed():
        found.check_root(signature_key(manifest), lambda m=manifest: refs.signatures(m))
    found.check_blobs()
    for entry in storage.walk(""):
        if not _belongs(entry.key):
            where = storage.where(entry.key)
            found.add("warning", where, None, f"{where} is not part of a store")
    return found.problems


class _Verification:
    """Gathers problems, and what the refs looked at need."""

    def __init__(self, blobs: Blobs, refs: Refs) -> None:
        self.problems: list[Problem] = []
        self._blobs = blobs
        self._refs = refs
        self._needed: dict[Digest, Descriptor] = {}
        self._manifests: set[Digest] = set()

    def add(
        self, severity: Literal["error", "warning"], path: str, digest: Digest | None, message: str
    ) -> None:
        """Note a problem."""
        self.problems.append(Problem(severity, path, digest, message))

    def check_task(self, task: str) -> None:
        """The refs of a task, and what they name."""
        versions = [n for n in self._refs.numbers(task) if self._check_version(task, n)]
        for name in [LIVE, *self._refs.alias_names(task)]:
            path = self._refs.where(pointer_key(task, name))
            try:
                number = self._refs.pointer(task, name)
            except UNREADABLE as error:
                self.add("error", path, None, str(error))
                continue
            if number and number not in versions and not self._exists(task, number):
                self.add(
                    "error",
                    path,
                    None,
                    f"ref {path} names v{number}, which does not exist; make another version live",
                )

    def _exists(self, task: str, number: int) -> bool:
        try:
            return self._refs.version(task, number) is not None
        except UNREADABLE:
            return True  # it is there, and reported for what it is

    def _check_version(self, task: str, number: int) -> bool:
        def check(digest: Digest) -> None:
            load_path(self._blobs, task, number, digest)

        key = version_key(task, number)
        return self.check_root(key, lambda: self._refs.version(task, number), check)

    def check_root(
        self,
        key: str,
        read: Callable[[], Digest | None],
        check: Callable[[Digest], object] | None = None,
    ) -> bool:
        """A ref that holds a digest, and its manifest; whether there is one."""
        digest = None
        try:
            digest = read()
            if digest:
                self._manifests.add(digest)
                for blob in load_manifest(self._blobs, digest).blobs():
                    # The bytes of a component can be those of something else too.
                    if blob.media_type == COMPONENT or blob.digest not in self._needed:
                        self._needed[blob.digest] = blob
                if check:
                    check(digest)
        except (DamagedStore, StorageError, OSError) as error:
            self.add("error", self._refs.where(key), digest, str(error))
        return digest is not None

    def check_blobs(self) -> None:
        """The bytes of every blob, and that none is missing."""
        present = {digest for digest, _ in self._blobs.all()}
        for digest in sorted(present):
            self._check_blob(digest, self._needed.get(digest))
        for digest in sorted(self._needed.keys() - present):
            where = self._blobs.where(digest)
            message = f"blob {digest} is missing; restore {where} from a copy"
            self.add("error", where, digest, message)

    def _check_blob(self, digest: Digest, needed: Descriptor | None) -> None:
        where = self._blobs.where(digest)
        component = needed is not None and needed.media_type == COMPONENT
        try:
            data = self._blobs.read(
                digest,
                needed.size if needed else None,
                limit=self._limit(digest, component, needed),
            )
            if component:
                decode(data)
        except (StorageError, OSError) as error:
            self.add("error", where, digest, f"blob {digest} cannot be read: {error}")
        except DamagedStore as error:
            if isinstance(error, BlobNotFound) and not needed:
                return  # gc removed it since it was listed
            message = str(error)
            if str(digest) not in message:
                message = f"blob {digest} at {where}: {message}"
            self.add("error", where, digest, message)

    def _limit(self, digest: Digest, component: bool, needed: Descriptor | None) -> int | None:
        """How large a blob may be; None for a component, and for what nothing refers to."""
        if digest in self._manifests:
            return MAX_MANIFEST_BYTES
        return None if component or needed is None else MAX_BYTES


def _belongs(key: str) -> bool:
    """Whether the format provides for a file; names must be those of tasks, agents or pins."""
    match = _FILES.fullmatch(key)
    return match is not None and all(
        _is_name(name) for name in match.groupdict().values() if name is not None
    )


def _is_name(file_name: str) -> bool:
    try:
        return bool(unquote(file_name))
    except InvalidName:
        return False
