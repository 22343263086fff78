"""Facts about a version in its store: its lineage, and what it shares."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from evolution.training.objectives import OBJECTIVES
from model_store import ModelStore, Published, StoreError

MAX_ANCESTORS = 50


@dataclass(frozen=True, slots=True)
class Ancestor:
    """A version in a lineage; only its task if it is no longer in the store."""

    task: str
    version: Published | None
    hidden: bool = False  # another, private task, whose name is private too


@dataclass(frozen=True, slots=True)
class Sharing:
    """The part of a version that other public tasks of its store also use."""

    components: int
    bytes: int
    tasks: tuple[str, ...]  # that use some of it, most first


def is_private(store: ModelStore, published: Published) -> bool:
    """Whether the version is private, or the live version of its task is."""
    if published.path.private or published.task not in store.live():
        return published.path.private
    return store.resolve(published.task).path.private


def ancestors(store: ModelStore, published: Published) -> Iterator[Ancestor]:
    """From the parent back to the first version that was made from the root."""
    exported = published.task
    for _ in range(MAX_ANCESTORS):
        lineage = published.path.lineage
        digest, task = lineage.get("parent"), lineage.get("parent_task")
        if not isinstance(digest, str) or not isinstance(task, str):
            return
        found = _version(store, task, digest)
        if found is None:
            yield Ancestor(task, None)
            return
        yield Ancestor(task, found, task != exported and is_private(store, found))
        published = found


def _version(store: ModelStore, task: str, manifest: str) -> Published | None:
    try:
        numbers = [number for number, found in store.versions(task).items() if found == manifest]
        return store.resolve(task, numbers[-1]) if numbers else None
    except StoreError:
        return None


def sharing(store: ModelStore, published: Published) -> Sharing:
    """What it shares with the live versions of other public tasks."""
    components = published.path.components
    mine = {str(digest): published.sizes[name] for name, digest in components.items()}
    used, tasks = set[str](), dict[str, int]()
    for other in store.served():
        common = mine.keys() & set(other.path.components.values())
        if common and other.task != published.task and not other.path.private:
            used |= common
            tasks[other.task] = sum(mine[digest] for digest in common)
    names = sorted(tasks, key=lambda task: (-tasks[task], task))
    number = sum(digest in used for digest in components.values())
    return Sharing(number, sum(mine[digest] for digest in used), tuple(names))


def root_of(store: ModelStore, published: Published) -> str:
    """The root's name in the run that made it; empty if no longer known."""
    agent = published.path.lineage.get("agent")
    try:
        document = store.load_agent(agent) if isinstance(agent, str) and agent else None
    except StoreError:
        return ""
    settings = (document or {}).get("settings")
    root = settings.get("root") if isinstance(settings, Mapping) else None
    return root if isinstance(root, str) else ""


@dataclass(frozen=True, slots=True)
class Measurement:
    """One quality of a version."""

    split: str
    measure: str  # an objective's metric
    value: float
    examples: int  # it was measured on; 0 if not recorded
    positives: tuple[int, ...]  # of each label, if pictures have several


def measurements(published: Published) -> list[Measurement]:
    """The qualities in the path spec, the test split first."""
    metrics, found = published.path.metrics, []
    for name in sorted(metrics, key=lambda name: (name != "test", name)):
        part = metrics[name] if isinstance(metrics[name], Mapping) else {}
        examples, positives = part.get("examples"), part.get("positives")
        for measure in (objective.metric for objective in OBJECTIVES.values()):
            value = part.get(measure)
            if isinstance(value, int | float) and not isinstance(value, bool):
                found.append(Measurement(
                    split=str(part.get("split", name)), measure=measure, value=float(value),
                    examples=examples if type(examples) is int and examples > 0 else 0,
                    positives=tuple(n for n in positives if type(n) is int)
                    if isinstance(positives, list) else (),
                ))  # fmt: skip
    return found
