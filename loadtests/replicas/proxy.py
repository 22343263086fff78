"""HAProxy with the shipped configuration, in front of gateways on this machine."""

from __future__ import annotations

import csv
import re
import shutil
import socket
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from loadtests.errors import OptionError
from loadtests.gateways import ROOT, Server

SHIPPED = ROOT / "deploy" / "haproxy"
SOCKET = "/run/haproxy/admin.sock"
HOST = "10.0.0.1"  # of the first replica, with its number behind: 10.0.0.11


def configuration(http: Sequence[str], grpc: Sequence[str]) -> str:
    """The shipped configuration for replicas at these addresses (host:port), as many as there are.

    Without addresses for gRPC there is no gRPC.
    """
    text = (SHIPPED / "haproxy.cfg").read_text()
    if not grpc:
        text = text[: text.index("# gRPC is not hashed")]
    return "".join(_lines(text, http, grpc))


def _lines(text: str, http: Sequence[str], grpc: Sequence[str]) -> Iterator[str]:
    for line in text.splitlines(keepends=True):
        replica = re.match(r" +(?:use-)?server replica([0-9]+) ", line)
        if replica is None:
            yield line
        elif replica[1] == "1":  # the pattern of all others
            addresses = grpc if " proto h2 " in line else http
            for number, address in enumerate(addresses, 1):
                known = line.replace("replica1", f"replica{number}")
                known = re.sub(r" id 1\b", f" id {number}", known)
                yield re.sub(rf" {re.escape(HOST)}1:[0-9]+ ", f" {address} ", known)


class Proxy(Server):
    """HAProxy on a free port of 127.0.0.1, ready when one of its replicas is."""

    def __init__(
        self,
        folder: Path,
        http: Sequence[int],
        *,
        grpc: Sequence[int] = (),
        grpc_port: int = 0,
        tasks: Mapping[str, str] | None = None,
    ) -> None:
        """`http` and `grpc` are the ports of the gateways; `tasks` is what tasks.map says.

        Raises OptionError where there is no HAProxy.
        """
        program = shutil.which("haproxy")
        if program is None:
            raise OptionError(
                "starting HAProxy: expected the program haproxy on the PATH, found none; install "
                "Debian's package haproxy (.ci/packages does)"
            )
        folder.mkdir(parents=True, exist_ok=True)
        self._socket = folder / "admin.sock"
        self._map = folder / "tasks.map"
        self._map.write_text("".join(f"{task} {name}\n" for task, name in (tasks or {}).items()))
        text = configuration(
            [f"127.0.0.1:{port}" for port in http], [f"127.0.0.1:{port}" for port in grpc]
        )
        text = text.replace(SOCKET, str(self._socket)).replace(
            "bind :8080", 'bind "127.0.0.1:${PROXY_PORT}"'
        )
        text = text.replace("bind :8001", f"bind 127.0.0.1:{grpc_port}")
        text = re.sub(r"    (user|group|chroot) .*\n", "", text)  # it runs as this process does
        (folder / "haproxy.cfg").write_text(text)
        command = f"PROXY_PORT=$0 exec {program} -f {folder / 'haproxy.cfg'}"
        super().__init__(("sh", "-c", command, "PORT"), folder, "/readyz")

    def states(self) -> dict[str, Mapping[str, str]]:
        """What HAProxy knows of each replica, by its name: columns of `show stat`, by theirs."""
        return {row["svname"]: row for row in self._replicas() if row["pxname"] == "gateways"}

    def sent(self) -> Counter[str]:
        """Requests over HTTP that each replica was given."""
        found = Counter[str]()
        for row in self._replicas():
            if row["pxname"] in ("gateways", "crowded"):
                found[row["svname"]] += int(row["stot"])
        return found

    def _replicas(self) -> list[dict[str, str]]:
        rows = csv.DictReader(self.ask("show stat").removeprefix("# ").splitlines())
        return [row for row in rows if row["svname"].startswith("replica")]

    def ask(self, command: str) -> str:
        """The answer to a command of HAProxy's runtime interface."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self._socket))
            connection.sendall(f"{command}\n".encode())
            with connection.makefile() as answer:
                return answer.read()
