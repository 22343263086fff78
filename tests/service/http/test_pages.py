"""Nothing of BentoML is served, and nothing that is served loads anything from elsewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser

import pytest
from starlette.routing import Route

from service.app import create_app
from service.page.routes import PAGE_FILES
from service.settings import Settings
from tests.service.conftest import Served
from tests.service.servers import ROOT, environment

OUTER = (
    "/docs.json", "/schema.json", "/index.html", "/static_content",
    "/static_content/index.css", "/static_content/swagger-ui.css", "/assets", "/assets/index.js",
    "/main-ui.html", "/favicon.ico", "/health", "/is_alive", "/status", "/result", "/submit",
    "/redoc", "/openapi.yaml", "/__metrics__", "//", "/%2e%2e/docs.json",
)  # fmt: skip


ENDLESS = "/system/events"  # an answer without an end


def ours() -> Iterator[str]:
    """The paths of our own routes, with names that fit, but for the one whose answer never ends."""
    for route in create_app(Settings("nowhere")).routes:
        assert isinstance(route, Route)
        if route.path != ENDLESS:
            yield re.sub(r"{(\w+)(:path)?}", "plain", route.path)


class Loads(HTMLParser):
    """Where the parts of a page come from, and where its links lead."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in ("iframe", "object", "embed", "base", "style"), tag
        given = dict(attrs)
        assert not {name for name in given if name == "style" or name.startswith("on")}, given
        self.found += [value for name in ("src", "href") if (value := given.get(name))]


@pytest.fixture(scope="module")
def outer(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Paths of BentoML's own app, and some below them, but for those that are ours."""
    code = (
        "from service.host.gateway import Gateway; "
        "print(*[one.path for one in Gateway.to_asgi(is_main=True).routes], sep='\\n')"
    )
    variables = environment(tmp_path_factory.mktemp("outer"), MUNET_STORE="nowhere")
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True)
    known = set(done.stdout.split()) - set(ours()) - {""}
    assert {"/docs.json", "/schema.json", "/static_content"} <= known, done
    return known | set(OUTER)


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_every_route_of_bentoml_is_gone(served: Served, outer: set[str], method: str) -> None:
    for path in outer:
        answer = served.server.ask(method, path)
        assert answer.status == 404, (method, path, answer)
        if method != "HEAD":
            assert answer.headers["content-type"] == "application/problem+json", path


def test_health_is_ours(served: Served) -> None:
    for path in ("/livez", "/readyz", "/healthz"):
        assert served.server.ask("GET", path).status == 200
    assert b"munet_" in served.server.ask("GET", "/metrics").body
    assert b"bentoml_" not in served.server.ask("GET", "/metrics").body


def test_pages_name_only_what_this_gateway_serves(served: Served) -> None:
    pages = set()
    for path in {*ours(), *OUTER}:
        answer = served.server.ask("GET", path)
        text = answer.body.decode()
        assert not re.search("https?://", text), path
        if "html" in answer.headers.get("content-type", ""):
            pages.add(path)
            loads = Loads()
            loads.feed(text)
            for part in loads.found:
                if not part.startswith("#"):
                    assert served.server.ask("GET", part).status == 200, part
            policy = answer.headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert not re.search(r"script-src [^;]*(unsafe|\*|http)", policy)
    assert pages == {"/", "/docs"}


def test_the_page_is_light(served: Served) -> None:
    """What a browser reads of it, compressed; Swagger UI is apart."""
    total = 0
    for name in PAGE_FILES.names:
        headers = {"accept-encoding": "gzip"}
        answer = served.server.ask("GET", f"/page/{name}", None, headers)
        assert (answer.status, answer.headers["content-encoding"]) == (200, "gzip"), name
        total += len(answer.body)
        known = {"if-none-match": answer.headers["etag"]}
        assert served.server.ask("GET", f"/page/{name}", None, known).status == 304
    assert total < 150_000
