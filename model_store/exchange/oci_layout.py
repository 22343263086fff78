"""An OCI image layout in a local directory, to be carried elsewhere or read by other tools.

https://github.com/opencontainers/image-spec/blob/main/image-layout.md. What is read may have been
made by anybody: only plain files of the right digest are taken. Several exports to one directory
wait for each other; tools that know nothing of our lock must not write meanwhile.
"""

import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from model_store.blobs import Digest, digest_of
from model_store.canonical_json import MAX_BYTES, decode_json, encode_json
from model_store.errors import (
    BlobNotFound,
    CorruptBlob,
    ExchangeError,
    Malformed,
    NotAFile,
    listed,
)
from model_store.exchange.tags import signature_tag, tag_of, version_tag
from model_store.exchange.transfer import Content, Offer, added_signatures, offer_of, select
from model_store.files import atomic
from model_store.files.local import read_file
from model_store.files.protocol import CutShort, TooLarge
from model_store.manifest import IMAGE_MANIFEST, MAX_MANIFEST_BYTES, MODEL, TITLE, Descriptor
from model_store.signatures import Signature, read_signatures, signature_manifest

TAG = "org.opencontainers.image.ref.name"
_INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
_LAYOUT = {"imageLayoutVersion": "1.0.0"}


class LayoutPlace:
    """An OCI image layout as a place."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._blobs = root / "blobs/sha256"
        self._scratch = root / ".munet"  # files being written: what is in it is ours

    def __str__(self) -> str:
        return f"layout {self._root}"

    # -- reading

    def offers(self, tasks: Sequence[str], *, history: bool) -> list[Offer]:
        """As Place says. Raises ExchangeError where there is no layout, and DamagedStore."""
        self._require_layout()
        entries = self._manifests()
        return select(
            entries,
            lambda tag: self._offer(entries[tag], entries),
            tasks,
            history=history,
            where=str(self),
        )

    def _require_layout(self) -> None:
        document = self._json("oci-layout")
        if document is None:
            raise ExchangeError(
                f"reading {self}: expected an OCI image layout, found no file oci-layout; give the"
                " directory that holds it"
            )
        if document.get("imageLayoutVersion") != _LAYOUT["imageLayoutVersion"]:
            found = document.get("imageLayoutVersion")
            raise ExchangeError(f"reading {self}: layout version {found!r}, expected '1.0.0'")
        for directory in (self._blobs.parent, self._blobs):
            if not stat.S_ISDIR(_mode(directory)):
                raise ExchangeError(
                    f"reading {self}: {directory} is no directory, or a link to one"
                )

    def _manifests(self) -> dict[str, Descriptor]:
        """Tag -> image manifest. Those without a tag get their digest for one."""
        found: dict[str, Descriptor] = {}
        for entry in self._index()["manifests"]:
            if _field(entry, "mediaType") != IMAGE_MANIFEST:
                continue  # an index of its own, or something that is not for us
            try:
                manifest = Descriptor.from_json(entry)
            except Malformed as error:
                raise Malformed(f"{self._root / 'index.json'}: {error}") from error
            found[manifest.annotations.get(TAG, manifest.digest)] = manifest
        return found

    def _offer(self, manifest: Descriptor, entries: Mapping[str, Descriptor]) -> Offer | None:
        if manifest.size > MAX_MANIFEST_BYTES:
            raise Malformed(
                f"{self}: manifest {manifest.digest} of {manifest.size} bytes, limit"
                f" {MAX_MANIFEST_BYTES}"
            )
        data = bytes(self.read(manifest).data)
        offer = offer_of(data, self.read, f"{self}, manifest {manifest.digest}")
        return offer and replace(offer, signatures=tuple(self._signatures(offer.digest, entries)))

    def _signatures(self, manifest: Digest, entries: Mapping[str, Descriptor]) -> list[Signature]:
        held = entries.get(signature_tag(manifest))
        if held is None:
            return []
        if held.size > MAX_MANIFEST_BYTES:
            raise Malformed(f"{self}: signatures of {manifest}: {held.size} bytes, too many")
        data = bytes(self.read(held).data)
        return read_signatures(data, lambda blob: bytes(self.read(blob).data))

    def read(self, blob: Descriptor) -> Content:
        """As Place says."""
        path = self._path(blob.digest)
        try:
            data = _verified(path, blob)
        except FileNotFoundError:
            raise BlobNotFound(
                f"blob {blob.digest}: no file {path}; export or copy the layout again"
            ) from None
        except NotAFile as error:
            raise CorruptBlob(f"blob {blob.digest}: {error}") from error
        return Content(data)

    def read_blob(self, digest: Digest) -> memoryview:
        """Any blob that is here, verified. Raises ExchangeError, BlobNotFound or CorruptBlob."""
        self._require_layout()
        path = self._path(digest)
        size = path.lstat().st_size if os.path.lexists(path) else 0
        return self.read(Descriptor("", digest, size)).data

    # -- writing

    def prepare(self, offers: Sequence[Offer]) -> None:
        """Make an empty layout, unless there is one.

        Raises ExchangeError where there is something else, or where a tag of one of these versions
        is another version's; Malformed or NotAFile for a damaged layout.
        """
        self._require_ours()
        self._root.mkdir(parents=True, exist_ok=True)
        for folder in (self._scratch, self._blobs):
            atomic.make_folders(folder, self._root)
        with self._lock().held():
            for leftover in atomic.abandoned(self._scratch):
                leftover.unlink(missing_ok=True)
            if self._json("oci-layout") is None:
                self._replace("oci-layout", _LAYOUT)
            if self._json("index.json") is None:
                self._replace("index.json", {"schemaVersion": 2, "manifests": []})
        self._require_layout()
        self._require_free(offers, self._manifests())

    def _require_ours(self) -> None:
        """Nothing is written into a folder that holds something else. Raises ExchangeError."""
        if not os.path.lexists(self._root):
            return
        names = set(os.listdir(self._root))
        if names and not names & {"oci-layout", self._scratch.name}:
            raise ExchangeError(
                f"exporting to {self._root}: expected an empty folder or an OCI image layout, found"
                f" {listed(sorted(names))}; choose another folder"
            )

    def _require_free(self, offers: Sequence[Offer], known: Mapping[str, Descriptor]) -> None:
        """The tag of a version never moves. Raises ExchangeError."""
        for offer in offers:
            if offer.number is None:
                continue
            tag = version_tag(tag_of(offer.task), offer.number)
            if tag in known and known[tag].digest != offer.digest:
                raise ExchangeError(
                    f"exporting to {self._root}: expected v{offer.number} of {offer.task} to be"
                    f" {offer.digest}, found {known[tag].digest}, of another store; export to"
                    " another folder, or without the history"
                )

    def lacks(self, blobs: Sequence[Descriptor]) -> list[Descriptor]:
        """As Place says; a file of the wrong size counts as not there."""
        return [blob for blob in blobs if not self._holds(blob)]

    def _holds(self, blob: Descriptor) -> bool:
        try:
            status = self._path(blob.digest).lstat()
        except FileNotFoundError:
            return False
        return stat.S_ISREG(status.st_mode) and status.st_size == blob.size

    def write(self, blob: Descriptor, content: Content) -> None:
        """As Place says."""
        with atomic.written(content.data, self._scratch, self._root) as temporary:
            os.replace(temporary, self._path(blob.digest))

    def add(self, offers: Sequence[Offer]) -> None:
        """As Place says, under the tags made from the task ids."""
        for offer in offers:
            self._put(offer.manifest)
        with self._lock().held():
            known = self._manifests()
            self._require_free(offers, known)
            entries = [entry for offer in offers for entry in self._entries(offer)]
            entries += [entry for offer in offers for entry in self._sign(offer, known)]
            atomic.sync_directory(self._blobs)
            tags = {_tag(entry) for entry in entries}
            index = self._index()
            others = [entry for entry in index["manifests"] if _tag(entry) not in tags]
            changed = {**index, "mediaType": _INDEX_TYPE, "manifests": others + entries}
            if changed != index:
                self._replace("index.json", changed)

    def _put(self, data: bytes) -> Descriptor:
        blob = Descriptor.of(IMAGE_MANIFEST, data)
        if not self._holds(blob):
            self.write(blob, Content(memoryview(data)))
        return blob

    def _sign(self, offer: Offer, known: Mapping[str, Descriptor]) -> list[dict[str, Any]]:
        there = self._signatures(offer.digest, known)
        signatures = added_signatures(there, offer.signatures)
        if not signatures:
            return []
        manifest, blobs = signature_manifest(signatures)
        for data in blobs:
            self._put(data)
        return [
            {**self._put(manifest).to_json(), "annotations": {TAG: signature_tag(offer.digest)}}
        ]

    def _entries(self, offer: Offer) -> list[dict[str, Any]]:
        tag = tag_of(offer.task)
        tags = [tag] if offer.live else []
        if offer.number is not None:
            tags.append(version_tag(tag, offer.number))
        return [
            {
                "mediaType": IMAGE_MANIFEST,
                "artifactType": MODEL,
                "digest": offer.digest,
                "size": len(offer.manifest),
                "annotations": {TAG: tag, TITLE: offer.task},
            }
            for tag in tags
        ]

    # -- files

    def _path(self, digest: Digest) -> Path:
        return self._blobs / digest.removeprefix("sha256:")

    def _lock(self) -> atomic.Lock:
        return atomic.Lock(self._scratch / "lock")

    def _index(self) -> dict[str, Any]:
        """index.json. Raises ExchangeError or Malformed; its descriptors are not looked into."""
        index = self._json("index.json")
        if index is None:
            raise ExchangeError(f"reading {self}: there is no index.json; export the layout again")
        if index.get("schemaVersion") != 2 or not isinstance(index.get("manifests"), list):
            raise Malformed(
                f"{self._root / 'index.json'}: expected schemaVersion 2 and a list of manifests"
            )
        return index

    def _json(self, name: str) -> dict[str, Any] | None:
        """A JSON object; None if there is no file. Raises Malformed or NotAFile."""
        path = self._root / name
        try:
            with atomic.open_file(path) as file:
                size = os.fstat(file.fileno()).st_size
                if size > MAX_BYTES:
                    raise Malformed(f"{path}: {size} bytes, limit {MAX_BYTES}")
                data = file.read(size)
        except FileNotFoundError:
            return None
        document = decode_json(data, str(path))
        if not isinstance(document, dict):
            raise Malformed(f"{path}: {type(document).__name__}, expected a JSON object")
        return cast(dict[str, Any], document)

    def _replace(self, name: str, document: dict[str, Any]) -> None:
        data = encode_json(document, name)
        with atomic.written(data, self._scratch, self._root) as temporary:
            os.replace(temporary, self._root / name)
        atomic.sync_directory(self._root)


def _verified(path: Path, blob: Descriptor) -> memoryview:
    """The bytes of a plain file. Raises FileNotFoundError, NotAFile or CorruptBlob."""
    with atomic.open_file(path) as file:
        found = os.fstat(file.fileno()).st_size
        if found != blob.size:
            raise CorruptBlob(
                f"blob {blob.digest} at {path}: {found} bytes, expected {blob.size}; remove the"
                " file and export or copy it again"
            )
        try:
            data = read_file(file, blob.size)
        except (CutShort, TooLarge) as error:
            raise CorruptBlob(f"blob {blob.digest} at {path}: {error}") from None
    actual = digest_of(data)
    if actual != blob.digest:
        raise CorruptBlob(
            f"blob {blob.digest} at {path}: its bytes give {actual}; remove the file and export or"
            " copy it again"
        )
    return data


def _mode(path: Path) -> int:
    try:
        return path.lstat().st_mode
    except FileNotFoundError:
        return 0


def _field(entry: object, name: str) -> object:
    return cast(dict[str, Any], entry).get(name) if isinstance(entry, dict) else None


def _tag(entry: object) -> object:
    return _field(_field(entry, "annotations"), TAG)
