"""The rules of the shipped configuration, in a real HAProxy in front of servers that do nothing."""

from __future__ import annotations

import http.client
import shutil
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from loadtests.errors import OptionError
from loadtests.replicas.proxy import SHIPPED, Proxy, configuration
from service.access.local import foreign
from tests.model_store.registries import program
from tests.service.waiting import PATIENCE_S, eventually

MAPPED = {f"mapped/{number}": f"replica{1 + number % 3}" for number in range(9)}


@dataclass
class Replicas:
    """Servers that answer everything with their name, at once or when they are let."""

    servers: list[Httpd]
    proxy: Proxy
    headers: list[Mapping[str, str]]  # of all requests
    arrived: list[str] = field(default_factory=list)  # the replica of each request that is held
    held: threading.Event = field(default_factory=threading.Event)

    @property
    def reached(self) -> Counter[str]:
        """The number of held requests by replica."""
        return Counter(self.arrived)

    def ask(self, method: str, path: str) -> str:
        """Which replica answers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.proxy.port, timeout=PATIENCE_S)
        try:
            connection.request(method, path, b"x" if method == "POST" else None)
            return connection.getresponse().read().decode()
        finally:
            connection.close()


@pytest.fixture(scope="module")
def replicas(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replicas]:
    program("haproxy", "haproxy")
    headers: list[Mapping[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            name = f"replica{1 + ports.index(self.server.server_port)}"
            self.rfile.read(int(self.headers.get("content-length", 0)))
            if self.path != "/readyz":
                headers.append({key.lower(): value for key, value in self.headers.items()})
            if self.path.endswith("?held"):
                found.arrived.append(name)  # atomic, as adding to a count is not
                found.held.wait(PATIENCE_S)
            self.send_response(200)
            self.send_header("content-length", str(len(name)))
            self.end_headers()
            self.wfile.write(name.encode())

        do_GET = do_POST = answer

        def log_message(self, format: str, *args: object) -> None:
            pass

    servers = [serve(Handler) for _ in range(3)]
    ports = [server.server_port for server in servers]
    with Proxy(tmp_path_factory.mktemp("proxy"), ports, tasks=MAPPED) as proxy:
        found = Replicas(servers, proxy, headers)
        yield found
    for server in servers:
        end(server)


class Httpd(ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """HAProxy cuts connections off."""


def serve(handler: type[BaseHTTPRequestHandler], port: int = 0) -> Httpd:
    server = Httpd(("127.0.0.1", port), handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    return server


def end(server: Httpd) -> None:
    server.shutdown()
    server.server_close()


def test_haproxy_takes_the_shipped_configuration(tmp_path: Path) -> None:
    command = [program("haproxy", "haproxy"), "-c", "-dW", "-f", str(SHIPPED / "haproxy.cfg")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = (SHIPPED / "tasks.map").read_text().splitlines()
    assert lines and all(line.startswith("#") for line in lines), "every task is hashed"


def test_the_replicas_of_the_shipped_configuration_differ_by_number_alone() -> None:
    hosts = [f"10.0.0.1{number}" for number in (1, 2, 3)]
    made = configuration([f"{host}:3000" for host in hosts], [f"{host}:8001" for host in hosts])
    assert made == (SHIPPED / "haproxy.cfg").read_text()


def test_without_haproxy_it_is_said_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(OptionError, match="package haproxy"):
        Proxy(tmp_path, [1])


def spellings(task: str) -> Iterator[tuple[str, str]]:
    """Requests whose first task this is."""
    for name in dict.fromkeys((task, task.replace("/", "%2F"), task.replace("/", "%2f"))):
        yield "POST", f"/classify/{name}"
        yield "POST", f"/classify/{name}?top_k=1"
        yield "POST", f"/classify?task={name}"
        yield "POST", f"/classify?task={name}&task=another"
        yield "POST", f"/classify?top_k=1&task={name}"
        yield "POST", f"/embed/{name}?depth=1"
        yield "POST", f"/embed?depth=1&task={name}&task=another"
        yield "GET", f"/tasks/{name}"
        yield "GET", f"/v2/models/{name}"
        yield "POST", f"/v2/models/{name}/infer"
        yield "POST", f"/v2/models/{name}/versions/1/infer"
        yield "POST", f"/v2/models/{name}/versions/stable/infer"
        yield "GET", f"/v2/models/{name}/versions/1"
        yield "GET", f"/v2/models/{name}/versions/1/ready"
        yield "GET", f"/v2/models/{name}/config"
        yield "GET", f"/v2/models/{name}/stats"
        yield "POST", f"/v2/repository/models/{name}/load"
        yield "POST", f"/v2/repository/models/{name}/unload"


NAMES = [
    *("plain", "group/other", "a.b-c_d/e/f", "classify", "classify/embed", "v2/models", "1"),
    *(f"group/{number}" for number in range(4)),
    *MAPPED,
]


@pytest.mark.parametrize("task", NAMES)
def test_however_a_request_names_its_first_task_one_replica_gets_it(
    replicas: Replicas, task: str
) -> None:
    (home,) = {replicas.ask(*request) for request in spellings(task)}
    assert home == MAPPED.get(task, home)


# Where a name ends like a call, its slashes written as %2F leave one reading.
@pytest.mark.parametrize(
    "task", ["infer", "a/infer", "versions/1", "a/versions/1", "a/versions/2/ready"]
)
def test_a_name_that_looks_like_a_call_has_one_replica_too(replicas: Replicas, task: str) -> None:
    quoted = task.replace("/", "%2F")
    paths = [f"/classify/{task}", f"/classify/{quoted}", f"/classify?task={task}"]
    paths += [f"/v2/models/{quoted}/infer", f"/v2/models/{quoted}/versions/3/infer"]
    assert len({replicas.ask("POST", path) for path in paths}) == 1


def test_tasks_are_spread_and_each_keeps_its_replica(replicas: Replicas) -> None:
    tasks = [f"task/{number:03}" for number in range(300)]
    homes = [replicas.ask("POST", f"/classify/{task}") for task in tasks]
    assert homes == [replicas.ask("POST", f"/v2/models/{task}/infer") for task in tasks]
    assert sorted(Counter(homes)) == ["replica1", "replica2", "replica3"]
    assert max(Counter(homes).values()) < 1.25 * 100  # the ring's points are not even


def test_what_names_no_task_goes_round(replicas: Replicas) -> None:
    for path in ("/tasks", "/v2/models", "/v2", "/", "/classify?top_k=1", "/classify"):
        assert len({replicas.ask("GET", path) for _ in range(40)}) == 3, path


@dataclass
class Held:
    """Requests that stay in flight until the context ends."""

    replicas: Replicas
    clients: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Held:
        self.replicas.arrived.clear()
        self.replicas.held.clear()
        return self

    def __exit__(self, *_: object) -> None:
        self.replicas.held.set()
        for client in self.clients:
            client.join()

    def add(self, *tasks: str) -> None:
        for task in tasks:
            path = f"/classify/{task}?held"
            client = threading.Thread(target=self.replicas.ask, args=("POST", path))
            client.start()
            self.clients.append(client)
        eventually(lambda: len(self.replicas.arrived) == len(self.clients))


@pytest.mark.parametrize("task", ["plain", "mapped/1"])
def test_what_a_task_has_beyond_16_in_flight_is_spread(replicas: Replicas, task: str) -> None:
    home = replicas.ask("POST", f"/classify/{task}")
    names = (f"group/{number}" for number in range(6))
    others = {one: replicas.ask("POST", f"/classify/{one}") for one in names}
    with Held(replicas) as held:
        held.add(*[task] * 16)
        assert replicas.reached == {home: 16}
        for _ in range(12):
            held.add(task)
        assert replicas.reached[home] == 16 + 8, "of the 12 others, 4 are the share of each"
        assert {one: replicas.ask("POST", f"/classify/{one}") for one in others} == others
    assert replicas.ask("POST", f"/classify/{task}") == home


def test_with_more_than_16_for_each_replica_in_flight_all_tasks_spread(replicas: Replicas) -> None:
    ours = [task for task, home in MAPPED.items() if home == "replica1"]
    with Held(replicas) as held:
        for task in MAPPED:
            held.add(*[task] * 6)  # 54 in all
        assert replicas.reached["replica1"] > 16
        before = replicas.reached["replica1"]
        for _ in range(12):
            held.add(ours[0])
        assert 0 < replicas.reached["replica1"] - before < 12


def test_what_comes_through_is_not_taken_for_local(replicas: Replicas) -> None:
    """Without tokens a gateway answers this machine alone; a proxy's clients may be anywhere."""
    replicas.headers.clear()
    replicas.ask("POST", "/classify/plain")
    (seen,) = replicas.headers
    headers = [(name.encode(), value.encode()) for name, value in seen.items()]
    reason = foreign("127.0.0.1", headers, "http", frozenset())
    assert reason is not None and "proxy" in reason


def test_when_a_replica_goes_only_its_tasks_move_and_they_come_back(replicas: Replicas) -> None:
    tasks = [*MAPPED, *(f"task/{number:03}" for number in range(60))]

    def homes() -> dict[str, str]:
        return {task: replicas.ask("POST", f"/classify/{task}") for task in tasks}

    before = homes()
    gone = replicas.servers[1]
    end(gone)
    first = (
        homes()
    )  # HAProxy notices during this, at the latest with the third that it cannot pass on
    eventually(lambda: replicas.proxy.states()["replica2"]["status"] == "DOWN")
    without = homes()
    assert sum(first[task] != without[task] for task in tasks) <= 3
    assert {task for task in tasks if before[task] != without[task]} == {
        task for task, home in before.items() if home == "replica2"
    }
    assert set(without.values()) == {"replica1", "replica3"}
    replicas.servers[1] = serve(gone.RequestHandlerClass, gone.server_port)
    eventually(lambda: replicas.proxy.states()["replica2"]["status"] == "UP")
    assert homes() == before
