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
from model_store.storage import Entry, Lease, Storage

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
    """One run of garbage collection. Raises DamagedStore, having removed nothing that is needed,
    where a manifest cannot be read: what it needs is then unknown.
    """

    def __init__(self, storage: Storage, blobs: Blobs, refs: Refs, lease: Lease) -> None:
        self._storage = storage
        self._blobs = blobs
        self._refs = refs
        self._lease = lease
        self._needs: dict[Digest, frozenset[Digest]] = {}  # manifest -> itself and all it needs
        self._condemned = Condemned(storage)

    def plan(self, grace_s: float) -> GcReport:
        """What `run` would remove now, by this machine's clock; writes nothing."""
        before = time.time() - grace_s
        garbage = self._garbage(before)
        leftovers = self._storage.tidy(before, dry_run=True)
        return self._report(garbage, leftovers, dry_run=True)

    def run(self, grace_s: float) -> GcReport:
        """Remove what nothing reaches and nothing has touched for `grace_s`."""
        now = self._condemned.begin(self._lease)
        before = now - grace_s
        removed: dict[Digest, int] = {}
        garbage = self._garbage(before)
        for start in range(0, len(garbage), MAX_KEYS):
            digests = list(garbage)[start : start + MAX_KEYS]
            removed |= {digest: garbage[digest] for digest in self._remove(digests, before)}
        leftovers = self._storage.tidy(before, dry_run=False)
        self._forget_signatures(before)
        self._forget_versions(min(before, now - SETTLED_S))
        return self._report(removed, leftovers, dry_run=False)

    def _report(self, garbage: dict[Digest, int], leftovers: int, dry_run: bool) -> GcReport:
        kept = sum(1 for _ in self._all()) - (len(garbage) if dry_run else 0)
        logger.info("event=gc removed=%d kept=%d dry_run=%s", len(garbage), kept, dry_run)
        return GcReport(tuple(garbage), sum(garbage.values()), kept, leftovers, dry_run)

    def _remove(self, garbage: list[Digest], before: float) -> list[Digest]:
        """Remove those of the garbage that nobody objects to."""
        keys = {key_of(digest): digest for digest in garbage}
        self._condemned.condemn(keys)
        # Looked at once more: from here on, whoever needs one of them says so.
        still = self._garbage(before)
        doomed = self._condemned.doom(key for key, digest in keys.items() if digest in still)
        self._condemned.remove(doomed, self._lease)
        self._condemned.end()
        return [keys[key] for key in sorted(doomed)]

    def _garbage(self, before: float) -> dict[Digest, int]:
        """Blobs that nothing reaches and nothing has touched since, and their bytes."""
        old = {digest: e.size for digest, e in self._all() if e.modified <= before}
        reached = self._reached() if old else set[Digest]()
        return {digest: size for digest, size in old.items() if digest not in reached}

    def _all(self) -> Iterator[tuple[Digest, Entry]]:
        for item in self._blobs.all():
            self._lease.renew()
            yield item

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

    # -- refs that are of no use any more

    def _forget_versions(self, before: float) -> None:
        for task in self._refs.tasks():
            self._lease.renew()
            self._storage.remove(self._refs.forgettable(task, before))

    def _forget_signatures(self, before: float) -> None:
        """Those written long ago for manifests that have gone, or never came."""
        for manifest in self._refs.signed_before(before):
            self._lease.renew()
            if not self._blobs.has(manifest):
                self._refs.remove_signatures(manifest)
