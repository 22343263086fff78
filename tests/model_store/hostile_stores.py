"""Stores made to harm who reads them: what is changed in a sound one, and who has to refuse.

The sound store has one task, `a/t`, of one version and one component, and one agent, `g`.
"""

import json
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from model_store import digest_of
from model_store.canonical_json import MAX_BYTES
from model_store.manifest import AGENT_STATE, COMPONENT, PATH_SPEC
from tests.model_store.fuzzing import (
    STATE,
    TASK,
    blob_name,
    blob_of,
    honest,
    manifest_in,
    sound_store,
)
from tests.model_store.hostile_reader import READERS

MIB = 2**20
HUGE = 2**40  # bytes of a sparse file
Change = Callable[[Path, Path], None]  # of the store in the first folder; the second is outside


@dataclass(frozen=True)
class Case:
    """A change to the sound store."""

    change: Change
    refused_by: str = ""  # the reader that has to refuse; "" if the change is harmless
    component: bytes = b""  # what to read as a component instead of the store's
    readers: tuple[str, ...] = tuple(READERS)


def of_document(kind: str, data: bytes, *, harmless: bool = False) -> Case:
    """A blob of these bytes; only those read it who do something with it."""
    reader = {"component": "component", "agent's document": "agent"}.get(kind, "resolve")
    return Case(
        partial(_honest, kind, data),
        "" if harmless else reader,
        data if kind == "component" else b"",
        ("live", "names", reader, "verify"),
    )


def _digest(ref: str, media_type: str) -> str:
    return digest_of(blob_of(sound_store()[1], ref, media_type))


def _manifest(ref: str) -> str:
    return manifest_in(sound_store()[1], ref)


# Every kind of file, and the reader that meets it.
FILES = {
    "component": (blob_name(_digest(TASK, COMPONENT)), "component"),
    "path spec": (blob_name(_digest(TASK, PATH_SPEC)), "resolve"),
    "manifest": (blob_name(_manifest(TASK)), "resolve"),
    "agent's document": (blob_name(_digest(STATE, AGENT_STATE)), "agent"),
    "task's document": (TASK, "resolve"),
    "agent's own document": (STATE, "agent"),
}
HELPERS = ("lock", "lock.gc", "reserve", "gc", "refs/changes", "tmp/~1-x", "refs/tasks/~1-x")


# -- files that are no plain files


def fifo(file: Path, outside: Path) -> None:
    os.mkfifo(file)


def link_to_zeros(file: Path, outside: Path) -> None:
    file.symlink_to("/dev/zero")


def link_to_a_secret(file: Path, outside: Path) -> None:
    (outside / "secret").write_text("v1\n")
    file.symlink_to(outside / "secret")


def link_to_itself(file: Path, outside: Path) -> None:
    file.symlink_to(file)


def link_to_nothing(file: Path, outside: Path) -> None:
    file.symlink_to(outside / "made through a link")


def folder(file: Path, outside: Path) -> None:
    file.mkdir()
    (file / "x").write_text("x")


def huge(file: Path, outside: Path) -> None:
    file.touch()
    os.truncate(file, HUGE)


def listening_socket(file: Path, outside: Path) -> None:
    here = os.getcwd()
    os.chdir(file.parent)  # a socket's path has little room
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(file.name)
    finally:
        os.chdir(here)


KINDS = (
    fifo, link_to_zeros, link_to_a_secret, link_to_itself, link_to_nothing, folder, huge,
    listening_socket,
)  # fmt: skip


def _replace(name: str, kind: Callable[[Path, Path], None], root: Path, outside: Path) -> None:
    file = root / name
    file.unlink(missing_ok=True)
    kind(file, outside)


def _no_plain_files() -> Iterator[tuple[str, Case]]:
    for kind in KINDS:
        for what, (name, reader) in FILES.items():
            change, readers = (
                partial(_replace, name, kind),
                tuple(r for r in READERS if r != "publish"),
            )
            yield f"{what} is {kind.__name__}", Case(change, reader, readers=readers)
        for name in HELPERS:
            yield f"{name} is {kind.__name__}", Case(partial(_replace, name, kind))


# -- folders and names


def _tasks_folder_elsewhere(root: Path, outside: Path) -> None:
    shutil.move(root / "refs/tasks", outside / "tasks")
    (root / "refs/tasks").symlink_to(outside / "tasks")


def _agents_folder_elsewhere(root: Path, outside: Path) -> None:
    shutil.move(root / "refs/agents", outside / "agents")
    (root / "refs/agents").symlink_to(outside / "agents")


def _names(root: Path, outside: Path) -> None:
    names = [
        "..%2F..", "%2e%2e", "%2F", "a%2F", "%2Fetc", "x" * 255, "a%2F" * 63 + "a", "a\nb", "~x",
        "a\\..\\b", " ", "%00", "a%2f..%2fb", "...%2F..%2F...", "\udcff\udcfe",
    ]  # fmt: skip
    for kind in ("tasks", "agents"):
        for name in names:
            (root / "refs" / kind / name).write_bytes(b"?\n")


def _deep(root: Path, outside: Path) -> None:
    for start in ("refs/tasks", "blobs/sha256"):
        (root / start / "d").mkdir()
        deep = os.open(root / start / "d", os.O_RDONLY)
        for _ in range(1200):
            os.mkdir("d", dir_fd=deep)
            inner = os.open("d", os.O_RDONLY, dir_fd=deep)
            os.close(deep)
            deep = inner
        os.close(deep)


def _wide(root: Path, outside: Path) -> None:
    for number in range(500):
        (root / f"refs/tasks/n{number}").mkdir()


# -- documents under honest digests


def _honest(kind: str, data: bytes, root: Path, outside: Path) -> None:
    for name, content in honest(kind, data):
        (root / name).write_bytes(content)


def _bombs() -> dict[str, bytes]:
    """JSON documents that nothing may read, or, the long ones, only an agent."""
    return {
        "empty": b"",
        "nested deep": b"[" * 100_000,
        "nested deep and closed": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        "nested beyond the limit": b"[" * 66 + b"]" * 66,
        "infinite": b'{"a":1e999}',
        "not a number": b'{"a":NaN}',
        "integer of many digits": b'{"a":' + b"9" * 100_000 + b"}",
        "duplicate keys": b'{"a":1,"a":1}',
        "many duplicate keys": b"{" + b'"a":1,' * 300_000 + b'"a":1}',
        "lone surrogate": b'{"a":"\\ud800"}',
        "lone surrogate as a key": b'{"\\udfff":1}',
        "byte order mark": b"\xef\xbb\xbf{}",
        "UTF-16": "{}".encode("utf-16"),
        "not UTF-8": b'{"a":"\xff"}',
        "NUL": b"{}\0",
        "many lists": b"[" + b"[]," * (MIB + 300_000) + b"[]]",
        **{f"long {name}": data for name, data in _documents_within_limits().items()},
    }


def _documents_within_limits() -> dict[str, bytes]:
    """JSON documents that take long, or much memory, if they are read carelessly."""
    long_key = b'"' + b"k" * (2 * MIB) + b'":'
    return {
        "integers": b'{"a":[' + b",".join([b"9" * 4000] * 900) + b"]}",
        "float": b'{"a":0.' + b"3" * (3 * MIB) + b"}",
        "string": b'{"a":"' + b"x" * (3 * MIB) + b'"}',
        "string of wide characters": '{"a":"\U0001f600'.encode() + b"x" * (3 * MIB) + b'"}',
        "key over many values": b"{" + long_key + b"[" + b"0," * 150_000 + b"0]}",
        "key over deep values": b"{" + long_key + b'{"a":' * 60 + b"1" + b"}" * 61,
        "list of objects": b'{"a":[' + b'{"a":0},' * 150_000 + b"0]}",
        "number in place of a version": b'{"schemaVersion":"' + b"9" * 1000 + b'"}',
    }


def _edited(kind: str, **changes: Any) -> bytes:
    _, files = sound_store()
    ref = STATE if kind.startswith("agent") else TASK
    if kind == "path spec":
        document = json.loads(blob_of(files, TASK, PATH_SPEC))
    else:
        document = json.loads(files[blob_name(_manifest(ref))])
    return json.dumps({**document, **changes}).encode()


def _manifests() -> dict[str, bytes]:
    layers = json.loads(_edited("manifest"))["layers"]
    sizes = {2**63, 2**64, 10**400, -1}
    odd: list[Any] = [*sizes, 1.5, 1e308, "1", True, None, [1], {"a": 1}]
    found = {
        f"spec of size {str(size)[:20]}": _edited(
            "manifest", layers=[{**layers[0], "size": size}, *layers[1:]]
        )
        for size in odd
    }
    million = b'{"schemaVersion":2,"layers":[' + b"{}," * 1_000_000 + b"{}]}"
    return {
        **found,
        "a million layers": million,
        "thousands of layers": _edited("manifest", layers=layers * 3000),
        "the spec twice": _edited("manifest", layers=[layers[0], *layers]),
        "a component twice": _edited("manifest", layers=[*layers, layers[1]]),
        "a digest that is a path": _edited(
            "manifest", layers=[{**layers[0], "digest": "sha256:../../../etc/passwd"}]
        ),
        "a long digest": _edited("manifest", layers=[{**layers[0], "digest": "x" * 3_000_000}]),
    }


def _huge_layer(kind: str, root: Path, outside: Path) -> None:
    """A manifest that truly says how huge the sparse file is."""
    ref, media_type = {
        "path spec": (TASK, PATH_SPEC),
        "agent's document": (STATE, AGENT_STATE),
    }[kind]
    document = json.loads(sound_store()[1][blob_name(_manifest(ref))])
    layer = next(la for la in document["layers"] if la["mediaType"] == media_type)
    layer["size"] = HUGE
    huge_file = root / blob_name(layer["digest"])
    huge_file.unlink()
    huge(huge_file, outside)
    data = json.dumps(document).encode()
    (root / blob_name(digest_of(data))).write_bytes(data)
    (root / ref).write_text(f"{digest_of(data)}\n")


def _state_of_64_MIB(filling: bytes) -> bytes:
    return b"[" + filling * ((64 * 2**20 - 10) // len(filling)) + b"0]"


def _documents() -> Iterator[tuple[str, Case]]:
    for name, data in _bombs().items():
        for kind in ("manifest", "path spec"):
            yield f"{kind}: {name}", of_document(kind, data)
        if not name.startswith("long"):  # as an agent's document they may be read
            yield f"agent's document: {name}", of_document("agent's document", data)
    for name, data in _manifests().items():
        yield f"manifest: {name}", of_document("manifest", data)
    for kind, reader in (("path spec", "resolve"), ("agent's document", "agent")):
        yield f"{kind} that is truly huge", Case(partial(_huge_layer, kind), reader)
    for filling in (b"[],", b"1.5,"):
        data = b"[" + filling * (MAX_BYTES // len(filling) - 1) + b"0]"
        yield f"64 MiB of {filling!r}", of_document("agent's document", data)
    long = _edited("path spec", labels=["x" * 100] * 50_000)
    yield "path spec of 5 MiB", of_document("path spec", long)
    extra = _edited("path spec", extra={"a": [0] * 10_000}, **{"x" * 1000: "../../x"})
    yield "path spec with more fields", of_document("path spec", extra, harmless=True)
    for name, data in _documents_within_limits().items():
        yield f"agent's document: {name}", of_document("agent's document", data, harmless=True)
    long_name = _edited("path spec", components=[{"name": "x" * 100_000, "digest": "sha256:"}])
    yield "component of a long name", of_document("path spec", long_name)


# -- components


def _framed(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    raw = (
        header if isinstance(header, bytes) else json.dumps(header, separators=(",", ":")).encode()
    )
    padded = -(-(8 + len(raw)) // 64) * 64 - 8
    return (padded if length is None else length).to_bytes(8, "little") + raw.ljust(padded) + data


def _tensor(start: int, end: int, shape: Any, dtype: str = "U8") -> dict[str, Any]:
    return {"data_offsets": [start, end], "dtype": dtype, "shape": shape}


def _components() -> Iterator[tuple[str, Case]]:
    one = {"a": _tensor(0, 8, [8])}
    malformed: dict[str, bytes] = {
        "length beyond the file": _framed(one, bytes(8), 1000),
        "length 2^63": _framed(one, bytes(8), 2**63),
        "length 2^64-1": _framed(one, bytes(8), 2**64 - 1),
        "length 0": _framed(one, bytes(8), 0),
        "a MiB of spaces": _framed(b" " * (MIB - 8)),
        "two MiB of spaces": _framed(b" " * (2 * MIB)),
        "overlap": _framed({"a": _tensor(0, 8, [8]), "b": _tensor(4, 12, [8])}, bytes(12)),
        "out of order": _framed({"a": _tensor(8, 16, [8]), "b": _tensor(0, 8, [8])}, bytes(16)),
        "negative": _framed({"a": _tensor(-8, 0, [8])}, bytes(8)),
        "backwards": _framed({"a": _tensor(8, 0, [8])}, bytes(8)),
        "gap": _framed({"a": _tensor(0, 8, [8]), "b": _tensor(16, 24, [8])}, bytes(24)),
        "beyond the file": _framed({"a": _tensor(0, 2**62, [2**62])}, bytes(8)),
        "product overflows": _framed({"a": _tensor(0, 0, [2**32, 2**32])}, b""),
        "product overflows to little": _framed({"a": _tensor(0, 8, [2**32, 2**32, 8])}, bytes(8)),
        "nothing times too much": _framed({"a": _tensor(0, 0, [0, 2**63])}, b""),
        "sizes of many digits": _framed({"a": _tensor(0, 8, [int("9" * 4000)] * 32)}, bytes(8)),
        "offsets of many digits": _framed({"a": _tensor(0, int("9" * 4000), [8])}, bytes(8)),
        "a hundred thousand axes": _framed({"a": _tensor(0, 1, [1] * 100_000)}, bytes(1)),
        "a hundred thousand tensors": _framed(
            {f"{n:05}": _tensor(n, n + 1, [1]) for n in range(100_000)}, bytes(100_000)
        ),
        "a truth that is 2": _framed({"a": _tensor(0, 1, [1], "BOOL")}, b"\2"),
        "name of a MiB of slashes": _framed({"/" * (MIB - 200): _tensor(0, 0, [0])}),
        "names under each other": _framed(
            {"a": _tensor(0, 1, [1]), "a/b": _tensor(1, 2, [1])}, b"12"
        ),
        "long key over many values": _framed(
            b'{"' + b"k" * (MIB // 2) + b'":[' + b"0," * (MIB // 4 - 200) + b"0]}"
        ),
        "nested deep": _framed(b'{"a":' * 100_000),
    }
    harmless = {
        "names that are paths": _framed(
            {"../../etc/passwd": _tensor(0, 1, [1]), "~/.ssh": _tensor(1, 2, [1])}, b"12"
        ),
        "many tensors": _framed(
            {f"{n:05}": _tensor(n, n + 1, [1]) for n in range(15_000)}, bytes(15_000)
        ),
        "empty in many axes": _framed({"a": _tensor(0, 0, [0] + [1] * 31)}),
    }
    for name, data in malformed.items():
        yield f"component: {name}", of_document("component", data)
    for name, data in harmless.items():
        yield f"component: {name}", of_document("component", data, harmless=True)


CASES: dict[str, Case] = {
    **dict(_no_plain_files()),
    "names": Case(_names),
    "deep folders": Case(_deep),
    "wide folders": Case(_wide),
    "task folder elsewhere": Case(_tasks_folder_elsewhere),
    "agent folder elsewhere": Case(_agents_folder_elsewhere),
    **dict(_documents()),
    **dict(_components()),
}
