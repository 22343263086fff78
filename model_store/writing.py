"""Every change of what a store refers to, in the steps that FORMAT.md prescribes.

Each change takes effect in one compare-and-swap of one document. A writer that refers to a manifest
first claims it in that document. From then on gc keeps all that the manifest needs, unless it takes
the claim back, which makes the swap fail. Nothing is ever undone: killed or overtaken between any
two steps, a change has taken effect as a whole or not at all.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Literal

from model_store.blobs import Blobs, Digest, digest_of
from model_store.errors import (
    AgentMoved,
    BlobNotFound,
    CorruptRef,
    LiveVersion,
    MissingComponent,
    StoreError,
    UnknownName,
    UnknownTask,
    UnknownVersion,
    listed,
)
from model_store.files.protocol import Storage
from model_store.names import LIVE, agent_key, pin_key, signature_key, task_key
from model_store.needs import Needs
from model_store.reading import Published, Reader
from model_store.refs import Claim, Document, Refs
from model_store.rollouts import Rollout
from model_store.signatures import Signature, signature_manifest
from model_store.versions import Version, Versions
from model_store.watching import announce

logger = logging.getLogger(__name__)


class Writer:
    """Changes the documents of a store."""

    def __init__(self, storage: Storage, blobs: Blobs, refs: Refs, reader: Reader) -> None:
        self._storage = storage
        self._blobs = blobs
        self._refs = refs
        self._reader = reader

    def _refer(
        self,
        key: str,
        needs: Needs,
        change: Callable[[Document], Document | None],
        announced: str | None = None,
    ) -> Document:
        """Change a document so that it refers to a manifest; the document then.

        `announced` is a task that watchers are told of. Raises MissingComponent, and what `change`
        raises.
        """
        while True:
            for data in needs.small:
                self._blobs.put(data)
            claim = self._refs.claim(key, needs.manifest)
            try:
                if self._all_there(self._not_kept(needs, key, claim)):
                    self._blobs.settle()
                    if announced:
                        announce(self._storage, announced)
                    document = self._refs.swap(key, change, claim=claim)
                    if document is not None:
                        return document
                    logger.info("event=claim_taken_back what=%s", needs.what)
                    continue  # by a gc that began meanwhile
            except Exception:
                with suppress(StoreError, OSError):  # if this fails, the next gc takes it back
                    self._refs.release(key, claim)
                raise

    def _all_there(self, needs: Needs) -> bool:
        """Whether nothing has to be put again.

        Raises MissingComponent, CorruptBlob or Malformed.
        """
        small = {digest_of(data) for data in needs.small}
        wanted = {*needs.blobs.values(), *small}
        missing = wanted.difference(self._blobs.renew(wanted, needs.said))
        require_none_missing(
            needs.what, [name for name, d in needs.blobs.items() if d in missing - small]
        )
        return not missing

    def _not_kept(self, needs: Needs, key: str, claim: Claim) -> Needs:
        """What is to be looked at: not what documents keep, read when no gc had doomed it.

        What the document has kept until the claim, every gc sees. What another one keeps is there,
        and stays if each gc that may remove it looks after the claim.
        """
        others = needs.kept_by
        if others is None:
            return needs

        def states() -> Iterator[Digest | None]:
            yield self._refs.manifest_in(key, claim.document)
            for place in others if self._blobs.are_left_alone() else ():
                with suppress(CorruptRef):  # it keeps nothing that is known
                    yield self._refs.manifest(place)

        return needs.not_kept(states(), self._reader.manifest)

    def sizes(self, what: str, components: Mapping[str, Digest]) -> dict[str, int]:
        """The bytes of components. Raises MissingComponent, naming those that are not there."""
        found: dict[str, int] = {}
        for name, digest in components.items():
            with suppress(BlobNotFound):
                found[name] = self._blobs.size(digest)
        require_none_missing(what, components.keys() - found.keys())
        return found

    # -- tasks

    def add(self, task: str, needs: Needs, *, live: bool, again: bool) -> Published:
        """Publish a manifest as the next version of a task.

        With `again`, one that is live already is published once more only if it is not that very
        manifest; otherwise any version that has this manifest is the one.
        """
        key, manifest = task_key(task), needs.manifest
        version = Version(manifest, _now())
        number = 0  # of the version, as the last call of `change` has it

        def change(document: Document) -> Document | None:
            nonlocal number
            found = self._refs.versions_in(key, document)
            same = _same(found, manifest, again)
            number = same or found.next
            if same is None:
                return replace(document, value=found.add(version, live=live).to_json())
            if not live or found.live == number:
                return None
            return replace(document, value=found.serving(number).to_json())

        document = self._refer(key, needs, change, announced=task if live else None)
        found = self._refs.versions_in(key, document)
        if number not in found.versions:  # the write was answered late, and somebody was quicker
            raise UnknownVersion(f"task {task!r}: the version was published, and removed meanwhile")
        logger.info("event=published task=%s version=%d live=%s", task, number, live)
        return self._reader.load(task, number, found.versions[number])

    def point(
        self, task: str, name: str, version: int, rollout: Rollout | None = None
    ) -> Published:
        """Let `live` or an alias name a version; the alias has this roll-out then, or none.

        Raises UnknownTask, UnknownVersion, or Unstorable for a roll-out too many.
        """
        published = self._reader.load(task, version, self._reader.version(task, version))
        if name == LIVE:
            announce(self._storage, task)
        began = replace(rollout, began=_now()) if rollout else None

        def change(found: Versions) -> Versions:
            _require_version(task, version, found)
            if name == LIVE:
                return found.serving(version)
            return self._announced(task, found, found.named(name, version, began))

        self._change(task, change)
        return published

    def _announced(self, task: str, before: Versions, after: Versions) -> Versions:
        """The second one; watchers are told first, if it changes what they see."""
        if before.shown != after.shown:
            announce(self._storage, task)
        return after

    def promote_alias(self, task: str, alias: str) -> int:
        """Make the version of an alias live, and end its roll-out; the version.

        What is live has to be what was live when the roll-out began, or (without one) when this was
        called: else raises LiveVersion. Raises UnknownTask or UnknownName.
        """
        self._reader.existing(task)
        called = self._refs.versions(task).live
        promoted = 0

        def change(found: Versions) -> Versions:
            nonlocal promoted
            promoted = found.aliases.get(alias, 0)
            if not promoted:
                raise _no_alias(task, alias, found)
            rollout = found.rollouts.get(alias)
            base = rollout.base if rollout else called
            if found.live not in (base, promoted):
                raise LiveVersion(
                    f"promoting {task} {alias}, v{promoted}: expected v{base} to be live, as when"
                    f" it was compared, found v{found.live}; set the alias again to compare it"
                    f" with that, or `munet store rollback {task} {promoted}`"
                )
            ended = {name: one for name, one in found.rollouts.items() if name != alias}
            return self._announced(task, found, replace(found.serving(promoted), rollouts=ended))

        self._change(task, change)
        return promoted

    def end_rollout(self, task: str, alias: str, began: str, why: str) -> bool:
        """End the roll-out that began then; whether this call did, of several at once."""
        done = False

        def change(found: Versions) -> Versions:
            nonlocal done
            after = found.ended(alias, began, why)
            done = after is not found
            return self._announced(task, found, after)

        self._change(task, change)
        return done

    def set_min_probability(self, task: str, share: float) -> None:
        """Set below which probability gateways abstain; 0: never. Raises UnknownTask."""
        self._reader.existing(task)

        def change(found: Versions) -> Versions:
            if not found.versions:
                raise UnknownTask(f"task {task!r} was removed meanwhile: look again")
            return self._announced(task, found, replace(found, min_probability=share))

        self._change(task, change)

    def promote(self, task: str, version: int, better: Callable[[Published | None], bool]) -> bool:
        """Make a version live if it is better than the live one; whether it is live now.

        Raises UnknownTask or UnknownVersion.
        """
        self._reader.version(task, version)

        def change(found: Versions) -> Versions:
            _require_version(task, version, found)
            if found.live == version or not better(self._reader.readable(task, found)):
                return found
            announce(self._storage, task)
            return found.serving(version)

        return self._change(task, change).live == version

    def remove_alias(self, task: str, name: str) -> None:
        """Forget an alias. Raises UnknownName."""

        def change(found: Versions) -> Versions:
            if name not in found.aliases:
                raise _no_alias(task, name, found)
            return self._announced(task, found, found.unnamed(name))

        self._change(task, change)

    def remove_task(self, task: str) -> None:
        """Forget all versions and names of a task. Raises UnknownTask."""
        self._reader.existing(task)
        announce(self._storage, task)

        def change(found: Versions) -> Versions:
            if not found.versions:  # nothing is said to be done that no write confirms
                raise UnknownTask(
                    f"task {task!r} was removed meanwhile, or is not seen: look again"
                )
            return found.without(found.versions)

        self._change(task, change)

    def remove_version(self, task: str, version: int) -> None:
        """Forget a version. Raises UnknownTask, UnknownVersion or LiveVersion."""
        self._reader.version(task, version)

        def change(found: Versions) -> Versions:
            _require_version(task, version, found)
            if names := found.names_of(version):
                raise LiveVersion(
                    f"version {version} of {task} is {' and '.join(names)} and cannot be removed;"
                    " let the name stand for another version first, or remove the task"
                )
            return found.without([version])

        self._change(task, change)

    def _change(self, task: str, change: Callable[[Versions], Versions]) -> Versions:
        """Change what a task's document says; what it says then."""
        key = task_key(task)

        def changed(document: Document) -> Document | None:
            before = self._refs.versions_in(key, document)
            after = change(before)
            return None if after == before else replace(document, value=after.to_json())

        document = self._refs.swap(key, changed)
        assert document is not None  # only a claim can be taken back
        return self._refs.versions_in(key, document)

    # -- documents that name one manifest

    def set_agent(self, agent: str, needs: Needs, old: Digest | Literal["any"] | None) -> Digest:
        """Let a manifest be an agent's state instead of the old. Raises AgentMoved."""
        key = agent_key(agent)

        def change(document: Document) -> Document | None:
            found = self._refs.manifest_in(key, document)
            if found == needs.manifest:
                return None
            if old not in ("any", found):
                raise AgentMoved(
                    f"agent {agent}: expected to replace the state {old}, found {found}, saved by"
                    " another process; let one process at a time hold the agent, and begin with the"
                    " state there is"
                )
            return replace(document, value=needs.manifest)

        self._refer(key, needs, change)
        return needs.manifest

    def pin(self, name: str, needs: Needs) -> None:
        """Let gc keep a manifest and what it needs. Raises MissingComponent."""
        self._refer(pin_key(name), needs, lambda d: replace(d, value=needs.manifest))

    def unpin(self, name: str) -> None:
        """Let gc keep it no longer. Raises UnknownName."""

        def change(document: Document) -> Document:
            if document.value is None:
                raise UnknownName(f"no pin {name!r}; `munet store pins` lists all pins")
            return replace(document, value=None)

        self._refs.swap(pin_key(name), change)

    def add_signature(self, manifest: Digest, signature: Signature) -> None:
        """Add a signature to those of a manifest; of several signers at once, none is lost."""
        key = signature_key(manifest)
        done = False
        while not done:
            before = self._refs.manifest(key)
            data, blobs = signature_manifest([*self._reader.signatures_in(before), signature])
            needs = Needs(f"signatures of {manifest}", {}, [*blobs, data])

            def change(
                document: Document, before: Digest | None = before, needs: Needs = needs
            ) -> Document | None:
                nonlocal done
                done = self._refs.manifest_in(key, document) == before
                return replace(document, value=needs.manifest) if done else None

            self._refer(key, needs, change)


def _same(found: Versions, manifest: Digest, again: bool) -> int | None:
    """The number of the version that a manifest need not be published again for."""
    same = [n for n, version in found.versions.items() if version.manifest == manifest]
    if again:
        same = [n for n in same if n == found.live]
    return same[-1] if same else None


def _no_alias(task: str, name: str, found: Versions) -> UnknownName:
    known = listed(sorted(found.aliases)) or "none"
    return UnknownName(f"task {task} has no alias {name!r}; it has {known}")


def _require_version(task: str, version: int, found: Versions) -> None:
    if version not in found.versions:
        raise UnknownVersion(f"version {version} of task {task!r} was removed meanwhile")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def require_none_missing(what: str, names: Iterable[str]) -> None:
    """Raises MissingComponent, naming what is missing."""
    missing = sorted(names)
    if missing:
        raise MissingComponent(
            f"{what}: components not in the store: {listed(missing)}; put them before publishing"
        )
