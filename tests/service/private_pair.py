"""Two gateways, one of which has private tasks next to the public ones of both."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from model_store import InvalidName, ModelStore
from service.access import Access
from tests.service.access.tokens import bearer, entry
from tests.service.in_process import OCTETS, Gateway
from tests.service.systems import multipath, png, publish

TOKENS = (
    entry("fruit", "f", 'classify = ["fruit/*"]')
    + entry("both", "a", 'classify = ["*"]\nread = true')
    + entry("reader", "r", "read = true")
    + entry("boss", "b", "admin = true\nread = true\nclassify = ['*']")
    + entry("owner", "o", 'classify = ["secret/one"]\nread = true')
)
LOCAL = "local"  # without tokens set up
CALLERS = (LOCAL, None, "f", "a", "r", "b")
PUBLIC = ("fruit/apple", "fruit/pear", "secret/open-0", "secret/open-1", "secret/open-2")
HIDDEN = ("secret/one", "secret/two", "aaa", "fruit/banana", "zzz")
SHADOWS = ("fruit/apple/versions/1", "fruit/apple/infer", "fruit/apple/ready", "fruit/apple/config",
           "fruit/apple/stats", "stats", "fruit/apple/versions/1/infer")  # fmt: skip
CROWD = [f"{near}-{i}" for near in ("secret/one", "fruit/bananas") for i in range(25)]  # as hidden
PARENT = "sha256:" + "7" * 64
ASKED = (
    *("secret/one", "fruit/banana"),  # private
    *("secret/on", "secret/onee", "fruit/bananas", "nothing/like/it"),
    *("fruit/apple", "fruit/mixed"),  # public
)
TIMES = re.compile(
    r'"(created|last_inference|ns|receive|decode|load|queue|execute|answer|total|seconds|p.._ms)":'
    r" ?"
    r'("[^"]*"|[\d.e-]+)'
)


@dataclass(frozen=True, slots=True)
class Pair:
    """A gateway of public tasks, and one that has private ones too."""

    without: Gateway
    mixed: Gateway

    def __iter__(self) -> Iterator[Gateway]:
        return iter((self.without, self.mixed))


def fill(store: ModelStore) -> None:
    """Public tasks, some of which come from private ones or share with them."""
    for task in PUBLIC:
        publish(store, task)
    apple, pear = store.resolve("fruit/apple"), store.resolve("fruit/pear")
    lineage = {"parent": PARENT, "parent_task": "secret/one", "agent": "x"}
    store.publish(replace(apple.path, task="fruit/child", lineage=lineage))
    path = multipath(store, "fruit/mixed", [apple, pear])
    subpaths = tuple({**one, "task": task} for one, task in zip(path.subpaths, (
        "secret/one", "fruit/pear"), strict=True))  # fmt: skip
    store.publish(replace(path, subpaths=subpaths))


def hide(store: ModelStore) -> None:
    """Private tasks between and around the public ones; one cannot be loaded."""
    apple = store.resolve("fruit/apple").path
    for task in (*HIDDEN, *CROWD):
        store.publish(replace(apple, task=task, private=True))
    for task in SHADOWS:  # names that look like a route of a public task
        with suppress(InvalidName):
            store.publish(replace(apple, task=task, private=True))
    publish(store, "secret/two", own={"head": 5}, private=True)
    damage(
        store, publish(store, "secret/torn", own={"head": 6}, private=True).path.components["head"]
    )


def damage(store: ModelStore, digest: str) -> None:
    """A blob is one byte short from now on."""
    file = Path(store.url) / "blobs" / "sha256" / digest.removeprefix("sha256:")
    file.chmod(0o644)
    file.write_bytes(file.read_bytes()[:-1])


def asked_by(gateway: Gateway, caller: str | None) -> dict[str, str]:
    """The headers of a caller; for the local one tokens are switched off."""
    runtime = gateway.app.state.runtime
    runtime.access = Access("" if caller == LOCAL else runtime.settings.tokens)
    return bearer(caller) if caller not in (None, LOCAL) else {}


EACH_ITS_OWN = ("server-timing", "content-length", "x-request-id", "etag")  # times are in etag


def told(gateway: Gateway, caller: str | None, method: str, path: str, **options: Any) -> Any:
    """All of an answer but its times and the name of its request."""
    headers = {**options.pop("headers", {}), **asked_by(gateway, caller)}
    answer = gateway.request(method, path, headers=headers, **options)
    left = {k: v for k, v in answer.headers.items() if k not in EACH_ITS_OWN}
    return answer.status_code, left, TIMES.sub(r'"\1":0', answer.text)


def routes(name: str) -> Sequence[tuple[str, str, dict[str, Any]]]:
    image: dict[str, Any] = {"content": png(1), "headers": OCTETS}
    infer = {"content": png(1), "headers": {"inference-header-content-length": "0"}}
    model = f"/v2/models/{name}"
    return (
        ("POST", f"/classify/{name}", image),
        ("POST", f"/classify/{name}?version=1", image),
        ("POST", f"/classify/{name}?version=7", image),
        ("POST", f"/classify/{name}?version=stable", image),
        ("POST", f"/classify?task={name}&task=fruit/apple", image),
        ("POST", f"/embed/{name}?depth=1", image),
        ("POST", f"/embed/{name}?depth=77", image),
        ("POST", f"/embed?task={name}&task=fruit/apple", image),
        ("GET", f"/tasks/{name}", {}),
        *(("GET", f"{model}{rest}", {}) for rest in ("", "/ready", "/config", "/stats")),
        *(("GET", f"{model}/versions/{v}{rest}", {}) for v, rest in (
            (1, ""), (1, "/ready"), (1, "/config"), (1, "/stats"), (7, ""), (7, "/ready"),
            ("stable", ""), ("stable", "/ready"))),
        ("POST", f"{model}/infer", infer),
        ("POST", f"{model}/versions/1/infer", infer),
        ("POST", f"{model}/versions/7/infer", infer),
        ("POST", f"/v2/repository/models/{name}/load", {}),
        ("POST", f"/v2/repository/models/{name}/unload", {}),
    )  # fmt: skip


LISTS: Sequence[tuple[str, str, dict[str, Any]]] = (
    ("GET", "/tasks", {}),
    ("GET", "/system", {}),
    *(("GET", f"/{of}?limit={n}&after={after}", {}) for of in ("tasks", "system") for n, after in (
        (1, ""), (2, "fruit/apple"), (1, "secret/one"), (500, "b"), (2, "secret/open-2"))),
    *(("GET", path, {}) for path in (
        "/", "/v2", "/v2/models", "/v2/models/stats", "/openapi.json", "/readyz")),
    ("POST", "/v2/repository/index", {}),
    ("POST", "/v2/repository/index", {"json": {"ready": True}}),
)  # fmt: skip
