"""Nothing whose cost a client chooses runs on the event loop: no turn of it takes long."""

from __future__ import annotations

import gzip
import json
import os
import random
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from tests.service.conftest import Served
from tests.service.host.running import read
from tests.service.systems import TINY, png, publish
from tests.service.turns import LONGEST_S, Turn, Turns
from tests.service.waiting import PATIENCE_S, eventually

ATTEMPTS = 5
MANY = 20_000  # classes of a task, as of the largest data sets
IMAGE, GZIP = {"content-type": "image/png"}, {"content-encoding": "gzip"}
PUNYCODE = "multipart/form-data; charset=punycode; boundary=x"
INFER = "/v2/models/plain/infer"
FILE = b'Content-Disposition: form-data; name="f"; filename="a.png"\r\nContent-Type: image/png'
TEXT = b'Content-Disposition: form-data; name="f"'


@dataclass(frozen=True)
class Sent:
    """What costs much where it is looked at."""

    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    path: str = "/classify/plain"
    method: str = "POST"


def form(*parts: bytes, media: str = "multipart/form-data; boundary=x") -> Sent:
    body = b"".join(b"--x\r\n" + part + b"\r\n" for part in parts) + b"--x--\r\n"
    return Sent(body, {"content-type": media})


def long(name: str, value: str) -> Sent:
    return Sent(png(1), {"content-type": "image/png", name: value[:30_000]})


def v2(data: object, name: str, shape: list[int], **more: object) -> Sent:
    kind = {"image": "BYTES", "pixels": "UINT8", "preprocessed": "FP32"}[name]
    one = {"name": name, "shape": shape, "datatype": kind, "data": data}
    return Sent(json.dumps({"inputs": [one], **more}).encode(), path=INFER)


def best(task: str, count: int, classes: int) -> Sent:
    outputs = [{"name": "logits", "parameters": {"classification": classes}}]
    shape = [count, 16, 16, 3]
    sent = v2([7] * (count * 768), "pixels", shape, outputs=outputs)
    return replace(sent, path=f"/v2/models/{task}/infer")


DIGITS = random.Random(0).choices(range(256), k=600_000)
COSTLY: dict[str, Sent] = {
    "a charset of quadratic cost": form(
        TEXT.replace(b'"f"', b'"tda"') + b"\r\n\r\ntd" + b"a" * 900_000, media=PUNYCODE
    ),
    "many tiny parts": form(*[b"a: b\r\n\r\n"] * 100_000),
    "many fields": form(*[TEXT + b"\r\n\r\na"] * 15_000),
    "many files": form(*[FILE + b"\r\n\r\na"] * 8_000),
    "many headers of a part": form(b"a: b\r\n" * 200_000 + b"\r\n"),
    "a part with a long header": form(TEXT + b";" * 1_000_000 + b"\r\n\r\na"),
    "a part with quoted semicolons": form(b'Content-Disposition: a; b="' + b";" * 1_000_000),
    "almost a boundary": form(FILE + b"\r\n\r\n" + b"\r\n--" * 250_000),
    "many line ends": form(FILE + b"\r\n\r\n" + b"\r\n" * 500_000),
    "a large file": form(FILE + b"\r\n\r\n" + bytes(9_000_000)),
    "a type of semicolons": long("content-type", "multipart/form-data" + ";" * 30_000),
    "a type of quoted semicolons": long("content-type", 'image/png; a="' + ";" * 30_000),
    "a type of parameters": long("content-type", "image/png" + "; a*1*=utf-8''%61" * 2_000),
    "encodings": long("accept-encoding", "a," * 15_000),
    "a trace": long("tracestate", "a=b," * 7_500),
    "a token": long("authorization", "Bearer " + "x" * 29_000),
    "a hundred headers": Sent(
        png(1), {"content-type": "image/png"} | {f"x-{n}": "y" * 290 for n in range(90)}
    ),
    "a query of one letter": Sent(path="/classify?" + "&".join(["task=a"] * 4_000)),
    "a query of separators": Sent(path="/classify/plain?" + "&" * 30_000),
    "a query of fields": Sent(path="/classify/plain?" + "a&" * 15_000),
    "a query of escapes": Sent(path="/classify/plain?version=" + "%E4" * 10_000),
    "a list of tasks": Sent(path="/tasks?" + "limit=1&" * 3_700, method="GET"),
    "a path of escapes": Sent(path="/classify/" + "%E4" * 10_000),
    "a path of versions": Sent(path="/v2/models" + "/versions/1" * 2_700 + "/infer"),
    "numbers in JSON": v2(DIGITS, "pixels", [1, 400, 500, 3]),
    "fractions in JSON": v2([0.123456789] * 500_000, "preprocessed", [1, 16, 16, 3]),
    "lists in JSON": v2([[1]] * 500_000, "pixels", [1, 16, 16, 3]),
    "deep JSON": Sent(b"[" * 1_000_000, path=INFER),
    "objects in JSON": Sent(
        b"{" + b'"a":1,' * 200_000 + b'"b":2}', path=INFER
    ),
    "long texts in JSON": Sent(b'{"id": "' + b"\\u00e9" * 500_000 + b'"}', path=INFER),
    "base64": v2(["A" * 9_000_000], "image", [1, 1]),
    "an index in JSON": Sent(b"[" + b"1," * 30_000 + b"1]", path="/v2/repository/index"),
    "what inflates": Sent(
        gzip.compress(b"[" + b" " * 9_000_000), GZIP, INFER
    ),
    "an image that inflates": Sent(
        gzip.compress(bytes(9_000_000)), GZIP | IMAGE
    ),
    "many best classes": Sent(png(1), IMAGE, f"/classify/many?top_k={MANY}"),
    "many best classes of v2": best("many", 4, MANY),
    "a large body": Sent(bytes(10_000_000), {"content-type": "image/png"}),
    "the description of the API": Sent(path="/openapi.json", method="GET"),
    "metrics": Sent(path="/metrics", method="GET"),
}  # fmt: skip


@pytest.fixture(scope="module")
def watched(served: Served) -> Iterator[Served]:
    if "many" not in served.store.tasks():
        publish(served.store, "many", replace(TINY, num_classes=MANY), own={"head": 5})
    eventually(lambda: served.server.classify("many", png(1)).status == 200)
    assert served.server.classify("plain", png(1)).status == 200
    yield served


def no_turn_takes_long(watched: Served, send: Callable[[], None]) -> None:
    """What a turn has to do is long each time; what disturbs this machine is not."""
    turns: list[Turn] = []
    for _ in range(ATTEMPTS):
        watched.turns.begin()
        send()
        assert watched.server.ask("GET", "/livez").status == 200
        turns.append(watched.turns.longest())
        if turns[-1].cpu_s < LONGEST_S:
            return
    raise AssertionError(turns)


@pytest.mark.parametrize("kind", COSTLY)
def test_no_turn_takes_long(watched: Served, kind: str) -> None:
    sent = COSTLY[kind]

    def send() -> None:
        answer = watched.server.ask(sent.method, sent.path, sent.body, sent.headers)
        assert answer.status < 500

    no_turn_takes_long(watched, send)


def test_nor_does_one_in_which_the_parser_has_much_to_do(watched: Served) -> None:
    head = b"POST /classify/plain HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n"
    floods = [
        head + b"\r\n" + b"1\r\nx\r\n" * 500_000 + b"0\r\n\r\n",
        head + b"\r\n" + b"1;a=b;c=d\r\nx\r\n" * 100_000 + b"0\r\n\r\n",
        head + b"\r\n0\r\n" + b"a: b\r\n" * 100_000,
        head + b"a: b\r\n" * 100_000,
        b"\r\n" * 1_000_000,
        head + b"connection: upgrade\r\nupgrade: h2c\r\n\r\n" + b"1\r\nx\r\n" * 500_000,
        b"GET /livez HTTP/1.1\r\nhost: x\r\nupgrade: a\r\nconnection: upgrade\r\n\r\n" * 20_000,
    ]

    def send() -> None:
        for flood in floods:
            with socket.create_connection(("127.0.0.1", watched.server.port), PATIENCE_S) as client:
                try:
                    client.sendall(flood)
                    client.shutdown(socket.SHUT_WR)
                except OSError:
                    continue  # it was cut
                read(client)

    no_turn_takes_long(watched, send)


BUSY = """
import asyncio, time, uvloop

async def main():
    await asyncio.sleep(0.05)
    over = time.thread_time() + 0.2
    while time.thread_time() < over:
        pass
    await asyncio.sleep(0.05)

with asyncio.Runner(loop_factory=lambda: uvloop.new_event_loop()) as runner:
    runner.run(main())
"""


def test_a_turn_that_takes_long_is_seen(tmp_path: Path) -> None:
    turns = Turns(tmp_path)
    with pytest.raises(FileNotFoundError):
        turns.longest()
    turns.wanted.touch()
    environment = {**os.environ, **turns.variables}
    subprocess.run([sys.executable, "-c", BUSY], env=environment, check=True, timeout=PATIENCE_S)
    turn = turns.longest()
    assert turn.cpu_s > LONGEST_S
    assert "main" in turn.where
