"""A store with something of everything, and every damage of every single file of it."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ed25519

from model_store import ModelStore
from model_store.exchange.signing import sign
from model_store.files.protocol import MARKER
from model_store.refs import Document
from model_store.upkeep import collect_garbage, verify_store
from tests.model_store.samples import arrays, publish

# No acknowledged operation needs these: locks, the note of a gc, the log of changes, room for rm.
PASSING = {"lock", "lock.gc", "gc", "refs/changes", "reserve"}


@dataclass(frozen=True)
class Damage:
    """What is done to one file."""

    name: str
    kind: str
    content: bytes | None  # None: the file is removed

    def __str__(self) -> str:
        return f"{self.name} {self.kind}"

    def do(self, root: Path) -> None:
        """To the store in this folder."""
        if self.content is None:
            (root / self.name).unlink()
        else:
            (root / self.name).write_bytes(self.content)

    @property
    def harmless(self) -> bool:
        """A second copy that is older, or not there, is that of an operation under way; what the
        document says is acknowledged anyway.
        """
        return self.name.startswith("copies/") and self.kind in ("missing", "put back")


def sample_store(folder: Path) -> dict[str, bytes]:
    """Make the store; what its documents were when there was less in it."""
    store = ModelStore(folder, create=True)
    for task, seed in (("a/t", 1), ("a/t", 2), ("b", 3)):
        publish(store, task, seed)
    store.pin("keep", store.resolve("a/t", 1).digest)
    store.save_agent("agent", {"n": 1}, [store.put(arrays(7))])
    sign_live(store, "a/t")
    earlier = contents(folder)
    publish(store, "a/t", 4)
    store.rollback("a/t", 2)
    store.alias("a/t", "stable", 2)
    store.rm("a/t", 1)
    store.rollback("b", 1)
    publish(store, "b", 5)
    store.pin("keep", store.resolve("a/t", 3).digest)
    store.save_agent("agent", {"n": 2}, [store.put(arrays(8))])
    sign_live(store, "a/t")
    collect_garbage(store, grace_s=0)
    assert verify_store(store) == []
    return {name: data for name, data in earlier.items() if name.startswith(("refs/", "copies/"))}


def sign_live(store: ModelStore, task: str) -> None:
    """With a key that nobody has used before."""
    digest = store.resolve(task).digest
    store.add_signature(digest, sign(digest, task, ed25519.Ed25519PrivateKey.generate()))


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def facts(store: ModelStore) -> object:
    """All that was acknowledged, read whole."""
    history = [v for task in ("a/t", "b") for v in store.history(task)]
    components = [store.component(d) for v in history for d in v.path.components.values()]
    manifests = [item.digest for item in history] + list(store.pins().values())
    return (
        history,
        len(components),
        dict(store.live()),
        [store.aliases(task) for task in ("a/t", "b")],
        store.pins(),
        [len(store.read_blob(digest)) for digest in manifests],
        [sorted(s.base64 for s in store.signatures(digest)) for digest in manifests],
        store.agent_state("agent"),
    )


def damages(files: dict[str, bytes], earlier: dict[str, bytes]) -> Iterator[Damage]:
    """Every damage of every file that something acknowledged needs."""
    for name, data in sorted(files.items()):
        if name in PASSING or name.startswith("lock"):
            continue
        if name == MARKER:  # without it there is no store
            yield Damage(name, "missing", None)
            yield Damage(name, "empty", b"")
            continue
        half = len(data) // 2
        yield Damage(name, "missing", None)
        yield Damage(name, "cut short", data[:-1])
        yield Damage(name, "flipped", data[:half] + bytes([data[half] ^ 1]) + data[half + 1 :])
        yield Damage(name, "empty", b"")
        yield Damage(name, "longer", data + b"\n")
        if name in earlier and earlier[name] != data:
            yield Damage(name, "put back", earlier[name])
        if name.endswith("tasks/a%2Ft"):
            yield Damage(name, "alias changed", alias_changed(name, data))


def alias_changed(name: str, data: bytes) -> bytes:
    """A document whose alias names another version, with a check that is right."""
    document = Document.from_bytes(name, data)
    value = json.loads(json.dumps(document.value))
    value["aliases"]["stable"] = 3
    return replace(document, value=value).to_bytes(name)


def copied(source: Path, target: Path) -> Path:
    """A copy of a quiet store."""
    if target.exists():
        shutil.rmtree(target)
    shutil.copytree(source, target)
    return target
