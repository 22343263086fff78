"""Copying blobs from one store to another: only what is lacking, each verified on the way."""

from collections.abc import Iterable

from model_store.blobs import Blobs, Digest
from model_store.errors import CorruptBlob, DamagedStore, StorageError
from model_store.exchange.transfer import in_parallel
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
        needs = dict(zip(wanted, in_parallel(self._needs_of, wanted), strict=True))
        errors = {m: found for m, found in needs.items() if isinstance(found, Exception)}
        whole = {m: found for m, found in needs.items() if not isinstance(found, Exception)}
        lacking = sorted({need for found in whole.values() for need in found}, key=str)
        failed = dict(zip(lacking, in_parallel(self._copy_one, lacking), strict=True))
        for manifest, found in whole.items():
            if broken := [error for need in found if (error := failed[need])]:
                errors[manifest] = broken[0]
        return errors

    def settle(self) -> None:
        """Make the names of what was copied durable."""
        self._destination.settle()

    def _needs_of(self, manifest: Digest) -> list[Need] | Exception:
        """A manifest and all that it names, or why that cannot be told."""
        try:
            blobs = load_manifest(self._source, manifest).blobs()
        except UNREADABLE as error:
            return error
        return [(manifest, None), *((blob.digest, blob.size) for blob in blobs)]

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
