"""What two stores that differ in private tasks only let be seen: nothing may tell them apart.

Every route is asked the same of two gateways, one of which has private tasks next to the public
ones of the other: the whole answers have to be equal, but for times.
"""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import socket
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from model_store import ModelStore
from service.access import Grants
from service.metrics.gauges import Snapshot
from service.metrics.instruments import Metrics
from service.open_inference import inference_pb2 as pb
from service.open_inference.grpc_server import PREFIX, SERVICE, serving
from service.settings import Settings
from service.tasks import entry as entries
from service.tasks.catalog import Catalog
from service.tasks.sharing import Sharing
from service.telemetry import workers
from service.telemetry.reporting import Reporting
from service.telemetry.workers import Worker
from tests.service.in_process import OCTETS, Gateway
from tests.service.private_pair import (
    ASKED,
    CALLERS,
    HIDDEN,
    LISTS,
    LOCAL,
    PARENT,
    TOKENS,
    Pair,
    asked_by,
    damage,
    fill,
    hide,
    routes,
    told,
)
from tests.service.systems import png, publish
from tests.service.waiting import PATIENCE_S, eventually

TOTALS = ("munet_tasks", "munet_catalog_", "munet_resident_", "process_", "munet_task_load",
          "munet_component_", "munet_compilations", "munet_batch", "munet_rows", "munet_stage",
          "munet_memory", "munet_queue", "munet_cache")  # fmt: skip


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, compilations: str) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("pair")
    (folder / "tokens.toml").write_text(TOKENS)
    fill(ModelStore(folder / "without", create=True))
    shutil.copytree(folder / "without", folder / "mixed")
    hide(ModelStore(folder / "mixed"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Sharing, "start", lambda _: None)  # both know what they were asked for
        made = [
            Gateway(
                ModelStore(folder / name),
                compilations,
                tokens=str(folder / "tokens.toml"),
                poll_s=0.01,
            )
            for name in ("without", "mixed")
        ]
    runtimes = [one.app.state.runtime for one in made]
    guards = [runtime.access for runtime in runtimes]
    yield Pair(*made)
    for one, runtime, guard in zip(made, runtimes, guards, strict=True):
        runtime.access = guard
        one.close()


@pytest.mark.parametrize("caller", CALLERS)
def test_no_route_tells_of_a_private_task(pair: Pair, caller: str | None) -> None:
    for method, path, options in [*LISTS, *(one for name in ASKED for one in routes(name)), *LISTS]:
        without, mixed = (told(one, caller, method, path, **options) for one in pair)
        assert without == mixed, (caller, method, path)
        assert PARENT not in mixed[2]


def test_metrics_name_public_tasks_only_but_for_an_admin(pair: Pair) -> None:
    for gateway in pair:
        headers = asked_by(gateway, "a")
        for task in ("fruit/apple", "secret/one"):
            gateway.classify(task, png(1), **headers)
    for caller in (LOCAL, None, "a", "o", "r", "f", "no token of ours"):
        pages = [told(one, caller, "GET", "/metrics")[2] for one in pair]
        without, mixed = ([line.rpartition(" ")[0] for line in page.splitlines()
                            if not line.removeprefix("# HELP ").removeprefix("# TYPE ")
                            .startswith(TOTALS)] for page in pages)  # fmt: skip
        assert without == mixed
        assert 'task="fruit/apple"' in pages[1]
        for name in (*HIDDEN, "secret/torn"):
            assert f'"{name}"' not in pages[1]
    of_private = r'munet_requests_total\{status="200",task="%s"\} 1\.0'
    before = pair.mixed.metric('munet_requests_total{status="200",task="(other)"}')
    owner = asked_by(pair.mixed, "o")
    assert pair.mixed.classify("secret/one", png(1), **owner).status_code == 200
    admin = told(pair.mixed, "b", "GET", "/metrics")[2]
    assert re.search(of_private % "secret/one", admin)
    assert 'task="fruit/apple"' in admin
    for caller in (None, "o"):
        assert "secret/one" not in told(pair.mixed, caller, "GET", "/metrics")[2]
    other = 'munet_requests_total{status="200",task="(other)"}'
    assert pair.mixed.metric(other) == before + 1


def test_what_goes_with_a_private_task_stays_counted_as_other() -> None:
    """A sum that falls would look like a restart of the gateway."""
    metrics, private = Metrics(), {"hidden"}
    metrics.watch(lambda: Snapshot(0, {}, 0, 0, 0, 0), lambda task: task not in private)
    for task in ("open", "hidden", "turns"):
        metrics.register(task)
        metrics.answered([task], 200, 0.5)
    metrics.answered(["junk"], 404, None)

    def page(private: bool) -> set[str]:
        text = metrics.exposition(private).decode()
        return {line for line in text.splitlines() if line.startswith("munet_requests_total{")}

    other = 'munet_requests_total{status="200",task="(other)"} 1.0'
    junk = 'munet_requests_total{status="404",task="(other)"} 1.0'
    opened, turns, hidden = (
        f'munet_requests_total{{status="200",task="{task}"}} 1.0'
        for task in ("open", "turns", "hidden")
    )
    assert page(private=False) == {opened, turns, other, junk}
    assert page(private=True) == {opened, turns, hidden, junk}
    metrics.forget("hidden")
    private.add("turns")
    assert page(private=False) == {opened, other, junk}
    assert page(private=True) == {opened, turns, junk}


async def _call(port: int, method: str, message: Any, headers: dict[str, str]) -> Any:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_unary(f"{PREFIX}{method}")
        try:
            answer = await call(message.SerializeToString(), metadata=tuple(headers.items()))
        except grpc.aio.AioRpcError as error:
            return error.code(), error.details(), dict(error.trailing_metadata())
        return SERVICE.methods_by_name[method].output_type._concrete_class.FromString(answer)


def _messages(name: str) -> dict[str, Any]:
    tensor = pb.ModelInferRequest.InferInputTensor(name="image", datatype="BYTES", shape=[1])
    tensor.contents.bytes_contents.append(png(1))
    return {
        "ModelReady": pb.ModelReadyRequest(name=name),
        "ModelMetadata": pb.ModelMetadataRequest(name=name),
        "ModelConfig": pb.ModelConfigRequest(name=name, version="7"),
        "ModelStatistics": pb.ModelStatisticsRequest(name=name),
        "RepositoryIndex": pb.RepositoryIndexRequest(),
        "RepositoryModelLoad": pb.RepositoryModelLoadRequest(model_name=name),
        "RepositoryModelUnload": pb.RepositoryModelUnloadRequest(model_name=name),
        "ModelInfer": pb.ModelInferRequest(model_name=name, inputs=[tensor]),
    }


def _told_by_grpc(gateway: Gateway, caller: str | None) -> list[tuple[str, str, str]]:
    runtime, headers = gateway.app.state.runtime, asked_by(gateway, caller)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings, runtime.settings = runtime.settings, replace(runtime.settings, grpc_port=port)

    async def all_of_them() -> list[tuple[str, str, str]]:
        names = ("secret/one", "secret/on", "fruit/bananas", "nothing", "fruit/apple", "")
        async with serving(runtime):
            return [
                (method, name, str(await _call(port, method, message, headers)))
                for name in names
                for method, message in _messages(name).items()
            ]

    try:
        found = gateway.runner.run(all_of_them())
    finally:
        runtime.settings = settings
    times = re.compile(r"(ns|last_inference): \d+")
    return [(method, name, times.sub("", text)) for method, name, text in found]


@pytest.mark.parametrize("caller", [LOCAL, None, "f", "a", "b"])
def test_no_grpc_call_tells_of_a_private_task(pair: Pair, caller: str | None) -> None:
    without, mixed = (_told_by_grpc(one, caller) for one in pair)
    assert without == mixed


def test_a_name_cannot_be_read_letter_by_letter(pair: Pair) -> None:
    """Each guess at the next letter moves where the name would stand among all names."""
    for guess in ("", "s", "se", "secret/", "secret/o", "secret/on", "secret/one", "secret/p"):
        for letter in "-/0aentz":
            path = f"/tasks/{guess}{letter}"
            without, mixed = (told(one, "r", "GET", path) for one in pair)
            assert without == mixed, path


def test_hints_name_what_a_caller_may_classify_or_read(pair: Pair) -> None:
    def hints(caller: str, name: str) -> list[str]:
        answer = told(pair.mixed, caller, "POST", f"/classify/{name}", content=png(1))
        return json.loads(answer[2])["nearest"]

    assert hints("f", "fruit/appel")[0] == "fruit/apple"
    assert all(name.startswith("fruit/") for name in hints("f", "fruit/open-1"))
    assert hints("a", "secret/opan-1")[0] == "secret/open-1"
    assert "secret/one" not in hints("a", "secret/on")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/classify/secret/tw?version=2"),
        ("POST", "/classify/secret/tw?version=stable"),
        ("POST", "/classify/secret/tw"),
        ("GET", "/v2/models/secret/tw/versions/3"),
        ("GET", "/v2/models/secret/tw"),
        ("GET", "/tasks/secret/tw"),
    ],
)
@pytest.mark.parametrize("known", [False, True])
def test_what_is_removed_takes_no_hint_with_it(
    pair: Pair, method: str, path: str, known: bool
) -> None:
    """The store is asked for a version of a task that has just gone, and knows the others."""
    found = []
    for gateway in pair:
        catalog = gateway.app.state.runtime.catalog
        publish(gateway.store, "secret/tw")
        gateway.runner.run(looked(catalog))
        if known:
            assert told(gateway, "a", "GET", "/tasks/secret/tw")[0] == 200
        poll, catalog._poll = catalog._poll, lambda: None  # the store is not looked at again
        gateway.runner.run(looked(catalog))
        gateway.store.rm("secret/tw")
        options = {"content": png(1), "headers": OCTETS} if method == "POST" else {}
        found.append(told(gateway, "a", method, path, **options))
        assert "secret/tw" in catalog.entries()
        for name in (*HIDDEN, "secret/torn"):
            assert name not in found[-1][2]
        catalog._poll = poll
        gateway.runner.run(looked(catalog))
    assert found[0] == found[1]


async def looked(catalog: Catalog) -> None:
    await asyncio.wrap_future(catalog.refresh())


@pytest.mark.parametrize("private", [False, True])
def test_what_was_never_read_is_shown_to_those_who_look_after_it(
    pair: Pair, private: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """It may be private: to others it does not exist."""
    gateway, task = pair.mixed, f"secret/rotten-{private}"
    damage(gateway.store, publish(gateway.store, task, own={"head": 7}, private=private).digest)
    eventually(lambda: task in gateway.app.state.runtime.catalog.entries())
    for caller in ("a", "r", "o", "f", None):
        for method, path, options in [*LISTS, *routes("secret/rottem"), *routes("fruit/apple")]:
            assert task not in told(gateway, caller, method, path, **options)[2]
        missing = told(gateway, caller, "POST", "/classify/secret/rottan", content=png(1))
        hidden = told(gateway, caller, "POST", f"/classify/{task}", content=png(1))
        assert hidden[0] == missing[0] != 503
        assert hidden[2].replace(task, "") == missing[2].replace("secret/rottan", "")
    for caller in (LOCAL, "b"):
        listed = json.loads(told(gateway, caller, "GET", "/tasks")[2])["tasks"]
        (found,) = [one for one in listed if one["id"] == task]
        assert found["state"] == "failed"
        assert "CorruptBlob" in found["reason"] or "Malformed" in found["reason"]
        assert told(gateway, caller, "POST", f"/classify/{task}", content=png(1))[0] == 503
    assert any(task in line for line in caplog.messages)
    gateway.store.rm(task)


def test_what_cannot_be_read_is_not_read_for_every_hint(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = pair.mixed
    store, catalog = gateway.app.state.runtime.store, gateway.app.state.runtime.catalog
    tasks = [f"secret/bad-{i}" for i in range(10)]
    for task in tasks:
        publish(gateway.store, task, own={"head": 10})
    gateway.runner.run(looked(catalog))
    reads: Counter[str] = Counter()
    resolve = store.resolve

    def unreadable(task: str, *rest: Any) -> Any:
        if task not in tasks:
            return resolve(task, *rest)
        if threading.current_thread().name != "sharing":  # which no request waits for
            reads[task] += 1
        raise OSError("of no use")

    monkeypatch.setattr(store, "resolve", unreadable)
    monkeypatch.setattr(entries, "READ_AGAIN_S", 1e6)
    for _ in range(5):
        assert told(gateway, "a", "GET", "/tasks/secret/bad-x")[0] == 404
    assert max(reads.values(), default=0) <= 1
    for task in tasks:
        gateway.store.rm(task)
    gateway.runner.run(looked(catalog))


@pytest.mark.parametrize("private", [False, True])
def test_what_cannot_be_read_any_more_is_what_it_was(pair: Pair, private: bool) -> None:
    gateway, task = pair.mixed, f"secret/rotting-{private}"
    catalog = gateway.app.state.runtime.catalog
    publish(gateway.store, task, private=private)
    eventually(lambda: task in catalog.entries())
    shown = told(gateway, "a", "GET", f"/tasks/{task}")[0]
    assert shown == (404 if private else 200)
    damage(gateway.store, publish(gateway.store, task, own={"head": 8}, private=private).digest)
    eventually(lambda: catalog.entries()[task].slot.version == 2)
    for caller in (LOCAL, "a", "r", "b"):
        assert (task in told(gateway, caller, "GET", "/tasks")[2]) != private
    wanted = 404 if private else 503
    assert told(gateway, "a", "POST", f"/classify/{task}", content=png(1))[0] == wanted
    gateway.store.rm(task)


def test_a_task_is_private_as_soon_as_its_live_version_is(pair: Pair) -> None:
    """Even if that cannot be loaded, so that the one before answers those who may ask."""
    gateway, task = pair.mixed, "secret/turning"
    path = publish(gateway.store, task).path
    eventually(lambda: task in gateway.app.state.runtime.catalog.entries())
    assert told(gateway, "a", "POST", f"/classify/{task}", content=png(1))[0] == 200
    gateway.store.publish(replace(path, private=True, input={**path.input, "size": 99}))
    for caller in ("a", "r", "f", LOCAL):
        for path in (f"/tasks/{task}", f"/v2/models/{task}", "/tasks"):
            eventually(lambda path=path, caller=caller: f'"{task}"' not in told(
                gateway, caller, "GET", path)[2])  # fmt: skip
    assert told(gateway, "a", "POST", f"/classify/{task}", content=png(1))[0] == 404
    entry = gateway.app.state.runtime.catalog.entries()[task]
    assert (entry.slot.version, entry.slot.state) == (1, "ready")
    assert entries.seen({task: entry}, Grants("x", (task,))) == {task: entry}
    gateway.store.rm(task)


def test_several_workers_tell_each_other_private_names_for_admins_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(workers, "PATIENCE_S", PATIENCE_S)
    with tempfile.TemporaryDirectory() as folder:
        made = []
        for index in (1, 2):
            metrics = Metrics()
            metrics.watch(lambda: Snapshot(0, {}, 0, 0, 0, 0), lambda task: task == "open")
            for task in ("open", "hidden"):
                metrics.register(task)
                metrics.answered([task], 200, None)
            made.append(Reporting(Settings("unused"), metrics, Worker(Path(folder), index)))
            made[-1].start()
        try:
            for one in made:
                pages = [one.pages[private, False]().decode() for private in (False, True)]
                public, private = pages
                assert "hidden" not in public
                for index in (1, 2):
                    line = f'munet_requests_total{{worker="{index}",status="200",task="%s"}} 1.0'
                    assert line % "(other)" in public and line % "open" in public
                    assert line % "hidden" in private and line % "open" in private
        finally:
            for one in made:
                one.stop()


def test_names_are_compared_beside_the_event_loop(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = []

    def search(_: str) -> Iterator[str]:
        threads.append(threading.get_ident())
        return iter(())

    monkeypatch.setattr(pair.without.app.state.runtime.catalog, "near", search)
    query = "&".join(f"task={i}{'x' * 800}" for i in range(4))
    assert told(pair.without, "a", "POST", f"/classify?{query}", content=png(1))[0] == 404
    assert len(threads) == 4 and threading.get_ident() not in threads
