"""A gateway on a port of 127.0.0.1, and Debian's Chromium, which shows its page."""

from __future__ import annotations

import os
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from playwright.sync_api import Browser, Page, expect, sync_playwright

from model_store import ModelStore
from service.app import create_app
from service.settings import Settings
from tests.service.access.tokens import entry
from tests.service.systems import publish
from tests.service.waiting import PATIENCE_S, eventually

ANONYMOUS = '[[token]]\nname = "anonymous"\nread = true\nclassify = ["*"]\n'
TOKENS = (
    ANONYMOUS
    + entry("boss", "b", 'admin = true\nread = true\nclassify = ["*"]')
    + entry("shop", "s", 'classify = ["*"]')
)
SHOTS = Path(__file__).parents[3] / "build" / "page"  # screenshots of the last run


@dataclass(frozen=True, slots=True)
class Shown:
    """A running gateway and its store."""

    url: str
    store: ModelStore
    app: Any


@dataclass(slots=True)
class Watched:
    """A page of the gateway, and what it must not do: complain, or ask anybody else."""

    page: Page
    url: str
    faults: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("console", lambda one: self._note(one.type == "error", one.text))
        self.page.on("pageerror", lambda error: self._note(True, str(error)))
        self.page.on("request", lambda one: self._note(self._foreign(one.url), one.url))

    def _note(self, bad: bool, text: str) -> None:
        if bad:
            self.faults.append(text)

    def _foreign(self, url: str) -> bool:
        return not url.startswith((self.url + "/", "blob:" + self.url + "/"))

    def open(self, path: str) -> Page:
        self.page.goto(self.url + path)
        return self.page


# For a module, not for all: Playwright's event loop runs in this thread until its end, and no other
# test can start one.
@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    found = shutil.which("chromium")
    if found is None:
        cannot = pytest.fail if os.environ.get("CI") else pytest.skip
        cannot("no program chromium: .ci/packages installs it, or `apt-get install chromium`")
    expect.set_options(timeout=PATIENCE_S * 1e3)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


def serve(store: ModelStore, compilations: str, **settings: Any) -> Iterator[Shown]:
    """The app under uvicorn in a thread of this process."""
    given = {"poll_s": 0.05, "compilation_cache": compilations, "compute_threads": 1}
    app = create_app(Settings(store.url, max_batch_rows=4, **given, **settings))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        eventually(lambda: not thread.is_alive() or (server.started and app.state.runtime.ready))
        assert server.started, "the gateway did not start"
        yield Shown(f"http://127.0.0.1:{port}", store, app)
    finally:
        server.should_exit = True
        if server.started:
            app.state.runtime.draining = True  # ends the streams
        thread.join()


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory, compilations: str) -> Iterator[Shown]:
    """Three tasks, one of which cannot be loaded."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "tokens.toml").write_text(TOKENS)
    store = ModelStore(folder / "store", create=True)
    publish(store, "leaves")
    publish(store, "group/digits", own={"encoderblock_1": 1})
    torn = publish(store, "torn", own={"head": 7}).path.components["head"]
    file = folder / "store" / "blobs" / "sha256" / torn.removeprefix("sha256:")
    file.chmod(0o644)
    file.write_bytes(file.read_bytes()[:-1])
    yield from serve(store, compilations, tokens=str(folder / "tokens.toml"))


@pytest.fixture
def browse(chromium: Browser) -> Iterator[Callable[..., Watched]]:
    """Opens windows; at the end each must have kept to its own origin without a complaint."""
    opened: list[tuple[Watched, bool]] = []

    def window(shown: Shown, *, strict: bool = True, **options: Any) -> Watched:
        context = chromium.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
        context.set_default_timeout(PATIENCE_S * 1e3)
        opened.append((Watched(context.new_page(), shown.url), strict))
        return opened[-1][0]

    yield window
    for one, _ in opened:
        one.page.context.close()
    assert [fault for one, strict in opened if strict for fault in one.faults] == []
