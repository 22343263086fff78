"""Who uses how many bytes of a store."""

from collections import Counter
from dataclasses import dataclass

from model_store.store import ModelStore


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


def usage_of(store: ModelStore) -> Usage:
    """Bytes used, per task and in all; damaged tasks are logged and left out."""
    published = store.served()
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
        disk=sum(entry.size for _, entry in store.blobs.all()),
    )
