"""Reads and checks everything in a store: refs, manifests, path specs, the bytes of every blob."""

import re
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from model_store.blobs import Blobs, Digest, key_of
from model_store.canonical_json import MAX_BYTES
from model_store.errors import BlobNotFound, DamagedStore, InvalidName, StorageError
from model_store.keys import AGENTS, KINDS, TASKS, copy_key, name_in
from model_store.manifest import COMPONENT, MAX_MANIFEST_BYTES, Descriptor
from model_store.names import unquote
from model_store.published import load_manifest, load_path, load_state
from model_store.refs import Document, Refs
from model_store.reserve import NAME as RESERVE
from model_store.storage import MARKER, Storage
from model_store.tensors import decode

_FILES = re.compile(
    rf"{MARKER}|{RESERVE}|lock(?:\.gc)?|gc|tmp/~[^/]+|blobs/sha256/[0-9a-f]{{64}}|refs/changes"
    r"|leases/gc|(?:leases/|lock\.)agents/(?P<held>[^/]+)"
    r"|touched/(?:blobs/sha256/[0-9a-f]{64}|probe-[0-9a-f]{16})|refs/signatures/[0-9a-f]{64}"
    r"|copies/signatures/[0-9a-f]{64}|(?:refs|copies)/(?:tasks|agents|pins)/(?P<owner>[^/]+)"
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
    found = _Verification(storage, blobs, refs)
    for kind in KINDS:
        for key in refs.keys(kind):
            found.check_document(key)
            found.check_copy(key)
        for key in refs.lost(kind):
            found.check_copy(key)
    found.check_blobs()
    for entry in storage.walk(""):
        if not _belongs(entry.key):
            where = storage.where(entry.key)
            found.add("warning", where, None, f"{where} is not part of a store")
    return found.problems


class _Verification:
    """Gathers problems, and what the refs looked at need."""

    def __init__(self, storage: Storage, blobs: Blobs, refs: Refs) -> None:
        self.problems: list[Problem] = []
        self._storage = storage
        self._blobs = blobs
        self._refs = refs
        self._needed: dict[Digest, Descriptor] = {}
        self._manifests: set[Digest] = set()

    def add(
        self, severity: Literal["error", "warning"], path: str, digest: Digest | None, message: str
    ) -> None:
        """Note a problem."""
        self.problems.append(Problem(severity, path, digest, message))

    def check_copy(self, key: str) -> None:
        """The second copy of a document, and that the document has what the copy says."""
        try:
            copy = self._refs.copy(key)  # read first: then it is not ahead of the document
        except (DamagedStore, PermissionError) as error:
            self.add("error", self._refs.where(copy_key(key)), None, str(error))
            return
        where = self._refs.where(key)
        with suppress(DamagedStore, PermissionError):  # told by `check_document`
            if not self._refs.read(key).knows(copy):
                message = f"{where}: lost, put back or changed by hand: its copy says more"
                self.add("error", where, None, message)

    def check_document(self, key: str) -> None:
        """A document, and the manifests that it names."""
        try:
            document = self._refs.read(key)
            versions = self._versions(key, document)
        except (DamagedStore, PermissionError) as error:
            self.add("error", self._refs.where(key), None, str(error))
            return
        for number, digest in versions:
            self._check_manifest(key, number, digest)

    def _versions(self, key: str, document: Document) -> list[tuple[int, Digest]]:
        """Number and manifest of each version; the number is 0 where there is only one manifest."""
        if key.startswith(f"{TASKS}/"):
            found = self._refs.versions_in(key, document).versions
            return [(number, version.manifest) for number, version in found.items()]
        return [(0, manifest) for manifest in self._refs.roots(key, document)]

    def _check_manifest(self, key: str, number: int, digest: Digest) -> None:
        self._manifests.add(digest)
        try:
            for blob in load_manifest(self._blobs, digest).blobs():
                # The bytes of a component can be those of something else too.
                if blob.media_type == COMPONENT or blob.digest not in self._needed:
                    self._needed[blob.digest] = blob
            name = name_in(key)
            if name and key.startswith(f"{TASKS}/"):
                load_path(self._blobs, name, number, digest)
            elif name and key.startswith(f"{AGENTS}/"):
                load_state(self._blobs, name, digest)
        except (DamagedStore, PermissionError) as error:
            if not self._is_named(key, number, digest):
                return  # removed since it was read
            self.add("error", self._refs.where(key), digest, str(error))

    def _is_named(self, key: str, number: int, digest: Digest) -> bool:
        try:
            return (number, digest) in self._versions(key, self._refs.read(key))
        except (DamagedStore, PermissionError):
            return True

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
