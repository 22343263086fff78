"""Copying blobs from one store to another: only what is lacking, each verified on the way."""

from collections.abc import Iterable

from model_store.blobs import Blobs, Digest
from model_store.errors import CorruptBlob, DamagedStore, StorageError
from model_store.exchange.transfer import in_parallel
from model_store.manifest import Manifest
from model_store.reading import load_manifest

UNREADABLE = (DamagedStore, StorageError, OSError)  # what reading one blob may end with

Need = tuple[Digest, int | None]  # a blob, and its bytes where they are known


class BlobCopy:
    """Copies blobs that the destination lacks, and counts them."""

    def __init__(self, source: Blobs, destination: Blobs) -> None:
        self.copied = self.copied_bytes = 0
        self._source = source
        self._destination = destination
        self._there: dict[Digest, int] | None = None  # at the destination: their bytes

    def copy(self, manifests: Iterable[Digest]) -> dict[Digest, Exception]:
        """Copy manifests and all that they need; of those that are not whole there then, why."""
        wanted = sorted(manifests)
        if not wanted:
            return {}
        if self._there is None:
            self._there = {digest: entry.size for digest, entry in self._destination.all()}
        read = dict(zip(wanted, in_parallel(self._read, wanted), strict=True))
        parts = sorted({part for m in read.values() if isinstance(m, Manifest) for part in m.parts})
        read |= zip(parts, in_parallel(self._read, parts), strict=True)
        errors = {m: found for m, found in read.items() if isinstance(found, Exception)}
        whole = {m: found for m, found in read.items() if isinstance(found, Manifest)}
        needs = {m: _needs_of(m, found) for m, found in whole.items()}
        lacking = sorted({need for found in needs.values() for need in found}, key=str)
        failed = dict(zip(lacking, in_parallel(self._copy_one, lacking), strict=True))
        for manifest, found in needs.items():
            if broken := [error for need in found if (error := failed[need])]:
                errors[manifest] = broken[0]
        for manifest, found in whole.items():
            if broken := [errors[part] for part in found.parts if part in errors]:
                errors.setdefault(manifest, broken[0])
        return {manifest: errors[manifest] for manifest in wanted if manifest in errors}

    def settle(self) -> None:
        """Make the names of what was copied durable."""
        self._destination.settle()

    def _read(self, manifest: Digest) -> Manifest | Exception:
        """A manifest, or why it cannot be read."""
        try:
            return load_manifest(self._source, manifest)
        except UNREADABLE as error:
            return error

    def _copy_one(self, need: Need) -> Exception | None:
        """Copy a blob unless it is there; why it is not there whole."""
        digest, size = need
        assert self._there is not None
        there = self._there.get(digest)
        if there is None:
            try:
                data = self._source.read(digest, size)
            except UNREADABLE as error:
                return error
            self._destination.put(data)
            there = self._there[digest] = len(data)
            self.copied += 1
            self.copied_bytes += there
        if size in (None, there):
            return None
        return CorruptBlob(
            f"blob {digest} at {self._destination.where(digest)}: {there} bytes, expected {size};"
            " run verify --repair there"
        )


def _needs_of(digest: Digest, manifest: Manifest) -> list[Need]:
    """A manifest and all that it names."""
    return [(digest, None), *((blob.digest, blob.size) for blob in manifest.blobs())]
