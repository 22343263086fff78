"""Reads and checks everything in a store: refs, manifests, path specs, the bytes of every blob."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from model_store.arrays import decode
from model_store.blobs import Blobs, Digest, key_of
from model_store.canonical_json import MAX_BYTES
from model_store.errors import BlobNotFound, DamagedStore, InvalidName, StorageError
from model_store.files import format_marker
from model_store.files.ballast import NAME as RESERVE
from model_store.files.gc_handshake import KEY as GC
from model_store.files.gc_handshake import Handshake, lacking
from model_store.files.protocol import MARKER, Storage
from model_store.manifest import COMPONENT, MAX_MANIFEST_BYTES, Descriptor
from model_store.names import AGENTS, KINDS, TASKS, name_in, unquote
from model_store.reading import load_manifest, load_path, load_state
from model_store.refs import Document, Refs
from model_store.store import ModelStore
from model_store.upkeep.second_copies import Pair, Severity
from model_store.watching import KEY as CHANGES

_FILES = re.compile(
    rf"{MARKER}|{RESERVE}|lock(?:\.gc)?|gc|tmp/~[^/]+|blobs/sha256/[0-9a-f]{{64}}|refs/changes"
    r"|leases/gc|(?:leases/|lock\.)agents/(?P<held>[^/]+)"
    r"|touched/(?:blobs/sha256/[0-9a-f]{64}|probe-[0-9a-f]{16})|refs/signatures/[0-9a-f]{64}"
    r"|copies/signatures/[0-9a-f]{64}|(?:refs|copies)/(?:tasks|agents|pins)/(?P<owner>[^/]+)"
)

WRITERS = (GC, CHANGES, "lock", "lock.gc")  # what every writer or gc opens, no matter what it holds

Owner = tuple[str, int, Digest]  # the key of a document, number and manifest of a version


@dataclass(frozen=True, slots=True)
class Problem:
    """Something found wrong, or under way: an error will reach its readers, a warning harms
    nobody, and a note tells of an operation that goes on or was stopped.
    """

    severity: Severity
    path: str  # of the file
    digest: Digest | None  # of the blob, or of the manifest a ref names
    message: str


def verify_store(store: ModelStore, *, under_way: bool = False) -> list[Problem]:
    """Everything wrong with the store; empty when it is sound. Reads every byte of it.

    With `under_way`, also notes of operations that go on, or were stopped.
    """
    found = verify(store.storage, store.blobs, store.refs)
    return [problem for problem in found if under_way or problem.severity != "note"]


def verify(storage: Storage, blobs: Blobs, refs: Refs) -> list[Problem]:
    """Everything that is wrong with a store; empty when it is sound and nothing is under way.

    Nothing is reported that another process, or a gc, has just made out of date: what names a
    thing is read again. Unreachable blobs are hashed too, because `put` would take them for the
    real ones.
    """
    for digest, _ in blobs.all():
        storage.forget(key_of(digest))  # the store is to be read, not the copies this machine has
    found = _Verification(storage, blobs, refs)
    found.check_marker()
    found.check_documents()
    found.check_blobs()
    found.check_other_files()
    return found.problems


class _Verification:
    """Gathers problems, and what the refs looked at need."""

    def __init__(self, storage: Storage, blobs: Blobs, refs: Refs) -> None:
        self.problems: list[Problem] = []
        self._storage = storage
        self._blobs = blobs
        self._refs = refs
        self._needed: dict[Digest, Descriptor] = {}
        self._owners: dict[Digest, set[Owner]] = {}  # of what is needed
        self._manifests: set[Digest] = set()
        self._parts: dict[Digest, list[Descriptor]] = {}  # what they name, of agents' states

    def _add(self, severity: Severity, path: str, digest: Digest | None, message: str) -> None:
        self.problems.append(Problem(severity, path, digest, message))

    def check_marker(self) -> None:
        """The id of this store, by which a backup knows it. Raises as `format_marker.look` does."""
        found, where = format_marker.look(self._storage), self._storage.where(MARKER)
        if found and not found.has_sound_id:
            message = (
                f"{where}: the id {found.id} is none that a store was given; restore this file"
            )
            self._add("error", where, None, f"{message} from a backup")

    def check_documents(self) -> None:
        """That none is lost, and each of them."""
        expected, _ = Handshake(self._storage).said()  # before it is counted: none is ever removed
        number = 0
        for kind in KINDS:
            there, lost = self._refs.there_and_lost(kind)
            number += len(there) + len(lost)
            for key in sorted([*there, *lost]):
                self.check_document(key)
        if number < expected:
            where = self._storage.where("refs")
            message = f"{where}: {lacking(number, expected)}: others are lost, with their copies"
            self._add("error", where, None, f"{message}; restore them from a backup")

    def check_document(self, key: str) -> None:
        """A document, its copy, and the manifests that it names."""
        pair = Pair.read(self._refs, key)
        faults = list(pair.faults())
        if faults:  # once more: what passes was under way
            pair = Pair.read(self._refs, key)
            faults = list(pair.faults())
        for fault in faults:
            self._add(fault.severity, fault.where, None, fault.message)
        if pair.main.document is not None:
            for number, digest in self._versions(key, pair.main.document):
                self._check_manifest((key, number, digest))

    def _versions(self, key: str, document: Document) -> list[tuple[int, Digest]]:
        """Number and manifest of each version; the number is 0 where there is only one manifest."""
        if key.startswith(f"{TASKS}/"):
            found = self._refs.versions_in(key, document).versions
            return [(number, version.manifest) for number, version in found.items()]
        return [(0, manifest) for manifest in self._refs.roots(key, document)]

    def _check_manifest(self, owner: Owner) -> None:
        key, _, digest = owner
        self._manifests.add(digest)
        if error := self._confirmed(owner, lambda: self._read_version(owner)):
            self._add("error", self._refs.where(key), digest, str(error))

    def _read_version(self, owner: Owner) -> None:
        """Note what a manifest needs, and read what lists it. Raises DamagedStore or OSError."""
        key, number, digest = owner
        manifest = load_manifest(self._blobs, digest)
        self._need(owner, manifest.blobs())
        for part in manifest.parts:
            if part not in self._parts:
                self._parts[part] = load_manifest(self._blobs, part).blobs()
                self._manifests.add(part)
            self._need(owner, self._parts[part])
        name = name_in(key)
        if name and key.startswith(f"{TASKS}/"):
            load_path(self._blobs, name, number, digest)
        elif name and key.startswith(f"{AGENTS}/"):
            load_state(self._blobs, name, digest)

    def _need(self, owner: Owner, blobs: Iterable[Descriptor]) -> None:
        for blob in blobs:
            # The bytes of a component can be those of something else too.
            if blob.media_type == COMPONENT or blob.digest not in self._needed:
                self._needed[blob.digest] = blob
            self._owners.setdefault(blob.digest, set()).add(owner)

    def _confirmed(self, owner: Owner, look: Callable[[], object]) -> DamagedStore | OSError | None:
        """The error that `look` ends with, if a document names the manifest before and after it.

        Else another process has removed the version, and a gc what it needed.
        """
        key, number, digest = owner
        before: Document | None = None
        while True:
            try:
                look()
                return None
            except (DamagedStore, OSError) as error:
                document = self._refs.read(key)
                if (number, digest) not in self._versions(key, document):
                    return None
                # Removed and published again, it was named before and is afterwards.
                if not isinstance(error, BlobNotFound) or (
                    before and before.count == document.count
                ):
                    return error
                before = document

    def check_blobs(self) -> None:
        """The bytes of every blob, and that none is missing."""
        present = {digest for digest, _ in self._blobs.all()}
        for digest in sorted(present | self._needed.keys()):
            self._check_blob(digest, self._needed.get(digest))

    def _check_blob(self, digest: Digest, needed: Descriptor | None) -> None:
        where = self._blobs.where(digest)
        component = needed is not None and needed.media_type == COMPONENT

        def look() -> None:
            size = needed.size if needed else None
            data = self._blobs.read(digest, size, limit=self._limit(digest, component, needed))
            if component:
                decode(data)

        try:
            look()
        except (StorageError, OSError) as error:
            self._add("error", where, digest, f"blob {digest} cannot be read: {error}")
        except BlobNotFound:
            for owner in self._owners.get(digest, ()):
                if error := self._confirmed(owner, look):
                    self._add("error", where, digest, str(error))
                    return
        except DamagedStore as error:
            message = str(error)
            if str(digest) not in message:
                message = f"blob {digest} at {where}: {message}"
            self._add("error", where, digest, message)

    def check_other_files(self) -> None:
        """What is no part of a store, and what a gc or a writer is about to do."""
        for key, read in self._storage.read_many(WRITERS).items():
            if isinstance(read, DamagedStore):
                self._add(
                    "error", self._storage.where(key), None, f"{read}: no writer gets past it"
                )
        temporary = 0
        for entry in self._storage.walk(""):
            temporary += entry.key.startswith("tmp/~")
            if not _belongs(entry.key):
                where = self._storage.where(entry.key)
                self._add("warning", where, None, f"{where} is not part of a store")
        if temporary:
            where = self._storage.where("tmp")
            message = f"{where}: {temporary} files are being written, or were left by writers that"
            self._add("note", where, None, f"{message} died; gc removes those")
        if doomed := Handshake(self._storage).said()[1]:
            where = self._storage.where(GC)
            message = f"{where}: a gc is removing {len(doomed)} blobs, or was stopped meanwhile"
            self._add("note", where, None, f"{message}; the next one goes on")

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
