"""The main process of `bentoml serve` and its workers: nothing of either outlives the other."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from model_store import ModelStore
from tests.service.host.running import read
from tests.service.servers import ROOT, Server
from tests.service.systems import png, publish
from tests.service.waiting import PATIENCE_S, eventually

UPLOAD = b"POST /classify/plain HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n"


@pytest.fixture(scope="module")
def variables(tmp_path_factory: pytest.TempPathFactory, compilations: str) -> dict[str, str]:
    """The environment of a gateway on a store of one task."""
    store = ModelStore(tmp_path_factory.mktemp("store"), create=True)
    publish(store, "plain")
    return {
        "MUNET_STORE": store.url,
        "MUNET_COMPILATION_CACHE": compilations,
        "MUNET_MAX_BATCH_ROWS": "4",
        "MUNET_BACKEND": "jax",
    }


def workers(server: Server) -> list[psutil.Process]:
    return psutil.Process(server.process.pid).children(recursive=True)


def refuses(server: Server) -> bool:
    try:
        socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S).close()
    except ConnectionRefusedError:
        return True
    except ConnectionResetError:  # it ends at this moment
        pass
    return False


def gone(processes: list[psutil.Process]) -> bool:
    return not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in processes)


def errors(log: str) -> list[str]:
    return [line for line in log.splitlines() if line.startswith("error: ")]


@pytest.fixture
def hang_ups_ignored() -> Iterator[None]:
    """As nohup has it, for the processes that a test starts."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("count", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_workers_end_with_a_main_process_that_is_killed(
    tmp_path: Path, variables: dict[str, str], count: int, hang_ups_ignored: None
) -> None:
    """The request that was begun is answered first. And `nohup` keeps what it promises."""
    with Server(".", tmp_path, **variables, MUNET_WORKERS=str(count)) as server:
        eventually(lambda: len(workers(server)) == count)
        server.process.send_signal(signal.SIGHUP)
        assert server.classify("plain", png(1)).status == 200
        # Nothing else to talk to, as circus' port for orders would be.
        listening = psutil.Process(server.process.pid).net_connections("inet")
        assert {one.laddr.port for one in listening if one.status == "LISTEN"} == {server.port}
        upload = socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S)
        with upload:
            upload.sendall(UPLOAD % len(png(1)) + png(1)[:10])
            left = workers(server)
            server.process.kill()
            server.process.wait()
            eventually(lambda: refuses(server))
            upload.sendall(png(1)[10:])
            assert read(upload).startswith(b"HTTP/1.1 200 ")
        eventually(lambda: gone(left))


def test_a_worker_that_still_starts_ends_too(tmp_path: Path, variables: dict[str, str]) -> None:
    server = Server(".", tmp_path, **variables, MUNET_WORKERS="2")
    with suppress(AssertionError):  # it never gets ready
        left = eventually(lambda: workers(server))
        server.process.kill()
        server.process.wait()
        eventually(lambda: gone(left) and refuses(server))  # all of them, also one begun since
        return
    raise AssertionError(server.log.read_text())


def test_signals_end_it_once_and_cleanly(tmp_path: Path, variables: dict[str, str]) -> None:
    numbers = signal.SIGHUP, signal.SIGINT, signal.SIGINT, signal.SIGTERM, signal.SIGQUIT
    with Server(".", tmp_path, **variables, MUNET_DRAIN_S="0.5") as server:
        for number in numbers:
            server.process.send_signal(number)
        assert server.process.wait(PATIENCE_S) == 0
        assert refuses(server)
    log = server.log.read_text()
    assert "Traceback" not in log and "rror" not in log


def test_signals_until_it_has_ended(tmp_path: Path, variables: dict[str, str]) -> None:
    """Also while the interpreter ends, and while circus has not begun."""
    server = Server(".", tmp_path, **variables)
    try:
        eventually(lambda: workers(server))
        while server.process.poll() is None:
            server.process.terminate()
            time.sleep(0.001)
        assert server.process.returncode == 0
        assert "Traceback" not in server.log.read_text()
    finally:
        server.__exit__(None, None, None)


def test_a_worker_that_is_stopped_alone_has_a_successor(
    tmp_path: Path, variables: dict[str, str]
) -> None:
    """No connection is refused meanwhile: they wait for it, and a late request may come again."""
    with Server(".", tmp_path, **variables, MUNET_DRAIN_S="0.1") as server:
        (old,) = workers(server)
        old.terminate()
        eventually(lambda: gone([old]))
        assert not refuses(server)
        eventually(lambda: server.classify("plain", png(1)).status == 200)
        assert old.pid not in [one.pid for one in workers(server)]


def test_workers_that_cannot_start_end_the_gateway(
    tmp_path: Path, variables: dict[str, str]
) -> None:
    lacking = {**variables, "MUNET_WORKERS": "2", "JAX_PLATFORMS": "nothing_known"}
    server = Server(".", tmp_path, **lacking)
    try:
        assert server.process.wait(PATIENCE_S) == 2
    finally:
        server.__exit__(None, None, None)
    (error,) = errors(server.log.read_text())
    assert "JAX" in error and "nothing_known" in error
    assert refuses(server)


BEGINS = """
import os, pathlib, sys
from service.host.processes import MainProcess
main = MainProcess(os.getppid(), pathlib.Path(sys.argv[1]), 1)
main.begin()
if sys.argv[2] == "starts":
    main.started()
os._exit(9)  # without a word, as a process that is killed
"""


MAIN = """
import json, signal, subprocess, sys
told = []
signal.signal(signal.SIGUSR1, lambda number, _: told.append(number))
folder, begins, *orders = sys.argv[1:]
codes = [subprocess.run([sys.executable, "-c", begins, folder, what]).returncode for what in orders]
print(json.dumps([codes, len(told)]))
"""


@pytest.mark.parametrize("first", ["dies", "starts"])
def test_workers_that_end_before_they_start_end_the_gateway(tmp_path: Path, first: str) -> None:
    """As the kernel ends what takes too much memory: else the port is open and silent for ever."""
    orders = (first, "dies", "dies", "dies", "dies")
    command = [sys.executable, "-c", MAIN, str(tmp_path), BEGINS, *orders]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    codes, told = json.loads(done.stdout)
    if first == "starts":  # a successor is tried again
        assert codes == [9] * 5 and not told
    else:
        assert codes == [9, 9, 9, 2, 2] and told
        assert "raise the limit of memory" in (tmp_path / "failure").read_text()


def test_a_successor_that_cannot_start_leaves_the_gateway_alone(tmp_path: Path) -> None:
    code = (
        "import os, pathlib, sys\n"
        "from service.errors import SettingsError\n"
        "from service.host.processes import MainProcess\n"
        "main = MainProcess(os.getppid(), pathlib.Path(sys.argv[1]), 1)\n"
        "main.started()\n"
        "main.not_started(SettingsError('no tokens'))\n"
    )
    done = subprocess.run(  # SIGUSR1 would end this process
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "no tokens" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "failure").exists()


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that somebody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield other.getsockname()[1]


RACE = """
import sys
import service.host.beginning
from bentoml_cli.cli import cli
service.host.beginning.require_port = lambda *_: None  # as if it had been free then
cli(["serve", ".", "--host", "127.0.0.1", "--port", sys.argv[1]])
"""


def test_a_port_that_another_one_takes_at_the_same_time(
    tmp_path: Path, variables: dict[str, str], taken: int
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", RACE, str(taken)],
        cwd=ROOT,
        env={**os.environ, **variables, "BENTOML_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 2
    (error,) = errors(done.stderr)
    assert f"127.0.0.1:{taken}" in error and "in use" in error
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("by", ["--port", pytest.param("BENTOML_PORT", marks=pytest.mark.slow)])
def test_a_port_that_is_taken_is_one_line(
    tmp_path: Path, variables: dict[str, str], taken: int, by: str
) -> None:
    command = [sys.executable, "-m", "bentoml", "serve", ".", "--host", "127.0.0.1"]
    environment = {**os.environ, **variables, "BENTOML_HOME": str(tmp_path)}
    if by == "--port":
        command += [by, str(taken)]
    else:
        environment[by] = str(taken)
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert done.returncode == 2
    (error,) = done.stderr.strip().splitlines()
    assert error.startswith("error: ")
    assert f"port {taken} of 127.0.0.1" in error and by in error
