"""Which of several replicas serves which task, so that what tasks share is held in few places.

A *family* are tasks that hang together by components which they share. Replicas are apportioned to
families by the bytes of their tasks' own components, largest quotient first (D'Hondt). A family of
one replica lies there whole, perhaps with others; of a family of several, each holds what is
shared, and its part of the tasks. Families and tasks choose by hashes among the replicas that have
room (consistent hashing with bounded loads).

Laws: the same store gives the same placement. A family lies on no more replicas than it was given.
Of a family's own bytes a replica has at most a tenth more than its part, and one task's. A task
that is added joins its family and moves hardly any other, unless a family has outgrown others and
takes over a replica.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from model_store.blobs import Digest

JOINS = 100  # a component that is less than this part of a task's bytes joins it to nobody
SLACK = 1.1  # what a replica may have to what is its part, before the next is chosen
ALIKE = 0.8  # sizes with this ratio or more between them are equal: the older family goes first


@dataclass(frozen=True, slots=True)
class Member:
    """A task as far as placing it goes."""

    task: str
    since: str  # when it was first published: RFC 3339, UTC
    components: Mapping[Digest, int]  # and their bytes


@dataclass(frozen=True, slots=True)
class Placement:
    """Where tasks go; replicas are numbered from 0."""

    tasks: Mapping[str, int]
    bytes: Sequence[int]  # of the distinct components of each replica's tasks


@dataclass(slots=True)
class _Family:
    members: list[Member]  # oldest first
    own: dict[str, int]  # task -> bytes of components that no other member has
    shared: int  # bytes of the others
    parts: int = 1  # how many replicas it lies on

    @property
    def part(self) -> int:
        """Bytes on each of its replicas."""
        return self.shared + sum(self.own.values()) // self.parts


def place(members: Iterable[Member], replicas: int) -> Placement:
    """A replica for every task."""
    families = _families(sorted(members, key=lambda one: (one.since, one.task)))
    _apportion(families, replicas)
    parts = [family.part for family in families for _ in range(family.parts)]
    room = max([SLACK * sum(parts) / replicas, *parts])
    loads = dict.fromkeys(range(replicas), 0.0)
    found: dict[str, int] = {}
    for family in sorted(families, key=lambda one: -one.part.bit_length()):  # else oldest first
        chosen: dict[int, float] = {}
        for _ in range(family.parts):
            others = {number: load for number, load in loads.items() if number not in chosen}
            number = _choose(family.members[0].task, family.part, others, room)
            chosen[number] = 0.0
            loads[number] += family.part
        found |= _spread(family, chosen)
    return Placement(found, _bytes(families, found, replicas))


def _choose(name: str, size: int, loads: Mapping[int, float], room: float) -> int:
    """The replica that the name's hash prefers, of those with room; or else of the least loaded."""
    fit = [number for number, load in loads.items() if load + size <= room]
    least = min(loads.values()) / ALIKE
    free = fit or [number for number, load in loads.items() if load <= least]
    return min(free, key=lambda number: _hash(f"{name} {number}"))


def _families(members: Sequence[Member]) -> list[_Family]:
    """Oldest first."""
    root = {one.task: one.task for one in members}

    def find(task: str) -> str:
        while root[task] != task:
            root[task] = root[root[task]]
            task = root[task]
        return task

    first: dict[Digest, str] = {}
    for one in members:
        least = sum(one.components.values()) / JOINS
        for digest, size in one.components.items():
            if size >= least:
                root[find(one.task)] = find(first.setdefault(digest, one.task))
    grouped: defaultdict[str, list[Member]] = defaultdict(list)
    for one in members:
        grouped[find(one.task)].append(one)
    return [_family(family) for family in grouped.values()]


def _family(members: list[Member]) -> _Family:
    users = Counter(digest for one in members for digest in one.components)
    own = {
        one.task: sum(size for digest, size in one.components.items() if users[digest] == 1)
        for one in members
    }
    sizes = {digest: size for one in members for digest, size in one.components.items()}
    return _Family(members, own, sum(sizes.values()) - sum(own.values()))


def _apportion(families: Sequence[_Family], replicas: int) -> None:
    """D'Hondt's method; a family that gets no replica for itself lies on one all the same."""
    given = [0] * len(families)
    for _ in range(replicas if families else 0):
        quotients = [
            sum(family.own.values()) / (taken + 1) if taken < len(family.members) else 0.0
            for family, taken in zip(families, given, strict=True)
        ]
        most = max(quotients)
        given[next(i for i, found in enumerate(quotients) if found >= ALIKE * most)] += 1
    for family, taken in zip(families, given, strict=True):
        family.parts = min(max(1, taken), len(family.members))


def _spread(family: _Family, taken: dict[int, float]) -> dict[str, int]:
    """Each task to one of the replicas, whose bytes so far are given, and change."""
    room = SLACK * sum(family.own.values()) / len(taken) + max(family.own.values())
    found: dict[str, int] = {}
    for task in sorted(family.own, key=_hash):
        found[task] = _choose(task, family.own[task], taken, room)
        taken[found[task]] += family.own[task]
    return found


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _bytes(families: Iterable[_Family], found: Mapping[str, int], replicas: int) -> list[int]:
    held: list[dict[Digest, int]] = [{} for _ in range(replicas)]
    for family in families:
        for one in family.members:
            held[found[one.task]].update(one.components)
    return [sum(sizes.values()) for sizes in held]
