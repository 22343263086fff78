"""Compressed images: taken within the limits, or refused with what is taken."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable

import pytest

from tests.service.conftest import Served
from tests.service.in_process import Gateway, refused
from tests.service.systems import png

WAYS: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "deflate": zlib.compress}
FORM = b'--x\r\nContent-Disposition: form-data; name="f"; filename="a"\r\n\r\n%s\r\n--x--\r\n'


@pytest.mark.parametrize("encoding", WAYS)
def test_a_compressed_image_is_answered_as_it_is_plain(served: Served, encoding: str) -> None:
    plain = served.server.classify("plain", png(1)).json["predictions"]
    for path in ("/classify/plain", "/classify?task=plain"):
        for media, body in (
            ("image/png", png(1)),
            ("multipart/form-data; boundary=x", FORM % png(1)),
        ):
            headers = {"content-type": media, "content-encoding": encoding.upper()}
            answer = served.server.ask("POST", path, WAYS[encoding](body), headers)
            assert answer.status == 200, answer
            assert answer.json.get("predictions", plain) == plain


@pytest.mark.parametrize(
    "encoding", ["br", "zstd", "gzip, gzip", "identity, gzip", "x" * 5000, ","]
)
def test_any_other_is_refused_with_what_is_taken(gateway: Gateway, encoding: str) -> None:
    answer = gateway.classify("plain", png(1), content_encoding=encoding)
    body = refused(answer, 415, "unsupported-media")
    assert "expected gzip, deflate or none" in body["detail"]
    assert len(body["detail"]) < 300


def test_the_limit_is_of_what_it_inflates_to(gateway: Gateway) -> None:
    for size, status in ((100_000, 400), (100_001, 413), (50_000_000, 413)):
        body = gzip.compress(bytes(size), 1)[:100_000]
        if size < 1_000_000 or len(body) < 100_000:
            answer = gateway.classify("plain", body, content_encoding="gzip")
            assert answer.status_code == status, answer.text


@pytest.mark.parametrize("encoding", WAYS)
def test_what_is_not_one_whole_stream_is_refused(gateway: Gateway, encoding: str) -> None:
    whole = WAYS[encoding](png(1))
    for body in (png(1), b"", whole[:-1], whole + b"x", whole + whole):
        refused(gateway.classify("plain", body, content_encoding=encoding), 400, "bad-request")
