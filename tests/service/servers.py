"""Real gateways in processes of their own, on free ports of 127.0.0.1."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.service.waiting import PATIENCE_S, eventually

ROOT = Path(__file__).parents[2]
START_S = 180.0  # a busy machine compiles slowly


def environment(home: Path, **variables: str) -> dict[str, str]:
    """Of a BentoML process that shares nothing with others on this machine."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "BENTOML_HOME": str(home), **variables}


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP answer, read to its end."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Server:
    """A gateway, started and stopped as a context."""

    def __init__(
        self,
        what: str,
        home: Path,
        *,
        prefix: Sequence[str] = (),
        command: Sequence[str] = (),
        cwd: Path = ROOT,
        port: int = 0,
        **variables: str,
    ) -> None:
        """`what` is a folder or a tag; `variables` are the gateway's environment; `prefix` is a
        command that runs another; `command`, without a port, is run in place of `bentoml serve`.
        A `port` of 0 is any that is free.
        """
        with socket.socket() as free:
            free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            free.bind(("127.0.0.1", port))
            self.port = free.getsockname()[1]
        home.mkdir(parents=True, exist_ok=True)
        self.log = home / "server.log"
        usual = [sys.executable, "-m", "bentoml", "serve", what, "--host", "127.0.0.1"]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*prefix, *(command or usual), "--port", str(self.port)],
                cwd=cwd,
                env=environment(home, **variables),
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def __enter__(self) -> Server:
        eventually(self.ready, START_S)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)  # its own session: nobody else's
                self.process.wait()

    def ready(self) -> bool:
        """Whether /readyz says so."""
        assert self.process.poll() is None, self.log.read_text()[-3000:]
        try:
            return self.ask("GET", "/readyz").status == 200
        except OSError:
            return False

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)

    def ask(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> Reply:
        """One request on a connection of its own; the path is sent as it is."""
        connection = self.connect()
        try:
            return ask(connection, method, path, body, headers)
        finally:
            connection.close()

    def classify(self, task: str, body: bytes) -> Reply:
        return self.ask("POST", f"/classify/{task}", body, {"content-type": "image/png"})

    def metrics(self) -> str:
        return self.ask("GET", "/metrics").body.decode()


def ask(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    body: Any = None,
    headers: Mapping[str, str] | None = None,
) -> Reply:
    """One request on a connection that stays open."""
    connection.request(method, path, body, dict(headers or {}))
    response = connection.getresponse()
    found = {name.lower(): value for name, value in response.getheaders()}
    return Reply(response.status, found, response.read())


@dataclass
class Load:
    """Requests without a pause until the context ends, and what came back."""

    server: Server
    tasks: Sequence[str]
    body: bytes
    clients: int = 3
    replies: list[tuple[str, Reply]] = field(default_factory=list)
    broken: list[OSError | http.client.HTTPException] = field(default_factory=list)

    def __enter__(self) -> Load:
        self.over = threading.Event()
        self.threads = [threading.Thread(target=self._run, args=(i,)) for i in range(self.clients)]
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        for thread in self.threads:
            thread.join()

    def _run(self, index: int) -> None:
        connection = self.server.connect()
        headers = {"content-type": "image/png"}
        turn = index
        while not self.over.is_set():
            task = self.tasks[turn % len(self.tasks)]
            turn += 1
            try:
                reply = ask(connection, "POST", f"/classify/{task}", self.body, headers)
            except (OSError, http.client.HTTPException) as error:
                self.broken.append(error)
                return
            self.replies.append((task, reply))


def programs(server: Server) -> float:
    """Made ready so far, whether compiled or loaded."""
    found = re.findall(r"^munet_compilations_total\{.*\} (.*)$", server.metrics(), re.MULTILINE)
    return sum(map(float, found))
