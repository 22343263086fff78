"""Reading versions of tasks, and saying well what is not there."""

import difflib
import logging
from collections.abc import Iterable

from model_store.blobs import Blobs, Digest
from model_store.errors import (
    CorruptRef,
    DamagedStore,
    StorageError,
    UnknownTask,
    UnknownVersion,
)
from model_store.history import Listed, newest, newest_digests
from model_store.keys import LIVE, pointer_key, signature_key
from model_store.manifest import MAX_MANIFEST_BYTES, Descriptor
from model_store.published import Published, load_path
from model_store.refs import Refs
from model_store.signing import Signature, read_signatures
from model_store.storage import Storage
from model_store.watching import Watcher

logger = logging.getLogger(__name__)
SHOWN = 10  # versions that an error names


class Reader:
    """The versions of a store. Needs no lock, and sees only whole ones."""

    def __init__(self, storage: Storage, blobs: Blobs, refs: Refs, watcher: Watcher) -> None:
        self._storage = storage
        self._blobs = blobs
        self._refs = refs
        self._watcher = watcher

    def load(self, task: str, number: int, digest: Digest) -> Published:
        """A version, given its manifest. Raises DamagedStore, or UnknownVersion if just removed."""
        path, sizes = load_path(self._blobs, task, number, digest)
        created = self._refs.created(task, number)
        if created is None:
            raise UnknownVersion(f"version {number} of task {task!r} was removed while being read")
        return Published(task, number, digest, path, sizes, created)

    def live(self, task: str) -> tuple[int, Digest]:
        """The live version and its manifest. Raises UnknownTask or CorruptRef."""
        number = self._refs.pointer(task, LIVE)
        while number is not None:
            digest = self._refs.version(task, number)
            if digest:
                return number, digest
            # Removed between the two reads, and then no longer live; or damaged.
            previous, number = number, self._refs.pointer(task, LIVE)
            if number == previous:
                where = self._refs.where(pointer_key(task, LIVE))
                raise CorruptRef(f"ref {where} names v{number}, which does not exist; roll back")
        raise self._unknown_task(task)

    def version(self, task: str, number: int) -> Digest:
        """The manifest of a version. Raises UnknownTask or UnknownVersion."""
        digest = self._refs.version(task, number)
        if digest:
            return digest
        versions, more = newest_digests(self._storage, self._refs, task, SHOWN)
        if not versions:
            raise self._unknown_task(task)
        raise UnknownVersion(
            f"task {task!r} has no version {number}; it has {_listed_versions(versions, more)}"
        )

    def newest(self, task: str, most: int) -> tuple[list[Listed], int]:
        """Up to `most` versions, ascending, and how many further ones there are at most."""
        return newest(self._storage, self._refs, task, most)

    def existing(self, task: str) -> dict[int, Digest]:
        """The versions of a task, ascending. Raises UnknownTask if it has none."""
        versions = self._refs.versions(task)
        if not versions:
            raise self._unknown_task(task)
        return versions

    def _unknown_task(self, task: str) -> UnknownTask:
        versions, more = newest_digests(self._storage, self._refs, task, SHOWN)
        if versions:
            return UnknownTask(
                f"task {task!r} has no live version; make one live with rollback:"
                f" {_listed_versions(versions, more)}"
            )
        tasks = sorted(self._watcher.snapshot().live)
        near = difflib.get_close_matches(task, tasks, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"it has {len(tasks)} others"
        return UnknownTask(f"store {self._storage.url} has no task {task!r}; {hint}")

    def signatures(self, manifest: Digest) -> list[Signature]:
        """The signatures of a manifest. Raises DamagedStore."""
        digest = self._refs.signatures(manifest)
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
        read = self._storage.read_many(keys.values())
        found: dict[Digest, Digest | Exception | None] = {}
        for manifest, key in keys.items():
            try:
                found[manifest] = self._refs.parse_digest(key, read[key])
            except (DamagedStore, StorageError, OSError) as error:
                found[manifest] = error
        return found

    def served(self) -> list[Published]:
        """The live version of every task, by name; what cannot be read is logged and left out."""
        found: list[Published] = []
        for task, (version, digest) in sorted(self._watcher.snapshot().live.items()):
            try:
                found.append(self.load(task, version, digest))
            except (DamagedStore, StorageError, OSError) as error:
                logger.warning("event=task_damaged task=%s error=%r", task, str(error))
        return found

    def readable(self, task: str, number: int | None) -> Published | None:
        """A version; None if there is none, or it is damaged, which is logged."""
        try:
            digest = self._refs.version(task, number) if number else None
            return self.load(task, number, digest) if number and digest else None
        except (DamagedStore, UnknownVersion) as error:
            logger.warning("event=version_unreadable task=%s error=%r", task, str(error))
            return None

    def live_if(self, task: str, digest: Digest) -> Published | None:
        """The live version, if this is its manifest."""
        try:
            version = self._refs.pointer(task, LIVE)
            if not version or self._refs.version(task, version) != digest:
                return None
            return self.load(task, version, digest)
        except DamagedStore as error:  # must not stand in the way of the version that replaces it
            logger.warning("event=live_version_damaged task=%s error=%r", task, str(error))
            return None


def _listed_versions(versions: Iterable[int], more: int) -> str:
    shown = ", ".join(f"v{number}" for number in versions)
    return f"{shown} and up to {more} older ones" if more else shown
