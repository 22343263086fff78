"""The model store: publish, resolve and read paths whose components are each stored once.

A store is a local directory (FORMAT.md). Any number of processes may read and write it at the same
time; killed at any moment, it stays valid and keeps all that was published. It holds bytes and
digests and knows nothing of networks.
"""

import difflib
import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from model_store import maintenance, verification
from model_store.atomic import Lock, sync_directory
from model_store.blobs import Blobs, Digest, digest_of, parse_digest
from model_store.canonical_json import decode_json, encode_json
from model_store.errors import (
    BlobNotFound,
    CorruptRef,
    DamagedStore,
    LiveVersion,
    Malformed,
    MissingComponent,
    StoreNotFound,
    UnknownTask,
    UnknownVersion,
    listed,
)
from model_store.manifest import AGENT_STATE, TaskPath, agent_manifest, path_manifest
from model_store.names import require_name
from model_store.published import Published, load_manifest, load_path
from model_store.refs import Refs
from model_store.tensors import Tree, decode, encode

logger = logging.getLogger(__name__)

# Opened in this order, so that a store of which any part exists is complete in the parts before.
_DIRECTORIES = ("tmp", "refs/agents", "refs/tasks", "blobs/sha256")


class ModelStore:
    """A store in a local directory; may be used by several threads.

    Wherever a disk can fail, OSError comes through as it is; the store stays valid.
    """

    def __init__(self, root: str | os.PathLike[str], *, create: bool = False) -> None:
        """Open the store in directory `root`; with `create`, make it if there is none.

        Raises StoreNotFound.
        """
        self.root = Path(root)
        if create:
            _create_directories(self.root)
        elif not (self.root / _DIRECTORIES[-1]).is_dir():
            raise StoreNotFound(
                f"opening the store {self.root}: expected a directory with blobs/sha256 and refs,"
                " found none; give the directory of a store, or create one by publishing to it"
            )
        scratch = self.root / "tmp"
        self._lock = Lock(self.root / "lock")
        self._blobs = Blobs(self.root / "blobs/sha256", scratch, self._lock)
        self._refs = Refs(self.root / "refs", scratch)

    # -- components

    def put(self, tree: Tree) -> Digest:
        """Store one component (nested dicts of arrays, or one array); its digest.

        Equal arrays give equal digests and are stored once. gc removes a component that no path is
        published with, after its grace period. Raises Unstorable.
        """
        return self._blobs.put(encode(tree))

    def component(self, digest: str) -> Tree:
        """The arrays of a component: read-only, mapped from the file, verified on every call.

        Raises BlobNotFound, CorruptBlob or Malformed, naming file and digest.
        """
        known = parse_digest(digest)
        try:
            return decode(self._blobs.read(known))
        except Malformed as error:
            raise Malformed(f"blob {known} at {self._blobs.path(known)}: {error}") from error

    def size(self, digest: str) -> int:
        """Bytes a component takes in the store. Raises BlobNotFound."""
        return self._blobs.size(parse_digest(digest))

    # -- versions

    def publish(self, path: TaskPath, *, live: bool = True) -> Published:
        """Add a version of `path.task`, and serve it unless `live` is false.

        All or nothing, and durable on return. Every component has to be put before; otherwise
        raises MissingComponent. A path equal to the version that is live already adds none.
        """
        spec = digest_of(path.to_bytes())
        same = self._live_if_equal(path.task, spec)
        if same:
            return same
        sizes = self._component_sizes(f"task {path.task}", path.components)
        manifest, blobs = path_manifest(path, sizes)
        needed = [self._blobs.put(blob) for blob in blobs]
        digest = self._blobs.put(manifest.to_bytes())
        with self._lock.held(exclusive=True):
            same = self._live_if_equal(path.task, spec)  # another process may have been faster
            if same:
                return same
            self._keep(f"task {path.task}", path.components, [*needed, digest])
            version = self._refs.add_version(path.task, digest)
            if live:
                self._refs.set_live(path.task, version)
            published = self._load(path.task, version, digest)
        logger.info("event=published task=%s version=%d live=%s", path.task, version, live)
        return published

    def _live_if_equal(self, task: str, spec: Digest) -> Published | None:
        try:
            version = self._refs.live_version(task)
            digest = version and self._refs.version(task, version)
            if not version or not digest:
                return None
            published = self._load(task, version, digest)
        except DamagedStore as error:  # must not stand in the way of the version that replaces it
            logger.warning("event=live_version_damaged task=%s error=%r", task, str(error))
            return None
        return published if digest_of(published.path.to_bytes()) == spec else None

    def _component_sizes(self, what: str, components: Mapping[str, Digest]) -> dict[str, int]:
        sizes: dict[str, int] = {}
        missing: list[str] = []
        for name, digest in components.items():
            try:
                sizes[name] = self._blobs.size(digest)
            except BlobNotFound:
                missing.append(name)
        _require_none_missing(what, missing)
        return sizes

    def _keep(self, what: str, components: Mapping[str, Digest], others: list[Digest]) -> None:
        """Make sure, holding the lock, that gc leaves these blobs until a ref reaches them."""
        missing = set(self._blobs.refresh([*components.values(), *others]))
        names = [name for name, digest in components.items() if digest in missing]
        _require_none_missing(what, names + sorted(missing.intersection(others)))
        self._blobs.sync()

    def version(self, task: str, number: int) -> Digest:
        """The manifest of a version; reads one small file. Raises UnknownTask or UnknownVersion."""
        require_name("task", task)
        return self._version(task, number)[1]

    def resolve(self, task: str, version: int | None = None) -> Published:
        """A published version of a task: the live one, or the given one.

        Raises UnknownTask or UnknownVersion, saying what there is, or DamagedStore.
        """
        require_name("task", task)
        number, digest = self._live(task) if version is None else self._version(task, version)
        return self._load(task, number, digest)

    def _load(self, task: str, number: int, digest: Digest) -> Published:
        path, sizes = load_path(self._blobs, task, number, digest)
        created = self._refs.created(task, number)
        if created is None:
            raise UnknownVersion(f"version {number} of task {task!r} was removed while being read")
        return Published(task, number, digest, path, sizes, created)

    def _live(self, task: str) -> tuple[int, Digest]:
        number = self._refs.live_version(task)
        while number is not None:
            digest = self._refs.version(task, number)
            if digest:
                return number, digest
            # Removed between the two reads, and then no longer live; or damaged.
            previous, number = number, self._refs.live_version(task)
            if number == previous:
                path = self._refs.live_path(task)
                raise CorruptRef(f"ref {path} names v{number}, which does not exist; roll back")
        raise self._unknown_task(task)

    def _version(self, task: str, number: int) -> tuple[int, Digest]:
        digest = self._refs.version(task, number)
        if digest:
            return number, digest
        versions = self._refs.versions(task)
        if not versions:
            raise self._unknown_task(task)
        raise UnknownVersion(
            f"task {task!r} has no version {number}; it has {_listed_versions(versions)}"
        )

    def _unknown_task(self, task: str) -> UnknownTask:
        versions = self._refs.versions(task)
        if versions:
            return UnknownTask(
                f"task {task!r} has no live version; make one live with rollback:"
                f" {_listed_versions(versions)}"
            )
        tasks = self.tasks()
        near = difflib.get_close_matches(task, tasks, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"it has {len(tasks)} others"
        return UnknownTask(f"store {self.root} has no task {task!r}; {hint}")

    def tasks(self) -> list[str]:
        """Tasks with a live version, sorted."""
        return sorted(self.live())

    def live(self) -> dict[str, tuple[int, Digest]]:
        """Task -> (live version, digest of its manifest), for those who watch the store.

        Cheap to poll: it costs one stat while nothing changes, however many tasks there are. Tasks
        whose refs are damaged are logged and keep their last known version, if there was one.
        """
        return self._refs.snapshot()

    def history(self, task: str) -> list[Published]:
        """All versions of a task, oldest first. Raises UnknownTask."""
        require_name("task", task)
        versions = self._refs.versions(task)
        if not versions:
            raise self._unknown_task(task)
        return [self.resolve(task, version) for version in versions]

    def rollback(self, task: str, version: int) -> Published:
        """Serve this version of a task, an earlier or a later one, from now on."""
        with self._lock.held(exclusive=True):
            published = self.resolve(task, version)
            self._refs.set_live(task, version)
        logger.info("event=rolled_back task=%s version=%d", task, version)
        return published

    def rm(self, task: str, version: int | None = None) -> None:
        """Forget a task, or one version of it; gc frees the bytes.

        Raises UnknownTask, UnknownVersion, or LiveVersion for a version that is live.
        """
        require_name("task", task)
        with self._lock.held(exclusive=True):
            if version is None:
                if not self._refs.versions(task):
                    raise self._unknown_task(task)
                self._refs.remove_task(task)
            else:
                self._version(task, version)
                if self._refs.live_version(task) == version:
                    raise LiveVersion(
                        f"version {version} of {task} is live and cannot be removed; make another"
                        " version live first, or remove the task"
                    )
                self._refs.remove_version(task, version)
        logger.info("event=removed task=%s version=%s", task, version or "all")

    # -- evolution's own state

    def save_agent(
        self, agent: str, document: Mapping[str, Any], components: Iterable[Digest]
    ) -> Digest:
        """Replace an agent's state by a JSON document and the components it refers to.

        gc keeps these components. Returns the digest of the state, equal for equal states. Raises
        MissingComponent for components never put.
        """
        what = f"agent {require_name('agent', agent)}"
        named = {str(digest): parse_digest(digest) for digest in components}
        sizes = self._component_sizes(what, named)
        data = encode_json(document, f"state of {what}")
        manifest, blobs = agent_manifest(data, {named[name]: size for name, size in sizes.items()})
        needed = [self._blobs.put(blob) for blob in blobs]
        digest = self._blobs.put(manifest.to_bytes())
        with self._lock.held(exclusive=True):
            self._keep(what, named, [*needed, digest])
            self._refs.set_agent(agent, digest)
        return digest

    def load_agent(self, agent: str) -> dict[str, Any] | None:
        """The document an agent has saved; None if it has saved none. Raises DamagedStore."""
        digest = self._refs.agent(require_name("agent", agent))
        if digest is None:
            return None
        state = load_manifest(self._blobs, digest).layer(AGENT_STATE)
        data = self._blobs.read(state.digest, state.size)
        return decode_json(bytes(data), f"state of agent {agent}")

    def agents(self) -> list[str]:
        """Agents that have saved a state, sorted."""
        return self._refs.agents()

    # -- maintenance

    def du(self) -> maintenance.Usage:
        """Bytes used, per task and in all. Raises DamagedStore."""
        live = sorted(self.live().items())
        published = [self._load(task, *served) for task, served in live]
        return maintenance.usage(self._blobs, published)

    def verify(self) -> list[verification.Problem]:
        """Everything wrong with the store; empty when it is sound. Reads every byte of it."""
        return verification.verify(self._blobs, self._refs, self.root)

    def gc(self, *, grace_s: float = 3600, dry_run: bool = False) -> maintenance.GcReport:
        """Remove what no version and no agent refers to and nothing has touched for `grace_s`.

        The grace period has to be longer than any writer takes from its first put to its publish.
        Publishing waits meanwhile; reading does not. Raises DamagedStore, having removed nothing,
        where it cannot tell what is needed.
        """
        scratch = [self.root / "tmp", self.root / "refs/tasks"]
        with self._lock.held(exclusive=True):
            return maintenance.collect_garbage(self._blobs, self._refs, scratch, grace_s, dry_run)


def _create_directories(root: Path) -> None:
    if (root / _DIRECTORIES[-1]).is_dir():
        return
    for name in _DIRECTORIES:
        (root / name).mkdir(parents=True, exist_ok=True)
    for directory in (root / "blobs", root / "refs", root, root.absolute().parent):
        sync_directory(directory)


def _require_none_missing(what: str, names: Iterable[str]) -> None:
    missing = sorted(names)
    if missing:
        raise MissingComponent(
            f"{what}: components not in the store: {listed(missing)}; put them before publishing"
        )


def _listed_versions(versions: list[int]) -> str:
    return listed([f"v{number}" for number in versions])
