"""How fast one path is published and loaded, next to plain files and safetensors.

Also what the machine itself allows: its disk, its memory and one thread of SHA-256.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from loadtests.store.place import Place
from loadtests.store.report import PER_CORE, Line, Section
from loadtests.store.sample import Model, task_path
from loadtests.store.timing import Seconds, interleaved, median, ratio
from model_store import Digest, ModelStore, digest_of, encode

PIECE_BYTES = 28 * 10**6  # of the limits' measurement: a block of a B/16
BLOBS = "blobs/sha256"
PEERS = ("store", "plain copy", "safetensors")
KEPT = "Every byte is touched; what is read goes to new memory and is kept until all is loaded."

Cases = Mapping[str, Callable[[], object]]


def limits(place: Place, rounds: int) -> Section:
    """What no store could exceed."""
    data = bytes(bytearray(range(256)) * (PIECE_BYTES // 256))
    other = bytearray(data)
    cases: Cases = {
        "durable write": lambda: place.write("limits", {"piece": data}),
        "read, cold": lambda: place.read("limits", ["piece"]),
        "read, cached": lambda: place.read("limits", ["piece"]),
        "copy in memory": lambda: memoryview(other).__setitem__(slice(None), data),
        "SHA-256, one thread": lambda: hashlib.sha256(data).digest(),
    }

    def before(name: str) -> None:
        if name == "read, cold":
            place.chill("limits", ["piece"])
        elif name == "read, cached":
            place.read("limits", ["piece"])

    place.write("limits", {"piece": data})
    seconds = interleaved(cases, rounds, before)
    smallest = interleaved({"one": lambda: place.write("limits", {"small": b"-"})}, 4 * rounds)
    place.remove("limits")
    lines = [Line(name, {"MB/s": len(data) / median(s) / 1e6}) for name, s in seconds.items()]
    lines.append(Line("durable write of one byte", {"ms": 1000 * median(smallest["one"])}))
    note = "Cold: dropped from this kernel's cache; a virtual disk may have another one below it."
    return Section("limits", "What limits", tuple(lines), note)


def publishing(place: Place, model: Model, rounds: int) -> tuple[Section, Section]:
    """Publishing a whole path into an empty store, and where the time goes.

    Leaves the last round's folders `store` and `safetensors` for `loading`.
    """

    def before(name: str) -> None:
        if name in PEERS:
            place.remove(name)
        if name == "store":
            ModelStore(place.url("store"), create=True)

    seconds = interleaved(_publishes(place, model), rounds, before)
    place.remove("plain copy")
    count = len(model.components)
    title = f"Publish a path of {model.size_bytes / 1e6:,.0f} MB in {count} components"
    peers = {name: seconds[name] for name in PEERS}
    note = "Durable: every file followed by fsync. Plain copy: the store's very bytes."
    whole = Section("publish", title, _lines(peers, model.size_bytes), note)
    return whole, _split(seconds)


def _publishes(place: Place, model: Model) -> Cases:
    trees = model.components
    encoded = {_file_name(name): encode(tree) for name, tree in trees.items()}
    arrays = {_file_name(name): tree for name, tree in trees.items()}

    def by_store() -> None:
        store = ModelStore(place.url("store"))
        store.publish(task_path("task", {name: store.put(trees[name]) for name in trees}))

    return {
        "store": by_store,
        "plain copy": lambda: place.write("plain copy", encoded),
        "safetensors": lambda: place.write_tensors("safetensors", arrays),
        "encode": lambda: _each(encode(tree) for tree in trees.values()),
        "digest": lambda: _each(digest_of(data) for data in encoded.values()),
    }


def _file_name(component: str) -> str:
    return component.replace("/", "-")


def _each(results: Iterable[object]) -> None:
    """Has each result made and dropped, as a publish does."""
    for _ in results:
        pass


def _split(seconds: Seconds) -> Section:
    publish = seconds["store"]
    pieces = {
        "encode": seconds["encode"],
        "digest": seconds["digest"],
        "write and fsync": seconds["plain copy"],
    }
    shares = {name: 100 * ratio(piece, publish) for name, piece in pieces.items()}
    lines = [
        Line(name, {"s": median(pieces[name]), "% of publish": share})
        for name, share in shares.items()
    ]
    rest = 100 - sum(shares.values())
    lines.append(Line("rest", {"s": rest / 100 * median(publish), "% of publish": rest}))
    note = "Each piece timed alone, in the same rounds; the rest may be negative where they vary."
    return Section("split", "Where the time of a publish goes", tuple(lines), note)


def loading(place: Place, model: Model, rounds: int) -> tuple[Section, Section]:
    """Loading that path, with its pages cached and from disk; a store's load is verified."""
    store = ModelStore(place.url("store"))
    digests = list(store.resolve("task").path.components.values())
    keys = [f"{BLOBS}/{digest.removeprefix('sha256:')}" for digest in digests]
    files = [_file_name(name) for name in model.components]

    def chill(name: str) -> None:
        folder, names = ("safetensors", files) if name == "safetensors" else ("store", keys)
        place.chill(folder, names)

    cases = {
        **_verified_loads(store, digests),
        **_plain_loads(place, keys),
        "safetensors": lambda: place.read_tensors("safetensors", files),
    }
    for case in cases.values():
        case()
    size = model.size_bytes
    cached = _lines(interleaved(cases, rounds), size)
    fetched = {name: _counted(case, chill, name) / size for name, case in cases.items()}
    cold = _lines(interleaved(cases, rounds, chill), size)
    shares = ", ".join(f"{name} {100 * share:.0f} %" for name, share in fetched.items())
    note = f"Of all bytes, how many the kernel fetched from a device in one cold load: {shares}."
    return (
        Section("cached", "Load it, cached", cached, KEPT),
        Section("cold", "Load it, cold", cold, note),
    )


def _verified_loads(store: ModelStore, digests: Sequence[Digest]) -> Cases:
    def one_by_one() -> object:
        return [store.component(digest) for digest in digests]

    def by_threads() -> object:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return list(pool.map(store.component, digests))

    return {"store": one_by_one, PER_CORE: by_threads}


def _plain_loads(place: Place, keys: Sequence[str]) -> Cases:
    def and_digest() -> object:
        return [(data, digest_of(data)) for data in place.read("store", keys)]

    return {"read()": lambda: place.read("store", keys), "read() and SHA-256": and_digest}


def _counted(case: Callable[[], object], before: Callable[[str], None], name: str) -> int:
    before(name)
    start = _fetched_bytes()
    result = case()
    del result
    return _fetched_bytes() - start


def _fetched_bytes() -> int:
    """Bytes this process has had read from devices; 0 where the kernel does not tell."""
    try:
        text = Path("/proc/self/io").read_text()
    except OSError:
        return 0
    found = re.search(r"^read_bytes: (\d+)", text, re.MULTILINE)
    return int(found[1]) if found else 0


def _lines(seconds: Seconds, size: int) -> tuple[Line, ...]:
    """Seconds, speed, and the store's speed as a fraction of each peer's."""
    return tuple(
        Line(
            name,
            {
                "s": median(found),
                "MB/s": size / median(found) / 1e6,
                "store / this": ratio(found, seconds["store"]),
            },
        )
        for name, found in seconds.items()
    )
