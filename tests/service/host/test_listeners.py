"""The end of listening; in a process of its own, as it concerns all sockets of one."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import socket
from service.host.listeners import _listens, stop_listening

server = socket.create_server(("127.0.0.1", 0))
waiting = socket.create_connection(server.getsockname())
assert not stop_listening(last=False), "nobody has accepted it"
accepted, _ = server.accept()
assert stop_listening(last=False)
try:
    socket.create_connection(server.getsockname())
    raise SystemExit("still open")
except ConnectionRefusedError:
    pass
waiting.sendall(b"x")
assert accepted.recv(1) == b"x", "what was accepted stays"

other = socket.create_server(("127.0.0.1", 0))
late = socket.create_connection(other.getsockname())
assert stop_listening(last=True), "in the end without regard"
other.close()
assert not _listens(other)
"""


def test_listening_ends_when_nobody_waits_to_be_accepted_or_at_last() -> None:
    subprocess.run([sys.executable, "-c", CODE], check=True, timeout=60)
