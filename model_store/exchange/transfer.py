"""Moving versions between places: stores, OCI image layouts and registries.

Push, pull, export, import and copy are one loop between two places. Only blobs that the destination
lacks are moved, each verified by the digest that names it. A manifest is moved byte for byte, as
its digest is the identity of the version.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar, cast

from model_store.blobs import Digest, digest_of
from model_store.canonical_json import decode_json
from model_store.errors import DamagedStore, ExchangeError, Malformed, UnknownTask, listed
from model_store.exchange.tags import by_task, tag_of
from model_store.manifest import (
    MAX_SPEC_BYTES,
    MODEL,
    PATH_SPEC,
    Descriptor,
    Manifest,
    TaskPath,
    require_agreement,
)
from model_store.reading import Published
from model_store.signatures import Signature
from model_store.store import ModelStore

logger = logging.getLogger(__name__)

_WORKERS = 8  # blobs under way at once: most are small, and what counts is the time of an answer
_BATCH = 50  # versions between two notes of what has arrived

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Content:
    """The verified bytes of a blob."""

    data: memoryview


@dataclass(frozen=True, slots=True)
class Offer:
    """A version of a task as one place hands it to another."""

    task: str
    manifest: bytes
    spec: bytes  # the path spec, which had to be read to know the task
    live: bool = True
    number: int | None = None  # the version's, where all versions of the task are exchanged
    signatures: tuple[Signature, ...] = ()

    @property
    def digest(self) -> Digest:
        """The digest of the manifest."""
        return digest_of(self.manifest)


class Place(Protocol):
    """Where versions can be; `str(place)` is its name in messages."""

    def offers(self, tasks: Sequence[str], *, history: bool) -> list[Offer]:
        """The live version of these tasks (none: of all), or with `history` all their versions,
        oldest first. Raises UnknownTask.
        """
        ...

    def prepare(self, offers: Sequence[Offer]) -> None:
        """Refuse, before anything is moved, what this place could not add."""
        ...

    def lacks(self, blobs: Sequence[Descriptor]) -> list[Descriptor]:
        """Those of these blobs that are not here."""
        ...

    def read(self, blob: Descriptor) -> Content:
        """A blob, verified. Raises BlobNotFound or CorruptBlob."""
        ...

    def write(self, blob: Descriptor, content: Content) -> None:
        """Store a blob."""
        ...

    def add(self, offers: Sequence[Offer]) -> None:
        """Add versions, of which all blobs are here; those already here are not added again."""
        ...


@dataclass(frozen=True, slots=True)
class Report:
    """What a transfer did. Blobs are counted once, however many versions share them."""

    versions: int
    moved_blobs: int = 0
    moved_bytes: int = 0
    present_blobs: int = 0
    present_bytes: int = 0


def transfer(
    source: Place, destination: Place, tasks: Sequence[str] = (), *, history: bool = False
) -> Report:
    """Add the live versions of these tasks (none: of all) of `source` to `destination`, live there.

    With `history`, add all their versions, oldest first. A version that is there already is not
    added again; the destination then serves what the source serves. Signatures go along; aliases,
    pins and version numbers do not. What has arrived when this is interrupted is not moved
    again. Raises StoreError or OSError.
    """
    offers = source.offers(list(dict.fromkeys(tasks)), history=history)
    destination.prepare(offers)
    known: dict[Digest, Descriptor] = {}
    moved: list[Descriptor] = []
    for batch in _batches(offers):
        new = _new_blobs(batch, known)
        lacking = destination.lacks(new)
        specs = {digest_of(offer.spec): Content(memoryview(offer.spec)) for offer in batch}

        def move(blob: Descriptor, specs: dict[Digest, Content] = specs) -> None:
            destination.write(blob, specs.get(blob.digest) or source.read(blob))

        in_parallel(move, lacking)
        destination.add(batch)
        moved += lacking
    moved_bytes = sum(blob.size for blob in moved)
    total = sum(blob.size for blob in known.values())
    return Report(
        len(offers), len(moved), moved_bytes, len(known) - len(moved), total - moved_bytes
    )


def _batches(offers: Sequence[Offer]) -> Iterator[Sequence[Offer]]:
    for start in range(0, len(offers), _BATCH):
        yield offers[start : start + _BATCH]


def _new_blobs(offers: Iterable[Offer], known: dict[Digest, Descriptor]) -> list[Descriptor]:
    """Blobs of these versions that are not yet `known`, which gets them."""
    new: list[Descriptor] = []
    for offer in offers:
        for blob in Manifest.from_bytes(offer.manifest).blobs():
            if blob.digest not in known:
                known[blob.digest] = blob
                new.append(blob)
            elif known[blob.digest].size != blob.size:
                raise Malformed(
                    f"manifest {offer.digest} of {offer.task}: {blob.size} bytes for blob"
                    f" {blob.digest}, which another manifest gives {known[blob.digest].size}"
                )
    return new


def added_signatures(
    there: Sequence[Signature], offered: Iterable[Signature]
) -> list[Signature] | None:
    """The signatures that are there and those offered; None if that adds none."""
    known = {(signature.payload, signature.base64) for signature in there}
    new = [item for item in offered if (item.payload, item.base64) not in known]
    return [*there, *new] if new else None


def in_parallel(function: Callable[[_Item], _Result], items: Sequence[_Item]) -> list[_Result]:
    """The results in order. The first error ends it; what has begun comes to its end first."""
    with ThreadPoolExecutor(_WORKERS) as pool:
        futures = [pool.submit(function, item) for item in items]
        try:
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


# -- what is offered


def offer_of(manifest: bytes, read: Callable[[Descriptor], Content], where: str) -> Offer | None:
    """The version that a manifest describes; None if it is no task's. `where` is for messages.

    Raises DamagedStore.
    """
    try:
        document = decode_json(manifest, "manifest")
        if not isinstance(document, dict):
            return None
        if cast(dict[str, Any], document).get("artifactType") != MODEL:
            return None
        parsed = Manifest.from_bytes(manifest)
        if not any(layer.media_type == PATH_SPEC for layer in parsed.layers):
            return None  # somebody else's model
        layer = parsed.layer(PATH_SPEC)
        if layer.size > MAX_SPEC_BYTES:
            raise Malformed(f"path spec: {layer.size} bytes, limit {MAX_SPEC_BYTES}")
        spec = bytes(read(layer).data)
        path = TaskPath.from_bytes(spec)
        require_agreement(parsed, path)
    except DamagedStore as error:
        raise type(error)(f"{where}: {error}") from error
    return Offer(path.task, manifest, spec)


def select(
    tags: Iterable[str],
    read: Callable[[str], Offer | None],
    tasks: Sequence[str],
    *,
    history: bool,
    where: str,
) -> list[Offer]:
    """What a place offers that knows versions by tag; `read` gives what is under one.

    Raises UnknownTask, or ExchangeError where two tags disagree on what is live.
    """
    groups = by_task(tags)
    own = {tag_of(task) for task in tasks}
    candidates = sorted(own) if own and own <= groups.keys() else list(groups)
    live: dict[str, tuple[str, Offer]] = {}
    for tag, offer in zip(candidates, in_parallel(read, candidates), strict=True):
        if offer is None:
            logger.info("event=not_a_task place=%s tag=%s", where, tag)
        elif not tasks or offer.task in tasks:
            live[offer.task] = _preferred(live.get(offer.task), (tag, offer), where)
    if missing := sorted(set(tasks) - live.keys()):
        found = listed(sorted(live)) or "none of those asked for"
        raise UnknownTask(f"{where} has no task {listed(missing)}; it has {found}")
    chosen = [live[task] for task in sorted(live)]
    if not history:
        return [offer for _, offer in chosen]
    return [item for tag, offer in chosen for item in _versions(offer, groups[tag], read, where)]


def _preferred(
    known: tuple[str, Offer] | None, other: tuple[str, Offer], where: str
) -> tuple[str, Offer]:
    """Of two tags for one task the one made from its id."""
    task = other[1].task
    if known is None or other[0] == tag_of(task):
        return other
    if known[0] == tag_of(task) or known[1].manifest == other[1].manifest:
        return known
    raise ExchangeError(
        f"{where}: the tags {known[0]!r} and {other[0]!r} hold different versions of {task!r},"
        " expected one live version; name the tag to take"
    )


def _versions(
    live: Offer, tags: list[str], read: Callable[[str], Offer | None], where: str
) -> list[Offer]:
    """All versions of a task, of which one is live."""
    versions: list[Offer] = []
    for tag, offer in zip(tags, in_parallel(read, tags), strict=True):
        if offer is None or offer.task != live.task:
            found = repr(offer.task) if offer else "no task's"
            raise ExchangeError(
                f"{where}: tag {tag!r} is {found}, expected a version of {live.task!r}; remove the"
                " tag, or leave the history out"
            )
        number = int(tag.rpartition(".v")[2])
        is_live = offer.manifest == live.manifest
        versions.append(replace(offer, live=is_live, number=number))
    return versions if any(version.live for version in versions) else [*versions, live]


class StorePlace:
    """A model store as a place."""

    def __init__(self, store: ModelStore) -> None:
        self._store = store

    def __str__(self) -> str:
        return f"store {self._store.url}"

    def offers(self, tasks: Sequence[str], *, history: bool) -> list[Offer]:
        """As Place says."""
        found: list[Offer] = []
        for task in tasks or self._store.tasks():
            live = self._store.resolve(task)
            for version in self._store.history(task) if history else [live]:
                found.append(self._offer(version, live.version, history))
        return found

    def _offer(self, version: Published, live: int, history: bool) -> Offer:
        manifest = bytes(self._store.read_blob(version.digest))
        spec = Manifest.from_bytes(manifest).layer(PATH_SPEC)
        return Offer(
            version.task,
            manifest,
            bytes(self._store.read_blob(spec.digest, spec.size)),
            live=version.version == live,
            number=version.version if history else None,
            signatures=tuple(self._store.signatures(version.digest)),
        )

    def prepare(self, offers: Sequence[Offer]) -> None:
        """A store takes every version."""

    def lacks(self, blobs: Sequence[Descriptor]) -> list[Descriptor]:
        """As Place says."""
        lacking = set(self._store.lacks([blob.digest for blob in blobs]))
        return [blob for blob in blobs if blob.digest in lacking]

    def read(self, blob: Descriptor) -> Content:
        """As Place says."""
        return Content(self._store.read_blob(blob.digest, blob.size))

    def write(self, blob: Descriptor, content: Content) -> None:
        """As Place says; the store computes the digest by itself."""
        self._store.put_blob(content.data)

    def add(self, offers: Sequence[Offer]) -> None:
        """As Place says."""
        for offer in offers:
            # Signed before it is published: a gateway may refuse what is not.
            self._sign(offer)
            self._store.adopt(offer.manifest, live=offer.live)
            self._sign(offer)  # a gc may have forgotten those of a manifest that nothing needed

    def _sign(self, offer: Offer) -> None:
        there = self._store.signatures(offer.digest)
        for signature in (added_signatures(there, offer.signatures) or [])[len(there) :]:
            self._store.add_signature(offer.digest, signature)
