"""OCI image layouts: ours are valid and take no second copy, others' are read without trust."""

import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from model_store import CorruptBlob, DamagedStore, ModelStore, StoreError, digest_of
from model_store.errors import ExchangeError
from model_store.exchange.oci_layout import LayoutPlace
from model_store.exchange.transfer import Report, StorePlace, transfer
from model_store.upkeep import verify_store
from tests.model_store.processes import processes
from tests.model_store.registries import skopeo
from tests.model_store.samples import new_store, publish


def exported(store: ModelStore, target: Path, **options: Any) -> Report:
    """Export all tasks."""
    return transfer(StorePlace(store), LayoutPlace(target), **options)


def imported(layout: Path, store: ModelStore, **options: Any) -> Report:
    """Import all tasks."""
    return transfer(LayoutPlace(layout), StorePlace(store), **options)


def blobs(directory: Path) -> dict[str, int]:
    """Name -> inode of every blob."""
    return {file.name: file.stat().st_ino for file in (directory / "blobs/sha256").iterdir()}


def sample(directory: Path) -> ModelStore:
    """A store with two tasks."""
    store = new_store(directory)
    publish(store, "cmaterdb/bangla", 1)
    publish(store, "mnist", 2)
    return store


def test_a_second_export_moves_and_changes_nothing(tmp_path: Path) -> None:
    store, layout = sample(tmp_path), tmp_path / "layout"
    exported(store, layout)
    before = (layout / "index.json").stat()
    report = exported(store, layout)
    assert (report.moved_blobs, report.present_blobs) == (0, 7)
    assert (layout / "index.json").stat().st_ino == before.st_ino


def test_what_is_exported_imports_into_a_new_store(tmp_path: Path) -> None:
    store, layout = sample(tmp_path), tmp_path / "layout"
    exported(store, layout)
    target = ModelStore(tmp_path / "target", create=True)
    assert imported(layout, target).moved_blobs == 7
    assert verify_store(target) == []
    for task in store.tasks():
        assert target.resolve(task).digest == store.resolve(task).digest
    assert imported(layout, target).moved_blobs == 0
    assert [item.version for item in target.history("mnist")] == [1]


def test_the_history_goes_there_and_back(tmp_path: Path) -> None:
    store, layout = new_store(tmp_path), tmp_path / "layout"
    for seed in range(1, 12):
        publish(store, "a", seed)
    store.rollback("a", 4)
    exported(store, layout, history=True)
    latest = ModelStore(tmp_path / "latest", create=True)
    imported(layout, latest)
    assert [item.digest for item in latest.history("a")] == [store.resolve("a").digest]
    whole = ModelStore(tmp_path / "whole", create=True)
    imported(layout, whole, history=True)
    digests = [item.digest for item in store.history("a")]
    assert [item.digest for item in whole.history("a")] == digests
    assert whole.resolve("a").version == 4


def test_a_new_live_version_takes_over_the_tag_and_other_entries_stay(tmp_path: Path) -> None:
    store, layout = sample(tmp_path), tmp_path / "layout"
    exported(store, layout)
    index = json.loads((layout / "index.json").read_text())
    foreign = {"mediaType": "application/x", "digest": "sha512:1", "size": 1, "x": [1]}
    index["manifests"].append(foreign)
    (layout / "index.json").write_text(json.dumps({**index, "annotations": {"a": "b"}}))
    publish(store, "mnist", 3)
    exported(store, layout)
    index = json.loads((layout / "index.json").read_text())
    assert index["annotations"] == {"a": "b"}
    assert foreign in index["manifests"]
    tagged = {
        entry["annotations"]["org.opencontainers.image.ref.name"]: entry["digest"]
        for entry in index["manifests"]
        if entry != foreign
    }
    assert tagged == {
        "cmaterdb--bangla": store.resolve("cmaterdb/bangla").digest,
        "mnist": store.resolve("mnist").digest,
    }


def test_a_file_of_the_wrong_size_is_replaced(tmp_path: Path) -> None:
    store, layout = sample(tmp_path), tmp_path / "layout"
    exported(store, layout)
    head = next(iter(store.resolve("mnist").path.components.values())).removeprefix("sha256:")
    torn = layout / "blobs/sha256" / head
    torn.unlink()
    torn.write_bytes(b"torn")
    assert exported(store, layout).moved_blobs == 1
    imported(layout, ModelStore(tmp_path / "target", create=True))


def test_several_exports_at_once_lose_nothing(tmp_path: Path) -> None:
    store, layout = new_store(tmp_path), tmp_path / "layout"
    for number in range(8):
        publish(store, f"task-{number}", number + 1)
    with ProcessPoolExecutor(3, processes) as pool:
        jobs = [pool.submit(export_one, store.url, layout, task) for task in store.tasks()]
        for job in jobs:
            job.result(timeout=60)
    target = ModelStore(tmp_path / "target", create=True)
    imported(layout, target)
    assert target.tasks() == store.tasks()
    assert not list(layout.rglob("~*"))


def export_one(url: str, layout: Path, task: str) -> None:
    """In a process of its own."""
    exported(ModelStore(url), layout, tasks=[task])


def test_what_a_killed_export_left_is_removed_by_the_next(tmp_path: Path) -> None:
    store, layout = sample(tmp_path), tmp_path / "layout"
    exported(store, layout)
    (layout / ".munet/~1-dead").write_bytes(b"half")
    exported(store, layout)
    assert not list(layout.rglob("~*"))


# -- other programs


def test_skopeo_reads_an_exported_layout(tmp_path: Path) -> None:
    store, layout = sample(tmp_path), tmp_path / "layout"
    exported(store, layout)
    tag = f"oci:{layout}:cmaterdb--bangla"
    raw = skopeo("inspect", "--raw", tag)
    assert digest_of(raw.encode()) == store.resolve("cmaterdb/bangla").digest


def test_a_layout_that_skopeo_wrote_is_imported(tmp_path: Path) -> None:
    store, layout, theirs = sample(tmp_path), tmp_path / "layout", tmp_path / "theirs"
    exported(store, layout)
    skopeo("copy", f"oci:{layout}:cmaterdb--bangla", f"oci:{theirs}:any-name")
    skopeo("copy", f"oci:{layout}:mnist", f"oci:{theirs}")  # without a name
    target = ModelStore(tmp_path / "target", create=True)
    assert imported(theirs, target).versions == 2
    for task in store.tasks():
        assert target.resolve(task).digest == store.resolve(task).digest
    only = ModelStore(tmp_path / "only", create=True)
    imported(theirs, only, tasks=["cmaterdb/bangla"])
    assert only.tasks() == ["cmaterdb/bangla"]


def test_what_is_no_task_is_passed_over(tmp_path: Path) -> None:
    store, layout = sample(tmp_path), tmp_path / "layout"
    exported(store, layout)
    add_manifest(layout, {"schemaVersion": 2, "artifactType": "application/x", "layers": []})
    add_manifest(layout, [1, 2])
    target = ModelStore(tmp_path / "target", create=True)
    assert imported(layout, target).versions == 2


def add_manifest(layout: Path, document: Any, **changes: Any) -> None:
    """Add an image manifest to the index; `changes` are to its descriptor."""
    data = json.dumps(document).encode()
    digest = digest_of(data)
    (layout / "blobs/sha256" / digest.removeprefix("sha256:")).write_bytes(data)
    index = json.loads((layout / "index.json").read_text())
    kind = "application/vnd.oci.image.manifest.v1+json"
    entry = {"mediaType": kind, "digest": digest, "size": len(data)}
    index["manifests"].append({**entry, **changes})
    (layout / "index.json").write_text(json.dumps(index))


# -- hostile layouts


def head_of(layout: Path) -> Path:
    """The file of a component."""
    return max((layout / "blobs/sha256").iterdir(), key=lambda file: (file.stat().st_size, file))


def rewrite(layout: Path, name: str, text: str) -> None:
    """Replace a file of the layout."""
    (layout / name).write_text(text)


def flip(file: Path) -> None:
    """Change one byte of a file, not of what it is linked to."""
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.unlink()
    file.write_bytes(data)


def to_link(file: Path, elsewhere: Path) -> None:
    """Move a file away and leave a symbolic link to it."""
    shutil.move(file, elsewhere)
    file.symlink_to(elsewhere)


def to_pipe(file: Path) -> None:
    """Put a pipe, at which a reader would wait for ever, in the place of a file."""
    file.unlink()
    os.mkfifo(file)


HARM: dict[str, Callable[[Path], object]] = {
    "no layout": lambda at: (at / "oci-layout").unlink(),
    "another version": lambda at: rewrite(at, "oci-layout", '{"imageLayoutVersion":"9"}'),
    "layout is a list": lambda at: rewrite(at, "oci-layout", "[]"),
    "no index": lambda at: (at / "index.json").unlink(),
    "index is no JSON": lambda at: rewrite(at, "index.json", "{"),
    "index is a list": lambda at: rewrite(at, "index.json", "[]"),
    "index of another shape": lambda at: rewrite(at, "index.json", '{"schemaVersion":2}'),
    "deep index": lambda at: rewrite(at, "index.json", "[" * 100_000),
    "index is a link": lambda at: to_link(at / "index.json", at.parent / "elsewhere"),
    "index is a pipe": lambda at: to_pipe(at / "index.json"),
    "huge index": lambda at: os.truncate(at / "index.json", 2**30),
    "flipped byte": lambda at: flip(head_of(at)),
    "truncated": lambda at: (head_of(at).unlink(), head_of(at)),
    "blob is a link": lambda at: to_link(head_of(at), at.parent / "elsewhere"),
    "blob is a pipe": lambda at: to_pipe(head_of(at)),
    "blobs are elsewhere": lambda at: to_link(at / "blobs/sha256", at.parent / "elsewhere"),
    "negative size": lambda at: add_manifest(at, {}, size=-1),
    "huge manifest": lambda at: add_manifest(at, {}, size=2**50),
    "wrong size": lambda at: add_manifest(at, {}, size=3),
    "path for a digest": lambda at: add_manifest(at, {}, digest="sha256:../../../etc/passwd"),
    "tag is a number": lambda at: add_manifest(
        at, {}, annotations={"org.opencontainers.image.ref.name": 7}
    ),
}


@pytest.mark.parametrize("harm", HARM.values(), ids=HARM.keys())
def test_a_hostile_layout_is_refused_and_nothing_is_added(
    tmp_path: Path, harm: Callable[[Path], object]
) -> None:
    store, layout = sample(tmp_path), tmp_path / "layout"
    exported(store, layout)
    harm(layout)
    target = ModelStore(tmp_path / "target", create=True)
    with pytest.raises((ExchangeError, DamagedStore)) as raised:
        imported(layout, target)
    assert isinstance(raised.value, StoreError)
    assert target.tasks() == []
    assert verify_store(target) == []


def test_wrong_bytes_are_named_by_digest_and_path(tmp_path: Path) -> None:
    store, layout = sample(tmp_path), tmp_path / "layout"
    exported(store, layout)
    flip(head_of(layout))
    with pytest.raises(CorruptBlob, match=f"at {head_of(layout)}: its bytes give"):
        imported(layout, ModelStore(tmp_path / "target", create=True))


def test_a_component_missing_from_the_path_spec_is_refused(tmp_path: Path) -> None:
    store, layout = sample(tmp_path), tmp_path / "layout"
    exported(store, layout, tasks=["mnist"])
    name = store.resolve("mnist").digest.removeprefix("sha256:")
    manifest = json.loads((layout / "blobs/sha256" / name).read_text())
    add_manifest(layout, {**manifest, "layers": manifest["layers"][:-1]})
    with pytest.raises(DamagedStore, match="not the components of its path spec"):
        imported(layout, ModelStore(tmp_path / "target", create=True))


def test_nothing_is_exported_into_what_is_no_layout_of_ours(tmp_path: Path) -> None:
    store, layout = sample(tmp_path), tmp_path / "layout"
    layout.mkdir()
    (layout / "oci-layout").write_text('{"imageLayoutVersion":"2.0.0"}')
    with pytest.raises(ExchangeError, match="layout version"):
        exported(store, layout)
    assert not any((layout / "blobs/sha256").iterdir())


def test_nothing_of_others_is_touched(tmp_path: Path) -> None:
    store, home = sample(tmp_path), tmp_path / "home"
    home.mkdir()
    others = {"~thesis.docx": "years of work", "~$lock": "x", "index.json": '{"mine":1}'}
    for name, text in others.items():
        (home / name).write_text(text)
    with pytest.raises(ExchangeError, match="expected an empty folder"):
        exported(store, home)
    assert {file.name: file.read_text() for file in home.iterdir()} == others
    layout = tmp_path / "layout"
    exported(store, layout)
    (layout / "~notes").write_text("mine")  # next to a layout of ours
    exported(store, layout)
    assert (layout / "~notes").read_text() == "mine"


def test_the_history_of_another_store_is_not_written_over(tmp_path: Path) -> None:
    layout, (first, second) = tmp_path / "layout", (new_store(tmp_path / n) for n in "ab")
    for store, seeds in ((first, (1, 2, 3)), (second, (11, 12))):
        for seed in seeds:
            publish(store, "t", seed)
    transfer(StorePlace(first), LayoutPlace(layout), history=True)
    before = (layout / "index.json").read_bytes()
    with pytest.raises(ExchangeError, match="of another store"):
        transfer(StorePlace(second), LayoutPlace(layout), history=True)
    assert (layout / "index.json").read_bytes() == before
    publish(first, "t", 4)
    transfer(StorePlace(first), LayoutPlace(layout), history=True)  # its own goes on
    target = ModelStore(tmp_path / "target", create=True)
    transfer(LayoutPlace(layout), StorePlace(target), history=True)
    assert target.versions("t") == first.versions("t")
