"""Fuzz targets of the store's readers, and a driver that runs atheris on them.

    python -m tests.model_store.fuzzing --seconds 300            # all targets, one after another
    python -m tests.model_store.fuzzing --seconds 60 component

A target takes bytes and may raise nothing but what it catches itself: a StoreError is a correct
answer to any bytes. What breaks a target is kept as tests/model_store/findings/<target>-<hash> and
replayed by test_fuzz.py. Coverage is counted in the parsers only.
"""

import argparse
import hashlib
import inspect
import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import ml_dtypes
import numpy as np

from model_store import (
    DamagedStore,
    InvalidName,
    Malformed,
    ModelStore,
    StoreError,
    TaskPath,
    UnknownTask,
    canonical_json,
    decode,
    digest_of,
    encode,
    manifest,
    names,
    tensors,
)
from model_store.canonical_json import decode_json, encode_json
from model_store.manifest import AGENT_STATE, COMPONENT, PATH_SPEC, Manifest
from model_store.refs import Document
from model_store.upkeep import verify_store
from tests.model_store.mutations import Mutator, mutate_bytes, mutate_component, mutate_json
from tests.model_store.samples import arrays, path

FINDINGS = Path(__file__).parent / "findings"
INSTRUMENTED = (tensors, canonical_json, manifest, names)
MAX_INPUT_BYTES = 2**16
MEMORY_MB = 1024


# -- targets of one parser each


def component(data: bytes) -> None:
    """What decodes is the one form of its arrays."""
    try:
        tree = decode(data)
    except Malformed:
        return
    assert encode(tree) == data


def canonical(data: bytes) -> None:
    """What is read can be written, and reads back the same; writing that changes nothing."""
    try:
        value = decode_json(data, "document")
    except Malformed:
        return
    written = encode_json(value, "document")
    assert encode_json(decode_json(written, "document"), "document") == written


def manifests(data: bytes) -> None:
    """A manifest that is read is written in a form that reads back equal."""
    try:
        found = Manifest.from_bytes(data)
    except Malformed:
        return
    written = found.to_bytes()
    again = Manifest.from_bytes(written)
    assert again == found and again.to_bytes() == written


def path_spec(data: bytes) -> None:
    """A path spec keeps every field, known or not, in the form it is written in."""
    try:
        found = TaskPath.from_json(decode_json(data, "path spec"))
    except Malformed:
        return
    written = found.to_bytes()
    assert TaskPath.from_json(decode_json(written, "path spec")).to_bytes() == written
    assert set(decode_json(data, "path spec")) == set(decode_json(written, "path spec"))


def file_name(data: bytes) -> None:
    """A file name that stands for a name is the only one that does, and leads nowhere else."""
    text = os.fsdecode(data)
    try:
        name = names.unquote(text)
    except InvalidName:
        return
    assert names.quote(name) == text and "/" not in text and text not in (".", "..")
    assert len(data) <= 255


# -- targets of a whole store


@cache
def sound_store() -> tuple[ModelStore, dict[str, bytes]]:
    """A store of a task and an agent, and its files; of this process alone."""
    directory = tempfile.TemporaryDirectory()
    store = ModelStore(Path(directory.name) / "store", create=True)
    sound_store.directory = directory  # pyright: ignore  # goes with the process
    digest = store.put(arrays(1, 2))
    store.publish(path("a/t", {"head": digest}))
    store.save_agent("g", {"generation": 1}, [digest])
    files = [file for file in sorted(Path(store.url).rglob("*")) if file.is_file()]
    return store, {str(file.relative_to(Path(store.url))): file.read_bytes() for file in files}


TASK, STATE = "refs/tasks/a%2Ft", "refs/agents/g"
REFS = (TASK, STATE)
BLOBS = ("path spec", "component", "manifest", "agent's document", "agent's manifest")


def ref(data: bytes) -> None:
    """Any content of a document, with and without a check that fits; the first byte picks which."""
    if data:
        key = REFS[data[0] % len(REFS)]
        read_everything({key: data[1:]})
        with suppress(ValueError, RecursionError):
            read_everything({key: Document(json.loads(data[1:])).to_bytes(key)})


def store(data: bytes) -> None:
    """Any content of one blob, under honest digests all the way up to the ref; as above."""
    if data:
        read_everything(dict(honest(BLOBS[data[0] % len(BLOBS)], data[1:])))


def honest(kind: str, data: bytes) -> Iterator[tuple[str, bytes]]:
    """The files that put these bytes in the place of a blob."""
    yield blob(data)
    name = STATE if kind.startswith("agent") else TASK
    if kind in ("manifest", "agent's manifest"):
        yield name, pointing(name, digest_of(data))
        return
    _, files = sound_store()
    document = json.loads(files[blob_name(manifest_in(files, name))])
    types = {"path spec": PATH_SPEC, "component": COMPONENT, "agent's document": AGENT_STATE}
    layers = [layer for layer in document["layers"] if layer["mediaType"] == types[kind]]
    if kind == "component":  # the path spec too tells its digest
        layer = next(la for la in document["layers"] if la["mediaType"] == PATH_SPEC)
        spec = files[blob_name(layer["digest"])]
        spec = spec.replace(layers[0]["digest"].encode(), digest_of(data).encode())
        layer |= {"digest": digest_of(spec), "size": len(spec)}
        yield blob(spec)
    layers[0] |= {"digest": digest_of(data), "size": len(data)}
    changed = encode_json(document, "manifest")
    yield blob(changed)
    yield name, pointing(name, digest_of(changed))


def manifest_in(files: dict[str, bytes], key: str) -> str:
    """The manifest that a document names: of the only version of its task, or of its agent."""
    value = Document.from_bytes(key, files[key]).value
    return value if isinstance(value, str) else value["versions"]["1"][0]


def pointing(key: str, digest: str) -> bytes:
    """A document that names another manifest."""
    _, files = sound_store()
    value = Document.from_bytes(key, files[key]).value
    if isinstance(value, str):
        return Document(digest).to_bytes(key)
    versions = {"1": [digest, value["versions"]["1"][1]]}
    return Document({**value, "versions": versions}).to_bytes(key)


def blob(data: bytes) -> tuple[str, bytes]:
    return blob_name(digest_of(data)), data


def blob_name(digest: str) -> str:
    return f"blobs/sha256/{digest.removeprefix('sha256:')}"


def read_everything(changes: dict[str, bytes]) -> None:
    """Read a store with these files; what a reader refuses, `verify` reports too."""
    sound, files = sound_store()
    try:
        for name, data in changes.items():
            (Path(sound.url) / name).write_bytes(data)
        opened = ModelStore(sound.url)
        refused = [read for read in (read_task, read_agent) if not answers(read, opened)]
        opened.live()
        problems = [problem for problem in verify_store(opened) if problem.severity == "error"]
        assert bool(problems) >= bool(refused), refused
        assert all(problem.path and problem.message for problem in problems)
    finally:
        for name in changes:
            if name in files:
                (Path(sound.url) / name).write_bytes(files[name])
            else:
                (Path(sound.url) / name).unlink(missing_ok=True)


def answers(read: Callable[[ModelStore], Any], opened: ModelStore) -> bool:
    """Whether a reader finds no damage."""
    try:
        read(opened)
    except UnknownTask:
        return True  # a document may say that nothing is live
    except StoreError as error:
        assert isinstance(error, DamagedStore), error
        return False
    return True


def read_task(opened: ModelStore) -> None:
    """The task's versions and their components."""
    for published in [opened.resolve("a/t"), *opened.history("a/t")]:
        for digest in published.path.components.values():
            opened.component(digest)


def read_agent(opened: ModelStore) -> None:
    """The agent's document."""
    opened.load_agent("g")


# -- what to start from, and how to change it


@dataclass(frozen=True)
class Target:
    """A function to be fuzzed, inputs that it accepts, and changes that keep their form."""

    run: Callable[[bytes], None]
    seeds: Callable[[], list[bytes]]
    mutate: Mutator


def _component_seeds() -> list[bytes]:
    wide = {"flag": np.ones(3, bool), "half": np.ones(2, ml_dtypes.bfloat16), "x": np.ones((1, 2))}
    trees = [arrays(1, 2), np.zeros((1, 1, 4), np.float32), {"a": {"b": np.arange(3)}, "c": wide}]
    return [encode(tree) for tree in [*trees, np.zeros(0, np.uint8), np.float64(1)]]


def _stored(*kinds: str) -> list[bytes]:
    _, files = sound_store()
    found = {"component": blob_of(files, TASK, COMPONENT)}
    found["path spec"] = blob_of(files, TASK, PATH_SPEC)
    found["agent's document"] = blob_of(files, STATE, AGENT_STATE)
    found["manifest"] = files[blob_name(manifest_in(files, TASK))]
    found["agent's manifest"] = files[blob_name(manifest_in(files, STATE))]
    return [found[kind] for kind in kinds]


def blob_of(files: dict[str, bytes], ref_name: str, media_type: str) -> bytes:
    document = json.loads(files[blob_name(manifest_in(files, ref_name))])
    digest = next(la["digest"] for la in document["layers"] if la["mediaType"] == media_type)
    return files[blob_name(digest)]


def _document_seeds() -> list[bytes]:
    """Whole documents, and what stands in them."""
    _, files = sound_store()
    whole = [files[key] for key in REFS]
    values = [json.dumps(Document.from_bytes(key, files[key]).value).encode() for key in REFS]
    return [bytes([n % 2]) + data for n, data in enumerate([*whole, *values])]


def _mutate_stored(data: bytes, random: Random) -> bytes:
    change = mutate_component if data[:1] == b"\1" else mutate_json
    return data[:1] + change(data[1:], random)


TARGETS = {
    "component": Target(component, _component_seeds, mutate_component),
    "canonical": Target(
        canonical, lambda: [b'{"a":[1,2.5,1e22,null,true,"\\n"]}', b"[[[]]]", b"-0.0"], mutate_json
    ),
    "manifests": Target(manifests, lambda: _stored("manifest", "agent's manifest"), mutate_json),
    "path_spec": Target(path_spec, lambda: _stored("path spec"), mutate_json),
    "file_name": Target(
        file_name, lambda: [b"a%2Ft", b"plain", b"..%2Fx", b"a.b-c_d"], mutate_bytes
    ),
    "ref": Target(
        ref,
        _document_seeds,
        lambda data, random: data[:1] + mutate_json(data[1:], random),
    ),
    "store": Target(
        store,
        lambda: [bytes([n]) + data for n, data in enumerate(_stored(*BLOBS))],
        _mutate_stored,
    ),
}


# -- the driver


def fuzz(name: str, seconds: int, found: Path) -> None:
    """Run atheris on one target in this process, which ends with it."""
    import atheris  # not needed to replay

    logging.disable()
    for module in INSTRUMENTED:
        _instrument(module, atheris.instrument_func)
    target = TARGETS[name]

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        random = Random(seed)
        if random.random() < 0.3:
            return atheris.Mutate(data, max_size)
        return target.mutate(data, random)[:max_size]

    with tempfile.TemporaryDirectory() as corpus:
        for number, seed in enumerate(target.seeds()):
            (Path(corpus) / str(number)).write_bytes(seed)
        limits = [f"-max_total_time={seconds}", f"-rss_limit_mb={MEMORY_MB}", "-timeout=20"]
        size = f"-max_len={MAX_INPUT_BYTES}"
        flags = [*limits, size, f"-artifact_prefix={found}/", "-print_final_stats=1"]
        atheris.Setup([name, *flags, corpus], target.run, custom_mutator=mutate)
        atheris.Fuzz()


def _instrument(owner: Any, instrument: Callable[[Any], Any]) -> None:
    """Count coverage in the functions of a module and of its classes, in place."""
    module = owner.__name__ if inspect.ismodule(owner) else owner.__module__
    for value in list(vars(owner).values()):
        function = getattr(value, "__func__", value)
        if inspect.isfunction(function) and function.__module__ == module:
            instrument(function)
        elif inspect.isclass(value) and value.__module__ == module and inspect.ismodule(owner):
            _instrument(value, instrument)


def keep(name: str, found: Path) -> list[Path]:
    """Keep what broke a target among the findings."""
    kept: list[Path] = []
    for file in found.iterdir():
        data = file.read_bytes()
        FINDINGS.mkdir(exist_ok=True)
        kept.append(FINDINGS / f"{name}-{hashlib.sha256(data).hexdigest()[:12]}")
        kept[-1].write_bytes(data)
    return kept


def main() -> int:
    """Fuzz each target in a process of its own; 1 if any broke."""
    parser = argparse.ArgumentParser(description="Fuzz the readers of the store with atheris.")
    parser.add_argument("--seconds", type=int, default=300, help="for all targets together")
    parser.add_argument("--into", type=Path, help=argparse.SUPPRESS)  # of the child process
    parser.add_argument("targets", nargs="*", choices=[*TARGETS, []], default=[])
    options = parser.parse_args()
    chosen = options.targets or list(TARGETS)
    seconds = max(1, options.seconds // len(chosen))
    if options.into:
        fuzz(chosen[0], seconds, options.into)
    kept: list[Path] = []
    for name in chosen:
        with tempfile.TemporaryDirectory() as found:
            command = [sys.executable, "-m", "tests.model_store.fuzzing", "--into", found]
            subprocess.run([*command, "--seconds", str(seconds), name], check=False)
            kept += keep(name, Path(found))
    for file in kept:
        sys.stdout.write(f"kept {file}\n")
    return int(bool(kept))


if __name__ == "__main__":
    raise SystemExit(main())
