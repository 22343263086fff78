"""The one file of a form, of every client's making, and of nobody's."""

from __future__ import annotations

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import BadParameter
from service.http.forms import MAX_PART_HEAD, MAX_PARTS, only_file
from tests.service.conftest import Served
from tests.service.in_process import Gateway, refused
from tests.service.systems import png

TYPE = "multipart/form-data; boundary=x"
FILE = b'Content-Disposition: form-data; name="f"; filename="a.png"\r\n\r\n'
TEXT = b'Content-Disposition: form-data; name="t"\r\n\r\n'


def form(*parts: bytes) -> bytes:
    return b"".join(b"--x\r\n" + part + b"\r\n" for part in parts) + b"--x--\r\n"


@given(st.binary(max_size=200), st.text(max_size=20), st.integers(0, 3))
def test_what_a_library_writes_is_read(data: bytes, name: str, fields: int) -> None:
    """Every byte of the file, under any name and next to any other part."""
    files = {"file": (name or "a", data, "image/png")}
    request = httpx.Request(
        "POST", "http://x", files=files, data={f"{n}": "y" for n in range(fields)}
    )
    assert only_file(request.read(), request.headers["content-type"]) == data


@pytest.mark.parametrize(
    "body",
    [
        form(FILE + b"data"),
        form(TEXT + b"before", FILE + b"data", TEXT + b"behind"),
        form(b"Content-Type: image/png\r\n\r\ndata"),
        form(TEXT + b"text", b"Content-Type: image/png\r\n" + TEXT + b"data"),
        form(b"content-type: Application/Octet-Stream\r\n\r\ndata", TEXT),
        form(TEXT + b"data"),  # the only part
        form(b"\r\ndata"),
        form(b'Content-Disposition: form-data; name="other"; filename=""\r\n\r\n', FILE + b"data"),
        form(b"Content-Disposition: form-data; filename*=UTF-8''%e4\r\n\r\ndata"),
        b"a preamble\r\n" + form(FILE + b"data") + b"an epilogue",
        form(FILE + b"data").replace(b"--x\r\n", b"--x \t\r\n"),
    ],
)
def test_the_file_is_found(body: bytes) -> None:
    assert only_file(body, TYPE) == b"data"
    assert only_file(body, 'Multipart/Form-Data; charset=punycode;boundary="x"') == b"data"


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "the boundary"),
        (b"no form", "the boundary"),
        (b"--x--\r\n", "no file among 0 parts"),
        (form(TEXT + b"a", TEXT + b"b"), "no file among 2 parts"),
        (form(FILE + b"a", FILE + b"b"), "found 2 files"),
        (form(FILE + b"data")[:-6], "breaks off"),
        (form(FILE + b"data").replace(b"--x--", b"--y--"), "breaks off"),
        (form(b"a: b"), "no end of them"),
        (form(b"a" * MAX_PART_HEAD + b"\r\n\r\n"), "no end of them"),
        (form(*[TEXT] * (MAX_PARTS + 1)), "at most 16 parts"),
        (form(*[TEXT] * 100_000), "at most 16 parts"),
    ],
)
def test_what_is_no_form_with_one_file_is_refused(body: bytes, says: str) -> None:
    with pytest.raises(BadParameter, match=says):
        only_file(body, TYPE)


@pytest.mark.parametrize(
    "media",
    [
        "multipart/form-data",
        "multipart/form-data; boundary=",
        'multipart/form-data; boundary=""',
        "multipart/form-data; boundary=" + "x" * 201,
        "multipart/form-data; boundary=x" + ";" * 1000,
    ],
)
def test_a_type_without_a_boundary_is_refused(media: str) -> None:
    with pytest.raises(BadParameter, match="Content-Type"):
        only_file(form(FILE + b"data"), media)


@given(st.binary(max_size=300), st.sampled_from(["x", "\r\n", "-"]))
def test_no_bytes_are_a_crash(body: bytes, boundary: str) -> None:
    for media in (TYPE, f"multipart/form-data; boundary={boundary}"):
        try:
            assert only_file(b"--x\r\n" + body, media) in body
        except BadParameter as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize("charset", ["punycode", "undefined", "idna", "utf-16", "no such", "rot13"])
def test_no_charset_is_looked_at(gateway: Gateway, charset: str) -> None:
    media = f"multipart/form-data; charset={charset}; boundary=x"
    for body in (form(TEXT + b"td" + b"a" * 50_000, FILE + png(1)), form(FILE + png(1))):
        answer = gateway.classify("plain", body, content_type=media)
        assert answer.status_code == 200, answer.text


def test_a_real_server_takes_a_part_without_a_name(served: Served) -> None:
    part = b'Content-Disposition: form-data; name="image"\r\nContent-Type: image/png\r\n\r\n'
    headers = {"content-type": TYPE}
    answer = served.server.ask("POST", "/classify/plain", form(part + png(1)), headers)
    assert answer.status == 200
    assert answer.json["predictions"] == served.server.classify("plain", png(1)).json["predictions"]


def test_the_refusal_says_what_was_expected_and_found(gateway: Gateway) -> None:
    answer = gateway.request("POST", "/classify/plain", files=[("a", png(1)), ("b", png(2))])
    detail = refused(answer, 422, "bad-parameter")["detail"]
    assert "expected exactly one part with a filename or of type image/*, found 2 files" in detail
