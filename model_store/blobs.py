"""Immutable bytes under their SHA-256: blobs/sha256/<hex>, as in an OCI image layout.

A blob is written once, whole, under the digest computed here from its bytes, and verified whenever
it is read. Nothing here knows what a blob means.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NewType

from model_store.canonical_json import shown
from model_store.errors import BlobNotFound, CorruptBlob, InvalidName, Malformed, NotAFile
from model_store.files.gc_handshake import Handshake
from model_store.files.protocol import CutShort, Entry, Storage, TooLarge

Digest = NewType("Digest", str)  # "sha256:<64 lower case hex digits>"

DIRECTORY = "blobs/sha256"
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def parse_digest(text: object) -> Digest:
    """`text` as a digest; InvalidName if it is none."""
    if isinstance(text, str) and _DIGEST.fullmatch(text):
        return Digest(text)
    raise InvalidName(f'digest {shown(text)}: expected "sha256:" and 64 lower case hex digits')


def digest_of(data: bytes | memoryview) -> Digest:
    """The digest of these bytes."""
    return Digest("sha256:" + hashlib.sha256(data).hexdigest())


def key_of(digest: Digest) -> str:
    """The key of a blob."""
    return f"{DIRECTORY}/{digest.removeprefix('sha256:')}"


class Blobs:
    """The blobs of a store. Any number of processes may use it at once."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._handshake = Handshake(storage)
        self._sizes: dict[Digest, int] = {}  # of blobs whose very bytes this process has had

    def where(self, digest: Digest) -> str:
        """Where the blob is, or would be."""
        return self._storage.where(key_of(digest))

    def put(self, data: bytes | memoryview) -> Digest:
        """Store bytes; nothing is written if they are there already.

        Their name is durable only after `settle`. Raises CorruptBlob where there is a file of
        another size, OSError or StorageError.
        """
        digest = digest_of(data)
        self._sizes[digest] = len(data)
        while True:
            if self._storage.create(key_of(digest), data):
                if self._handshake.spare([key_of(digest)]):
                    return digest  # else a gc was removing an older copy, and may have taken this
            elif self.renew([digest]):
                return digest

    def mend(self, digest: Digest, data: memoryview) -> None:
        """Let a blob have its bytes, which were verified, also in place of something else; durable.

        Raises OSError, such as where that is a folder, or StorageError.
        """
        self._storage.mend(key_of(digest), data)
        self._sizes[digest] = len(data)
        if not self.renew([digest]):
            self.put(data)  # a gc was removing what was there
            self.settle()

    def renew(
        self, digests: Iterable[Digest], said: Mapping[Digest, int] | None = None
    ) -> list[Digest]:
        """Restart the grace period of blobs; those of them that are here.

        They stay for that time, and while a claim or a document needs them that was written before.
        `said` are the sizes that a manifest from elsewhere gives. Raises CorruptBlob for one whose
        size is not that of its bytes, and Malformed where the manifest is wrong.
        """
        keys = {key_of(digest): digest for digest in digests}
        self._storage.touch(keys)
        while not self._handshake.spare(keys):
            self._storage.touch(keys)
        # Looked for last: between the touch and `spare`, a whole gc may have removed some.
        sizes = self._storage.sizes(keys)
        for key, found in sizes.items():
            expected = self._sizes.get(keys[key], found)
            if found != expected:
                raise self._wrong_size(keys[key], found, expected)
            if said and said.get(keys[key], found) != found:
                self.read(keys[key])  # raises CorruptBlob if it is the file that is wrong
                raise Malformed(
                    f"a manifest gives blob {keys[key]} {said[keys[key]]} bytes; it has {found}"
                )
        return [keys[key] for key in sizes]

    def are_left_alone(self) -> bool:
        """Whether no gc is about to remove any: then each that comes sees what is claimed now."""
        return self._handshake.is_idle()

    def settle(self) -> None:
        """Make the names of all blobs put so far durable."""
        self._storage.settle(DIRECTORY)

    def size(self, digest: Digest) -> int:
        """Bytes of a blob: of its bytes, which are read unless this process has had them.

        What a storage says of a file is not enough: it may be cut off. Raises as `read` does.
        """
        known = self._sizes.get(digest)
        return len(self.read(digest)) if known is None else known

    def knows(self, digest: Digest, size: int) -> None:
        """Note the size of a blob, from a manifest that was verified."""
        self._sizes.setdefault(digest, size)

    def read(
        self, digest: Digest, size: int | None = None, *, limit: int | None = None
    ) -> memoryview:
        """The bytes of a blob, read-only and verified: `size` of them if given, and the SHA-256.

        What is verified is the very memory that is returned: nobody can change it afterwards.

        Raises BlobNotFound or CorruptBlob, naming path and digest, or Malformed for a blob of more
        than `limit` bytes.
        """
        while True:
            try:
                data = self._load(digest, size, limit)
                self._require(digest, size, data)
                self._sizes[digest] = len(data)
                return data
            except (CorruptBlob, Malformed):
                if not self._storage.forget(key_of(digest)):
                    raise
                # It was the local copy that is wrong: read the original once more.

    def _require(self, digest: Digest, size: int | None, data: memoryview) -> None:
        if size not in (None, len(data)):
            raise self._wrong_size(digest, len(data), size)
        found = digest_of(data)
        if found != digest:
            raise CorruptBlob(
                f"blob {digest} at {self.where(digest)}: its bytes give {found}; remove the file"
                " and put or restore the original"
            )

    def _load(self, digest: Digest, size: int | None, limit: int | None) -> memoryview:
        if size is not None and limit is not None and size > limit:
            raise Malformed(f"blob {digest}: said to have {size} bytes, limit {limit}")
        try:
            data = self._storage.load(key_of(digest), limit if size is None else size)
        except NotAFile as error:
            raise CorruptBlob(f"blob {digest} at {error}") from error
        except CutShort as error:
            where = self.where(digest)
            raise CorruptBlob(f"blob {digest} at {where}: {error}; restore the original") from None
        except TooLarge as error:
            if size is not None:
                raise self._wrong_size(digest, error.size, size) from None
            where = self.where(digest)
            raise Malformed(
                f"blob {digest} at {where}: {error.size} bytes, limit {limit}"
            ) from None
        if data is None:
            raise self._not_found(digest)
        return data

    def all(self) -> Iterator[tuple[Digest, Entry]]:
        """Every file of the blob directory that is named as a blob."""
        for entry in self._storage.walk(DIRECTORY):
            digest = "sha256:" + entry.key.removeprefix(f"{DIRECTORY}/")
            if _DIGEST.fullmatch(digest):
                yield Digest(digest), entry

    def _wrong_size(self, digest: Digest, found: int, expected: int | None) -> CorruptBlob:
        return CorruptBlob(
            f"blob {digest} at {self.where(digest)}: {found} bytes, expected {expected}; remove the"
            " file and put or restore the original"
        )

    def _not_found(self, digest: Digest) -> BlobNotFound:
        return BlobNotFound(
            f"blob {digest}: no file {self.where(digest)}; put it again or restore it from a copy"
        )
