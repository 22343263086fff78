"""What a task costs that shares nearly all of its path: time to publish and load it, and bytes."""

from __future__ import annotations

import json
from collections.abc import Callable

from loadtests.store.place import Place
from loadtests.store.report import Line, Section
from loadtests.store.sample import Component, Size, model, own, size_bytes, task_path
from loadtests.store.throughput import BLOBS
from loadtests.store.timing import Seconds, interleaved, milliseconds, ratio
from model_store import Digest, ModelStore, encode


def sharing(place: Place, size: Size, tasks: int) -> tuple[Section, Section, Section]:
    """Publishes this many tasks on one shared model; then loads what is each one's own."""
    base = model(size, 0)
    store = ModelStore(place.url("shared"), create=True)
    shared = {name: store.put(tree) for name, tree in base.shared.items()}
    published = _publish(place, store, size, shared, tasks)
    loaded = _load(place, store, tasks)
    full = {name.replace("/", "-"): tree for name, tree in base.components.items()}
    place.write_tensors("full", full)
    stored = _bytes(place, tasks)
    for folder in ("shared", "full", "own"):
        place.remove(folder)
    own_bytes, path_bytes = size_bytes(base.own), base.size_bytes
    title = (
        f"a path of {path_bytes / 1e6:.1f} MB of which {100 - 100 * own_bytes / path_bytes:.1f} %"
        f" is shared: {own_bytes / 1e6:.2f} MB in {len(base.own)} components are its own"
    )
    resident = "All else stays cached; what specifies the path is as cold as its own components."
    return (
        Section("new", f"Publish {title}", published, "One fsync per file, in both."),
        Section("own", f"Load {title}, cold", loaded, resident),
        Section("bytes", f"Bytes of {tasks} such tasks, as du counts", stored),
    )


def _publish(
    place: Place, store: ModelStore, size: Size, shared: dict[str, Digest], tasks: int
) -> tuple[Line, ...]:
    """One task after the other; each next to a plain copy of as many bytes."""
    copies = {name.replace("/", "-"): encode(tree) for name, tree in own(size, tasks).items()}
    trees: dict[str, Component] = {}
    numbers = iter(range(tasks))
    number = 0

    def before(name: str) -> None:
        nonlocal number, trees
        if name == "store":
            number = next(numbers)
            trees = own(size, number)
        else:
            place.remove("own")

    def by_store() -> None:
        digests = {name: store.put(tree) for name, tree in trees.items()}
        store.publish(task_path(_task(number), {**shared, **digests}))

    cases: dict[str, Callable[[], object]] = {
        "store": by_store,
        "plain copy of its own": lambda: place.write("own", copies),
    }
    return _lines(interleaved(cases, tasks, before))


def _task(number: int) -> str:
    return f"task/{number}"


def _load(place: Place, store: ModelStore, tasks: int) -> tuple[Line, ...]:
    """Each task in turn; what is shared stays in the page cache."""
    numbers = iter([number for number in range(tasks) for _ in range(3)])
    task, keys = "", list[str]()

    def before(name: str) -> None:
        nonlocal task, keys
        task = _task(next(numbers))
        published = store.resolve(task)
        manifest = json.loads(bytes(store.read_blob(published.digest)))
        parts = published.path.components
        keys = [_key(digest) for part, digest in parts.items() if _is_own(part)]
        everything = [_key(digest) for digest in parts.values()]
        small = [_key(published.digest), _key(manifest["layers"][0]["digest"])]
        place.chill("shared", small + (everything if name == "store, all of it cold" else keys))

    def load(wanted: Callable[[str], bool]) -> object:
        path = store.resolve(task).path
        digests = [digest for part, digest in path.components.items() if wanted(part)]
        return [store.component(digest) for digest in digests]

    cases: dict[str, Callable[[], object]] = {
        "store": lambda: load(_is_own),
        "read() of its own": lambda: place.read("shared", keys),
        "store, all of it cold": lambda: load(lambda part: True),
    }
    return _lines(interleaved(cases, tasks, before))


def _is_own(component: str) -> bool:
    return component.startswith(("adapter/", "head"))


def _key(digest: str) -> str:
    return f"{BLOBS}/{digest.removeprefix('sha256:')}"


def _lines(seconds: Seconds) -> tuple[Line, ...]:
    return tuple(
        Line(name, {**milliseconds(found), "store / this": ratio(seconds["store"], found)})
        for name, found in seconds.items()
    )


def _bytes(place: Place, tasks: int) -> tuple[Line, ...]:
    stored, full = place.used_bytes("shared"), place.used_bytes("full")
    return tuple(
        Line(
            name,
            {"MB": size / 1e6, "MB per task": size / tasks / 1e6, "store / this": stored / size},
        )
        for name, size in (("store", stored), ("full models: one, times tasks", full * tasks))
    )
