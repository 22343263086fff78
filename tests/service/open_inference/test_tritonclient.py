"""The protocol's own client, unchanged, over both transports: every call that it offers."""

from __future__ import annotations

import asyncio
import queue
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc.aio
import tritonclient.http.aio
from tritonclient.utils import InferenceServerException

from tests.service.open_inference.clients import Client, expected, refused
from tests.service.open_inference.conftest import ADMIN, WIDE, Spoken
from tests.service.systems import TINY, image, multipath, png, publish
from tests.service.waiting import eventually
from vit import preprocess


@pytest.fixture(params=["http", "grpc"])
def client(request: pytest.FixtureRequest, spoken: Spoken) -> Iterator[Client]:
    found = Client(request.param, spoken)
    yield found
    found.raw.close()


def test_health_and_metadata(client: Client) -> None:
    assert client.raw.is_server_live()
    assert client.raw.is_server_ready()
    assert client.raw.is_model_ready(WIDE)
    assert client.raw.is_model_ready(WIDE, "1")
    server = client.ask("get_server_metadata")
    assert server["name"] == "munet-gateway"
    assert {"binary_tensor_data", "classification", "statistics"} < set(server["extensions"])
    model = client.ask("get_model_metadata", WIDE)
    assert model == {
        "name": WIDE,
        "versions": ["1", "2"],
        "platform": "munet_safetensors",
        "inputs": [
            {"name": "image", "datatype": "BYTES", "shape": [-1, 1]},
            {"name": "pixels", "datatype": "UINT8", "shape": [-1, -1, -1, 3]},
            {"name": "preprocessed", "datatype": "FP32", "shape": [-1, 16, 16, 3]},
        ],
        "outputs": [
            {"name": "probabilities", "datatype": "FP32", "shape": [-1, 10]},
            {"name": "logits", "datatype": "FP32", "shape": [-1, 10]},
            {"name": "calibrated", "datatype": "FP32", "shape": [-1, 10]},
            {"name": "features", "datatype": "FP32", "shape": [-1, 32]},
        ],
    }
    assert client.ask("get_model_metadata", WIDE, "1") == model


def test_configuration(client: Client) -> None:
    found = client.ask("get_model_config", WIDE, "stable")
    config = found.get("config", found)
    assert (config["name"], config["max_batch_size"]) == (WIDE, 4)
    assert config["parameters"]["version"] == {"string_value": "1"}
    assert config["input"][0]["data_type"] == "TYPE_STRING"
    assert [one["dims"] for one in config["output"]] == [[10], [10], [10], [32]]


def test_unknown_models_and_versions(client: Client, spoken: Spoken) -> None:
    if client.transport == "http":
        assert not client.raw.is_model_ready("nothing")
    else:
        refused(client, 404, "is_model_ready", "nothing")
    assert "did you mean plain" in refused(client, 404, "get_model_metadata", "plains")
    refused(client, 404, "get_model_metadata", WIDE, "3")
    refused(client, 404, "get_model_config", WIDE, "canary")
    refused(client, 400, "get_model_config", WIDE, "-1")
    refused(client, 404, "infer", "nothing", client.images(png(1)))
    refused(client, 404, "infer", WIDE, client.images(png(1)), model_version="3")
    refused(client, 404, "get_inference_statistics", "nothing")


@pytest.mark.parametrize("shape", [(3,), (3, 1)])
def test_image_files(client: Client, spoken: Spoken, shape: tuple[int, ...]) -> None:
    files = np.array([png(1), png(2), png(3)], object).reshape(shape)
    found = client.raw.infer(WIDE, [client.input("image", "BYTES", files)])
    odds, logits = found.as_numpy("probabilities"), found.as_numpy("logits")
    np.testing.assert_allclose(odds, expected(spoken, WIDE, 1, 2, 3), atol=1e-6)
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    np.testing.assert_allclose(powers / powers.sum(axis=1, keepdims=True), odds, atol=1e-6)
    assert (odds.dtype, logits.dtype) == (np.float32, np.float32)


def test_pixels(client: Client, spoken: Spoken) -> None:
    pixels = np.stack([np.asarray(image(1)), np.asarray(image(2))])
    found = client.raw.infer(WIDE, [client.input("pixels", "UINT8", pixels)])
    wanted = expected(spoken, WIDE, 1, 2)
    np.testing.assert_allclose(found.as_numpy("probabilities"), wanted, atol=1e-6)
    ready = preprocess(pixels, 16)
    found = client.raw.infer(WIDE, [client.input("preprocessed", "FP32", ready)])
    np.testing.assert_allclose(found.as_numpy("probabilities"), wanted, atol=1e-6)


def test_pixels_of_another_size_are_resized(client: Client) -> None:
    pixels = np.asarray(image(5, (40, 24)))[None]
    found = client.raw.infer(WIDE, [client.input("pixels", "UINT8", pixels)])
    ready = client.input("preprocessed", "FP32", preprocess(pixels, 16))
    wanted = client.raw.infer(WIDE, [ready]).as_numpy("logits")
    np.testing.assert_allclose(found.as_numpy("logits"), wanted, atol=1e-6)


def test_classification(client: Client, spoken: Spoken) -> None:
    wanted = client.output("probabilities", class_count=2)
    found = client.raw.infer(WIDE, client.images(png(1), png(2)), outputs=[wanted])
    assert found.as_numpy("logits") is None
    texts = found.as_numpy("probabilities")
    assert texts.shape == (2, 2)
    odds = expected(spoken, WIDE, 1, 2)
    for row, given in zip(odds, texts, strict=True):
        for index, text in zip(np.argsort(-row)[:2], given, strict=True):
            value, number, label = text.decode().split(":", 2)
            assert (int(number), label) == (index, f"{WIDE}:{index}")
            assert float(value) == pytest.approx(row[index], abs=1e-6)
    many = [client.output("logits", class_count=11)]
    found = client.raw.infer(WIDE, client.images(png(1)), outputs=many)
    assert found.as_numpy("logits").shape == (1, 10)


def test_features(client: Client, spoken: Spoken) -> None:
    """Those of /embed, of any depth, alone and with other outputs."""
    files = client.images(png(1), png(2))
    for outputs, options in (
        (["features"], {"parameters": {"depth": 1}}),
        (["features", "calibrated"], {}),
    ):
        wanted = [client.output(name) for name in outputs]
        found = client.raw.infer(WIDE, files, outputs=wanted, **options)
        query = "?depth=1" if options else ""
        for place, seed in enumerate((1, 2)):
            answer = spoken.server.ask(
                "POST", f"/embed/{WIDE}{query}", png(seed), {"content-type": "image/png"}
            )
            expected_ones = np.array(answer.json["features"], np.float32)
            given = found.as_numpy("features")[place]
            np.testing.assert_allclose(given, expected_ones, atol=1e-5)
    np.testing.assert_allclose(
        found.as_numpy("calibrated"), expected(spoken, WIDE, 1, 2), atol=1e-6
    )


def test_ids_versions_and_aliases(client: Client) -> None:
    inputs = client.images(png(1))
    live = client.raw.infer(WIDE, inputs, request_id="mine").get_response()
    get = live.get if isinstance(live, dict) else lambda name: getattr(live, name)
    assert (get("id"), get("model_name"), get("model_version")) == ("mine", WIDE, "2")
    first = client.raw.infer(WIDE, inputs, model_version="1").as_numpy("logits")
    named = client.raw.infer(WIDE, inputs, model_version="stable").as_numpy("logits")
    np.testing.assert_array_equal(first, named)
    assert not np.array_equal(first, client.raw.infer(WIDE, inputs).as_numpy("logits"))


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_compression(client: Client, spoken: Spoken, encoding: str) -> None:
    flat = np.zeros((4, 50, 50, 3), np.uint8)
    options = (
        {"request_compression_algorithm": encoding, "response_compression_algorithm": encoding}
        if client.transport == "http"
        else {"compression_algorithm": encoding}
    )
    inputs = [client.input("pixels", "UINT8", flat)]
    found = client.raw.infer(WIDE, inputs, **options)
    wanted = client.raw.infer(WIDE, inputs)
    for name in ("probabilities", "logits"):
        np.testing.assert_array_equal(found.as_numpy(name), wanted.as_numpy(name))
    bomb = [client.input("pixels", "UINT8", np.zeros((1, 500, 500, 3), np.uint8))]
    refused(client, 413, "infer", WIDE, bomb, **options)


def test_inputs_that_do_not_fit(client: Client) -> None:
    pixels = np.zeros((1, 8, 8, 4), np.uint8)
    text = refused(client, 400, "infer", WIDE, [client.input("pixels", "UINT8", pixels)])
    assert "expected UINT8 [n, height, width, 3], found 'UINT8' [1, 8, 8, 4]" in text
    small = np.zeros((1, 8, 8, 3), np.float32)
    text = refused(client, 400, "infer", WIDE, [client.input("preprocessed", "FP32", small)])
    assert "[n, 16, 16, 3]" in text
    loud = np.full((1, 16, 16, 3), 2, np.float32)
    refused(client, 400, "infer", WIDE, [client.input("preprocessed", "FP32", loud)])
    text = refused(client, 400, "infer", WIDE, client.images(*[png(1)] * 5))
    assert "at most 4 rows" in text
    assert "expected PNG" in refused(client, 400, "infer", WIDE, client.images(png(1), b"no image"))
    other = [client.input("anything", "UINT8", np.zeros((1, 2), np.uint8))]
    refused(client, 400, "infer", WIDE, other)
    refused(client, 400, "infer", WIDE, client.images(png(1)) * 2)
    refused(client, 400, "infer", WIDE, client.images(png(1)), outputs=[client.output("labels")])


def test_schedule_policy(client: Client) -> None:
    found = client.raw.infer(WIDE, client.images(png(1)), priority=1, timeout=10_000_000)
    assert found.as_numpy("logits").shape == (1, 10)
    refused(client, 504, "infer", WIDE, client.images(png(1)), timeout=1)


def test_the_repository(client: Client) -> None:
    def states(only: bool = False) -> dict[str, str]:
        found = client.ask("get_model_repository_index")
        models = found["models"] if isinstance(found, dict) else found
        return {one["name"]: one["state"] for one in models}

    client.ask("load_model", "plain", headers=ADMIN)
    assert states()["plain"] == "READY"
    client.ask("unload_model", "plain", headers=ADMIN)
    assert states()["plain"] == "UNAVAILABLE"
    assert client.raw.is_model_ready("plain")  # it is loaded by its next request
    assert client.raw.infer("plain", client.images(png(1))).as_numpy("logits").shape == (1, 3)
    assert states()["plain"] == "READY"
    refused(client, 404, "load_model", "nothing", headers=ADMIN)
    refused(client, 404, "unload_model", "nothing", headers=ADMIN)
    refused(client, 501, "load_model", "plain", headers=ADMIN, config="{}")
    refused(client, 401, "load_model", "plain")
    refused(client, 401, "unload_model", "plain", headers={"authorization": "Bearer other"})


def test_statistics(client: Client) -> None:
    def stats() -> dict[str, Any]:
        (found,) = client.ask("get_inference_statistics", WIDE, "2")["model_stats"]
        assert (found["name"], found["version"]) == (WIDE, "2")
        return found

    client.raw.infer(WIDE, client.images(png(1)))
    before = stats()
    client.raw.infer(WIDE, client.images(png(1), png(2)))
    refused(client, 400, "infer", WIDE, client.images(b"no image"))
    after = stats()
    assert after["inference_count"] == before["inference_count"] + 2
    assert after["execution_count"] == before["execution_count"] + 1
    assert after["last_inference"] >= before["last_inference"] > 1.7e12
    for name, more in (("success", 1), ("fail", 1), ("queue", 1), ("compute_infer", 1)):
        was, now = before["inference_stats"][name], after["inference_stats"][name]
        assert now["count"] == was["count"] + more
        assert now["ns"] >= was["ns"]
    assert {one["batch_size"] for one in after["batch_stats"]} >= {1, 2}
    every = client.ask("get_inference_statistics")["model_stats"]
    assert {one["name"] for one in every} == {WIDE, "plain"}


def test_what_does_not_apply_says_so(client: Client) -> None:
    for call, arguments in (
        ("get_trace_settings", ()),
        ("update_trace_settings", (WIDE, {"trace_level": "OFF"})),
        ("get_log_settings", ()),
        ("update_log_settings", ({"log_info": True},)),
        ("get_system_shared_memory_status", ()),
        ("register_system_shared_memory", ("region", "/key", 8)),
        ("unregister_system_shared_memory", ("region",)),
        ("get_cuda_shared_memory_status", ()),
        ("register_cuda_shared_memory", ("region", b"aGFuZGxl", 0, 8)),
        ("unregister_cuda_shared_memory", ()),
    ):
        assert "not served here" in refused(client, 501, call, *arguments)
    shared = client.module.InferInput("pixels", [1, 2, 2, 3], "UINT8")
    shared.set_shared_memory("region", 12)
    assert "shared memory" in refused(client, 501, "infer", WIDE, [shared])


def test_values_in_json(spoken: Spoken) -> None:
    client = Client("http", spoken)
    plain = [client.output("probabilities", binary_data=False)]
    wanted = expected(spoken, WIDE, 1)
    pixels = np.asarray(image(1))[None]
    for given in (
        client.input("pixels", "UINT8", pixels, binary_data=False),
        client.input("preprocessed", "FP32", preprocess(pixels, 16), binary_data=False),
        client.input("image", "BYTES", [b64encode(png(1))], binary_data=False),
    ):
        found = client.raw.infer(WIDE, [given], outputs=plain)
        np.testing.assert_allclose(found.as_numpy("probabilities"), wanted, atol=1e-6)


def test_bodies_made_and_parsed_apart(spoken: Spoken) -> None:
    client = Client("http", spoken)
    body, size = client.raw.generate_request_body(client.images(png(1)))
    headers = {} if size is None else {"Inference-Header-Content-Length": str(size)}
    reply = spoken.server.ask("POST", f"/v2/models/{WIDE}/infer", body, headers)
    length = int(reply.headers["inference-header-content-length"])
    found = client.raw.parse_response_body(reply.body, header_length=length)
    np.testing.assert_allclose(
        found.as_numpy("probabilities"), expected(spoken, WIDE, 1), atol=1e-6
    )


def test_calls_without_waiting(client: Client, spoken: Spoken) -> None:
    wanted = expected(spoken, WIDE, 1)
    inputs = client.images(png(1))
    if client.transport == "http":
        found = client.raw.async_infer(WIDE, inputs).get_result()
    else:
        done: queue.Queue[Any] = queue.Queue()
        client.raw.async_infer(WIDE, inputs, lambda result, error: done.put(error or result))
        found = done.get(timeout=60)
    np.testing.assert_allclose(found.as_numpy("probabilities"), wanted, atol=1e-6)


def test_a_stream(spoken: Spoken) -> None:
    client = Client("grpc", spoken)
    done: queue.Queue[Any] = queue.Queue()
    client.raw.start_stream(lambda result, error: done.put(error or result))
    for number, files in enumerate([(png(1),), (b"no image",), (png(2),)]):
        client.raw.async_stream_infer(WIDE, client.images(*files), request_id=str(number))
    first, second, third = (done.get(timeout=60) for _ in range(3))
    client.raw.stop_stream()
    assert [one.get_response().id for one in (first, third)] == ["0", "2"]
    assert "expected PNG" in str(second)
    odds = np.concatenate([one.as_numpy("probabilities") for one in (first, third)])
    np.testing.assert_allclose(odds, expected(spoken, WIDE, 1, 2), atol=1e-6)


@pytest.mark.parametrize("transport", ["http", "grpc"])
def test_the_clients_of_asyncio(spoken: Spoken, transport: str) -> None:
    module = {"http": tritonclient.http.aio, "grpc": tritonclient.grpc.aio}[transport]
    blocking = Client(transport, spoken)

    async def ask() -> Any:
        async with module.InferenceServerClient(blocking.url) as client:
            assert await client.is_server_live()
            assert await client.is_server_ready()
            assert await client.is_model_ready(WIDE)
            await client.get_server_metadata()
            await client.get_model_metadata(WIDE)
            await client.get_model_config(WIDE)
            await client.get_model_repository_index()
            await client.load_model(WIDE, headers=ADMIN)
            await client.unload_model(WIDE, headers=ADMIN)
            await client.get_inference_statistics(WIDE)
            with pytest.raises(InferenceServerException, match="not served here"):
                await client.get_log_settings()
            found = [client.infer(WIDE, blocking.images(png(seed))) for seed in (1, 2)]
            return await asyncio.gather(*found)

    odds = np.concatenate([one.as_numpy("probabilities") for one in asyncio.run(ask())])
    np.testing.assert_allclose(odds, expected(spoken, WIDE, 1, 2), atol=1e-6)


def test_a_stream_of_asyncio(spoken: Spoken) -> None:
    inputs = Client("grpc", spoken).images(png(1))

    async def requests() -> Any:
        for number in range(3):
            yield {"model_name": WIDE, "inputs": inputs, "request_id": str(number)}

    async def ask() -> list[str]:
        async with tritonclient.grpc.aio.InferenceServerClient(spoken.grpc) as client:
            answers = client.stream_infer(requests())
            return [result.get_response().id async for result, error in answers if error is None]

    assert asyncio.run(ask()) == ["0", "1", "2"]


def test_a_model_that_mixes_paths_of_two_sizes(client: Client, spoken: Spoken) -> None:
    small = publish(spoken.store, "small", replace(TINY, image_size=8))
    mixed = multipath(spoken.store, "mixed", [spoken.store.resolve("plain"), small])
    spoken.store.publish(mixed)
    try:
        eventually(lambda: spoken.server.classify("mixed", png(1)).status == 200)
        told = client.ask("get_model_metadata", "mixed")["inputs"]
        assert [one["name"] for one in told] == ["image", "pixels"]
        wanted = expected(spoken, "mixed", 1, 2)
        pixels = np.stack([np.asarray(image(1)), np.asarray(image(2))])
        for sent in (client.images(png(1), png(2)), [client.input("pixels", "UINT8", pixels)]):
            found = client.raw.infer("mixed", sent).as_numpy("probabilities")
            np.testing.assert_allclose(found, wanted, atol=1e-6)
        ready = client.input("preprocessed", "FP32", preprocess(pixels, 16))
        assert "sizes [8, 16]" in refused(client, 400, "infer", "mixed", [ready])
    finally:
        for task in ("mixed", "small"):
            spoken.store.rm(task)


@pytest.fixture(scope="module")
def tags(spoken: Spoken) -> Iterator[str]:
    """A task with several labels a picture, while it is needed."""
    publish(spoken.store, "tags", extra={"activation": "sigmoid"})
    eventually(lambda: spoken.server.ask("GET", "/tasks/tags").status == 200)
    yield "tags"
    spoken.store.rm("tags")
    eventually(lambda: spoken.server.ask("GET", "/tasks/tags").status == 404)


def test_each_of_several_labels_has_a_probability_of_its_own(
    client: Client, spoken: Spoken, tags: str
) -> None:
    found = client.raw.infer(tags, client.images(png(1), png(2)))
    odds, logits = found.as_numpy("probabilities"), found.as_numpy("logits").astype(float)
    np.testing.assert_allclose(odds, 1 / (1 + np.exp(-logits)), rtol=1e-6)
    np.testing.assert_allclose(odds, expected(spoken, tags, 1, 2), atol=1e-6)
    wanted = [client.output("probabilities", class_count=2)]
    texts = client.raw.infer(tags, client.images(png(1)), outputs=wanted).as_numpy("probabilities")
    for text, index in zip(texts[0], np.argsort(-odds[0], kind="stable"), strict=False):
        value, number, label = text.decode().split(":", 2)
        assert (int(number), label) == (index, f"tags:{index}")
        assert float(value) == pytest.approx(odds[0][index], abs=1e-6)
