"""Reading versions of tasks: manifest and path spec, together one Published; or what is missing."""

import difflib
import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast

from model_store.blobs import Blobs, Digest
from model_store.canonical_json import MAX_BYTES, decode_json
from model_store.errors import (
    BlobNotFound,
    DamagedStore,
    Malformed,
    StorageError,
    UnknownTask,
    UnknownVersion,
    listed,
)
from model_store.manifest import (
    AGENT_STATE,
    COMPONENT,
    MAX_MANIFEST_BYTES,
    MAX_SPEC_BYTES,
    PATH_SPEC,
    Descriptor,
    Manifest,
    TaskPath,
    require_agreement,
)
from model_store.names import signature_key
from model_store.refs import UNREADABLE, Refs
from model_store.signatures import Signature, read_signatures
from model_store.versions import Version, Versions
from model_store.watching import Watcher

logger = logging.getLogger(__name__)
SHOWN = 10  # versions that an error names
MANIFESTS = 256  # remembered, of agents' states and their parts


@dataclass(frozen=True, slots=True)
class Published:
    """One published version of a task."""

    task: str
    version: int
    digest: Digest  # of the manifest
    path: TaskPath
    sizes: Mapping[str, int]  # component name -> bytes
    created: str  # when the version was added: RFC 3339, UTC


@dataclass(frozen=True, slots=True)
class Listed:
    """A version as its task's document tells of it: no manifest is read."""

    version: int
    digest: Digest  # of its manifest
    created: str  # RFC 3339, UTC
    names: Sequence[str]  # aliases that name it


class Reader:
    """The versions of a store. Needs no lock, and sees only whole ones."""

    def __init__(self, url: str, blobs: Blobs, refs: Refs, watcher: Watcher) -> None:
        self._url = url
        self._blobs = blobs
        self._refs = refs
        self._watcher = watcher
        self._manifests: dict[Digest, Manifest] = {}  # read last

    def manifest(self, digest: Digest) -> Manifest:
        """A manifest, not read again if it was read or written lately. Raises DamagedStore."""
        return self.note(digest, self._manifests.get(digest) or load_manifest(self._blobs, digest))

    def note(self, digest: Digest, manifest: Manifest) -> Manifest:
        """Remember a manifest for a while."""
        self._manifests.pop(digest, None)
        self._manifests[digest] = manifest
        while len(self._manifests) > MANIFESTS:
            with suppress(KeyError, StopIteration, RuntimeError):  # another thread was quicker
                del self._manifests[next(iter(self._manifests))]
        return manifest

    def load(self, task: str, number: int, version: Version) -> Published:
        """A version, given what its task's document says. Raises DamagedStore, or UnknownVersion
        if it was just removed.
        """
        try:
            path, sizes = load_path(self._blobs, task, number, version.manifest)
        except BlobNotFound:
            if number not in self._refs.versions(task).versions:
                raise UnknownVersion(
                    f"version {number} of task {task!r} was removed while being read"
                ) from None
            raise
        return Published(task, number, version.manifest, path, sizes, version.created)

    def live(self, task: str) -> tuple[int, Version]:
        """The live version. Raises UnknownTask or CorruptRef."""
        found = self._refs.versions(task)
        if found.live is None:
            raise self._unknown_task(task)
        return found.live, found.versions[found.live]

    def version(self, task: str, number: int) -> Version:
        """A version. Raises UnknownTask or UnknownVersion."""
        versions = self.existing(task)
        if number in versions:
            return versions[number]
        raise UnknownVersion(
            f"task {task!r} has no version {number}; it has {_listed_versions(versions)}"
        )

    def newest(self, task: str, most: int) -> tuple[list[Listed], int]:
        """Up to `most` versions, ascending, and how many older ones there are."""
        found = self._refs.versions(task)
        numbers = list(found.versions)
        shown = [
            Listed(n, found.versions[n].manifest, found.versions[n].created, found.aliases_of(n))
            for n in numbers[-most:]
        ]
        return shown, len(numbers) - len(shown)

    def existing(self, task: str) -> Mapping[int, Version]:
        """The versions of a task, ascending. Raises UnknownTask if it has none."""
        versions = self._refs.versions(task).versions
        if not versions:
            raise self._unknown_task(task)
        return versions

    def _unknown_task(self, task: str) -> UnknownTask:
        versions = self._refs.versions(task).versions
        if versions:
            return UnknownTask(
                f"task {task!r} has no live version; make one live with rollback:"
                f" {_listed_versions(versions)}"
            )
        tasks = sorted(self._watcher.snapshot().live)
        near = difflib.get_close_matches(task, tasks, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"its tasks: {len(tasks)}"
        return UnknownTask(f"store {self._url} has no task {task!r}; {hint}")

    def signatures(self, manifest: Digest) -> list[Signature]:
        """The signatures of a manifest. Raises DamagedStore."""
        return self.signatures_in(self._refs.manifest(signature_key(manifest)))

    def signatures_in(self, digest: Digest | None) -> list[Signature]:
        """The signatures in a manifest of signatures. Raises DamagedStore."""
        if digest is None:
            return []

        def read(blob: Descriptor) -> bytes:
            return bytes(self._blobs.read(blob.digest, blob.size))

        data = bytes(self._blobs.read(digest, limit=MAX_MANIFEST_BYTES))
        return read_signatures(data, read)

    def signature_manifests(
        self, manifests: Iterable[Digest]
    ) -> dict[Digest, Digest | Exception | None]:
        """What holds the signatures of each, or the error; at once where that is faster."""
        keys = {manifest: signature_key(manifest) for manifest in manifests}
        read = self._refs.read_many(keys.values())
        found: dict[Digest, Digest | Exception | None] = {}
        for manifest, key in keys.items():
            try:
                found[manifest] = self._refs.manifest_in(key, self._refs.parse(key, read[key]))
            except UNREADABLE as error:
                found[manifest] = error
        return found

    def served(self) -> list[Published]:
        """The live version of every task, by name; what cannot be read is logged and left out."""
        found: list[Published] = []
        for task in sorted(self._watcher.snapshot().live):
            try:
                found.append(self.load(task, *self.live(task)))
            except UnknownTask:
                continue  # removed since
            except (DamagedStore, StorageError, OSError) as error:
                logger.warning("event=task_damaged task=%s error=%r", task, str(error))
        return found

    def readable(self, task: str, found: Versions) -> Published | None:
        """The live version; None if there is none, or it is damaged, which is logged."""
        if found.live is None:
            return None
        try:
            return self.load(task, found.live, found.versions[found.live])
        except (DamagedStore, UnknownVersion) as error:
            logger.warning("event=version_unreadable task=%s error=%r", task, str(error))
            return None


def _listed_versions(versions: Iterable[int]) -> str:
    return listed([f"v{number}" for number in versions])


def load_manifest(blobs: Blobs, digest: Digest) -> Manifest:
    """The manifest stored under a digest. Raises DamagedStore."""
    data = bytes(blobs.read(digest, limit=MAX_MANIFEST_BYTES))
    try:
        return Manifest.from_bytes(data)
    except Malformed as error:
        raise Malformed(f"manifest {digest} at {blobs.where(digest)}: {error}") from error


def load_state(blobs: Blobs, agent: str, digest: Digest) -> dict[str, Any]:
    """The document in an agent's state, or in a part of one, given its manifest.

    Raises DamagedStore.
    """
    manifest = load_manifest(blobs, digest)
    for layer in manifest.layers:
        blobs.knows(layer.digest, layer.size)
    try:
        state = manifest.layer(AGENT_STATE)
        data = bytes(blobs.read(state.digest, state.size, limit=MAX_BYTES))
        document = decode_json(data, "document")
        if not isinstance(document, dict):
            raise Malformed(f"document: {type(document).__name__}, expected a JSON object")
    except Malformed as error:
        raise Malformed(
            f"state of agent {agent}, manifest {digest} at {blobs.where(digest)}: {error}"
        ) from error
    return cast(dict[str, Any], document)


def path_of(blobs: Blobs, manifest: Manifest) -> TaskPath:
    """The path spec that a manifest names. Raises DamagedStore."""
    spec = manifest.layer(PATH_SPEC)
    data = bytes(blobs.read(spec.digest, spec.size, limit=MAX_SPEC_BYTES))
    path = TaskPath.from_bytes(data)
    require_agreement(manifest, path)
    return path


def load_path(
    blobs: Blobs, task: str, version: int, digest: Digest
) -> tuple[TaskPath, dict[str, int]]:
    """Path and component sizes of a version, given the digest in its ref. Raises DamagedStore."""
    manifest = load_manifest(blobs, digest)
    try:
        path = path_of(blobs, manifest)
        if path.task != task:
            raise Malformed(f"path spec: of task {path.task!r}, expected {task!r}")
    except Malformed as error:
        raise Malformed(
            f"version {version} of {task}, manifest {digest} at {blobs.where(digest)}: {error}"
        ) from error
    layers = [layer for layer in manifest.layers if layer.media_type == COMPONENT]
    for layer in layers:
        blobs.knows(layer.digest, layer.size)
    return path, {name: layer.size for name, layer in zip(path.components, layers, strict=True)}
