"""The HTTP interface in process: every documented refusal of a single request."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.service.in_process import OCTETS, Gateway, refused
from tests.service.systems import encoded, image, png


@pytest.mark.parametrize("body", [b"", b"text", png(1)[:50], b"\x89PNG\r\n\x1a\n" + b"\0" * 500])
def test_400_not_an_image(gateway: Gateway, body: bytes) -> None:
    refused(gateway.classify("plain", body), 400, "bad-image")


def test_404_unknown_task(gateway: Gateway) -> None:
    body = refused(gateway.classify("plane", png(1)), 404, "unknown-task")
    assert body["nearest"] == ["plain"]
    assert "did you mean plain?" in body["detail"]
    refused(gateway.request("GET", "/tasks/plane"), 404, "unknown-task")
    refused(gateway.classify("versions", png(1), "?version=9"), 404, "unknown-task")
    refused(gateway.request("GET", "/nowhere"), 404, "not-found")


@pytest.mark.parametrize(
    "name", ["../plain", "%2e%2e/plain", "..%2F..%2Fetc%2Fpasswd", "a%00b", "%ff%fe", "x" * 3000,
             "<script>", "a/../plain", "", "%0d%0aset-cookie:x"]
)  # fmt: skip
def test_404_for_strange_names_which_reach_no_file(gateway: Gateway, name: str) -> None:
    response = gateway.request("POST", "/classify/" + name, content=png(1), headers=OCTETS)
    if response.status_code != 200:  # httpx resolves ".." itself
        assert response.status_code in (404, 405)
        assert len(response.content) < 10_000
        assert "set-cookie" not in response.headers


def test_405_wrong_method(gateway: Gateway) -> None:
    for method, path, allowed in (
        ("GET", "/classify/plain", "POST"),
        ("DELETE", "/tasks/plain", "GET"),
        ("POST", "/metrics", "GET"),
    ):
        response = gateway.request(method, path)
        refused(response, 405, "method-not-allowed")
        assert allowed in response.headers["allow"]


def test_413_too_many_bytes(gateway: Gateway) -> None:
    refused(gateway.classify("plain", b"x" * 100_001), 413, "too-large")

    async def unannounced() -> AsyncIterator[bytes]:
        for _ in range(11):
            yield b"x" * 10_000

    endless = gateway.request("POST", "/classify/plain", content=unannounced(), headers=OCTETS)
    refused(endless, 413, "too-large")
    form = gateway.request("POST", "/classify/plain", files={"f": b"x" * 100_000})
    refused(form, 413, "too-large")
    assert gateway.classify("plain", b"x" * 100_000).status_code == 400  # exactly the limit


def test_413_too_many_pixels(gateway: Gateway) -> None:
    refused(gateway.classify("plain", encoded(image(1, (101, 100), "L"))), 413, "too-large")
    assert gateway.classify("plain", encoded(image(1, (100, 100), "L"))).status_code == 200


@pytest.mark.parametrize("media", ["text/plain", "application/json", "imagetic", "multipart/mixed"])
def test_415_content_type(gateway: Gateway, media: str) -> None:
    body = refused(gateway.classify("plain", png(1), content_type=media), 415, "unsupported-media")
    assert media in body["detail"]


@pytest.mark.parametrize(
    "query", ["?top_k=0", "?topk=1", "?top_k=-1", "?top_k=x", "?top_k=", "?version=0",
              "?version=1e3", "?version=99999999999999999999"]
)  # fmt: skip
def test_422_parameters(gateway: Gateway, query: str) -> None:
    refused(gateway.classify("plain", png(1), query), 422, "bad-parameter")


def test_422_deadline_header(gateway: Gateway) -> None:
    refused(gateway.classify("plain", png(1), munet_deadline_ms="soon"), 422, "bad-parameter")


@pytest.mark.parametrize(
    "options",
    [
        {"files": [("a", png(1)), ("b", png(2))]},
        {"data": {"image": "text"}, "files": {}},
        {"content": b"no form", "headers": {"content-type": "multipart/form-data; boundary=x"}},
        {"content": b"no form", "headers": {"content-type": "multipart/form-data"}},
    ],
)
def test_422_forms_without_exactly_one_file(gateway: Gateway, options: dict[str, Any]) -> None:
    response = gateway.request("POST", "/classify/plain", **options)
    if options.get("data"):
        refused(response, 415, "unsupported-media")  # httpx sends no multipart without files
    else:
        refused(response, 422, "bad-parameter")
