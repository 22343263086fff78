"""Decoding for requests: bounded in pixels and memory, fair, and ended when nobody waits."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import threading
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

import loadtests.gateways
from model_store import ModelStore
from service.images import Decoded, FilePicture
from tests.service.http.clients import Client
from tests.service.in_process import Gateway, refused
from tests.service.pictures.made import bmp_runs, jpeg, png, webp_of_many_groups
from tests.service.systems import TINY, publish
from tests.service.waiting import PATIENCE_S, eventually

PIXELS = 100_000
MEMORY = 8 * 2**20
GATE = (33, 77)  # width and height of images that a test holds up


class Gate:
    """Holds up each image of GATE until it is let through, and counts them all."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.order: list[tuple[int, int]] = []
        self.let = threading.Semaphore(0)
        real = FilePicture.decoded

        def decoded(picture: FilePicture, sizes: Iterable[int]) -> Mapping[int, Decoded]:
            size = picture.picture.width, picture.picture.height
            self.order.append(size)
            if size == GATE:
                assert self.let.acquire(timeout=PATIENCE_S)
            return real(picture, sizes)

        monkeypatch.setattr(FilePicture, "decoded", decoded)

    @property
    def reached(self) -> int:
        return self.order.count(GATE)


@pytest.fixture(scope="module")
def one_thread(tmp_path_factory: pytest.TempPathFactory, compilations: str) -> Iterator[Gateway]:
    store = ModelStore(tmp_path_factory.mktemp("store"), create=True)
    for task in ("a", "b"):
        publish(store, task)
    made = Gateway(
        store, compilations, decode_threads=1, max_batch_rows=32, max_pixels=PIXELS,
        decode_memory=MEMORY,
    )  # fmt: skip
    for task in ("a", "b"):
        assert made.classify(task, png(8, 8)).status_code == 200
    yield made
    made.close()


def v2_body(*images: bytes) -> bytes:
    data = [b64encode(one).decode() for one in images]
    sent = {"name": "image", "datatype": "BYTES", "shape": [len(data)], "data": data}
    return json.dumps({"inputs": [sent]}).encode()


def infer(gateway: Gateway, *images: bytes, task: str = "a") -> httpx.Response:
    return gateway.request("POST", f"/v2/models/{task}/infer", content=v2_body(*images))


async def until(look: Any) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not look():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("end", ["deadline", "leaving"])
def test_decoding_stops_within_one_image(
    one_thread: Gateway, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    gate = Gate(monkeypatch)
    body = json.loads(v2_body(*[png(*GATE)] * 8))
    if end == "deadline":
        body["parameters"] = {"timeout": 300_000}  # microseconds

    async def ask() -> list[int]:
        client = Client(one_thread, "/v2/models/a/infer")
        client.send(json.dumps(body).encode())
        if end == "leaving":
            await until(lambda: gate.reached == 1)
            client.leave()
        async with asyncio.timeout(PATIENCE_S):
            await client.task
        return client.statuses

    assert one_thread.runner.run(ask()) == [504 if end == "deadline" else 499]
    for _ in range(20):
        gate.let.release()
    assert one_thread.classify("b", png(8, 8)).status_code == 200
    assert gate.reached <= 1


def test_a_small_image_waits_for_one_large_image_not_for_a_request_of_them(
    one_thread: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)

    async def ask() -> list[int]:
        large = [Client(one_thread, "/v2/models/a/infer") for _ in range(3)]
        for client in large:
            client.send(v2_body(*[png(*GATE)] * 8))
        await until(lambda: gate.reached == 1)
        small = Client(one_thread, "/classify/b")
        small.send(png(8, 8))
        await until(lambda: one_thread.app.state.runtime.batcher._admission._by_task["b"] == 1)
        for _ in range(100):
            gate.let.release()
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(small.task, *(client.task for client in large))
        return small.statuses + [status for client in large for status in client.statuses]

    assert one_thread.runner.run(ask()) == [200] * 4
    assert gate.order.index((8, 8)) <= 2
    assert gate.reached == 24


def test_pixels_of_a_request_are_bounded(one_thread: Gateway) -> None:
    large = png(PIXELS // 100, 100)
    assert infer(one_thread, *[large] * 4).status_code == 200
    answer = infer(one_thread, *[large] * 4, png(1, 1))
    assert answer.status_code == 413, answer.text
    assert "5 images have 400001 pixels together, at most 400000" in answer.json()["error"]
    assert "MUNET_MAX_REQUEST_PIXELS" in answer.json()["error"]


def test_pixels_that_are_sent_as_such_are_bounded_alike(tmp_path: Path, compilations: str) -> None:
    store = ModelStore(tmp_path, create=True)
    publish(store, "a")
    gateway = Gateway(store, compilations, max_pixels=100, max_request_pixels=150, decode_threads=1)
    try:
        for images, status in [(1, 200), (2, 413)]:
            sent = {"name": "pixels", "datatype": "UINT8", "shape": [images, 10, 10, 3],
                    "data": [7] * images * 300}  # fmt: skip
            body = json.dumps({"inputs": [sent]})
            answer = gateway.request("POST", "/v2/models/a/infer", content=body)
            assert answer.status_code == status, answer.text
    finally:
        gateway.close()


def test_an_image_whose_decoding_never_fits_is_refused_by_name(one_thread: Gateway) -> None:
    grey = png(PIXELS, 1, 8, 0)
    assert one_thread.classify("a", grey).status_code == 200
    body = refused(one_thread.classify("a", png(PIXELS, 1, 16, 6)), 413, "too-large")
    assert "MUNET_DECODE_MEMORY" in body["detail"] and str(MEMORY) in body["detail"]
    assert one_thread.classify("a", grey).status_code == 200


def test_nothing_stays_held_whatever_becomes_of_an_image(one_thread: Gateway) -> None:
    memory = one_thread.app.state.runtime.decode_memory
    for body in (png(8, 8), png(8, 8)[:60], png(2000, 2000), b"none", b""):
        one_thread.classify("a", body)
    gc.collect()
    eventually(lambda: memory._held == 0)
    assert not memory._waiting


def peak_bytes(server: loadtests.gateways.Gateway) -> int:
    """The most that its largest process has had resident."""
    found = []
    for pid in server.pids():
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
            found += [int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")]
    return max(found)


@pytest.mark.slow
def test_pictures_of_few_bytes_and_many_pixels_take_what_is_allowed(
    tmp_path: Path, compilations: str
) -> None:
    """On a real server, all at once: of every format, at every aspect, at the limit."""
    store = ModelStore(tmp_path / "store", create=True)
    publish(store, "plain", replace(TINY, image_size=224, patch_size=32))
    limit = 2**28
    variables = {
        "MUNET_COMPILATION_CACHE": compilations, "MUNET_PRELOAD": "*",
        "MUNET_DECODE_MEMORY": str(limit), "MUNET_DECODE_THREADS": "8",
    }  # fmt: skip
    side, most = 4096, 4096**2
    pictures = [
        *(png(width, most // width) for width in (1, 16, side, 2**18, most)),
        png(most, 1, 16, 6), png(1, most, 16, 6), png(side, side, 16, 6, interlaced=True),
        bmp_runs(most, 1, b"\0\1"), bmp_runs(1, most, b"\0\1"),
        jpeg(side, side), jpeg(side, side, progressive=True, subsampling=0),
        webp_of_many_groups(400, 400),
    ]  # fmt: skip
    with loadtests.gateways.Gateway(store.url, tmp_path / "home", **variables) as server:

        def classify(data: bytes) -> int:
            headers = {"content-type": "application/octet-stream"}
            url = f"http://127.0.0.1:{server.port}/classify/plain"
            return httpx.post(url, content=data, headers=headers, timeout=PATIENCE_S).status_code

        eventually(lambda: classify(png(8, 8)) == 200)
        before = peak_bytes(server)
        with ThreadPoolExecutor(8) as clients:
            statuses = set(clients.map(classify, pictures * 2))
        assert statuses <= {200, 413, 429, 503, 504}
        assert 200 in statuses
        assert peak_bytes(server) - before < 1.3 * limit  # what C keeps included
        assert classify(png(8, 8)) == 200
