"""What those on call need of a gateway that runs: its log, its levels, what it does just now."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from model_store import ModelStore
from service.telemetry import audit, dump, logs
from service.telemetry.selection import of_tasks
from tests.service.conftest import Served
from tests.service.in_process import Gateway, refused
from tests.service.servers import ROOT
from tests.service.systems import png, publish
from tests.service.waiting import eventually

BOSS, READER = ({"authorization": f"Bearer {token}"} for token in "br")


def entry(name: str, token: str, scopes: str) -> str:
    digest = hashlib.sha256(token.encode()).hexdigest()
    return f'[[token]]\nname = "{name}"\nsha256 = "{digest}"\n{scopes}\n'


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, compilations: str) -> Iterator[Gateway]:
    """A gateway with an admin's token and another one."""
    folder = tmp_path_factory.mktemp("guarded")
    store = ModelStore(folder / "store", create=True)
    for task in ("a", "b/c", "d"):
        publish(store, task)
    publish(store, "hidden", private=True)
    tokens = entry("boss", "b", 'classify = ["*", "hidden"]\nread = true\nadmin = true')
    (folder / "tokens.toml").write_text(tokens + entry("reader", "r", "read = true"))
    made = Gateway(store, compilations, tokens=str(folder / "tokens.toml"))
    for task in ("a", "b/c", "d", "hidden"):
        assert made.classify(task, png(1), **BOSS).status_code == 200
    yield made
    made.close()


@pytest.fixture(autouse=True)
def levels() -> Iterator[None]:
    """As they were, afterwards."""
    before = {name: logging.getLogger(name).level for name in (*logs.OWN, *logs.QUIET)}
    yield
    for name, level in before.items():
        logging.getLogger(name).setLevel(level)


CALLS = [("GET", "/admin/log"), ("PUT", "/admin/log?level=DEBUG"), ("GET", "/admin/dump")]


@pytest.mark.parametrize(("method", "path"), CALLS)
def test_they_are_for_admins(guarded: Gateway, gateway: Gateway, method: str, path: str) -> None:
    assert guarded.request(method, path, headers=BOSS).status_code == 200
    refused(guarded.request(method, path, headers=READER), 403, "forbidden")
    assert guarded.request(method, path).status_code == 401
    refused(gateway.request(method, path), 403, "forbidden")  # without tokens nobody is one


def test_a_level_is_changed_while_it_runs(guarded: Gateway) -> None:
    def set_level(query: str) -> Any:
        return guarded.request("PUT", f"/admin/log?{query}", headers=BOSS)

    assert set_level("level=debug").json()["service"] == "DEBUG"
    assert logging.getLogger("service.tasks.catalog").isEnabledFor(logging.DEBUG)
    assert set_level("level=ERROR&logger=root").json()["root"] == "ERROR"
    assert guarded.request("GET", "/admin/log", headers=BOSS).json()["service"] == "DEBUG"
    for query, told in (
        ("level=LOUD", "DEBUG, INFO"),
        ("level=INFO&logger=x", "service"),
        ("", "level"),
        ("level=INFO&loger=x", "did you mean logger"),
    ):
        assert told in refused(set_level(query), 422, "bad-parameter")["detail"]


def test_workers_follow_what_one_of_them_is_told(tmp_path: Path) -> None:
    one, other = logs.LogLevels(tmp_path), logs.LogLevels(tmp_path)
    other.start()
    try:
        one.set("model_store", "DEBUG")
        logging.getLogger("model_store").setLevel("ERROR")  # as another process would have it
        eventually(lambda: logging.getLogger("model_store").level == logging.DEBUG)
    finally:
        other.stop()


def test_every_admin_call_is_a_line(guarded: Gateway, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "service.telemetry.audit")
    asked = [
        ("POST", "/v2/repository/models/a/load", BOSS, 200),
        ("POST", "/v2/repository/models/b%2Fc/unload", BOSS, 200),
        ("POST", "/v2/repository/models/none/load", BOSS, 404),
        ("POST", "/v2/repository/models/a/unload", READER, 403),
        ("GET", "/admin/dump", BOSS, 200),
    ]
    for method, path, headers, status in asked:
        given = {**headers, "x-request-id": "order-9"}
        assert guarded.request(method, path, headers=given).status_code == status
    lines = [message for message in caplog.messages if "event=admin_call" in message]
    assert len(lines) == len(asked)
    for line, (method, _, headers, status) in zip(lines, asked, strict=True):
        name = "boss" if headers is BOSS else "reader"
        assert f"method={method} " in line and f" status={status} token={name} " in line
        assert "request_id=order-9" in line
    caplog.clear()
    for path in ("/tasks", "/v2/repository/index", "/metrics"):
        guarded.request("POST" if "v2" in path else "GET", path, headers=BOSS)
    assert not [message for message in caplog.messages if "admin_call" in message]


def test_what_anybody_may_send_fills_no_log(
    guarded: Gateway, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, "service.telemetry.audit")
    clock = [1e9]
    monkeypatch.setattr(audit.time, "monotonic", lambda: clock[0])
    for _ in range(50):
        assert guarded.request("PUT", "/admin/log?level=DEBUG").status_code == 401
    assert len([m for m in caplog.messages if "admin_call" in m]) == 1
    clock[0] += audit.EVERY_S
    guarded.request("PUT", "/admin/log?level=DEBUG")
    assert "calls=50" in caplog.messages[-1]


@pytest.mark.parametrize("name", ["RepositoryModelLoad", "RepositoryModelUnload"])
def test_calls_over_grpc_are_known_as_well(name: str) -> None:
    assert audit.is_call(f"/inference.GRPCInferenceService/{name}")
    assert not audit.is_call("/inference.GRPCInferenceService/RepositoryIndex")


# -- what it does just now


def test_a_dump_names_all_threads_and_what_waits(guarded: Gateway) -> None:
    runtime = guarded.app.state.runtime
    found = guarded.request("GET", "/admin/dump", headers=BOSS).json()
    threads = {one["thread"]: one["frames"] for one in found["threads"]}
    assert {"MainThread", "engine_0"} <= set(threads)
    assert any("batching.py" in frame for frame in threads["engine_0"])
    assert found["queue"] == {"rows": 0, "requests": 0, "oldest": []}
    held, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        with runtime.batcher._lock:
            held.set()
            go_on.wait(60)

    with ThreadPoolExecutor(1) as pool:
        pool.submit(hold)
        held.wait(60)
        try:  # a lock that hangs holds up no dump
            found = guarded.request("GET", "/admin/dump", headers=BOSS).json()
        finally:
            go_on.set()
    assert "lock" in found["queue"]["error"]
    assert any(
        "test_on_call.py" in one["frames"][-3]
        for one in found["threads"][:50]
        if len(one["frames"]) > 2
    )


def test_what_waits_is_told_by_request(guarded: Gateway) -> None:
    runtime = guarded.app.state.runtime
    started, go_on = threading.Event(), threading.Event()
    run = runtime.batcher._runner._run

    def slow(rows: Any) -> Any:
        started.set()
        go_on.wait(60)
        return run(rows)

    runtime.batcher._runner._run = slow
    try:
        with ThreadPoolExecutor(1) as pool:

            def look() -> dict[str, Any]:
                started.wait(60)
                try:
                    return eventually(lambda: (q := dump.queue(runtime.batcher))["requests"] and q)
                finally:
                    go_on.set()

            looking = pool.submit(look)
            ask_several(guarded, ["a", "b/c", "d"])
            told = looking.result()
    finally:
        runtime.batcher._runner._run = run
    (first, *_) = told["oldest"]
    assert first["tasks"][0] in ("a", "b/c", "d") and "boss" in first["caller"]
    assert first["waited_s"] >= 0 and first["deadline_in_s"] > 0


def ask_several(gateway: Gateway, tasks: list[str]) -> None:
    """At the same time."""

    async def ask() -> None:
        transport = httpx.ASGITransport(gateway.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            await asyncio.gather(
                *(
                    client.post(
                        f"/classify/{task}",
                        content=png(number),
                        headers={**BOSS, "content-type": "image/png"},
                    )
                    for number, task in enumerate(tasks)
                )
            )

    gateway.runner.run(ask())


def test_a_real_gateway_logs_json_and_dumps_at_a_signal(served: Served) -> None:
    """To its main process, as an operator of a container sends it."""
    server = served.server
    mark = server.log.stat().st_size
    os.kill(server.process.pid, signal.SIGUSR1)

    def dumps() -> list[dict[str, Any]]:
        lines = server.log.read_bytes()[mark:].decode().splitlines()
        return [one for line in lines if "event=dump" in line and (one := json.loads(line))]

    (said,) = eventually(dumps)
    names = {one["thread"] for one in said["threads"]}
    assert {"MainThread", "dump", "engine_0"} <= names and said["queue"]["requests"] == 0
    assert said["level"] == "WARNING" and said["logger"] == "service.telemetry.dump"
    assert server.ask("GET", "/readyz").status == 200
    lines = server.log.read_text().splitlines()
    after = lines[next(i for i, line in enumerate(lines) if line.startswith("{")) :]
    for line in after:
        assert {"time", "level", "logger", "message"} <= set(json.loads(line))


# -- metrics


def test_the_page_is_sent_compressed_to_whom_accepts_that(guarded: Gateway, served: Served) -> None:
    headers = {"accept-encoding": "gzip"}
    reply = served.server.ask("GET", "/metrics", None, headers)
    assert reply.headers["content-encoding"] == "gzip" and reply.headers["vary"]
    plain = served.server.ask("GET", "/metrics", None, {"accept-encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert gzip.decompress(reply.body).startswith(b"# HELP")
    assert len(reply.body) < len(plain.body) / 4


def test_a_page_of_some_tasks_leaves_the_others_out(guarded: Gateway) -> None:
    def page(query: str, **headers: str) -> set[str]:
        text = guarded.request("GET", f"/metrics{query}", headers=headers).text
        found = {
            line.split('task="')[1].split('"')[0] for line in text.splitlines() if 'task="' in line
        }
        assert "munet_queue_rows " in text and "munet_batch_rows_bucket" in text
        return found - {""}  # requests of no task

    assert {"a", "b/c", "d"} <= page("")
    assert page("?task=a") == {"a"}
    assert page("?task=a&task=b/c") == {"a", "b/c"}
    assert page("?task=hidden") == page("?task=none") == set()
    assert page("?task=hidden", **BOSS) == {"hidden"}
    assert page("?tusk=a") == page("")  # what probes and proxies add is ignored


def test_a_task_is_found_whatever_labels_stand_beside_it() -> None:
    page = (
        b'# HELP x task="b"\nx 1\nx{worker="1",task="a",z="}"} 2\nx{task="b"} 3\ny{subtask="b"} 4\n'
    )
    kept = of_tasks(page, ["a"])
    assert kept == page.replace(b'x{task="b"} 3\n', b"")


def test_a_process_whose_main_thread_hangs_dumps_all_the_same() -> None:
    """In C, where Python runs no handler of a signal."""
    code = (
        "import hashlib; from service.telemetry import dump, logs\n"
        "logs.install(); dump.follow(lambda: {'threads': dump.stacks()})\n"
        "print('hangs', flush=True); hashlib.pbkdf2_hmac('sha256', b'x', b'y', 10**9)"
    )
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, **pipes) as process:
        try:
            assert process.stdout is not None and process.stderr is not None
            assert process.stdout.readline() == b"hangs\n"
            for _ in range(2):
                process.send_signal(signal.SIGUSR1)
                said = json.loads(process.stderr.readline())
                frames = {one["thread"]: one["frames"] for one in said["threads"]}
                assert "<module>" in frames["MainThread"][-1]
        finally:
            process.kill()
