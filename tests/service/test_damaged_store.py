"""A real gateway, which permissions mean something to, over a store in which much is wrong."""

from __future__ import annotations

import errno
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from model_store import ModelStore
from tests.model_store.samples import blob_file, document
from tests.service.in_process import Gateway, refused
from tests.service.servers import Reply, Server
from tests.service.systems import TINY, png, publish
from tests.service.waiting import eventually
from tests.unprivileged import prefix

Change = Callable[[Path], object]


def chmod(mode: int) -> Change:
    return lambda path: path.chmod(mode)


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def garbage(path: Path) -> None:
    path.write_bytes(b"\xff" * path.stat().st_size)


# What is damaged of a task, and how.
DAMAGE: dict[str, tuple[str, Change]] = {
    "document-unreadable": ("document", chmod(0)),
    "document-a-pipe": ("document", pipe),
    "document-a-directory": ("document", directory),
    "document-garbage": ("document", garbage),
    "manifest-unreadable": ("manifest", chmod(0)),
    "manifest-cut": ("manifest", cut),
    "head-unreadable": ("head", chmod(0)),
    "head-gone": ("head", Path.unlink),
    "head-a-pipe": ("head", pipe),
    "head-a-directory": ("head", directory),
    "head-cut": ("head", cut),
    "head-garbage": ("head", garbage),
}


@dataclass(frozen=True, slots=True)
class World:
    """A running gateway, its store, and the tasks that were damaged before it started."""

    server: Server
    store: ModelStore
    broken: Mapping[str, tuple[Path, Path]]  # task -> what is damaged, and a copy of what it was


def place(store: ModelStore, task: str, what: str) -> Path:
    """Where something of a task lies."""
    root = Path(store.url)
    if what == "document":
        return document(store, task)
    published = store.resolve(task)
    digest = published.digest if what == "manifest" else published.path.components[what]
    return root / "blobs/sha256" / digest.removeprefix("sha256:")


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        path.chmod(0o755)
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def heal(damaged: Path, copy: Path) -> None:
    remove(damaged)
    (shutil.copytree if copy.is_dir() else shutil.copy2)(copy, damaged)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, compilations: str) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("damaged")
    store = ModelStore(folder / "store", create=True)
    publish(store, "good")
    broken: dict[str, tuple[Path, Path]] = {}
    for task, (what, change) in DAMAGE.items():
        publish(store, task)
        damaged, copy = place(store, task, what), folder / "copies" / task
        copy.parent.mkdir(exist_ok=True)
        (shutil.copytree if damaged.is_dir() else shutil.copy2)(damaged, copy)
        broken[task] = damaged, copy
        change(damaged)
    variables = {
        "MUNET_STORE": store.url,
        "MUNET_COMPILATION_CACHE": compilations,
        "MUNET_MAX_BATCH_ROWS": "4",
        "MUNET_POLL_S": "0.1",
    }
    with Server(".", folder / "home", prefix=prefix(), **variables) as server:
        yield World(server, store, broken)
    for damaged, _ in broken.values():
        if damaged.is_dir():
            damaged.chmod(0o755)  # else the folder cannot be cleaned up


def listed(world: World) -> dict[str, Any]:
    return {task["id"]: task for task in world.server.ask("GET", "/tasks").json["tasks"]}


def routes(task: str) -> Iterator[tuple[str, str, Any]]:
    """Everything that a client may ask of a task."""
    image = png(1)
    for query in ("", "?version=1", "?version=7", "?version=stable"):
        yield "POST", f"/classify/{task}{query}", image
    yield "POST", f"/classify?task={task}&task=good", image
    yield "GET", f"/tasks/{task}", None
    for version in ("", "/versions/1", "/versions/7", "/versions/stable"):
        for what in ("", "/config", "/ready", "/stats"):
            yield "GET", f"/v2/models/{task}{version}{what}", None
    yield "POST", f"/v2/repository/models/{task}/load", b"{}"
    inputs = [{"name": "image", "datatype": "BYTES", "shape": [1], "data": ["AA=="]}]
    yield "POST", f"/v2/models/{task}/infer", json.dumps({"inputs": inputs}).encode()


EVERYWHERE = [
    ("GET", "/tasks", None),
    ("GET", "/tasks?limit=3", None),
    ("POST", "/v2/repository/index", b"{}"),
    ("GET", "/v2/models/stats", None),
    ("GET", "/metrics", None),
    ("GET", "/readyz", None),
]


def told(reply: Reply) -> str:
    return reply.body.decode() + str(dict(reply.headers))


def test_a_start_over_damage_serves_all_else_and_says_what_is_wrong(world: World) -> None:
    assert world.server.classify("good", png(1)).status == 200
    for task in world.broken:
        reply = world.server.classify(task, png(1))
        assert (task, reply.status) == (task, 503)
        assert reply.headers["retry-after"]
    found = listed(world)
    assert found["good"]["state"] == "ready"
    log = world.server.log.read_text()
    for task, (damaged, _) in world.broken.items():
        assert (task, found[task]["state"]) == (task, "failed")
        assert found[task]["reason"]
        assert str(damaged) in log, task


def test_no_answer_names_a_place_of_the_server(world: World) -> None:
    """Of no route, with any fault of the task that is asked for."""
    places = {world.store.url, str(Path(world.store.url).parent), "/tmp/", str(Path.home()) + "/"}
    places |= {"refs/tasks", "blobs/sha256", "file://"}
    asked = [*EVERYWHERE, *(one for task in ("nobody", *world.broken) for one in routes(task))]
    for method, path, body in asked:
        answer = told(world.server.ask(method, path, body, {"content-type": "image/png"}))
        assert not [place for place in places if place in answer], (method, path, answer)


def test_what_comes_moves_and_goes_is_seen_beside_damage(world: World) -> None:
    server, store = world.server, world.store
    publish(store, "added")
    assert server.classify("added", png(1)).status == 200
    publish(store, "added", own={"head": 3})
    eventually(lambda: server.classify("added", png(1)).json["version"] == 2)
    store.rollback("added", 1)
    eventually(lambda: server.classify("added", png(1)).json["version"] == 1)
    store.rm("added")
    eventually(lambda: server.classify("added", png(1)).status == 404)


def test_a_task_whose_next_version_cannot_be_read_keeps_the_old_one(world: World) -> None:
    server, store = world.server, world.store
    publish(store, "steady")
    assert server.classify("steady", png(1)).json["version"] == 1
    path = store.resolve("steady").path
    second = store.publish(replace(path, metrics={"second": 1}), live=False)
    manifest = blob_file(store, second.digest)
    manifest.chmod(0)
    store.rollback("steady", 2)
    eventually(lambda: "reason" in listed(world)["steady"])
    found = listed(world)["steady"]
    assert (found["state"], found["version"]) == ("ready", 1)
    assert "Permission denied" in found["reason"]
    assert server.classify("steady", png(1)).json["version"] == 1
    manifest.chmod(0o644)
    eventually(lambda: server.classify("steady", png(1)).json["version"] == 2)
    eventually(lambda: "reason" not in listed(world)["steady"])


def test_blobs_cut_while_they_are_loaded_kill_nobody(world: World) -> None:
    """Each load is an answer or an error: of a worker that died no request would get one."""
    server, store = world.server, world.store
    wide = replace(TINY, num_classes=16_384)  # a head of 2 MiB: to digest it takes a while
    statuses: set[int] = set()
    for task in (f"cut/{number}" for number in range(4)):
        publish(store, task, wide)
        file = place(store, task, "head")
        over = threading.Event()
        thread = threading.Thread(target=spoil, args=(file, over))
        thread.start()
        try:
            statuses.add(server.classify(task, png(1)).status)
        finally:
            over.set()
            thread.join()
        eventually(lambda task=task: server.classify(task, png(1)).status == 200)
    assert statuses <= {200, 503}


def spoil(file: Path, over: threading.Event) -> None:
    """Cuts a file and writes it again, over and over; whole at the end."""
    whole = file.read_bytes()
    while not over.is_set():
        os.truncate(file, 5000)
        with file.open("r+b") as opened:
            opened.write(whole)


def test_what_is_repaired_answers_again(world: World) -> None:
    """The last test of this server: without a restart, and without being asked to look."""
    for damaged, copy in world.broken.values():
        heal(damaged, copy)
    for task in world.broken:
        eventually(lambda task=task: world.server.classify(task, png(1)).status == 200)
    assert {task["state"] for task in listed(world).values()} <= {"ready", "cold"}


def test_a_store_that_was_not_read_yet_is_no_store_without_tasks(
    tmp_path: Path, compilations: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ModelStore(tmp_path, create=True)
    publish(store, "a")
    readable = threading.Event()
    watched = ModelStore.watched

    def look(self: ModelStore) -> Any:
        if not readable.is_set():
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), store.url)
        return watched(self)

    monkeypatch.setattr(ModelStore, "watched", look)
    gateway = Gateway(store, compilations)
    try:
        for path in ("/tasks", "/tasks/a", "/v2/models/a"):
            refused(gateway.request("GET", path), 503, "unavailable")
        refused(gateway.classify("a", png(1)), 503, "unavailable")
        assert gateway.request("POST", "/v2/repository/index").status_code == 503
        assert gateway.request("GET", "/readyz").status_code == 503
        readable.set()
        assert gateway.classify("a", png(1)).status_code == 200
        readable.clear()  # what is known goes on; of other names nobody can tell
        assert gateway.classify("a", png(1)).status_code == 200
        body = refused(gateway.classify("b", png(1)), 503, "unavailable")
        assert store.url not in body["detail"]
        readable.set()
        refused(gateway.classify("b", png(1)), 404, "unknown-task")
    finally:
        readable.set()
        gateway.close()
