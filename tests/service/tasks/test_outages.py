"""A store that fails as a whole: one fact, kept once, and gone for all tasks at once."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import httpx
import pytest

from model_store import ModelStore
from model_store.files.local import LocalStorage
from service.tasks.store_health import StoreAway, StoreHealth
from tests.model_store.faulty_proxy import Fault, proxy
from tests.model_store.places import Place
from tests.service.in_process import OCTETS, Gateway, refused
from tests.service.systems import png, publish
from tests.service.waiting import PATIENCE_S, eventually

TASKS = [f"t{number}" for number in range(12)]
AGE = "munet_store_age_seconds"


def fault(gateway: Gateway, kind: str) -> float:
    return gateway.metric(f'munet_store_faults{{kind="{kind}"}}')


def states(gateway: Gateway) -> dict[str, float]:
    return {
        state: gateway.metric(f'munet_tasks{{state="{state}"}}')
        for state in ("cold", "loading", "ready", "failed")
    }


def filled(store: ModelStore) -> ModelStore:
    for number, task in enumerate(TASKS):
        publish(store, task, own={"head": number, "encoderblock_1": number})
    publish(store, TASKS[0], own={"head": 99})
    return store


@pytest.fixture
def local(tmp_path: Path, compilations: str) -> Iterator[Gateway]:
    gateway = Gateway(filled(ModelStore(tmp_path / "store", create=True)), compilations)
    yield gateway
    gateway.close()


class Away:
    """The whole directory of a store is gone, as that of a disk that is not mounted."""

    def __init__(self, gateway: Gateway) -> None:
        self.place = Path(gateway.store.url)

    def __enter__(self) -> None:
        self.place.rename(self.place.with_name("away"))

    def __exit__(self, *_: object) -> None:
        self.place.with_name("away").rename(self.place)


def refusals(gateway: Gateway) -> None:
    """All that is said while a store is away: a client may ask again, nothing is final."""
    for path in (f"/classify/{task}" for task in TASKS[1:]):
        answer = gateway.request(
            "POST", path, content=png(1), headers={"content-type": "image/png"}
        )
        body = refused(answer, 503, "unavailable")
        assert "store" in body["detail"]
    asked: list[tuple[str, str]] = [
        ("POST", "/classify/no/such"),
        ("POST", "/classify/t0?version=1"),
        ("POST", "/classify/t0?version=77"),
        ("POST", "/classify/t0?version=stable"),
        ("GET", "/tasks/no/such"),
        ("GET", "/v2/models/no_such"),
        ("GET", "/v2/models/t0/versions/77"),
    ]
    for method, path in asked:
        options: dict[str, Any] = (
            {"content": png(1), "headers": {"content-type": "image/png"}}
            if method == "POST"
            else {}
        )
        answer = gateway.request(method, path, **options)
        assert answer.status_code == 503, (path, answer.text)
        assert answer.headers["retry-after"], path


def test_a_directory_that_is_moved_away_and_back(local: Gateway) -> None:
    before = local.classify("t0", png(1)).json()["predictions"]
    with Away(local):
        eventually(lambda: fault(local, "missing") == 1)
        refusals(local)
        assert local.classify("t0", png(1)).json()["predictions"] == before
        assert states(local) == {"cold": 11, "loading": 0, "ready": 1, "failed": 0}
        listed = {task["id"]: task for task in local.get("/tasks")["tasks"]}
        assert listed["t1"]["state"] == "cold"
    eventually(lambda: fault(local, "missing") == 0)
    assert {local.classify(task, png(1)).status_code for task in TASKS} == {200}
    assert local.classify("no/such", png(1)).status_code == 404


def test_what_is_known_costs_no_reads(local: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    with Away(local):
        eventually(lambda: fault(local, "missing") == 1)
        refused(local.classify("t1", png(1)), 503, "unavailable")
        loads: list[str] = []
        resolve = ModelStore.resolve
        monkeypatch.setattr(
            ModelStore, "resolve", lambda *a, **k: (loads.append(a[1]), resolve(*a, **k))[1]
        )
        health = local.app.state.runtime.loader.health
        now = health._clock()
        monkeypatch.setattr(health, "_clock", lambda: now)  # one a second is tried all the same
        loads.clear()
        for _ in range(5):
            for task in TASKS:
                refused(local.classify(task, png(1)), 503, "unavailable")
        assert len(loads) <= 1  # one that was due already


def test_no_load_fails_twice_for_one_fault(local: Gateway) -> None:
    with Away(local):
        eventually(lambda: fault(local, "missing") == 1)
        for _ in range(3):
            for task in TASKS:
                local.classify(task, png(1))
    assert local.metric('munet_task_loads_total{outcome="failed"}') == 0


class Hanging:
    """Reads that do not come back, as of a network file system whose server is gone."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.over = threading.Event()
        for name in ("read_many", "load", "read"):
            real: Callable[..., Any] = getattr(LocalStorage, name)
            monkeypatch.setattr(LocalStorage, name, self._held(real))

    def _held(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def held(*arguments: Any) -> Any:
            assert self.over.wait(120)
            return real(*arguments)

        return held


def test_a_store_that_hangs_is_known(
    local: Gateway, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert local.classify("t0", png(1)).status_code == 200
    monkeypatch.setattr(local.app.state.runtime.catalog._follower, "_stall_s", 0.3)
    hanging = Hanging(monkeypatch)
    try:
        eventually(lambda: fault(local, "stalled") == 1)
        age = local.metric(AGE)
        assert age >= 0.3
        refusals(local)
        assert local.classify("t0", png(1)).status_code == 200
        assert local.metric(AGE) > age
        told = [one for one in caplog.messages if "kind=stalled" in one]
        assert len(told) == 1  # and again every half minute
    finally:
        hanging.over.set()
    eventually(lambda: fault(local, "stalled") == 0)
    assert any("event=store_answers" in one for one in caplog.messages)
    assert {local.classify(task, png(1)).status_code for task in TASKS} == {200}


WAITING = [
    *(("POST", f"/classify/{task}") for task in TASKS[1:5]),
    ("POST", "/classify/t1"),  # a second one for a task that is being loaded
    ("POST", "/classify?task=t5&task=t6"),
    ("POST", "/classify/t0?version=1"),
    ("POST", "/classify/t0?version=stable"),
    ("POST", "/v2/models/t7/infer"),
    ("POST", "/classify/no/such"),
    ("GET", "/tasks/t8"),
    ("GET", "/v2/models/t9"),
    ("GET", "/v2/models/t0/versions/stable"),
]


async def answers(
    gateway: Gateway, asked: Sequence[tuple[str, str]], meanwhile: Callable[[], Awaitable[None]]
) -> list[httpx.Response]:
    """Of requests that are under way while something happens."""
    transport = httpx.ASGITransport(gateway.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        sent = [
            asyncio.ensure_future(
                client.request(
                    method,
                    path,
                    **({"content": png(1), "headers": OCTETS} if method == "POST" else {}),
                )
            )
            for method, path in asked
        ]
        await meanwhile()
        async with asyncio.timeout(PATIENCE_S):
            return await asyncio.gather(*sent)


def test_who_waits_when_the_store_begins_to_hang_is_refused_at_once(
    tmp_path: Path, compilations: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And so is who comes later, also for a task whose load hangs; a deadline plays no part."""
    store = filled(ModelStore(tmp_path / "store", create=True))
    gateway = Gateway(store, compilations)
    runtime = gateway.app.state.runtime
    object.__setattr__(runtime.settings, "deadline_ms", 600_000)  # beyond what may be set
    follower = runtime.catalog._follower
    assert gateway.classify("t0", png(1)).status_code == 200
    assert gateway.request("GET", "/tasks").status_code == 200  # what they share is known from here
    monkeypatch.setattr(follower, "_stall_s", 600.0)
    hanging = Hanging(monkeypatch)

    async def known() -> None:
        while sum(slot.state == "loading" for slot in runtime.catalog.slots()) < 7:
            await asyncio.sleep(0.01)
        assert runtime.loader.health.fault is None
        follower._stall_s = 0.0
        while runtime.loader.health.fault is None:
            await asyncio.sleep(0.01)

    async def nothing() -> None: ...

    try:
        for meanwhile in (known, nothing):
            for answer in gateway.runner.run(answers(gateway, WAITING, meanwhile)):
                assert answer.status_code == 503, answer.text
                assert "store" in answer.text
                assert answer.headers["retry-after"]
        follower._stall_s = 600.0  # from now on nobody is refused for waiting
        assert gateway.classify("t0", png(1)).status_code == 200
        assert gateway.request("GET", "/tasks").status_code == 200
        assert states(gateway)["failed"] == 0
    finally:
        hanging.over.set()
    eventually(lambda: fault(gateway, "stalled") == 0)
    assert {gateway.classify(task, png(1)).status_code for task in TASKS} == {200}
    gateway.close()


def test_a_slow_look_beside_loads_that_can_read_is_no_hang() -> None:
    """As the listing of very many tasks; a store that hangs lets no load read."""
    now = 100.0
    health = StoreHealth(lambda: now)
    waiting = health.unless_it_hangs(Future[int]())
    for now in (106.0, 109.0, 112.0):
        health.load_ended(works=True)
        health.hangs(now - 100.0)
        assert not waiting.done() and not health.hanging
    now = 118.0
    health.hangs(18.0)
    assert isinstance(waiting.exception(0), StoreAway) and health.hanging


def test_who_waits_hears_what_comes_of_the_work_and_lets_go_of_it() -> None:
    health, works = StoreHealth(), [Future[int]() for _ in range(4)]
    answered, failed, ended, left = map(health.unless_it_hangs, works)
    works[0].set_result(1)
    works[1].set_exception(KeyError("one"))
    assert works[2].cancel() and left.cancel()
    works[3].set_result(2)  # nobody waits any more
    assert answered.result(0) == 1 and isinstance(failed.exception(0), KeyError)
    assert ended.cancelled() and not health._waiting
    gone = weakref.ref(works[0])
    gc.disable()
    try:
        works.clear()
        assert gone() is None
    finally:
        gc.enable()


def test_the_gateway_starts_while_its_store_is_away(tmp_path: Path, compilations: str) -> None:
    store = filled(ModelStore(tmp_path / "store", create=True))
    away = Path(store.url).with_name("away")
    Path(store.url).rename(away)
    gateway = Gateway(store, compilations)
    try:
        assert gateway.request("GET", "/livez").status_code == 200
        assert gateway.request("GET", "/readyz").status_code == 503
        refused(gateway.classify("t1", png(1)), 503, "unavailable")
        refused(gateway.request("GET", "/tasks"), 503, "unavailable")
        assert fault(gateway, "missing") == 1
        away.rename(store.url)
        eventually(lambda: gateway.request("GET", "/readyz").status_code == 200)
        assert gateway.classify("t1", png(1)).status_code == 200
    finally:
        gateway.close()


def test_preloaded_tasks_are_loaded_when_the_store_is_back(
    tmp_path: Path, compilations: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that were not when it went away."""
    gateway = Gateway(
        filled(ModelStore(tmp_path / "store", create=True)), compilations, preload="t2"
    )
    try:
        catalog = gateway.app.state.runtime.catalog
        eventually(lambda: gateway.request("GET", "/readyz").status_code == 200)
        with Away(gateway):
            eventually(lambda: fault(gateway, "missing") == 1)
            eventually(catalog.entries()["t2"].slot.let_go)
            assert states(gateway)["ready"] == 0
        eventually(lambda: catalog.entries()["t2"].slot.state == "ready")
    finally:
        gateway.close()


def test_single_files_that_cannot_be_read_are_their_tasks_trouble(
    local: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And when one of them can be read again, all are tried again: nobody has to ask."""
    bad = {
        digest.removeprefix("sha256:")
        for task in TASKS[1:6]
        for name, digest in local.store.resolve(task).path.components.items()
        if name in ("head", "encoderblock_1")
    }
    load = LocalStorage.load

    def failing(self: LocalStorage, key: str, limit: int | None) -> Any:
        if key.rpartition("/")[2] in bad:
            raise OSError(5, "Input/output error", key)
        return load(self, key, limit)

    monkeypatch.setattr(LocalStorage, "load", failing)
    for task in TASKS[1:6]:
        refused(local.classify(task, png(1)), 503, "unavailable")
    assert {local.classify(task, png(1)).status_code for task in TASKS[6:]} == {200}
    eventually(lambda: states(local)["failed"] == 5)  # one may be tried again just now
    assert fault(local, "unreadable") == 5
    assert sum(fault(local, kind) for kind in ("missing", "unreachable", "stalled")) == 0
    bad.clear()
    eventually(lambda: states(local)["failed"] == 0)
    assert fault(local, "unreadable") == 0


@pytest.mark.parametrize(
    "kind",
    [503, pytest.param(403, marks=pytest.mark.slow), pytest.param("never", marks=pytest.mark.slow)],
)
def test_an_object_store_that_fails(s3_store: Place, compilations: str, kind: Any) -> None:
    filled(s3_store.open(create=True))
    with proxy(s3_store.environment["AWS_ENDPOINT_URL"]) as before:
        store = before.before(s3_store).open()
        gateway = Gateway(store, compilations)
        try:
            assert gateway.classify("t0", png(1)).status_code == 200
            before.rule = lambda request: Fault(kind).at_once()
            eventually(lambda: fault(gateway, "unreachable") + fault(gateway, "stalled") == 1)
            for task in TASKS[1:]:
                refused(gateway.classify(task, png(1)), 503, "unavailable")
            refused(gateway.classify("no/such", png(1)), 503, "unavailable")
            assert gateway.classify("t0", png(1)).status_code == 200
            assert states(gateway)["failed"] == 0
            before.rule = lambda request: None
            eventually(lambda: fault(gateway, "unreachable") + fault(gateway, "stalled") == 0)
            assert {gateway.classify(task, png(1)).status_code for task in TASKS} == {200}
        finally:
            gateway.close()
