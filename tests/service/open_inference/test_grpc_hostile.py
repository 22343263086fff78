"""Hostile clients of the gRPC port: what they hold and send keeps nobody from being answered."""

from __future__ import annotations

import http.client
import resource
import socket
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from loadtests.gateways import Gateway
from model_store import ModelStore
from service.open_inference import inference_pb2 as pb
from service.open_inference.grpc_core import MAX_STREAMS
from service.open_inference.grpc_server import PREFIX
from tests.service.fuzzing import Found, fuzz
from tests.service.open_inference import frames
from tests.service.open_inference.frames import Raw, frame, message, pour_all
from tests.service.open_inference.hostile_grpc import hostile_grpc
from tests.service.systems import png, publish
from tests.service.waiting import PATIENCE_S, eventually

FILES = 512  # that the gateway may have open
BODY, MEMORY = 10 * 2**20, 64 * 2**20  # bytes of one body, and of all
GROWTH = 160 * 2**20  # bytes; MEMORY, and what allocators and gRPC's own buffers keep
HEALTH, INFER = "/grpc.health.v1.Health/Check", f"{PREFIX}ModelInfer"
LIVE, STREAM = f"{PREFIX}ServerLive", f"{PREFIX}ModelStreamInfer"
OWN = (("grpc.use_local_subchannel_pool", 1),)  # a connection that nobody else has


@dataclass(frozen=True, slots=True)
class Target:
    """A running gateway, and where it speaks gRPC."""

    gateway: Gateway
    port: int

    def answers(self) -> None:
        """Health over both transports, and a picture."""
        client = http.client.HTTPConnection("127.0.0.1", self.gateway.port, timeout=PATIENCE_S)
        for method, path, body in (
            ("GET", "/livez", b""),
            ("GET", "/readyz", b""),
            ("POST", "/classify/plain", png(1)),
        ):
            client.request(method, path, body, {"content-type": "image/png"})
            answer = client.getresponse()
            assert answer.status == 200, (path, answer.read())
            answer.read()
        client.close()
        with grpc.insecure_channel(f"127.0.0.1:{self.port}", OWN) as channel:
            ask = health_pb2_grpc.HealthStub(channel)
            answer = ask.Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE_S)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory, compilations: str) -> Iterator[Target]:
    """With few files, and little memory for bodies."""
    folder = tmp_path_factory.mktemp("hostile")
    store = ModelStore(folder / "store", create=True)
    publish(store, "plain")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, hard))
    try:
        gateway = Gateway(
            store.url,
            folder / "home",
            MUNET_GRPC_PORT=str(port),
            MUNET_COMPILATION_CACHE=compilations,
            MUNET_PRELOAD="*",
            MUNET_MAX_BATCH_ROWS="4",
            MUNET_MAX_BODY_BYTES=str(BODY),
            MUNET_UPLOAD_MEMORY=str(MEMORY),
        )
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    with gateway:
        yield Target(gateway, port)


Attack = Callable[[int, ExitStack], None]
ATTACKS: dict[str, Attack] = {}


def attack(work: Attack) -> Attack:
    """One way to be a nuisance: what it holds is released when the stack is closed."""
    ATTACKS[work.__name__] = work
    return work


def open_ones(port: int, held: ExitStack, count: int, settings: bytes = b"") -> list[Raw]:
    found = [held.enter_context(Raw(port, settings)) for _ in range(count)]
    for one in found:
        one.read(0.01)
    return found


@attack
def half_sent_messages(port: int, held: ExitStack) -> None:
    half_sent(open_ones(port, held, 4), INFER)


@attack
def half_sent_without_access(port: int, held: ExitStack) -> None:
    half_sent(open_ones(port, held, 4), INFER, x_forwarded_for="192.0.2.1")


@attack
def half_sent_health(port: int, held: ExitStack) -> None:
    half_sent(open_ones(port, held, 4), HEALTH)


def half_sent(clients: list[Raw], path: str, **more: str) -> None:
    """Of 32 messages all but the last byte, as far as the server takes them."""
    streams = [[client.call(path, **more) for _ in range(8)] for client in clients]
    pour_all(clients, streams, message(bytes(BODY - 1), BODY))


@attack
def half_sent_in_small_pieces(port: int, held: ExitStack) -> None:
    for client in open_ones(port, held, 8):
        stream = client.call(INFER, message(b"", BODY))
        client.read(0.2)
        for _ in range(50):
            client.send(frame(frames.DATA, 0, stream, b"x") * 1000)


@attack
def longer_than_allowed(port: int, held: ExitStack) -> None:
    for compressed in (False, True):
        clients = open_ones(port, held, 4)
        streams = [[client.call(INFER, grpc_encoding="gzip")] for client in clients]
        announced = message(bytes(60_000), 2**31, compressed=compressed)
        assert pour_all(clients, streams, announced + bytes(20 * 2**20)) < 4 * BODY


@attack
def bombs(port: int, held: ExitStack) -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    packed = b"".join(packer.compress(bytes(2**20)) for _ in range(128)) + packer.flush()
    clients = open_ones(port, held, 4)
    streams = [[client.call(INFER, grpc_encoding="gzip")] for client in clients]
    whole(clients, streams, message(packed, compressed=True))


def whole(clients: list[Raw], streams: list[list[int]], data: bytes) -> None:
    """All of it, and the end."""
    pour_all(clients, streams, data)
    for client, own in zip(clients, streams, strict=True):
        for stream in own:
            client.send(frame(frames.DATA, frames.END_STREAM, stream))
        client.read(0.1)


@attack
def many_small_submessages(port: int, held: ExitStack) -> None:
    clients = open_ones(port, held, 2)
    for tag in (b"\x2a\0", b"\x32\0", b"\x22\0", b"\x3a\0", b"\x08\1"):
        streams = [[client.call(INFER) for _ in range(2)] for client in clients]
        whole(clients, streams, message(tag * ((BODY - 100) // 2)))


@attack
def calls_without_a_message(port: int, held: ExitStack) -> None:
    for path in (INFER, STREAM, f"{PREFIX}ModelReady", HEALTH, LIVE):
        for client in open_ones(port, held, 8):
            for _ in range(MAX_STREAMS):
                client.call(path)


@attack
def silent_connections(port: int, held: ExitStack) -> None:
    for _ in range(FILES):
        held.enter_context(Raw(port, greet=False))


@attack
def idle_connections(port: int, held: ExitStack) -> None:
    for _ in range(FILES):
        held.enter_context(Raw(port))


@attack
def half_a_preface(port: int, held: ExitStack) -> None:
    for _ in range(FILES):
        held.enter_context(Raw(port, greet=False)).send(frames.PREFACE[:20])


@attack
def preface_without_settings(port: int, held: ExitStack) -> None:
    for _ in range(FILES):
        held.enter_context(Raw(port, greet=False)).send(frames.PREFACE)


@attack
def readers_of_nothing(port: int, held: ExitStack) -> None:
    closed = frames.setting(frames.INITIAL_WINDOW_SIZE, 0)
    request = pb.ModelInferRequest(model_name="plain", inputs=[_image()]).SerializeToString()
    for path, data in ((INFER, request), (STREAM, request), (LIVE, b""), (HEALTH, b"")):
        for client in open_ones(port, held, 4, closed):
            for _ in range(MAX_STREAMS):
                client.call(path, message(data), end=True)


@attack
def socket_that_is_not_read(port: int, held: ExitStack) -> None:
    for client in open_ones(port, held, 4):
        for _ in range(20_000):
            if client.closed:
                break
            client.call("/unknown/method", end=True)


@attack
def calls_taken_back(port: int, held: ExitStack) -> None:
    for path in (INFER, HEALTH, "/unknown/method"):
        for client in open_ones(port, held, 2):
            for _ in range(5000):
                stream = client.call(path)
                client.send(frame(frames.RST_STREAM, 0, stream, b"\0\0\0\x08"))


@attack
def headers_without_an_end(port: int, held: ExitStack) -> None:
    piece = frames.literal(b"x-long", bytes(16_000).replace(b"\0", b"a"))
    for client in open_ones(port, held, 4):
        client.send(frame(frames.HEADERS, 0, 1, frames.head(INFER)))
        for _ in range(2000):
            client.send(frame(frames.CONTINUATION, 0, 1, piece))


@attack
def empty_frames(port: int, held: ExitStack) -> None:
    for kind in (frames.DATA, frames.CONTINUATION, frames.SETTINGS):
        (client,) = open_ones(port, held, 1)
        if kind == frames.CONTINUATION:
            client.send(frame(frames.HEADERS, 0, 1, frames.head(INFER)))
        stream = client.call(INFER) if kind == frames.DATA else int(kind != frames.SETTINGS)
        for _ in range(200):
            client.send(frame(kind, 0, stream) * 1000)


@attack
def pings_and_settings(port: int, held: ExitStack) -> None:
    for one in (frame(frames.PING, 0, 0, bytes(8)), frame(frames.SETTINGS)):
        for client in open_ones(port, held, 4):
            for _ in range(100):
                client.send(one * 1000)


@attack
def windows_that_overflow(port: int, held: ExitStack) -> None:
    for client in open_ones(port, held, 4):
        stream = client.call(INFER)
        for one in (0, stream):
            client.send(frame(frames.WINDOW_UPDATE, 0, one, b"\x7f\xff\xff\xff") * 100)


@attack
def names_that_are_no_text(port: int, held: ExitStack) -> None:
    for path in (b"/\xff\xfe/x", b"", b"/a\0b", INFER.encode() + b"\xff", b"/" + b"a" * 10_000):
        (client,) = open_ones(port, held, 1)
        client.call(path, message(b""), end=True)
        client.read(0.1)


@attack
def other_protocols(port: int, held: ExitStack) -> None:
    for data in (b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", b"\x16\x03\x01\x02\0\1", bytes(100)):
        for greet in (False, True):
            held.enter_context(Raw(port, greet=greet)).send(data * 100)


@attack
def long_names(port: int, held: ExitStack) -> None:
    request = pb.ModelInferRequest(model_name="p" * 2**20).SerializeToString()
    clients = open_ones(port, held, 2)
    streams = [[client.call(INFER) for _ in range(8)] for client in clients]
    whole(clients, streams, message(request))
    for client in clients:
        client.call(INFER, x_big="b" * 60_000)


@attack
def fields_named_again(port: int, held: ExitStack) -> None:
    """A byte each, of which gRPC would make a hundred: it never gets them."""
    again = frames.head(INFER) + b"\x40\1a\1b" + b"\xbe" * 15_000
    for client in open_ones(port, held, 16):
        for stream in range(1, 100, 2):
            client.send(frame(frames.HEADERS, frames.END_HEADERS, stream, again))
        eventually(lambda client=client: client.read(0.05) or client.closed)


def _image() -> pb.ModelInferRequest.InferInputTensor:
    contents = pb.InferTensorContents(bytes_contents=[png(1)])
    return pb.ModelInferRequest.InferInputTensor(
        name="image", datatype="BYTES", shape=[1], contents=contents
    )


def test_frames_make_calls_that_are_answered(target: Target) -> None:
    request = pb.ModelInferRequest(model_name="plain", inputs=[_image()]).SerializeToString()
    with Raw(target.port) as client:
        for path, data in ((INFER, request), (HEALTH, b""), (LIVE, b"")):
            before = client.came[frames.DATA]
            stream = client.call(path, message(data), end=True)
            eventually(lambda stream=stream: client.read(0.05) or client.ended.get(stream))
            assert client.came[frames.DATA] == before + 1, (path, client.came)


SLOW = {
    "half_sent_health",
    "half_a_preface",
    "preface_without_settings",
    "half_sent_in_small_pieces",
    "half_sent_without_access",
    "long_names",
    "many_small_submessages",
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(one, marks=pytest.mark.slow) if one in SLOW else one for one in sorted(ATTACKS)],
)
def test_everybody_else_is_answered(target: Target, name: str) -> None:
    target.answers()
    before = target.gateway.resident_bytes()
    with ExitStack() as held:
        ATTACKS[name](target.port, held)
        target.answers()
        grown = target.gateway.resident_bytes() - before
        assert grown < GROWTH, f"{grown / 2**20:.0f} MiB"
        target.answers()
    target.answers()


def test_a_slice_of_the_hostile_calls_of_the_fuzzer(target: Target) -> None:
    found = Found()
    fuzz(target.port, range(300), 1, found, hostile_grpc)
    assert not found.wrong
    assert {status for _, status in found.answers} == {200, 400}
    assert "Traceback" not in target.gateway.log.read_text()
    target.answers()
