"""Whether what was acknowledged, and what is there at the end, can be told as one operation after
another: each took effect at one moment between its call and its answer, or, where it was not
answered, at one moment later, or never.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from tests.model_store.simulation.actors import Op, manifest_of

State = TypeVar("State")


@dataclass(frozen=True, slots=True)
class Task:
    """What a task's versions and names are."""

    versions: tuple[tuple[int, str], ...]  # number and manifest, ascending
    live: int | None
    aliases: tuple[tuple[str, int], ...]
    next: int = 0  # the number of the next version

    def says(self) -> tuple[Any, ...]:
        """What can be read of it."""
        return self.versions, self.live, self.aliases


FIRST: dict[str, Task] = {
    "t": Task(
        tuple((seed, manifest_of("t", seed)) for seed in (1, 2, 3)), 2, (("stable", 1),), next=4
    ),
    "u": Task(((1, manifest_of("u", 1)),), 1, (), next=3),
}


def task_after(task: Task, op: Op) -> Task | None:
    """The task when this took effect; None if it cannot have, or not with this answer."""
    return _TASK[op.name](task, op)


def _publish(task: Task, op: Op) -> Task | None:
    manifest = manifest_of(*op.arguments)
    number = task.next
    if task.live is not None and dict(task.versions)[task.live] == manifest:
        number, after = task.live, task
    else:
        after = Task((*task.versions, (number, manifest)), number, task.aliases, number + 1)
    return None if op.done and op.result != (number, manifest) else after


def _rollback(task: Task, op: Op) -> Task | None:
    version = op.arguments[1]
    return replace(task, live=version) if version in dict(task.versions) else None


def _alias(task: Task, op: Op) -> Task | None:
    _, name, version = op.arguments
    if version not in dict(task.versions):
        return None
    return replace(task, aliases=tuple(sorted({**dict(task.aliases), name: version}.items())))


def _rm(task: Task, op: Op) -> Task | None:
    version = op.arguments[1]
    if version is None:
        return Task((), None, (), task.next)
    named = version == task.live or version in dict(task.aliases).values()
    if named or version not in dict(task.versions):
        return None
    return replace(task, versions=tuple(v for v in task.versions if v[0] != version))


def _look(task: Task, op: Op) -> Task | None:
    return task if op.done and op.result == task.live else None


_TASK = {
    "publish": _publish,
    "again": _publish,
    "rollback": _rollback,
    "alias": _alias,
    "rm": _rm,
    "look": _look,
}


def register_after(value: Any, op: Op) -> Any:
    """What an agent or a pin says after this, in a tuple; None if this cannot be."""
    if op.name == "unpin":
        return (None,) if value != (None,) else None
    return op.arguments[-1:] if op.name == "index" else op.arguments[1:]


def explained(
    ops: Sequence[Op],
    first: State,
    after: Callable[[State, Op], State | None],
    is_end: Callable[[State], bool],
) -> bool:
    """Whether there is an order of these that ends so."""
    ops = [op for op in ops if not op.is_void]
    done = sum(1 << i for i, op in enumerate(ops) if op.done)
    # An operation comes after those that had ended when it began.
    before = [sum(1 << j for j, o in enumerate(ops) if o.end < op.start) for op in ops]
    tried: set[tuple[int, State]] = set()
    waiting = [(0, first)]
    while waiting:
        taken, state = waiting.pop()
        if (taken, state) in tried:
            continue
        tried.add((taken, state))
        if taken & done == done and is_end(state):
            return True
        for i, op in enumerate(ops):
            if taken & 1 << i or before[i] & done & ~taken:
                continue
            new = after(state, op)
            if new is not None:
                waiting.append((taken | 1 << i, new))
    return False
