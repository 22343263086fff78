"""The newest version of each publisher of each task, for those who build on what others publish.

A version's publisher is the `agent` of its path's lineage. To learn it, manifest and path spec have
to be read; as neither changes, each is read once. What is looked at every time is one listing.
Processes can tell each other what they have read, as JSON: then one of them reads it for all.
"""

import logging
import threading
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from model_store.blobs import Blobs, Digest
from model_store.errors import CorruptRef, DamagedStore
from model_store.files.protocol import Entry, Storage
from model_store.manifest import Json, TaskPath
from model_store.names import TASKS, name_in, task_key
from model_store.reading import Published, load_path
from model_store.refs import Refs

logger = logging.getLogger(__name__)

READERS = 16  # at once: an object store answers slowly, and many


@dataclass(slots=True, eq=False)
class _Version:
    """A version that a document names, and what has been read of it so far."""

    task: str
    number: int
    digest: Digest
    created: str
    publisher: str | None = None
    published: Published | None = None  # kept of the newest only: there may be many versions


class Publications:
    """What one process knows of them. May be used by several threads."""

    def __init__(self, storage: Storage, blobs: Blobs, refs: Refs) -> None:
        self._storage = storage
        self._blobs = blobs
        self._refs = refs
        self._lock = threading.Lock()
        self._documents: dict[Entry, list[tuple[str, int]]] = {}  # changed ones have another entry
        self._versions: dict[tuple[str, int], _Version] = {}

    def newest(self) -> list[Published]:
        """By task and number; damaged versions are logged and left out.

        Raises StoreNotFound if the store is there no longer.
        """
        with self._lock:
            self._list()
            versions = sorted(self._versions.values(), key=lambda v: (v.task, v.number))
            self._read([version for version in versions if version.publisher is None])
            newest = _newest(versions)
            # One that was superseded is the newest again when those after it are removed.
            while lacking := [version for version in newest if version.published is None]:
                self._read(lacking)
                newest = _newest(versions)
            for version in set(versions).difference(newest):
                version.published = None
            return [version.published for version in newest if version.published]

    def told(self) -> dict[str, Json]:
        """What is known of each task, to be learned by another process."""
        with self._lock:
            return {
                task: {
                    "document": [entry.size, entry.modified],
                    "versions": [_version_row(self._versions[task, n]) for task, n in keys],
                    "newest": {
                        str(n): _published_row(published)
                        for task, n in keys
                        if (published := self._versions[task, n].published)
                    },
                }
                for entry, keys in self._documents.items()
                if (task := name_in(entry.key)) is not None
            }

    def learn(self, tasks: Mapping[str, Json]) -> None:
        """Take over what `told` gave another process, where a task's document is still that one.

        Raises Malformed.
        """
        with self._lock:
            for task, row in tasks.items():
                entry = Entry(task_key(task), *row["document"])
                if entry in self._documents:
                    continue
                self._documents[entry] = [(task, number) for number, *_ in row["versions"]]
                found = {published.version: published for published in published_in(task, row)}
                for number, digest, created, publisher in row["versions"]:
                    new = _Version(task, number, digest, created, publisher, found.get(number))
                    self._versions.setdefault((task, number), new)

    def _list(self) -> None:
        """Learn what versions there are, reading only the documents that have changed."""
        listed = list(self._storage.walk(TASKS))
        if not listed:
            self._refs.require_store()
        changed = [entry for entry in listed if entry not in self._documents]
        read = self._refs.read_many(entry.key for entry in changed)
        self._documents = {e: self._documents[e] for e in listed if e in self._documents}
        for entry in changed:
            task = name_in(entry.key)
            if task is None:
                continue  # verify reports it
            try:
                found = self._refs.versions_in(
                    entry.key, self._refs.parse(entry.key, read[entry.key])
                )
            except CorruptRef as error:  # it may be readable the next time
                logger.warning("event=ref_unreadable key=%s error=%r", entry.key, str(error))
                continue
            self._documents[entry] = [(task, number) for number in found.versions]
            for number, version in found.versions.items():
                new = _Version(task, number, version.manifest, version.created)
                self._versions.setdefault((task, number), new)
        there = {key for keys in self._documents.values() for key in keys}
        self._versions = {key: v for key, v in self._versions.items() if key in there}

    def _read(self, versions: Collection[_Version]) -> None:
        if versions:
            with ThreadPoolExecutor(READERS) as pool:
                list(pool.map(self._read_one, versions))

    def _read_one(self, version: _Version) -> None:
        """Learn path and publisher; of a damaged version, that nothing is known."""
        task, number, digest = version.task, version.number, version.digest
        try:
            path, sizes = load_path(self._blobs, task, number, digest)
        except DamagedStore as error:
            logger.warning("event=version_unreadable task=%s error=%r", task, str(error))
            version.publisher = None
            return
        version.publisher = str(path.lineage.get("agent", ""))
        version.published = Published(task, number, digest, path, sizes, version.created)


def published_in(task: str, row: Json) -> list[Published]:
    """The newest versions that a row of `told` has. Raises Malformed."""
    versions = {number: (digest, created) for number, digest, created, _ in row["versions"]}
    return [
        Published(
            task,
            int(number),
            versions[int(number)][0],
            TaskPath.from_json(found["path"]),
            found["sizes"],
            versions[int(number)][1],
        )
        for number, found in row["newest"].items()
    ]


def _version_row(version: _Version) -> list[Any]:
    return [version.number, version.digest, version.created, version.publisher]


def _published_row(published: Published) -> Json:
    return {"path": published.path.to_json(), "sizes": dict(published.sizes)}


def _newest(versions: Iterable[_Version]) -> list[_Version]:
    """Of each task's publishers; `versions` ascend, and so does the answer."""
    newest = {(v.task, v.publisher): v for v in versions if v.publisher is not None}
    return sorted(newest.values(), key=lambda version: (version.task, version.number))
