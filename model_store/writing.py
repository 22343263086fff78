"""Every change of what a store refers to, as the sequence of steps that FORMAT.md prescribes.

Each step is one create or one compare-and-swap; killed or overtaken between any two of them, the
store is valid.
"""

import logging
from collections.abc import Iterable, Mapping

from model_store.blobs import Blobs, Digest, Secured, digest_of
from model_store.errors import (
    CorruptRef,
    LiveVersion,
    MissingComponent,
    UnknownVersion,
    listed,
)
from model_store.published import Published
from model_store.reading import Reader
from model_store.refs import LIVE, Refs
from model_store.signing import Signature, signature_manifest
from model_store.storage import Storage
from model_store.watching import announce

logger = logging.getLogger(__name__)


class Writer:
    """Changes the refs of a store."""

    def __init__(self, storage: Storage, blobs: Blobs, refs: Refs, reader: Reader) -> None:
        self._storage = storage
        self._blobs = blobs
        self._refs = refs
        self._reader = reader

    def secure(self, what: str, components: Mapping[str, Digest]) -> Secured:
        """Restart the grace period of components. Raises MissingComponent, naming them."""
        secured = self._blobs.secure(components.values())
        missing = [name for name, digest in components.items() if digest not in secured.sizes]
        _require_none_missing(what, missing)
        return secured

    def add(self, task: str, small: list[bytes], secured: Secured, live: bool) -> Published:
        """Publish the last of these small blobs, a manifest, given that all others are secured."""
        digest = digest_of(small[-1])
        same = self._reader.live_if(task, digest)
        if same:
            return same
        for data in small:
            self._blobs.put(data)
        self._blobs.settle()
        version = self._refs.add_version(task, digest)
        missing = self._missing(small, secured)
        if missing:
            self._refs.remove_version(task, version)
            _require_none_missing(f"task {task}", missing)
        if live:
            announce(self._storage, task)
            self._refs.raise_live(task, version)
        published = self._reader.load(task, version, digest)
        logger.info("event=published task=%s version=%d live=%s", task, version, live)
        return published

    def _missing(self, small: list[bytes], secured: Secured) -> list[Digest]:
        """What a gc has taken from under a ref that was written just now; the small is put again.

        From here on gc sees the ref.
        """
        if self._blobs.still_secure(secured):
            return []
        for data in small:
            self._blobs.put(data)
        self._blobs.settle()
        there = self._blobs.secure(secured.sizes).sizes
        return [digest for digest in secured.sizes if digest not in there]

    def set_agent(self, agent: str, small: list[bytes], secured: Secured) -> Digest:
        """Let the last of these small blobs, a manifest, be an agent's state."""
        digests = [self._blobs.put(data) for data in small]
        self._blobs.settle()
        before = self._refs.agent(agent)
        self._refs.set_agent(agent, digests[-1])
        missing = self._missing(small, secured)
        if missing and before:
            self._refs.set_agent(agent, before)
        _require_none_missing(f"agent {agent}", missing)
        return digests[-1]

    def add_signature(self, manifest: Digest, signature: Signature) -> None:
        """Add a signature to those of a manifest."""
        while True:
            old = self._refs.signatures(manifest)
            # Read after `old`: if another signer comes in between, the swap fails.
            data, blobs = signature_manifest([*self._reader.signatures(manifest), signature])
            for blob in [*blobs, data]:
                self._blobs.put(blob)
            self._blobs.settle()
            if self._refs.swap_signatures(manifest, old, digest_of(data)):
                return

    def point(self, task: str, name: str, version: int) -> Published:
        """Let `live` or an alias name a version. Raises UnknownTask or UnknownVersion."""
        published = self._reader.load(task, version, self._reader.version(task, version))
        try:
            before = self._refs.pointer(task, name)
        except CorruptRef:
            before = None  # replaced
        if name == LIVE:
            announce(self._storage, task)
        self._refs.point(task, name, version)
        if self._refs.version(task, version) is None:  # removed at this very moment
            if before:
                self._refs.point(task, name, before)
            raise UnknownVersion(f"version {version} of task {task!r} was removed meanwhile")
        return published

    def remove_task(self, task: str) -> None:
        """Forget all versions and names of a task. Raises UnknownTask."""
        versions = self._reader.existing(task)
        announce(self._storage, task)
        self._refs.stop(task)
        for name in self._refs.alias_names(task):
            self._refs.remove_alias(task, name)
        for number in versions:
            self._refs.remove_version(task, number)

    def remove_version(self, task: str, version: int) -> None:
        """Forget a version. Raises UnknownVersion or LiveVersion."""
        digest = self._reader.version(task, version)
        self._require_unused(task, version)
        self._refs.remove_version(task, version)
        try:
            self._require_unused(task, version)  # it may have been given a name at this very moment
        except LiveVersion:
            self._refs.restore_version(task, version, digest)
            raise

    def _require_unused(self, task: str, version: int) -> None:
        named = {LIVE: self._refs.pointer(task, LIVE), **self._refs.aliases(task)}
        names = [name for name, number in named.items() if number == version]
        if names:
            raise LiveVersion(
                f"version {version} of {task} is {' and '.join(names)} and cannot be removed; let"
                " the name stand for another version first, or remove the task"
            )


def _require_none_missing(what: str, names: Iterable[str]) -> None:
    missing = sorted(names)
    if missing:
        raise MissingComponent(
            f"{what}: components not in the store: {listed(missing)}; put them before publishing"
        )
