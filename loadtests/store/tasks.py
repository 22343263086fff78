"""Whether ten thousand tasks slow a resolve or a poll: equal calls on stores of several sizes."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from loadtests.store.place import Place
from loadtests.store.report import Line, Section
from loadtests.store.sample import Size, model, task_path
from loadtests.store.timing import Seconds, interleaved, median, milliseconds
from model_store import Digest, ModelStore, digest_of
from model_store.blobs import key_of
from model_store.manifest import path_manifest
from model_store.names import copy_key, task_key
from model_store.refs import Document
from model_store.versions import Version, Versions

BASE = 10  # tasks; what the others are compared with
COMPONENTS = Size(4, 8, blocks=12, patch=1, tokens=2)  # as many as a real path has, but small
TOP = Path(__file__).parents[2]  # where model_store lies
FIRST_LOOK = """
import sys, time
from model_store import ModelStore
start = time.perf_counter()
ModelStore(sys.argv[1]).live()
print(time.perf_counter() - start)
"""


def many_tasks(place: Place, most: int, calls: int) -> tuple[Section, Section, Section]:
    """Resolve, poll and publish with 1, 10, 1,000 and `most` tasks."""
    counts = sorted({1, BASE, min(1000, most), most})
    for count in counts:
        fill(place, _folder(count), count)
    resolved = _resolve(place, counts, calls)
    polled, published = _poll(place, counts, calls)
    for count in counts:
        place.remove(_folder(count))
    return resolved, polled, published


def fill(place: Place, folder: str, count: int) -> None:
    """A store of this many tasks, its refs and blobs written as model_store/FORMAT.md has them."""
    store = ModelStore(place.url(folder), create=True)
    trees = model(COMPONENTS, 0).components
    components = {name: store.put(tree) for name, tree in trees.items()}
    sizes = {name: store.size(digest) for name, digest in components.items()}
    place.add(folder, _files(components, sizes, count))


def _files(
    components: Mapping[str, Digest], sizes: Mapping[str, int], count: int
) -> Iterator[tuple[str, bytes]]:
    for number in range(count):
        task = _task(number)
        manifest, blobs = path_manifest(task_path(task, components), sizes)
        small = [*blobs, manifest.to_bytes()]
        yield from ((key_of(digest_of(data)), data) for data in small)
        version = Version(digest_of(small[-1]), "2026-01-01T00:00:00.000000Z")
        value = Versions().add(version, live=True).to_json()
        for key in (task_key(task), copy_key(task_key(task))):
            yield key, Document(value, count=1).to_bytes(key)


def _task(number: int) -> str:
    return f"task/{number:05d}"


def _folder(count: int) -> str:
    return f"tasks-{count}"


def _title(count: int) -> str:
    return f"{count} task{'s' if count > 1 else ''}"


def _resolve(place: Place, counts: list[int], calls: int) -> Section:
    random = np.random.default_rng(0)
    stores = {_title(count): ModelStore(place.url(_folder(count))) for count in counts}
    number = dict(zip(stores, counts, strict=True))
    picked = {name: iter(random.integers(number[name], size=calls).tolist()) for name in stores}
    cases: dict[str, Callable[[], object]] = {
        name: lambda name=name: stores[name].resolve(_task(next(picked[name]))) for name in stores
    }
    seconds = interleaved(cases, calls)
    lines = tuple(
        Line(name, {**milliseconds(found), "this / 10 tasks": _times(name, seconds)})
        for name, found in seconds.items()
    )
    return Section("resolve", f"resolve() of a task at random, {calls:,} calls", lines)


def _times(name: str, seconds: Seconds) -> float:
    return median(seconds[name]) / median(seconds[_title(BASE)])


def _poll(place: Place, counts: list[int], calls: int) -> tuple[Section, Section]:
    urls = {_title(count): place.url(_folder(count)) for count in counts}
    watchers = {name: ModelStore(url) for name, url in urls.items()}
    for watcher in watchers.values():
        watcher.live()
    cases: dict[str, Callable[[], object]] = {
        name: watcher.live for name, watcher in watchers.items()
    }
    idle = interleaved(cases, calls)
    publishers = {name: _Publisher(ModelStore(url)) for name, url in urls.items()}
    rounds = max(1, calls // 50)
    polled = interleaved(cases, rounds, lambda name: publishers[name].publish())
    first = _first_looks(urls, max(1, calls // 500))
    lines = tuple(_poll_line(name, idle, polled, first) for name in urls)
    published = {name: publisher.seconds for name, publisher in publishers.items()}
    new_versions = tuple(
        Line(name, {**milliseconds(found), "this / 10 tasks": _times(name, published)})
        for name, found in published.items()
    )
    note = "The first poll reads the refs of every task; so does one every two minutes."
    title = "Poll: live() when idle, when a task has just changed, and the first in a new process"
    return (
        Section("poll", title, lines, note),
        Section("version", "publish() of a new version; its components are there", new_versions),
    )


def _poll_line(name: str, idle: Seconds, polled: Seconds, first: Seconds) -> Line:
    values = {
        "idle ms": 1000 * median(idle[name]),
        "p99 ms": 1000 * float(np.percentile(idle[name], 99)),
        "idle / 10 tasks": _times(name, idle),
        "changed ms": 1000 * median(polled[name]),
        "changed / 10 tasks": _times(name, polled),
        "first ms": 1000 * median(first[name]),
    }
    return Line(name, values)


class _Publisher:
    """Another process's new versions of one task."""

    def __init__(self, store: ModelStore) -> None:
        self._store = store
        self._components = store.resolve(_task(0)).path.components
        self.seconds: list[float] = []

    def publish(self) -> None:
        path = task_path(_task(0), self._components, revision=1 + len(self.seconds))
        start = time.perf_counter()
        self._store.publish(path)
        self.seconds.append(time.perf_counter() - start)


def _first_looks(urls: Mapping[str, str], rounds: int) -> Seconds:
    """Opening a store and looking at it once, each time in a new process."""
    return {name: [_first_look(url) for _ in range(rounds)] for name, url in urls.items()}


def _first_look(url: str) -> float:
    command = [sys.executable, "-c", FIRST_LOOK, url]
    done = subprocess.run(command, cwd=TOP, check=True, capture_output=True, text=True)
    return float(done.stdout)
