"""Where a request's time goes: one stage at a time, and all of them together the whole."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import suppress
from itertools import pairwise
from typing import Any

import grpc.aio
import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from model_store import ModelStore
from service.images import File
from service.open_inference import inference_pb2 as pb
from service.request import STAGES, TOTAL, Exchange, Timings
from service.telemetry.access_log import line
from service.telemetry.tracing import Tracing
from tests.service.in_process import OCTETS, Gateway
from tests.service.systems import png, publish
from tests.service.waiting import PATIENCE_S, eventually

METHOD = "/inference.GRPCInferenceService/ModelInfer"
STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
ROUNDED_MS = 0.0005 * len(STAGES) + 0.0006


class Told:
    """A gateway, and what its log and its traces are told of each request."""

    def __init__(self, store: ModelStore, compilations: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.gateway = Gateway(store, compilations, grpc_port=self.port, access_log=True)
        self.exchanges: list[Exchange] = []
        self.runtime.reporting.reports = (self.exchanges.append,)

    @property
    def runtime(self) -> Any:
        return self.gateway.app.state.runtime

    @property
    def last(self) -> Exchange:
        return self.exchanges[-1]

    def sums(self) -> Mapping[tuple[str, str], float]:
        """Of the metric, by outcome and stage."""
        found: Counter[tuple[str, str]] = Counter()
        for metric in self.runtime.metrics.stage_seconds.collect():
            for sample in metric.samples:
                if sample.name.endswith("_sum"):
                    key = sample.labels["outcome"], sample.labels["stage"]
                    found[key] += sample.value  # pyright: ignore[reportArgumentType]
        return found

    def call(self, path: str, *tasks: str, body: bytes | None = None) -> None:
        """Over gRPC, and the stream's messages one after the other."""

        async def ask() -> None:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{self.port}") as channel:
                call: Any = channel.stream_stream(path)()
                for task in tasks:
                    await call.write(message(task, body or png(1)))
                    if path == STREAM:
                        await call.read()
                await call.done_writing()
                while await call.read() is not grpc.aio.EOF:  # pyright: ignore
                    pass

        with suppress(grpc.aio.AioRpcError):
            self.gateway.runner.run(ask())


def message(task: str, image: bytes) -> bytes:
    contents = pb.InferTensorContents(bytes_contents=[image])
    tensor = pb.ModelInferRequest.InferInputTensor(
        name="image", datatype="BYTES", shape=[1], contents=contents
    )
    return pb.ModelInferRequest(model_name=task, inputs=[tensor]).SerializeToString()


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory, compilations: str) -> Iterator[Told]:
    store = ModelStore(tmp_path_factory.mktemp("store"), create=True)
    for task in ("warm", "cold-http", "cold-v2", "cold-grpc", "cold-one-of-two"):
        publish(store, task)
    found = Told(store, compilations)
    assert found.gateway.classify("warm", png(1)).status_code == 200
    yield found
    found.gateway.close()


def v2(gateway: Gateway, task: str, image: bytes) -> httpx.Response:
    size = len(image) + 4
    tensor = {
        "name": "image",
        "datatype": "BYTES",
        "shape": [1],
        "parameters": {"binary_data_size": size},
    }
    head = json.dumps({"inputs": [tensor]}).encode()
    body = head + len(image).to_bytes(4, "little") + image
    length = {"inference-header-content-length": str(len(head))}
    return gateway.request("POST", f"/v2/models/{task}/infer", content=body, headers=length)


def full(told: Told) -> None:
    """A request that finds no room for uploads."""
    told.runtime.uploads.take(1024)
    try:
        assert told.gateway.classify("warm", png(1)).status_code == 503
    finally:
        told.runtime.uploads.give(1024)


def late_in_load(told: Told) -> None:
    store, residency = told.gateway.store, told.runtime.residency
    publish(store, "slow")
    held, load = threading.Event(), residency.load
    residency.load = lambda *a, **k: held.wait(PATIENCE_S) and load(*a, **k)
    try:
        answer = told.gateway.classify("slow", png(1), munet_deadline_ms="50")
        assert answer.status_code == 503
    finally:
        held.set()
        residency.load = load


def failed(told: Told) -> None:
    """The engine fails on it."""
    run = told.runtime.batcher._runner._run
    told.runtime.batcher._runner._run = lambda rows: 1 // 0
    try:
        assert told.gateway.classify("warm", png(1)).status_code == 500
    finally:
        told.runtime.batcher._runner._run = run


def crashed(told: Told) -> None:
    """A defect, of which no answer was foreseen."""
    check = told.runtime.batcher.check
    told.runtime.batcher.check = lambda ask: 1 // 0
    try:
        assert told.gateway.classify("warm", png(1)).status_code == 500
    finally:
        told.runtime.batcher.check = check


def two(told: Told, *tasks: str) -> None:
    asked = "&".join(f"task={task}" for task in tasks)
    answer = told.gateway.request("POST", f"/classify?{asked}", content=png(1), headers=OCTETS)
    assert answer.status_code == 200


WHOLE = ["receive", "load", "receive", "decode", "queue", "execute", "answer"]
OVER_V2 = [*WHOLE[:2], *WHOLE]
# What is done, how it ends, and the stages that the request goes through.
KINDS: Mapping[str, tuple[Callable[[Told], object], str, list[str]]] = {
    "warm": (lambda t: t.gateway.classify("warm", png(1)), "answered", WHOLE),
    "cold": (lambda t: t.gateway.classify("cold-http", png(1)), "answered", WHOLE),
    "two tasks": (lambda t: two(t, "warm", "cold-one-of-two"), "answered", WHOLE),
    "one of two": (lambda t: two(t, "warm", "nothing"), "answered", WHOLE),
    "v2": (lambda t: v2(t.gateway, "warm", png(1)), "answered", OVER_V2),
    "v2, cold": (lambda t: v2(t.gateway, "cold-v2", png(1)), "answered", OVER_V2),
    "v2, unknown": (lambda t: v2(t.gateway, "nothing", png(1)), "refused", ["receive", "load"]),
    "v2, no image": (lambda t: v2(t.gateway, "warm", b"junk"), "refused", OVER_V2[:6]),
    "grpc": (lambda t: t.call(METHOD, "warm"), "answered", OVER_V2),
    "grpc, cold": (lambda t: t.call(METHOD, "cold-grpc"), "answered", OVER_V2),
    "grpc, unknown": (lambda t: t.call(METHOD, "nothing"), "refused", ["receive", "load"]),
    "grpc, no image": (lambda t: t.call(METHOD, "warm", body=b"x"), "refused", OVER_V2[:6]),
    "stream": (lambda t: t.call(STREAM, "warm", "warm"), "answered", OVER_V2),
    "stream, unknown": (lambda t: t.call(STREAM, "warm", "no"), "refused", ["receive", "load"]),
    "unknown task": (lambda t: t.gateway.classify("no", png(1)), "refused", ["receive", "load"]),
    "bad query": (lambda t: t.gateway.classify("warm", png(1), "?x=1"), "refused", ["receive"]),
    "bad image": (lambda t: t.gateway.classify("warm", b"junk"), "refused", WHOLE[:4]),
    "no room": (full, "refused", WHOLE[:3]),
    "late while loading": (late_in_load, "refused", WHOLE[:2]),
    "engine fails": (failed, "failed", WHOLE[:6]),
    "crash": (crashed, "failed", WHOLE[:3]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_stages_of_a_request_are_the_whole_of_it(told: Told, kind: str) -> None:
    act, outcome, stages = KINDS[kind]
    before, many = told.sums(), len(told.exchanges)
    act(told)
    eventually(lambda: len(told.exchanges) > many)
    last = told.last
    assert last.request is not None
    assert last.request.outcome == outcome
    spans = list(last.request.timings.spans(last.ended))
    names = [name for name, _, _ in spans]
    assert names in (stages, [*stages, "answer"])
    # One after the other, with no gap and no overlap, from the first byte to the last.
    assert (spans[0][1], spans[-1][2]) == (last.started, last.ended)
    assert all(began <= ended for _, began, ended in spans)
    assert all(one[2] == following[1] for one, following in pairwise(spans))
    # In the log.
    said = json.loads(line(last))
    parts = {stage: ms for stage, ms in said["stages_ms"].items() if stage != TOTAL}
    assert said["stages_ms"][TOTAL] == said["ms"]
    assert sum(parts.values()) == pytest.approx(said["ms"], abs=ROUNDED_MS)
    assert {stage for stage, ms in parts.items() if ms} <= set(names)
    # In the trace.
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    Tracing(provider).note(last)
    *traced, request = exporter.get_finished_spans()
    assert [one.name for one in traced] == names
    assert (traced[0].start_time, traced[-1].end_time) == (request.start_time, request.end_time)
    # In the metric.
    grown = {key: after - before[key] for key, after in told.sums().items()}
    of_it = {stage: grown[outcome, stage] for stage in STAGES}
    assert sum(of_it.values()) == pytest.approx(grown[outcome, TOTAL], abs=1e-9)
    assert grown[outcome, TOTAL] > 0


@pytest.mark.parametrize("tasks", [("warm",), ("warm", "nothing")])
def test_the_stages_in_an_answer_are_the_whole_until_it_is_formed(
    told: Told, tasks: tuple[str, ...]
) -> None:
    path = "/classify?" + "&".join(f"task={task}" for task in tasks)
    answer = told.gateway.request("POST", path, content=png(1), headers=OCTETS)
    times = answer.json()["timing_ms"]
    whole = times.pop(TOTAL)
    assert list(times) == list(STAGES)
    assert sum(times.values()) == pytest.approx(whole, abs=ROUNDED_MS)
    assert told.last.request is not None
    assert whole / 1e3 <= told.last.request.seconds[TOTAL] + 1e-6


class Gate:
    """Holds a thread, or a coroutine, up until it is opened."""

    def __init__(self) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()

    def before(self, work: Callable[..., Any]) -> Callable[..., Any]:
        def held(*arguments: Any, **named: Any) -> Any:
            self.reached.set()
            assert self.opened.wait(PATIENCE_S)
            return work(*arguments, **named)

        return held

    async def passed(self) -> None:
        self.reached.set()
        while not self.opened.is_set():
            await asyncio.sleep(0.01)


class Held:
    """A request that something holds up, in one stage."""

    def __init__(self, told: Told, stage: str) -> None:
        self.gateway, self.runtime, self.stage = told.gateway, told.runtime, stage
        self.gate = Gate()

    def hold(self, patch: pytest.MonkeyPatch) -> None:
        for stage, owner, name in (
            ("load", self.runtime.residency, "load"),
            ("decode", File, "look"),
            ("execute", self.runtime.batcher._runner, "_run"),
            ("queue", self.runtime.batcher._runner, "_run"),  # another request is there
        ):
            if stage == self.stage:
                patch.setattr(owner, name, self.gate.before(getattr(owner, name)))

    async def body(self) -> AsyncIterator[bytes]:
        if self.stage == "receive":
            await self.gate.passed()
        yield png(1)

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        async def sent(found: Any) -> None:
            if self.stage == "answer" and found["type"] == "http.response.body":
                await self.gate.passed()
            await send(found)

        await self.gateway.app(scope, receive, sent)

    async def ask(self, client: httpx.AsyncClient, task: str, content: Any) -> None:
        answer = await client.post(f"/classify/{task}", content=content, headers=OCTETS)
        assert answer.status_code == 200

    async def story(self, task: str) -> None:
        transport = httpx.ASGITransport(self.app)
        url = "http://localhost"
        async with (
            httpx.AsyncClient(transport=transport, base_url=url) as client,
            asyncio.TaskGroup() as group,
        ):
            if self.stage == "queue":
                group.create_task(self.ask(client, "warm", png(2)))
                await asyncio.to_thread(self.gate.reached.wait, PATIENCE_S)
            group.create_task(self.ask(client, task, self.body()))
            while not (len(self.runtime.batcher) if self.stage == "queue" else self.reached):
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.3)
            self.gate.opened.set()

    @property
    def reached(self) -> bool:
        return self.gate.reached.is_set()


@pytest.mark.parametrize("stage", STAGES)
def test_what_holds_a_request_up_is_blamed(
    told: Told, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stages sum to the whole, so no other can be blamed for it too."""
    task = f"held-{stage}"
    publish(told.gateway.store, task)
    if stage != "load":
        assert told.gateway.classify(task, png(1)).status_code == 200
    held = Held(told, stage)
    held.hold(monkeypatch)
    told.gateway.runner.run(held.story(task))
    seen = [one.request for one in told.exchanges if one.request and one.request.tasks == (task,)][
        -1
    ]
    assert seen.seconds[stage] > 0.29


MOMENTS = st.floats(0, 100, allow_nan=False)


@given(
    st.lists(st.tuples(st.sampled_from(STAGES), MOMENTS), max_size=8),
    st.lists(st.one_of(MOMENTS, st.just(float("inf"))), min_size=3, max_size=3),
    MOMENTS,
)
def test_whatever_is_noted_in_whatever_order_nothing_is_lost_or_counted_twice(
    marks: list[tuple[str, float]], threads: list[float], rest: float
) -> None:
    timings = Timings(0.0)
    timings.marks += sorted(marks, key=lambda mark: mark[1])
    timings.queued, timings.running, timings.ran = threads
    timings.follow()
    ended = timings.marks[-1][1] + rest
    seconds = timings.seconds(ended)
    assert all(value >= 0 for value in seconds.values())
    assert np.isclose(sum(seconds[stage] for stage in STAGES), ended)
    assert seconds[TOTAL] == ended
