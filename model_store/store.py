"""The model store: publish, resolve and read paths whose components are each stored once.

A store is a local directory or a prefix of an object store (FORMAT.md). Any number of processes on
any number of machines may use it at the same time; killed at any moment, it stays valid and keeps
what was published. It knows nothing of neural networks.
"""

import logging
import os
from collections.abc import Callable, Iterable, Mapping

from model_store import watching
from model_store.agent_states import AgentStates
from model_store.arrays import Tree, decode, encode
from model_store.blobs import Blobs, Digest, parse_digest
from model_store.errors import Malformed
from model_store.files import format_marker
from model_store.files.opening import open_storage
from model_store.manifest import Json, Manifest, TaskPath, path_manifest
from model_store.names import LIVE, PINS, pin_key, require_name
from model_store.needs import Needs
from model_store.publishers import Publications
from model_store.reading import Listed, Published, Reader, load_manifest, path_of
from model_store.refs import Refs
from model_store.rollouts import Rollout, require_share
from model_store.signatures import Signature
from model_store.versions import require_alias
from model_store.writing import Writer

logger = logging.getLogger(__name__)


class ModelStore(AgentStates):
    """A store at a directory or a URL; may be used by several threads. After a fork, open it again.

    `storage`, `blobs` and `refs` are its parts, for those who look after it (upkeep/): to them its
    versions are files. Where a disk fails, OSError comes through, where an object store does,
    StorageError.
    """

    def __init__(
        self, url: str | os.PathLike[str], *, create: bool = False, later: bool = False
    ) -> None:
        """Open the store at a directory, or a file://, s3://, gs:// or az:// URL.

        With `create`, make it if there is none; with `later`, `require_open` or the first `watched`
        looks at it. Raises StoreNotFound, UnsafeStorage, or StorageError for unusable variables.
        """
        self.storage = storage = open_storage(os.fspath(url))
        if create and not storage.exists():
            storage.prepare()
            format_marker.begin(storage)
            watching.begin(storage)
        self._opened = False
        if not later:
            self.require_open()
        self.blobs = Blobs(storage)
        self.refs = Refs(storage)
        self._watcher = watching.Watcher(storage, self.refs)
        self._reader = Reader(storage.url, self.blobs, self.refs, self._watcher)
        self._writer = Writer(storage, self.blobs, self.refs, self._reader)
        self._publications = Publications(storage, self.blobs, self.refs)

    @property
    def url(self) -> str:
        """Where the store is: an absolute path, or a URL. Equal for two names of one folder."""
        return self.storage.url

    def require_open(self) -> None:
        """Raises StoreNotFound or UnknownFormat unless there is a store that can be read."""
        if not self._opened:
            format_marker.read(self.storage)
            self._opened = True

    # -- components

    def put(self, tree: Tree) -> Digest:
        """Store one component (nested dicts of arrays, or one array); its digest.

        Equal arrays give equal digests and are stored once. gc removes a component that no path is
        published with, after its grace period. Raises Unstorable.
        """
        return self.blobs.put(encode(tree))

    def component(self, digest: str, limit: int | None = None) -> Tree:
        """The arrays of a component, of at most `limit` bytes: read-only, verified on every call.

        Raises BlobNotFound, CorruptBlob or Malformed, naming file and digest.
        """
        known = parse_digest(digest)
        data = self.blobs.read(known, limit=limit)
        try:
            return decode(data)
        except Malformed as error:
            raise Malformed(f"blob {known} at {self.blobs.where(known)}: {error}") from error

    def size(self, digest: str) -> int:
        """Bytes a component takes in the store. Raises BlobNotFound."""
        return self.blobs.size(parse_digest(digest))

    # -- blobs, for those who move versions from one place to another

    def read_blob(self, digest: Digest, size: int | None = None) -> memoryview:
        """The bytes of a blob, verified. Raises BlobNotFound or CorruptBlob."""
        return self.blobs.read(digest, size)

    def put_blob(self, data: bytes | memoryview) -> Digest:
        """Store bytes as a blob; gc removes it after its grace period if nothing needs it."""
        return self.blobs.put(data)

    def lacks(self, digests: Iterable[Digest]) -> list[Digest]:
        """Which of these blobs are not here; gc spares the others for its grace period."""
        there = set(self.blobs.renew(wanted := list(digests)))
        return [digest for digest in wanted if digest not in there]

    # -- versions

    def publish(self, path: TaskPath, *, live: bool = True) -> Published:
        """Add a version of `path.task`, and serve it unless `live` is false.

        All or nothing, and durable on return. Every component has to be put before; otherwise
        raises MissingComponent. A path equal to the version that is live already adds none. Of
        several publishers at once, the one with the highest version is live in the end.
        """
        what = f"task {path.task}"
        manifest, blobs = path_manifest(path, self._writer.sizes(what, path.components))
        needs = Needs(what, path.components, [*blobs, manifest.to_bytes()])
        return self._writer.add(path.task, needs, live=live, again=True)

    def adopt(self, manifest: bytes, *, live: bool = True) -> Published:
        """Add the version that a manifest from elsewhere describes, byte for byte.

        All its blobs have to be here, in the sizes that it gives: raises MissingComponent,
        BlobNotFound, CorruptBlob or Malformed. If a version of the task has this very manifest,
        that one is returned, and served from now on unless `live` is false.
        """
        parsed = Manifest.from_bytes(manifest)
        path = path_of(self.blobs, parsed)
        blobs = {str(blob.digest): blob.digest for blob in parsed.blobs()}
        sizes = {blob.digest: blob.size for blob in parsed.blobs()}
        needs = Needs(f"task {path.task}", blobs, [manifest], sizes)
        return self._writer.add(path.task, needs, live=live, again=False)

    def version(self, task: str, number: int) -> Digest:
        """The manifest of a version; reads one small file. Raises UnknownTask or UnknownVersion."""
        return self._reader.version(require_name("task", task), number).manifest

    def resolve(self, task: str, version: int | None = None) -> Published:
        """A published version of a task: the live one, or the given one.

        Raises UnknownTask or UnknownVersion, saying what there is, or DamagedStore.
        """
        require_name("task", task)
        if version is None:
            return self._reader.load(task, *self._reader.live(task))
        return self._reader.load(task, version, self._reader.version(task, version))

    def tasks(self) -> list[str]:
        """Tasks with a live version, sorted."""
        return sorted(self.live())

    def live(self) -> Mapping[str, tuple[int, Digest]]:
        """Task -> (live version, digest of its manifest), as `watched` knows it.

        Tasks whose refs cannot be read are logged and keep their last known version, if any.
        """
        return self.watched().live

    def watched(self) -> watching.View:
        """What `live` tells, and of each task whose refs cannot be read now the error.

        Cheap to poll: while nothing changes it reads one small file, however many tasks there are,
        and returns the same object. Raises OSError or StoreError where the store as a whole cannot
        be read.
        """
        self.require_open()
        return self._watcher.snapshot()

    def served(self) -> list[Published]:
        """The live version of every task, by name; what cannot be read is logged and left out."""
        return self._reader.served()

    def live_version(self, task: str) -> tuple[int, Digest] | None:
        """Number and manifest of the live version; reads one small file. Raises CorruptRef."""
        return self.refs.versions(require_name("task", task)).served

    def versions(self, task: str) -> dict[int, Digest]:
        """Number -> manifest of all versions of a task, ascending, whether or not one is live.

        Reads one small file; empty where there is no version. Raises CorruptRef.
        """
        found = self.refs.versions(require_name("task", task)).versions
        return {number: version.manifest for number, version in found.items()}

    def chosen_since(self, task: str, version: int) -> bool:
        """Whether what is live was chosen after this version was added, or together with it."""
        return self.refs.versions(require_name("task", task)).chosen > version

    def history(self, task: str) -> list[Published]:
        """All versions of a task, oldest first. Raises UnknownTask."""
        versions = self._reader.existing(require_name("task", task))
        return [self._reader.load(task, number, version) for number, version in versions.items()]

    def newest(self, task: str, most: int) -> tuple[list[Listed], int]:
        """Up to `most` versions, ascending, and how many older ones; reads one document."""
        return self._reader.newest(require_name("task", task), most)

    def rollback(self, task: str, version: int) -> Published:
        """Serve this version of a task, an earlier or a later one, from now on."""
        published = self._writer.point(require_name("task", task), LIVE, version)
        logger.info("event=rolled_back task=%s version=%d", task, version)
        return published

    def promote(self, task: str, version: int, better: Callable[[Published | None], bool]) -> bool:
        """Serve this version from now on if it is better than the one served; whether it is served.

        `better` gets the live version, None where there is none that can be read. It is asked again
        when another becomes live meanwhile: of several that promote at once, the best stays. Raises
        UnknownTask or UnknownVersion.
        """
        served = self._writer.promote(require_name("task", task), version, better)
        logger.info("event=promoted task=%s version=%d live=%s", task, version, served)
        return served

    def publications(self) -> list[Published]:
        """The newest version of each publisher of each task, by task and number.

        A version's publisher is its path's `lineage["agent"]`. Damaged versions are logged and left
        out. A second call reads only what has changed.
        """
        return self._publications.newest()

    def publications_told(self) -> dict[str, Json]:
        """What the last call of `publications` knew of each task, as JSON."""
        return self._publications.told()

    def learn_publications(self, tasks: Mapping[str, Json]) -> None:
        """Take over what another process knew: `publications` reads only what has changed since.

        Raises Malformed.
        """
        self._publications.learn(tasks)

    def alias(
        self, task: str, name: str, version: int, rollout: Rollout | None = None
    ) -> Published:
        """Let a further name, such as `stable`, stand for a version until it is moved.

        With a roll-out, its version gets requests too; without, a roll-out of the alias is over.
        Raises UnknownTask, UnknownVersion, InvalidName for a name that is no alias, or Unstorable.
        """
        return self._writer.point(require_name("task", task), require_alias(name), version, rollout)

    def rollouts(self, task: str) -> dict[str, Rollout]:
        """Alias -> its roll-out, also one that has ended. Raises CorruptRef."""
        return dict(self.refs.versions(require_name("task", task)).rollouts)

    def promote_alias(self, task: str, name: str) -> int:
        """Make an alias's version live and end its roll-out, if what it was compared with is live.

        Returns the version. Raises UnknownTask, UnknownName, or LiveVersion if another is live.
        """
        version = self._writer.promote_alias(require_name("task", task), require_alias(name))
        logger.info("event=promoted task=%s alias=%s version=%d", task, name, version)
        return version

    def end_rollout(self, task: str, name: str, began: str, why: str) -> bool:
        """End the roll-out of an alias that began then; of several callers, one gets True."""
        return self._writer.end_rollout(task, name, began, why)

    def aliases(self, task: str) -> dict[str, int]:
        """Alias -> version of a task. Raises CorruptRef."""
        return dict(self.refs.versions(require_name("task", task)).aliases)

    def named(self, task: str, alias: str) -> int | None:
        """The version of one alias; None if there is no such alias. Raises CorruptRef."""
        return self.aliases(task).get(require_alias(alias))

    def set_min_probability(self, task: str, share: float) -> None:
        """Below which probability gateways abstain from an answer; 0: never.

        Raises UnknownTask, or ValueError for a share that is not from 0 to 1.
        """
        require_share("min_probability", share)
        self._writer.set_min_probability(require_name("task", task), float(share))

    def min_probability(self, task: str) -> float:
        """What was set for a task; 0 if nothing was. Raises CorruptRef."""
        return self.refs.versions(require_name("task", task)).min_probability

    def remove_alias(self, task: str, name: str) -> None:
        """Forget an alias. Raises UnknownName."""
        self._writer.remove_alias(require_name("task", task), require_alias(name))

    def rm(self, task: str, version: int | None = None) -> None:
        """Forget a task, or one version of it; gc frees the bytes.

        Raises UnknownTask, UnknownVersion, or LiveVersion for a version that is live or that an
        alias names.
        """
        require_name("task", task)
        if version is None:
            self._writer.remove_task(task)
        else:
            self._writer.remove_version(task, version)
        logger.info("event=removed task=%s version=%s", task, version or "all")

    # -- pins and signatures

    def pin(self, name: str, manifest: Digest) -> None:
        """Let gc keep a manifest and all it needs, also when the versions that have it are gone.

        Raises BlobNotFound, CorruptBlob or Malformed where not all of that is there and whole.
        """
        digest = parse_digest(manifest)
        parsed = load_manifest(self.blobs, digest)
        needed = [*parsed.blobs()]
        for part in parsed.parts:
            needed += load_manifest(self.blobs, part).blobs()
        blobs = {str(blob.digest): blob.digest for blob in needed}
        sizes = {blob.digest: blob.size for blob in needed}
        data = bytes(self.blobs.read(digest))
        self._writer.pin(require_name("pin", name), Needs(f"pin {name}", blobs, [data], sizes))

    def pins(self) -> dict[str, Digest]:
        """Pin -> the manifest it keeps. Raises CorruptRef."""
        found = {name: self.refs.manifest(pin_key(name)) for name in self.refs.owners(PINS)}
        return {name: manifest for name, manifest in found.items() if manifest}

    def unpin(self, name: str) -> None:
        """Keep it no longer. Raises UnknownName."""
        self._writer.unpin(require_name("pin", name))

    def signatures(self, manifest: Digest) -> list[Signature]:
        """Who vouches for a manifest; nothing in it is true until `signing.verify` says so.

        Raises DamagedStore.
        """
        return self._reader.signatures(parse_digest(manifest))

    def signature_manifests(
        self, manifests: Iterable[Digest]
    ) -> Mapping[Digest, Digest | Exception | None]:
        """Which manifest holds the signatures of each, or the error; another when they change."""
        return self._reader.signature_manifests(manifests)

    def add_signature(self, manifest: Digest, signature: Signature) -> None:
        """Add to the signatures of a manifest; of several signers at once, none is lost."""
        self._writer.add_signature(parse_digest(manifest), signature)
