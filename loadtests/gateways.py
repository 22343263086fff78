"""Real servers in processes of their own, on free ports of 127.0.0.1, for benchmarks."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from loadtests.errors import GatewayError

ROOT = Path(__file__).parents[1]
START_S = 120.0
# BentoML takes ports of its own that were free a moment ago, as we do: now and then another's.
PORT_TAKEN, STARTS = "Address already in use", 3
STOP_S = 30.0


class Server:
    """Any server, from the moment it is ready until the context ends."""

    def __init__(
        self,
        command: Sequence[str],
        home: Path,
        ready: str,
        directory: Path = ROOT,
        /,
        **variables: str,
    ) -> None:
        """`command` has the word PORT where the port belongs; `home` keeps the log and BentoML's
        files; the path `ready` answers with 200 once the server can be used. It is started in
        `directory`."""
        self._ready = ready
        self._directory = directory
        home.mkdir(parents=True, exist_ok=True)
        self.log = home / "server.log"
        environment = {
            **os.environ,
            "BENTOML_HOME": str(home),
            "BENTOML_DO_NOT_TRACK": "True",
            **variables,
        }
        started = time.monotonic()
        for start in range(1, STARTS + 1):
            self._start(command, environment)
            try:
                self._wait()
                break
            except BaseException as error:
                self.stop()
                lost = isinstance(error, GatewayError) and PORT_TAKEN in str(error)
                if not lost or start == STARTS:
                    raise
        self.ready_s = time.monotonic() - started

    def _start(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [str(self.port) if word == "PORT" else word for word in command],
                cwd=self._directory,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _wait(self) -> None:
        deadline = time.monotonic() + START_S
        while not self._is_ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise GatewayError(
                    f"starting a server: expected it to be ready within {START_S:g} s, found "
                    f"{self.log.read_text(errors='replace')[-2000:]!r}"
                )
            time.sleep(0.02)

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}{self._ready}", timeout=5) as response:
                return response.status == 200
        except (urllib.error.URLError, OSError):
            return False

    def stop(self) -> None:
        """Ends it: gracefully, or by force if that takes too long; and what it leaves behind."""
        if self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)  # its own session: nobody else's
        self.process.wait()

    def pids(self) -> list[int]:
        """The process and all below it."""
        return tree(self.process.pid)

    def resident_bytes(self) -> int:
        """Resident memory of its largest process: the worker, where there is one."""
        return max(_resident(pid) for pid in self.pids())

    def proportional_bytes(self) -> int:
        """Memory of all its processes (PSS): what several share counts once."""
        return sum(_proportional(pid) for pid in self.pids())

    def cpu_s(self) -> float:
        """Processor time that all of them have used."""
        return sum(_cpu_s(pid) for pid in self.pids())

    def kill(self) -> None:
        """Ends all its processes at once, as when their machine fails."""
        kill_tree(self.process)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


class Gateway(Server):
    """`bentoml serve .` on a store."""

    def __init__(self, store: str, home: Path, **variables: str) -> None:
        """`variables` are MUNET_ settings and others."""
        super().__init__(bentoml("."), home, "/readyz", MUNET_STORE=store, **variables)


def bentoml(what: str, *options: str) -> tuple[str, ...]:
    """The command that serves a service with BentoML."""
    command = (sys.executable, "-m", "bentoml", "serve", what, *options)
    return (*command, "--host", "127.0.0.1", "--port", "PORT")


def tree(pid: int) -> list[int]:
    """A process and all below it."""
    found = [pid]
    for one in found:
        for children in Path(f"/proc/{one}/task").glob("*/children"):
            with contextlib.suppress(OSError):  # ended meanwhile
                found += [int(child) for child in children.read_text().split()]
    return found


def kill_tree(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL to a process of ours and all below it; a worker may have a session of its own."""
    for pid in tree(process.pid) if process.poll() is None else ():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def _proportional(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:  # ended meanwhile
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def _resident(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:  # ended meanwhile
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))


def busy_s() -> float:
    """Processor time that everything on this machine has used."""
    user, nice, system, _, _, irq, softirq = Path("/proc/stat").read_text().split()[1:8]
    return sum(map(int, (user, nice, system, irq, softirq))) / os.sysconf("SC_CLK_TCK")


def _cpu_s(pid: int) -> float:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:  # ended meanwhile
        return 0.0
    user, system = text.rpartition(")")[2].split()[11:13]  # the name may hold blanks
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
