"""Hostile requests against a real gateway: no answer of 500 and above, no hang, no growth, and no
turn of its event loop that takes long.

python -m tests.service.fuzzing --cases 20000
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from loadtests.gateways import Gateway
from model_store import ModelStore
from service.host.connections import HEAD_S
from tests.service.hostile import Hostile, hostile
from tests.service.open_inference.hostile_grpc import hostile_grpc, say
from tests.service.systems import png, publish
from tests.service.turns import LONGEST_S, Turn, Turns

CLIENTS = 3
DEADLINE_S = 10.0  # the gateway's own
SLACK_S = 10.0  # of a busy machine
TIMEOUT_S = DEADLINE_S + HEAD_S + SLACK_S
LOOK_EVERY = 1000  # cases, for the size of the process
OVER_GRPC = 5  # one call over gRPC for this many requests over HTTP, next to them
GROWTH_BYTES = 128 * 2**20  # what the allocator keeps in pieces levels off below it


@dataclass
class Found:
    """What came back, by kind and status, and what should not have happened."""

    answers: Counter[tuple[str, int]] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    resident: list[int] = field(default_factory=list)  # bytes, after each LOOK_EVERY cases
    slowest_s: float = 0.0
    turn: Turn | None = None  # the longest of the event loop


class Client:
    """Sends cases one after another, and keeps its connections where a case allows it."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.http = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)

    def status(self, case: Hostile) -> int:
        """The answer's status; raises OSError or HTTPException where there is none."""
        return SENDERS[case.protocol](self, case)

    def ask(self, case: Hostile) -> int:
        """A request that a client library makes."""
        headers = {name: value.encode("latin-1", "replace") for name, value in case.headers.items()}
        try:
            self.http.request(case.method, case.path, case.body, headers)
            answer = self.http.getresponse()
            answer.read()
        except (OSError, http.client.HTTPException):
            self.http.close()
            raise
        return answer.status

    def raw(self, case: Hostile) -> int:
        """The first answer's status; 0 if the connection was closed without one."""
        self.http.close()  # it might be idle for too long meanwhile
        answer = b""
        with (
            socket.create_connection(("127.0.0.1", self.port), timeout=TIMEOUT_S) as client,
            contextlib.suppress(OSError),  # it may be closed already
        ):
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for piece in case.raw:
                client.sendall(piece)
            if case.ends:
                client.shutdown(socket.SHUT_WR)
            while data := client.recv(65536):
                answer += data
        # From a client that has ended its sending, the answer may have begun and not come.
        return int(answer[9:12]) if len(answer) > 12 else 0

    def grpc(self, case: Hostile) -> int:
        """What a connection to the port of gRPC says."""
        return say(self.port, case)


Make = Callable[[int, int], Hostile]
SENDERS: Mapping[str, Callable[[Client, Hostile], int]] = {
    "http": Client.ask,
    "raw": Client.raw,
    "grpc": Client.grpc,
}


def fuzz(port: int, numbers: range, seed: int, found: Found, make: Make = hostile) -> None:
    """Sends the cases of these numbers, several at a time."""
    waiting = iter(numbers)
    threads = [
        threading.Thread(target=_work, args=(Client(port), waiting, seed, found, make))
        for _ in range(CLIENTS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _work(client: Client, waiting: Iterator[int], seed: int, found: Found, make: Make) -> None:
    for number in waiting:
        case = make(number, seed)
        started = time.monotonic()
        try:
            status = client.status(case)
        except (OSError, http.client.HTTPException) as error:
            found.wrong.append(f"case {number} ({case.kind}): {error!r}")
            continue
        seconds = time.monotonic() - started
        found.answers[case.kind, status] += 1
        found.slowest_s = max(found.slowest_s, seconds)
        if _wrong(case, status) or seconds > TIMEOUT_S:
            found.wrong.append(f"case {number} ({case.kind}): {status} after {seconds:.1f} s")


def _wrong(case: Hostile, status: int) -> bool:
    own_deadline = status in (503, 504) and "munet-deadline-ms" in case.headers
    not_spoken = status in (501, 505)  # of HTTP, or of the protocol's extensions
    return status >= 500 and not own_deadline and not not_spoken


def run(cases: int, seed: int, folder: Path, **variables: str) -> Found:
    """All cases against a gateway of its own; growth is what comes after the first fifth."""
    store = ModelStore(folder / "store", create=True)
    publish(store, "plain")
    publish(store, "b", own={"encoderblock_1": 1})
    found, turns = Found(), Turns(folder / "turns")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {"MUNET_MAX_BATCH_ROWS": "4", "MUNET_PRELOAD": "*", "MUNET_GRPC_PORT": str(port)}
    settings |= variables
    with Gateway(store.url, folder / "home", **settings, **turns.variables) as gateway:
        healthy = Hostile("healthy", headers={"content-type": "image/png"}, body=png(1))
        Client(gateway.port).status(healthy)
        turns.begin()
        for start in range(0, cases, LOOK_EVERY):
            numbers = range(start, min(start + LOOK_EVERY, cases))
            fuzz(gateway.port, numbers, seed, found)
            fuzz(port, numbers[: len(numbers) // OVER_GRPC], seed, found, hostile_grpc)
            found.resident.append(gateway.resident_bytes())
        settled = found.resident[(len(found.resident) - 1) // 5]
        if found.resident[-1] - settled > GROWTH_BYTES:
            found.wrong.append(f"grown by more than {GROWTH_BYTES} bytes")
        if Client(gateway.port).status(healthy) != 200:
            found.wrong.append("a good image was not answered afterwards")
        found.turn = turns.longest()
        if found.turn.cpu_s > LONGEST_S:
            found.wrong.append(f"a turn of the event loop was too long: {found.turn}")
        if "Traceback" in gateway.log.read_text(errors="replace"):
            found.wrong.append(f"a traceback in {gateway.log}")
    return found


def main() -> None:
    """Prints what came back; exit code 1 if something should not have happened."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="fuzz-gateway-"))
    started = time.monotonic()
    found = run(options.cases, options.seed, folder)
    kinds = sorted({kind for kind, _ in found.answers})
    for kind in kinds:
        statuses = {s: n for (k, s), n in sorted(found.answers.items()) if k == kind}
        sys.stdout.write(f"{kind:12} {statuses}\n")
    seconds = time.monotonic() - started
    sys.stdout.write(f"{options.cases} cases in {seconds:.0f} s, slowest {found.slowest_s:.2f} s\n")
    sys.stdout.write(f"longest of the event loop: {found.turn}\n")
    resident = ", ".join(f"{size / 2**20:.0f}" for size in found.resident)
    sys.stdout.write(f"resident after each {LOOK_EVERY} cases: {resident} MiB\n")
    sys.stdout.write("".join(f"WRONG {line}\n" for line in found.wrong))
    raise SystemExit(1 if found.wrong else 0)


if __name__ == "__main__":
    main()
