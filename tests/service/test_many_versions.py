"""What is said about tasks reads little, and takes no thread that answers or loads need."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_store import Digest, ModelStore
from model_store.files.local import LocalStorage
from model_store.versions import Version, Versions
from service.access import LOCAL, Grants
from service.http.listing import VERSIONS
from service.open_inference import models
from service.tasks.entry import Entry
from service.tasks.lookups import WAITING
from service.tasks.sharing import FEW, Sharing
from service.tasks.summaries import Summary
from tests.model_store.samples import write_value
from tests.service import deadlines
from tests.service.in_process import OCTETS, Gateway, refused
from tests.service.systems import png, publish
from tests.service.waiting import PATIENCE_S, eventually

MANY = 3000
TASKS = 70


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory, compilations: str) -> Iterator[Gateway]:
    """A task of 3,000 versions, one of two, and more tasks than an answer reads."""
    store = ModelStore(tmp_path_factory.mktemp("many"), create=True)
    digest = publish(store, "many").digest
    found = Versions()
    for _ in range(MANY):
        found = found.add(Version(digest, "2026-01-01T00:00:00Z"), live=True)
    write_value(store, "refs/tasks/many", found.to_json())
    store.rollback("many", MANY)
    store.alias("many", "stable", 5)
    publish(store, "two")
    publish(store, "two", own={"head": 3})
    store.alias("two", "stable", 1)
    for number in range(TASKS):
        publish(store, f"small/{number:03}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Sharing, "start", lambda _: None)  # what an answer reads is its own
        made = Gateway(store, compilations, poll_s=0.5)
    made.app.state.runtime.catalog._follower._stall_s = 600.0  # a slow machine does not hang
    yield made
    made.close()


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The keys of all files of the store that are read from now on, but for the poll's."""
    found: list[str] = []

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def read(self: LocalStorage, key: str, *rest: Any) -> Any:
            if threading.current_thread().name != "catalog":
                found.append(key)
            return real(self, key, *rest)

        return read

    for name in ("read", "load", "stat"):
        monkeypatch.setattr(LocalStorage, name, counted(getattr(LocalStorage, name)))
    return found


def test_a_task_of_many_versions_is_described_by_the_newest(
    many: Gateway, reads: list[str]
) -> None:
    found = many.get("/tasks/many")
    numbers = [one["version"] for one in found["versions"]]
    assert numbers == list(range(MANY - VERSIONS + 1, MANY + 1))
    assert found["older_versions"] == MANY - VERSIONS
    assert len(reads) < 3 * VERSIONS + 4 * FEW
    assert [one["names"] for one in many.get("/tasks/two")["versions"]] == [["stable"], []]
    assert many.get("/tasks/two")["older_versions"] == 0


def test_metadata_lists_the_newest_versions_and_reads_no_manifest_of_them(
    many: Gateway, reads: list[str]
) -> None:
    found = many.get("/v2/models/many")["versions"]
    assert found == [str(n) for n in range(MANY - models.VERSIONS + 1, MANY + 1)]
    assert len(reads) < 3 * models.VERSIONS
    assert sum("blobs" in key for key in reads) < 10


@pytest.mark.parametrize("query", ["?version=stable", "?version=5", "?version=123456"])
@pytest.mark.parametrize("route", ["/classify/many", "/v2/models/many/versions"])
def test_a_version_is_found_by_reading_a_few_files(
    many: Gateway, reads: list[str], query: str, route: str
) -> None:
    if route.startswith("/v2"):
        answer = many.request("GET", f"{route}/{query.partition('=')[2]}/config")
    else:
        answer = many.request("POST", route + query, content=png(1), headers=OCTETS)
    assert answer.status_code == (404 if "123456" in query else 200)
    assert sum(key.startswith("refs/") for key in reads) < 20


def test_a_page_reads_what_it_shows_and_a_few_more(many: Gateway, reads: list[str]) -> None:
    (task,) = many.get("/tasks?limit=1&after=small/050")["tasks"]
    assert task["id"] == "small/051"
    per_task = 4  # two refs and two blobs
    assert len(reads) <= per_task * (1 + FEW)
    for _ in range(1 + TASKS // FEW):
        many.get("/tasks?limit=1")
    reads.clear()
    assert many.get("/tasks")["tasks"][0]["bytes"]["shared"] > 0  # all of them are known by now
    assert reads == []


def test_questions_about_tasks_take_no_thread_of_answers(
    many: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that hangs for them, and clients that ask on and on."""
    runtime, hanging = many.app.state.runtime, threading.Event()
    newest = runtime.store.newest
    monkeypatch.setattr(
        runtime.store, "newest", lambda *of: hanging.wait(PATIENCE_S) and newest(*of)
    )
    deadlines.without(many, monkeypatch)
    publish(many.store, "cold")

    async def story() -> tuple[list[httpx.Response], list[httpx.Response]]:
        transport = httpx.ASGITransport(many.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            paths = ["/tasks/many", "/v2/models/many"] * WAITING
            asked = [asyncio.create_task(client.get(path)) for path in paths]
            while not any(one.done() for one in asked):
                await asyncio.sleep(0.01)
            others = [await client.get("/tasks")]
            for path in ("cold", "two?version=1", "two?version=stable", "two"):
                url = f"/classify/{path}"
                others.append(await client.post(url, content=png(1), headers=OCTETS))
            hanging.set()
            return others, await asyncio.gather(*asked)

    others, asked = many.runner.run(story())
    assert [one.status_code for one in others] == [200] * 5
    busy = [one for one in asked if one.status_code != 200]
    for one in busy:
        assert "wait already" in refused(one, 503, "unavailable")["detail"]
    assert len(busy) == len(asked) - WAITING


def test_what_tasks_share_becomes_known_without_being_asked_for(
    tmp_path: Path, compilations: str
) -> None:
    store = ModelStore(tmp_path, create=True)
    for number in range(3):
        publish(store, f"t{number}")
    gateway = Gateway(store, compilations)
    try:
        sharing = gateway.app.state.runtime.sharing
        body = store.resolve("t0").path.components["embedding"]
        eventually(lambda: sharing.users(body, LOCAL) == 3)
        store.rm("t1")
        eventually(lambda: sharing.users(body, LOCAL) == 2)
    finally:
        gateway.close()


NAMES, DIGESTS = [f"t{n}" for n in range(4)], [Digest(f"sha256:{n:064}") for n in range(5)]


class _Slot:
    summarised = True

    def __init__(self, summary: Summary) -> None:
        self.digest = summary.digest
        self.known_summary = summary

    def summary(self) -> Summary:
        return self.known_summary


def _entry(summary: Summary) -> Entry:
    slot: Any = _Slot(summary)
    return Entry(slot)


@st.composite
def summaries(draw: st.DrawFn) -> Summary:
    components = draw(st.sets(st.sampled_from(DIGESTS), min_size=1))
    private = draw(st.booleans())
    digest = Digest(f"sha256:{hash((frozenset(components), private)) & (2**63 - 1):064}")
    sizes = (1,) * len(components)
    return Summary(
        digest,
        "",
        1,
        "softmax",
        {},
        {},
        None,
        private,
        tuple(sorted(components)),
        sizes,
        (),
        {},
        None,
    )


def test_a_task_counts_as_private_as_soon_as_its_next_version_is() -> None:
    public, private = (
        Summary(
            Digest(name),
            "",
            1,
            "softmax",
            {},
            {},
            None,
            name == "private",
            (DIGESTS[0],),
            (1,),
            (),
            {},
            None,
        )
        for name in ("public", "private")
    )
    entry = _entry(public)
    sharing = Sharing(lambda: {"t": entry})
    sharing.learn({})
    assert sharing.users(DIGESTS[0], LOCAL) == 1
    successor: Any = _Slot(private)
    entry.successor = successor  # loading, or one that cannot be loaded
    sharing.learn({})
    assert sharing.users(DIGESTS[0], LOCAL) == 0
    entry.successor = None  # rolled back
    sharing.learn({})
    assert sharing.users(DIGESTS[0], LOCAL) == 1


def test_tasks_that_could_not_be_read_are_forgotten_with_their_removal() -> None:
    class Unreadable:
        digest, summarised, known_summary = DIGESTS[0], False, None

        def summary(self) -> Summary:
            raise OSError("of no use")

    slot: Any = Unreadable()
    now = {"t": Entry(slot)}
    sharing = Sharing(lambda: now)
    sharing.learn({})
    assert list(sharing._failed) == ["t"]
    now.clear()
    sharing.learn({})
    assert not sharing._failed


@given(st.lists(st.dictionaries(st.sampled_from(NAMES), summaries())))
def test_counts_of_sharing_are_those_of_a_recount(steps: list[Mapping[str, Summary]]) -> None:
    """However tasks come, change and go, and for all who ask."""
    now: dict[str, Any] = {}
    sharing = Sharing(lambda: now)
    callers = [LOCAL, Grants("one", classify=("t1",)), Grants("all", classify=tuple(NAMES))]
    for step in steps:
        now.clear()
        now.update({task: _entry(summary) for task, summary in step.items()})
        sharing.learn({})
        for grants in callers:
            for digest in DIGESTS:
                expected = sum(
                    digest in one.components and grants.sees(task, one.private)
                    for task, one in step.items()
                )
                assert sharing.users(digest, grants) == expected


def test_unknown_names_take_no_thread_of_answers(
    many: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is near them is searched elsewhere; beyond a number of searches without hints."""
    runtime, hanging = many.app.state.runtime, threading.Event()
    near = runtime.catalog.near
    monkeypatch.setattr(
        runtime.catalog, "near", lambda name: hanging.wait(PATIENCE_S) and near(name)
    )

    async def story() -> tuple[list[int], list[httpx.Response]]:
        transport = httpx.ASGITransport(many.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            paths = [f"/tasks/small/x{number}" for number in range(WAITING + 8)]
            asked = [asyncio.create_task(client.get(path)) for path in paths]
            while sum(one.done() for one in asked) < 8:  # beyond those that wait
                await asyncio.sleep(0.01)
            others = [(await client.get("/tasks")).status_code]
            for path in ("small/001", "two?version=1", "two?version=stable", "two"):
                url = f"/classify/{path}"
                answer = await client.post(url, content=png(1), headers=OCTETS)
                others.append(answer.status_code)
            hanging.set()
            return others, await asyncio.gather(*asked)

    others, asked = many.runner.run(story())
    assert others == [200] * 5
    assert {one.status_code for one in asked} == {404}
    assert sum(not one.json()["nearest"] for one in asked) >= 8
