"""Without tokens: what counts as a request of somebody on this machine, and what of a web page."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import grpc.aio
import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_store import ModelStore
from service.access import LOCAL, Access
from service.errors import Forbidden, SettingsError
from service.open_inference.grpc_server import PREFIX
from service.settings import Settings
from tests.service.access.tokens import bearer, entry
from tests.service.conftest import Served
from tests.service.in_process import OCTETS, Gateway, refused
from tests.service.systems import png, publish

SHOP = "https://shop.example"
OWN_HOSTS = ("localhost", "localhost:3000", "LocalHost:3000", "127.0.0.1:3000", "127.8.9.1",
             "[::1]:3000", "[::1]", "[::ffff:127.0.0.1]:3000")  # fmt: skip
OTHER_HOSTS = (
    *("evil.example", "evil.example:3000", "localhost.evil.example", "127.0.0.1.evil.example"),
    *("evil.localhost", "localhostevil", "0.0.0.0:3000", "[::]:3000", "10.0.0.1", "192.168.0.1"),
    *(
        "2130706433",
        "127.1",
        "0x7f.0.0.1",
        "127.0.0.1@evil.example",
        "localhost:3000:80",
        "",
        ":80",
    ),
    *("localhost:", "localhost:x", "localhost/", "localhost, evil.example", "[::1", "::1:3000:"),
    *("l\u043ecalhost", "localhost%00", "127.0.0.256", "[::ffff:10.0.0.1]", "1" * 60_000),
)
PROXIES = (
    *("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Port"),
    *("X-Forwarded-Server", "X-Forwarded-Prefix", "X-Forwarded", "X-Real-IP", "X-Client-IP"),
    *("X-Cluster-Client-IP", "Via", "CF-Connecting-IP", "CF-Ray", "CF-IPCountry", "CF-Visitor"),
    *("True-Client-IP", "Fastly-Client-IP", "Fastly-SSL", "X-Original-Forwarded-For", "Client-IP"),
    *("X-Original-Host", "X-Original-URL", "X-Envoy-External-Address", "X-Envoy-Peer-Metadata"),
    *("X-Azure-ClientIP", "X-Azure-SocketIP", "X-Appengine-User-IP", "X-Vercel-Forwarded-For"),
    *("Fly-Client-IP", "DO-Connecting-IP", "X-NF-Client-Connection-IP", "Ali-CDN-Real-IP"),
    *("Cdn-Src-Ip", "X-ProxyUser-Ip", "X-Remote-Addr", "X-Remote-IP", "X-Originating-IP"),
    *("WL-Proxy-Client-IP", "Proxy-Client-IP", "Akamai-Origin-Hop", "X-Akamai-Edgescape"),
    *("Incap-Client-IP", "Tailscale-User-Login", "CDN-Loop", "X_Forwarded_For"),
)


def sent(**headers: str | Sequence[str]) -> list[tuple[str, str]]:
    """The headers of a request; a list of values is that many headers."""
    found = {"host": "localhost:3000", **headers}
    return [
        (name.replace("_", "-"), value)
        for name, values in found.items()
        for value in ([values] if isinstance(values, str) else values)
    ]


def local(peer: str | None = "127.0.0.1", pages: str = "", **headers: str | Sequence[str]) -> bool:
    given = [(name.encode(), value.encode()) for name, value in sent(**headers)]
    try:
        return Access("", pages).grants(given, peer, "http") is LOCAL
    except Forbidden as error:
        assert "MUNET_TOKENS" in error.detail
        assert len(error.detail) < 500
        return False


def test_no_token_gives_what_its_users_see() -> None:
    """Not even one with the same name and rights."""
    assert LOCAL.sees("any", None) and not replace(LOCAL).sees("any", None)


def test_it_comes_from_a_loopback_address() -> None:
    for near in ("127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1"):
        assert local(near)
    for far in ("10.0.0.1", "::ffff:10.0.0.1", "192.0.2.7", "localhost", "", "127.0.0.1.x", None):
        assert not local(far)


def test_it_is_sent_to_a_loopback_host() -> None:
    """A page of evil.example can make that name resolve to 127.0.0.1."""
    for host in OWN_HOSTS:
        assert local(host=host), host
    for host in OTHER_HOSTS:
        assert not local(host=host), host
    for hosts in ([], ["localhost", "localhost"], ["localhost", "evil.example"]):
        assert not local(host=hosts)


def test_it_is_of_no_page_of_another_origin() -> None:
    assert local(origin="http://localhost:3000", sec_fetch_site="same-origin")
    assert local(host="[::1]:3000", origin="http://[::1]:3000")
    assert local(sec_fetch_site="none")
    for site in ("cross-site", "same-site", "", "x", "none, cross-site"):
        assert not local(sec_fetch_site=site), site
        assert not local(origin="http://localhost:3000", sec_fetch_site=site)
    for page in ("http://evil.example", "null", "", "http://localhost", "http://localhost:8080",
                 "https://localhost:3000", "http://127.0.0.1:3000", "http://localhost:3000/",
                 "http://localhost:3000.evil.example", "http://evil.localhost:3000"):  # fmt: skip
        assert not local(origin=page), page
        assert not local(origin=["http://localhost:3000", page])
        assert not local(origin=page, sec_fetch_site="same-origin")


@pytest.mark.parametrize("header", PROXIES)
def test_it_has_not_come_through_a_proxy(header: str) -> None:
    for value in ("127.0.0.1", "", "localhost"):
        assert not local(**{header.lower(): value})
    with pytest.raises(Forbidden):  # over gRPC too
        Access("").grants([(header.lower().encode(), b"127.0.0.1")], "127.0.0.1")


def test_headers_that_clients_send_by_themselves_are_no_proxy_s() -> None:
    for header in ("user-agent", "accept", "x-request-id", "traceparent", "x-client-version",
                   "munet-deadline-ms", "inference-header-content-length", "te", "grpc-timeout",
                   "x-amzn-trace-id", "content-encoding", "referer", "dnt"):  # fmt: skip
        assert local(**{header: "x"}), header


@given(st.lists(st.tuples(st.sampled_from(["host", "origin", "sec-fetch-site", "accept"]),
                          st.text(max_size=20)), max_size=5))  # fmt: skip
def test_odd_headers_are_refused_or_plain(headers: list[tuple[str, str]]) -> None:
    own = {"host": OWN_HOSTS, "sec-fetch-site": ("none", "same-origin")}
    try:
        raw = [(name.encode(), value.encode("utf-8", "replace")) for name, value in headers]
        Access("").grants(raw, "127.0.0.1", "http")
    except Forbidden:
        return
    assert [name for name, _ in headers].count("host") == 1
    for name, value in headers:
        assert name == "accept" or value.lower() in own.get(name, ()) or "//" in value or (
            name == "host" and value.startswith(("127.", "localhost", "[")))  # fmt: skip


def test_pages_of_origins_that_are_set_are_local() -> None:
    pages = f"{SHOP}, http://localhost:8080"
    for page in (SHOP, "http://localhost:8080"):
        assert local(pages=pages, origin=page, sec_fetch_site="cross-site")
        assert not local(pages=pages, origin=page, host="evil.example")
        assert not local("10.0.0.1", pages=pages, origin=page)
    assert not local(pages=pages, origin="https://shop.example.evil")
    assert not local(pages=pages, origin=[SHOP, "https://evil.example"])
    assert not local(pages=pages, sec_fetch_site="cross-site")
    assert not local(pages="*", origin=SHOP)  # every page of the web on somebody's own machine


@pytest.mark.parametrize("text", ["shop.example", "https://shop.example/", "https://", "null",
                                  "https://shop.example/x", "ftp://x", "https://*.x", "https://a b",
                                  "https://Shop.example", "*.example"])  # fmt: skip
def test_other_origins_are_one_clear_error(text: str) -> None:
    with pytest.raises(SettingsError, match="MUNET_CORS_ORIGINS must be origins") as error:
        Access("", f"{SHOP},{text}")
    assert "\n" not in str(error.value)


def test_the_origins_are_a_setting() -> None:
    found = Settings.from_environment({"MUNET_STORE": "x", "MUNET_CORS_ORIGINS": SHOP})
    assert found.cors_origins == SHOP


# -- whole requests


@pytest.fixture(scope="module")
def paged(tmp_path_factory: pytest.TempPathFactory, compilations: str) -> Iterator[Gateway]:
    """A gateway with a token, whose answers pages of one origin may read."""
    folder = tmp_path_factory.mktemp("paged")
    store = ModelStore(folder / "store", create=True)
    publish(store, "plain")
    (folder / "tokens.toml").write_text(entry("a", "a", "classify = ['*']\nread = true"))
    made = Gateway(store, compilations, tokens=str(folder / "tokens.toml"), cors_origins=SHOP)
    yield made
    made.close()


def preflight(gateway: Gateway, origin: str, path: str = "/classify/plain") -> httpx.Response:
    return gateway.request("OPTIONS", path, headers={
        "origin": origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type,munet-deadline-ms",
    })  # fmt: skip


def test_a_page_of_a_set_origin_asks_with_its_token(paged: Gateway) -> None:
    allowed = preflight(paged, SHOP)
    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-origin"] == SHOP
    assert "authorization" in allowed.headers["access-control-allow-headers"]
    assert "access-control-allow-credentials" not in allowed.headers
    page = {"origin": SHOP, "sec-fetch-site": "cross-site", "host": "gateway.example"}
    answer = paged.request("POST", "/classify/plain", content=png(1),
                           headers={**OCTETS, **page, **bearer("a")})  # fmt: skip
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == SHOP
    assert "origin" in answer.headers["vary"].lower()
    unknown = paged.request("GET", "/tasks", headers=page)
    refused(unknown, 401, "unauthenticated")
    assert unknown.headers["access-control-allow-origin"] == SHOP  # a page can read why


def test_a_page_of_another_origin_reads_nothing(paged: Gateway, gateway: Gateway) -> None:
    other = "https://evil.example"
    assert preflight(paged, other).status_code == 400
    assert preflight(gateway, other).status_code == 405  # none is set
    for one in (paged, gateway):
        assert "access-control-allow-origin" not in preflight(one, other).headers
        for path in ("/tasks", "/metrics", "/v2", "/nowhere"):
            answer = one.request("GET", path, headers={"origin": other, **bearer("a")})
            assert not any(name.startswith("access-control-allow-o") for name in answer.headers)


ROUTES = (("GET", "/tasks"), ("GET", "/tasks/plain"), ("POST", "/classify/plain"),
          ("POST", "/classify?task=plain"), ("GET", "/v2/models"), ("GET", "/v2/models/plain"),
          ("POST", "/v2/models/plain/infer"), ("POST", "/v2/repository/index"))  # fmt: skip


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "rebound.example:3000"},
        {"host": "rebound.example", "origin": "http://rebound.example"},
        {"host": "rebound.example", "sec-fetch-site": "same-origin"},
        {"origin": "https://evil.example", "content-type": "text/plain"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"},
        {"x-forwarded-host": "localhost"},
    ],
)
def test_a_real_gateway_answers_no_foreign_page(served: Served, headers: dict[str, str]) -> None:
    for method, path in ROUTES:
        body = png(1) if method == "POST" else None
        answer = served.server.ask(method, path, body, headers)
        assert answer.status == 403, path
        assert answer.json["type"] == "urn:munet:problem:forbidden"
    for path in ("/livez", "/readyz", "/metrics"):
        assert served.server.ask("GET", path, None, headers).status == 200


def test_a_real_gateway_answers_its_own_machine(served: Served) -> None:
    port = served.server.port
    for headers in ({}, {"host": f"localhost:{port}"}, {"host": f"[::1]:{port}"},
                    {"host": f"localhost:{port}", "origin": f"http://localhost:{port}",
                     "sec-fetch-site": "same-origin"}):  # fmt: skip
        assert served.server.ask("GET", "/tasks", None, headers).status == 200


def test_over_grpc_too(tmp_path: Path, compilations: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    gateway = Gateway(ModelStore(tmp_path, create=True), compilations, grpc_port=port)

    async def ask(*metadata: tuple[str, str]) -> str:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            try:
                await channel.unary_unary(f"{PREFIX}RepositoryIndex")(b"", metadata=metadata)
            except grpc.aio.AioRpcError as error:
                return error.code().name
            return "OK"

    async def all_of_them() -> list[str]:
        return [await ask(*one) for one in (
            (), (("x-request-id", "1"),), (("x-forwarded-for", "127.0.0.1"),), (("via", "x"),),
            (("x-envoy-external-address", "10.0.0.1"),))]  # fmt: skip

    try:
        found = gateway.runner.run(asyncio.wait_for(all_of_them(), 60))
    finally:
        gateway.close()
    assert found == ["OK", "OK", *["PERMISSION_DENIED"] * 3]
