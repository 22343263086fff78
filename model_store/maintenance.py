"""Looking after a whole store: who uses how much, and what may go. Not for a server to run."""

import logging
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from model_store import atomic
from model_store.blobs import Blobs, Digest
from model_store.published import Published, load_manifest
from model_store.refs import Refs

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TaskUsage:
    """Bytes of the components of one task's live version."""

    task: str
    version: int
    own: int  # of components no other task's live version uses
    shared: int  # of components some other task's live version uses too
    total: int


@dataclass(frozen=True, slots=True)
class Usage:
    """Bytes of a store."""

    tasks: tuple[TaskUsage, ...]
    logical: int  # of all tasks, if each had a copy of its components
    stored: int  # of the distinct components of all tasks
    disk: int  # of all blobs: earlier versions, agents' state and garbage too

    @property
    def ratio(self) -> float:
        """How many times the stored bytes the tasks would need without sharing."""
        return self.logical / self.stored if self.stored else 1.0


def usage(blobs: Blobs, published: list[Published]) -> Usage:
    """Who uses how much, given the live version of every task."""
    components = {
        item.task: {digest: item.sizes[name] for name, digest in item.path.components.items()}
        for item in published
    }
    users = Counter(digest for sizes in components.values() for digest in sizes)
    tasks: list[TaskUsage] = []
    for item in published:
        sizes = components[item.task]
        total = sum(sizes.values())
        own = sum(size for digest, size in sizes.items() if users[digest] == 1)
        tasks.append(TaskUsage(item.task, item.version, own, total - own, total))
    distinct = {digest: size for sizes in components.values() for digest, size in sizes.items()}
    return Usage(
        tuple(tasks),
        logical=sum(task.total for task in tasks),
        stored=sum(distinct.values()),
        disk=sum(entry.stat().st_size for entry in blobs.all()),
    )


@dataclass(frozen=True, slots=True)
class GcReport:
    """What garbage collection removed, or would remove."""

    removed: tuple[Digest, ...]
    freed_bytes: int
    kept: int  # blobs left
    temporary_files: int  # left behind by writers that died
    dry_run: bool


def collect_garbage(
    blobs: Blobs, refs: Refs, scratch: list[Path], grace_s: float, dry_run: bool
) -> GcReport:
    """Remove blobs no ref reaches that are older than `grace_s`, and files dead writers left.

    The caller holds the store's lock alone. Raises DamagedStore, having removed nothing, where a
    manifest cannot be read: what it needs is then unknown.
    """
    reachable = _reachable(blobs, refs)
    garbage = [item for item in blobs.older_than(grace_s) if item[0] not in reachable]
    total = sum(1 for _ in blobs.all())
    temporary_files = 0
    for directory in scratch:
        for path in atomic.abandoned(directory):
            temporary_files += 1
            if not dry_run:
                path.unlink()
    if not dry_run:
        for digest, _ in garbage:
            blobs.path(digest).unlink()
        for task in refs.tasks():
            refs.remove_if_empty(task)  # left by a publisher that died before its first version
    logger.info("event=gc garbage=%d of=%d dry_run=%s", len(garbage), total, dry_run)
    return GcReport(
        tuple(digest for digest, _ in garbage),
        sum(size for _, size in garbage),
        total - len(garbage),
        temporary_files,
        dry_run,
    )


def _reachable(blobs: Blobs, refs: Refs) -> set[Digest]:
    roots = {digest for task in refs.tasks() for digest in _versions(refs, task).values()}
    roots |= {digest for agent in refs.agents() if (digest := refs.agent(agent))}
    return roots | {blob.digest for root in roots for blob in load_manifest(blobs, root).blobs()}


def _versions(refs: Refs, task: str) -> dict[int, Digest]:
    found = {number: refs.version(task, number) for number in refs.versions(task)}
    return {number: digest for number, digest in found.items() if digest}
