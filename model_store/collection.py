"""Garbage collection: what no ref reaches goes. Not for a server to run.

Safe beside any number of writers and readers, on one machine or many (condemned.py says how).
"""

import logging
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from model_store.blobs import Blobs, Digest, key_of
from model_store.condemned import MAX_KEYS, Condemned
from model_store.published import load_manifest
from model_store.refs import Refs
from model_store.storage import Lease, Storage

logger = logging.getLogger(__name__)

SETTLED_S = 3600.0  # after which a removal of a version is not undone by the one who removed it


@dataclass(frozen=True, slots=True)
class GcReport:
    """What garbage collection removed, or would remove."""

    removed: tuple[Digest, ...]
    freed_bytes: int
    kept: int  # blobs left
    temporary_files: int  # left behind by writers that died
    dry_run: bool


class Collector:
    """One run of garbage collection. Raises DamagedStore, having removed nothing, where a manifest
    cannot be read: what it needs is then unknown.
    """

    def __init__(self, storage: Storage, blobs: Blobs, refs: Refs, lease: Lease) -> None:
        self._storage = storage
        self._blobs = blobs
        self._refs = refs
        self._lease = lease
        self._needs: dict[Digest, frozenset[Digest]] = {}  # manifest -> itself and all it needs
        self._condemned = Condemned(storage)

    def run(self, grace_s: float, dry_run: bool) -> GcReport:
        """Remove what nothing reaches and nothing has touched for `grace_s`."""
        before = (time.time() if dry_run else self._condemned.begin()) - grace_s
        reached = self._reached()
        garbage = {digest: size for digest, size in self._old(before) if digest not in reached}
        leftovers = self._storage.leftovers(before)
        if not dry_run:
            garbage = {d: garbage[d] for d in self._remove(list(garbage), before)}
            self._storage.remove(leftovers)
            self._forget_signatures()
            self._forget_versions(min(before, before + grace_s - SETTLED_S))
        kept = sum(1 for _ in self._blobs.all()) - (len(garbage) if dry_run else 0)
        logger.info("event=gc removed=%d kept=%d dry_run=%s", len(garbage), kept, dry_run)
        total = sum(garbage.values())
        return GcReport(tuple(garbage), total, kept, len(leftovers), dry_run)

    def _remove(self, garbage: list[Digest], before: float) -> Iterator[Digest]:
        for start in range(0, len(garbage), MAX_KEYS):
            keys = {key_of(digest): digest for digest in garbage[start : start + MAX_KEYS]}
            self._condemned.condemn(keys)
            # Looked at once more: from here on, whoever needs one of them says so.
            old = {digest for digest, _ in self._old(before)}
            still = old - self._reached()
            doomed = self._condemned.doom(key for key, digest in keys.items() if digest in still)
            self._lease.renew()
            self._storage.remove(doomed)
            self._condemned.end()
            yield from (keys[key] for key in sorted(doomed))

    def _old(self, before: float) -> Iterator[tuple[Digest, int]]:
        for digest, entry in self._blobs.all():
            if entry.modified <= before:
                yield digest, entry.size

    # -- what refs reach

    def _reached(self) -> set[Digest]:
        roots = set(self._refs.pins().values())
        for task in self._refs.tasks():
            self._lease.renew()
            roots.update(self._refs.versions(task).values())
        roots |= {digest for agent in self._refs.agents() if (digest := self._refs.agent(agent))}
        reached = self._all_needed(roots)
        signed = [self._refs.signatures(m) for m in self._refs.signed() if m in reached]
        return reached | self._all_needed(digest for digest in signed if digest)

    def _all_needed(self, manifests: Iterable[Digest]) -> set[Digest]:
        found: set[Digest] = set()
        for manifest in manifests:
            if manifest not in self._needs:
                self._lease.renew()
                blobs = load_manifest(self._blobs, manifest).blobs()
                self._needs[manifest] = frozenset({manifest, *(blob.digest for blob in blobs)})
            found |= self._needs[manifest]
        return found

    def _forget_versions(self, before: float) -> None:
        for task in self._refs.tasks():
            self._lease.renew()
            self._storage.remove(self._refs.forgettable(task, before))

    def _forget_signatures(self) -> None:
        signed = self._refs.signed()
        there = self._blobs.sizes(signed)
        self._refs.remove_signatures(manifest for manifest in signed if manifest not in there)
