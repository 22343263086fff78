"""Hostile calls over gRPC without end, each made from its number: messages, frames, halves."""

from __future__ import annotations

import contextlib
import gzip
import socket
from random import Random

from service.open_inference import inference_pb2 as pb
from service.open_inference.grpc_server import NOT_SERVED_METHODS, PREFIX, SERVICE
from tests.model_store.mutations import mutate_bytes
from tests.service.costly import Hostile
from tests.service.open_inference import frames
from tests.service.open_inference.frames import frame, literal, message
from tests.service.systems import png

PATHS = (
    *(f"{PREFIX}{method.name}".encode() for method in SERVICE.methods),
    *(f"{PREFIX}{name}".encode() for name in NOT_SERVED_METHODS),
    b"/grpc.health.v1.Health/Check",
    b"/grpc.health.v1.Health/Watch",
    b"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    b"/no.Service/Call", b"", b"/", b"/\xff\xfe", b"/a\0b", b"/" + b"a" * 9000,
)  # fmt: skip
HEADERS = (
    (b"grpc-timeout", b"1m"), (b"grpc-timeout", b"99999999H"), (b"grpc-timeout", b"-1S"),
    (b"grpc-encoding", b"gzip"), (b"grpc-encoding", b"deflate"), (b"grpc-encoding", b"zzz"),
    (b"authorization", b"Bearer x"), (b"authorization", b"\xff"), (b"x-bin", b"!!!!"),
    (b"x-request-id", b"a" * 9000), (b"traceparent", b"00-zz"), (b"x\xff", b"a"), (b"", b"a"),
    (b"te", b"trailers"), (b"content-type", b"text/html"), (b"x-long", b"a" * 20_000),
    (b"host", b"other"), (b":path", b"/other"), (b"content-length", b"5"),
)  # fmt: skip
TIMEOUT_S = 30.0
PING = frame(frames.PING, 0, 0, b"the last")
PONG = frame(frames.PING, frames.ACK, 0, b"the last")


def hostile_grpc(number: int, seed: int = 0) -> Hostile:
    """The same for the same numbers; `raw` is what a connection says, from its beginning."""
    random = Random(f"grpc:{seed}:{number}")
    kind = random.choice(["messages", "calls", "frames", "garbage", "half"])
    sent = frames.PREFACE + frame(frames.SETTINGS, payload=_settings(random))
    for stream in range(1, 2 * random.choice([1, 1, 2, 20]), 2):
        sent += _call(kind, random, stream)
    if kind == "garbage":
        sent = mutate_bytes(sent, random)
    if kind == "half":
        sent = sent[: random.randrange(len(sent))]
    ends = kind in ("garbage", "half") or random.random() < 0.1  # else a frame may wait for its end
    return Hostile(f"grpc {kind}", protocol="grpc", raw=[sent], ends=ends)


def say(port: int, case: Hostile) -> int:
    """Says it and waits until all of it was looked at; 200 if the connection outlives it, or 400.

    Raises OSError if nothing comes for long.
    """
    came = b""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S) as client,
        contextlib.suppress(ConnectionError),
    ):
        client.sendall(b"".join(case.raw))
        if case.ends:
            with contextlib.suppress(OSError):  # closed already
                client.shutdown(socket.SHUT_WR)
        else:
            client.sendall(PING)
        while PONG not in came and (data := client.recv(1 << 16)):
            came += data
    return 200 if PONG in came else 400


def _settings(random: Random) -> bytes:
    return random.choice(
        [
            b"",
            b"",
            b"",
            frames.setting(frames.INITIAL_WINDOW_SIZE, random.choice([0, 1, 2**31 - 1])),
        ]
    )


def _call(kind: str, random: Random, stream: int) -> bytes:
    path = random.choice(PATHS) if kind == "calls" else f"{PREFIX}ModelInfer".encode()
    more = random.sample(HEADERS, 2) if kind == "calls" else []
    head = frames.head(path) + b"".join(literal(name, value) for name, value in more)
    data = _message(random)
    if kind != "calls":
        data = mutate_bytes(data, random)
    compressed = random.random() < 0.2
    if compressed and random.random() < 0.5:
        data = gzip.compress(data * random.choice([1, 1, 100]), mtime=0)
    size = random.choice([len(data)] * 6 + [0, len(data) + 1, 2**31, 2**32 - 1])
    body = message(data, size, compressed=compressed)[:60_000]
    parts = [frame(frames.HEADERS, frames.END_HEADERS, stream, head[:16_384])]
    step = random.choice([16_384, 16_384, 100])
    parts += [
        frame(frames.DATA, 0, stream, body[at : at + step]) for at in range(0, len(body), step)
    ]
    if random.random() < 0.9:
        parts.append(frame(frames.DATA, frames.END_STREAM, stream))
    if kind == "frames":
        parts.insert(random.randrange(len(parts) + 1), _frame(random))
        random.shuffle(parts)
    return b"".join(parts)


def _frame(random: Random) -> bytes:
    """Of any kind, with any content."""
    payload = random.randbytes(random.choice([0, 4, 5, 8, 6, 9, 100]))
    stream = random.choice([0, 1, 2, 3, 2**31 - 1, 2**31, 99])
    return frame(random.choice([*range(11), 255]), random.randrange(256), stream, payload)


def _message(random: Random) -> bytes:
    """A request to infer, more or less."""
    image = random.choice([png(random.randrange(4)), b"", b"no image", bytes(9000)])
    kind = random.choice(["BYTES", "BYTES", "UINT8", "FP32", "", "x"])
    tensor = pb.ModelInferRequest.InferInputTensor(
        name=random.choice(["image", "image", "pixels", "preprocessed", ""]),
        datatype=kind,
        shape=random.choice([[1], [1, 1], [-1], [0], [2**40], [1, 16, 16, 3], [1] * 50]),
    )
    raw = [image] * random.choice([0, 1, 1, 2])
    if not raw:
        tensor.contents.bytes_contents.append(image)
    return pb.ModelInferRequest(
        model_name=random.choice(["plain", "plain", "b", "", "plains", "x" * 3000]),
        model_version=random.choice(["", "", "1", "9", "x", "-1"]),
        inputs=[tensor] * random.choice([1, 1, 0, 2, 300]),
        raw_input_contents=raw,
    ).SerializeToString()
