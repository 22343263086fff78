"""Hostile requests against a real gateway: no answer of 500 and above, no hang, no growth.

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
from dataclasses import dataclass, field
from pathlib import Path

from loadtests.gateways import Gateway
from model_store import ModelStore
from service.http.connections import HEAD_S
from tests.service.hostile import Hostile, hostile
from tests.service.systems import png, publish

CLIENTS = 3
DEADLINE_S = 10.0  # the gateway's own
SLACK_S = 10.0  # of a busy machine
GROWTH_BYTES = 128 * 2**20  # what the allocator keeps in pieces levels off below it


@dataclass
class Found:
    """What came back, by kind and status, and what should not have happened."""

    answers: Counter[tuple[str, int]] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    resident: list[int] = field(default_factory=list)  # bytes, after each fifth of the cases
    slowest_s: float = 0.0


def fuzz(port: int, numbers: range, seed: int, found: Found) -> None:
    """Sends the cases of these numbers, several at a time."""
    waiting = iter(numbers)

    def work() -> None:
        connection = _connection(port)
        for number in waiting:
            case = hostile(number, seed)
            started = time.monotonic()
            try:
                if case.raw:
                    connection.close()  # it might be idle for too long meanwhile
                status = _raw(port, case) if case.raw else _ask(connection, case)
            except (OSError, http.client.HTTPException) as error:
                found.wrong.append(f"case {number} ({case.kind}): {error!r}")
                connection = _connection(port)
                continue
            seconds = time.monotonic() - started
            found.answers[case.kind, status] += 1
            found.slowest_s = max(found.slowest_s, seconds)
            own_deadline = status in (503, 504) and "munet-deadline-ms" in case.headers
            if (status >= 500 and not own_deadline) or seconds > DEADLINE_S + HEAD_S + SLACK_S:
                found.wrong.append(f"case {number} ({case.kind}): {status} after {seconds:.1f} s")

    threads = [threading.Thread(target=work) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _connection(port: int) -> http.client.HTTPConnection:
    timeout = DEADLINE_S + HEAD_S + SLACK_S
    return http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)


def _ask(connection: http.client.HTTPConnection, case: Hostile) -> int:
    headers = {name: value.encode("latin-1", "replace") for name, value in case.headers.items()}
    connection.request("POST", case.path, case.body, headers)
    answer = connection.getresponse()
    answer.read()
    return answer.status


def _raw(port: int, case: Hostile) -> int:
    """The first answer's status; 0 if the connection was closed without one."""
    timeout = DEADLINE_S + HEAD_S + SLACK_S
    answer = b""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=timeout) as client,
        contextlib.suppress(ConnectionError),
    ):
        client.sendall(case.raw)
        client.sendall(b"\r\n\r\n")
        while data := client.recv(65536):
            answer += data
    return int(answer[9:12]) if answer else 0


def run(cases: int, seed: int, folder: Path, **variables: str) -> Found:
    """All cases against a gateway of its own; growth is what comes after the first fifth."""
    store = ModelStore(folder / "store", create=True)
    publish(store, "plain")
    publish(store, "b", own={"encoderblock_1": 1})
    found = Found()
    settings = {"MUNET_MAX_BATCH_ROWS": "4", "MUNET_PRELOAD": "*", **variables}
    with Gateway(store.url, folder / "home", **settings) as gateway:
        healthy = Hostile("healthy", headers={"content-type": "image/png"}, body=png(1))
        for start in range(0, cases, cases // 5):
            fuzz(gateway.port, range(start, start + cases // 5), seed, found)
            found.resident.append(gateway.resident_bytes())
        if found.resident[-1] - found.resident[0] > GROWTH_BYTES:
            found.wrong.append(f"grown by more than {GROWTH_BYTES} bytes")
        if _ask(_connection(gateway.port), healthy) != 200:
            found.wrong.append("a good image was not answered afterwards")
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
    resident = ", ".join(f"{size / 2**20:.0f}" for size in found.resident)
    sys.stdout.write(f"resident after each fifth: {resident} MiB\n")
    sys.stdout.write("".join(f"WRONG {line}\n" for line in found.wrong))
    raise SystemExit(1 if found.wrong else 0)


if __name__ == "__main__":
    main()
