"""Every change of what a store refers to, as the sequence of steps that FORMAT.md prescribes.

Each step is one create or one compare-and-swap; killed or overtaken between any two of them, the
store is valid.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Literal

from model_store.blobs import Blobs, Digest, Secured, digest_of
from model_store.errors import (
    AgentMoved,
    LiveVersion,
    MissingComponent,
    UnknownVersion,
    listed,
)
from model_store.keys import LIVE
from model_store.published import Published
from model_store.reading import Reader
from model_store.refs import Change, Refs
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
        require_none_missing(what, missing)
        return secured

    def add(self, task: str, small: list[bytes], secured: Secured, live: bool) -> Published:
        """Publish the last of these small blobs, a manifest, given that all others are secured."""
        digest = digest_of(small[-1])
        same = self._reader.live_if(task, digest)
        if same:
            return same
        if live:
            announce(self._storage, task)
        for data in small:
            self._blobs.put(data)
        self._blobs.settle()
        version, change = self._refs.add_version(task, digest)
        self._establish(f"task {task}", change, secured, small)
        if live:
            newest = self._refs.point_live_if(task, version, lambda now: not now or now < version)
            self._require_kept(task, version, newest)
        published = self._reader.load(task, version, digest)
        logger.info("event=published task=%s version=%d live=%s", task, version, live)
        return published

    def _establish(
        self, what: str, change: Change, secured: Secured, small: Sequence[bytes] = ()
    ) -> None:
        """Make sure that no gc has taken anything from under a ref that was written just now.

        From here on gc sees the ref. The small blobs are put again if need be; if anything else is
        missing, or this cannot be found out, the ref is undone. Raises MissingComponent.
        """
        try:
            missing = [] if self._blobs.still_secure(secured) else self._missing(small, secured)
            require_none_missing(what, missing)
        except BaseException:
            self._refs.undo(change)
            raise

    def _missing(self, small: Sequence[bytes], secured: Secured) -> list[Digest]:
        for data in small:
            self._blobs.put(data)
        self._blobs.settle()
        there = self._blobs.secure(secured.sizes).sizes
        return [digest for digest in secured.sizes if digest not in there]

    def set_agent(
        self, agent: str, small: list[bytes], secured: Secured, old: Digest | Literal["any"] | None
    ) -> Digest:
        """Let the last of these small blobs, a manifest, be an agent's state instead of the old.

        Raises AgentMoved, MissingComponent.
        """
        digests = [self._blobs.put(data) for data in small]
        self._blobs.settle()
        new = digests[-1]
        if old == "any":
            change = self._refs.set_agent(agent, new)
        else:
            change = self._refs.swap_agent(agent, old, new)
        if change is None:
            raise AgentMoved(
                f"agent {agent}: expected to replace the state {old}, found"
                f" {self._refs.agent(agent)}, saved by another process; let one process at a time"
                " hold the agent, and begin with the state there is"
            )
        self._establish(f"agent {agent}", change, secured, small)
        return new

    def pin(self, name: str, manifest: Digest, needed: Iterable[Digest]) -> None:
        """Let gc keep a manifest and what it needs. Raises MissingComponent."""
        secured = self.secure(f"pin {name}", {str(d): d for d in (manifest, *needed)})
        self._establish(f"pin {name}", self._refs.set_pin(name, manifest), secured)

    def add_signature(self, manifest: Digest, signature: Signature) -> None:
        """Add a signature to those of a manifest."""
        while True:
            old = self._refs.signatures(manifest)
            # Read after `old`: if another signer comes in between, the swap fails.
            data, blobs = signature_manifest([*self._reader.signatures(manifest), signature])
            small = [*blobs, data]
            secured = self._blobs.secure([])  # nothing but the small: any gc from here on counts
            for blob in small:
                self._blobs.put(blob)
            self._blobs.settle()
            change = self._refs.swap_signatures(manifest, old, digest_of(data))
            if change:
                self._establish(f"signatures of {manifest}", change, secured, small)
                return

    def point(self, task: str, name: str, version: int) -> Published:
        """Let `live` or an alias name a version. Raises UnknownTask or UnknownVersion."""
        published = self._reader.load(task, version, self._reader.version(task, version))
        if name == LIVE:
            announce(self._storage, task)
        self._require_kept(task, version, self._refs.point(task, name, version))
        return published

    def promote(self, task: str, version: int, better: Callable[[Published | None], bool]) -> bool:
        """Make a version live if it is better than the live one; whether it is live now.

        Raises UnknownTask or UnknownVersion.
        """
        self._reader.version(task, version)

        def wanted(live: int | None) -> bool:
            if live == version or not better(self._reader.readable(task, live)):
                return False
            announce(self._storage, task)
            return True

        change = self._refs.point_live_if(task, version, wanted)
        if change is None:
            return self._refs.pointer(task, LIVE) == version
        self._require_kept(task, version, change)
        return True

    def _require_kept(self, task: str, version: int, pointed: Change | None) -> None:
        """A version that was given a name is there, and stays. Raises UnknownVersion if not."""
        if not self._refs.keep_version(task, version):
            if pointed:
                self._refs.undo(pointed)
            raise UnknownVersion(f"version {version} of task {task!r} was removed meanwhile")

    def remove_task(self, task: str) -> None:
        """Forget all versions and names of a task, but for those that somebody names meanwhile.

        Raises UnknownTask.
        """
        versions = self._reader.existing(task)
        announce(self._storage, task)
        self._refs.stop(task)
        self._refs.remove_aliases(task, self._refs.alias_names(task))
        for number in versions:
            with suppress(LiveVersion):
                self._remove(task, number)

    def remove_version(self, task: str, version: int) -> None:
        """Forget a version. Raises UnknownVersion or LiveVersion."""
        self._reader.version(task, version)
        self._require_unused(task, version)
        self._remove(task, version)

    def _remove(self, task: str, version: int) -> None:
        self._refs.begin_removal(task, version)
        try:
            self._require_unused(task, version)  # it may have been given a name at this moment
        except BaseException:
            self._refs.keep_version(task, version)
            raise
        if not self._refs.end_removal(task, version):
            raise LiveVersion(f"version {version} of {task} was given a name meanwhile")

    def _require_unused(self, task: str, version: int) -> None:
        named = {LIVE: self._refs.pointer(task, LIVE), **self._refs.aliases(task)}
        names = [name for name, number in named.items() if number == version]
        if names:
            raise LiveVersion(
                f"version {version} of {task} is {' and '.join(names)} and cannot be removed; let"
                " the name stand for another version first, or remove the task"
            )


def require_none_missing(what: str, names: Iterable[str]) -> None:
    """Raises MissingComponent, naming what is missing."""
    missing = sorted(names)
    if missing:
        raise MissingComponent(
            f"{what}: components not in the store: {listed(missing)}; put them before publishing"
        )
