"""The Python client, against a real server with answers of its own, and against the gateway."""

from __future__ import annotations

import asyncio
import pickle
import socket
from collections.abc import Callable, Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from service.client import (
    Answer,
    AsyncClient,
    BadImage,
    Client,
    Embedding,
    NoGateway,
    NotAGateway,
    Refused,
    Retries,
    Task,
)
from tests.service.client.canned import GOOD, Canned, Time, problem, serving
from tests.service.conftest import Served
from tests.service.systems import png

PATIENT = Retries(total_s=300)  # a busy machine compiles slowly


@pytest.fixture
def other() -> Iterator[Any]:
    with serving() as server:
        yield server


def blocking(url: str, time: Time, token: str | None, options: dict[str, Any]) -> list[Answer]:
    retries = time.retries(**options)
    with Client(url, token, retries=retries, sleep=time.sleep) as client:
        return client.classify(b"image", "t")


def awaited(url: str, time: Time, token: str | None, options: dict[str, Any]) -> list[Answer]:
    async def ask() -> list[Answer]:
        retries = time.retries(**options)
        async with AsyncClient(url, token, retries=retries, sleep=time.asleep) as client:
            return await client.classify(b"image", "t")

    return asyncio.run(ask())


Ask = Callable[..., list[Answer]]


@pytest.fixture(params=[blocking, awaited])
def ask(request: pytest.FixtureRequest, other: Any) -> Ask:
    url = f"http://127.0.0.1:{other.server_port}"
    return lambda time, token=None, **options: request.param(url, time, token, options)


@pytest.mark.parametrize("status", [429, 503])
def test_it_asks_again_when_the_gateway_says_so_and_not_before(
    ask: Ask, other: Any, status: int
) -> None:
    time = Time()
    other.answers += [problem(status, "full", retry_after="7")] * 2 + [(200, {}, GOOD)]
    (answer,) = ask(time)
    assert (answer.task, answer.version, answer.best.label) == ("t", 1, "a")
    assert time.slept == [7.0, 7.0]


def test_a_date_in_retry_after_is_waited_for(ask: Ask, other: Any) -> None:
    time = Time()
    other.answers += [problem(503, "later", retry_after=formatdate(time.now + 30, usegmt=True))]
    other.answers += [(200, {}, GOOD)]
    ask(time)
    assert time.slept == [pytest.approx(30, abs=1)]


@pytest.mark.parametrize("header", [{}, {"retry_after": "soon"}, {"retry_after": "-5"}])
def test_without_a_time_pauses_double_up_to_the_longest(
    ask: Ask, other: Any, header: dict[str, str]
) -> None:
    time = Time()
    other.answers += [problem(503, "later", **header)] * 5 + [(200, {}, GOOD)]
    ask(time, first_s=1.0, longest_s=4.0)
    assert time.slept == [1.0, 2.0, 4.0, 4.0, 4.0]


def test_pauses_are_longer_by_chance_never_shorter(ask: Ask, other: Any) -> None:
    time = Time(draw=1.0)
    other.answers += [problem(503, "later", retry_after="8"), (200, {}, GOOD)]
    ask(time)
    assert time.slept == [10.0]


def test_it_gives_up_at_once_where_the_next_try_would_be_too_late(ask: Ask, other: Any) -> None:
    time = Time()
    other.answers += [problem(503, "later", retry_after="20")] * 9
    with pytest.raises(Refused, match="later") as error:
        ask(time, total_s=50)
    assert time.slept == [20.0, 20.0] and len(other.seen) == 3
    assert (error.value.status, error.value.kind) == (503, "some")


@pytest.mark.parametrize("status", [400, 401, 404, 422, 500, 504])
def test_other_refusals_are_not_asked_again(ask: Ask, other: Any, status: int) -> None:
    other.answers += [problem(status, "the gateway's own words")]
    with pytest.raises(Refused, match="the gateway's own words") as error:
        ask(Time())
    assert isinstance(error.value, BadImage) == (status == 400)
    assert pickle.loads(pickle.dumps(error.value)).status == status


def test_a_connection_that_breaks_is_made_again(ask: Ask, other: Any) -> None:
    other.answers += [(0, {}, None), (200, {}, GOOD)]
    time = Time()
    assert ask(time)[0].version == 1
    assert len(time.slept) == 1


@pytest.mark.parametrize("way", [blocking, awaited])
@pytest.mark.parametrize("unreached", [True, False])
def test_where_nobody_listens_it_tries_for_its_time(way: Ask, unreached: bool) -> None:
    time = Time()
    with socket.socket() as held:  # a port that nobody listens on, and nobody else gets
        held.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{held.getsockname()[1]}"
        with pytest.raises(NoGateway, match=url):
            way(url, time, None, {"unreached": unreached, "total_s": 4.0, "first_s": 1.0})
    assert time.slept == ([1.0, 2.0] if unreached else [])


@pytest.mark.parametrize(
    "answer",
    [
        (404, {}, b"<html>no such page</html>"),
        (404, {}, {"detail": "Not Found"}),
        (200, {}, {"predictions": 3}),
        (200, {}, [1]),
        (200, {"content-encoding": "gzip"}, b"no gzip"),
        (302, {"location": "/"}, b""),
    ],
)
def test_what_no_gateway_says(ask: Ask, other: Any, answer: Canned) -> None:
    other.answers += [answer]
    with pytest.raises(NotAGateway, match="something else"):
        ask(Time())


def test_the_token_is_sent(ask: Ask, other: Any) -> None:
    other.answers += [(200, {}, GOOD)]
    ask(Time(), token="secret")
    assert other.seen[0]["authorization"] == "Bearer secret"


@pytest.mark.parametrize(
    "url", ["127.0.0.1:3000", "http://h:99999", "http://me:secret@h", "ftp://h"]
)
def test_what_is_no_address(url: str) -> None:
    for kind in (Client, AsyncClient):
        with pytest.raises(ValueError, match="http://HOST:PORT"):
            kind(url)
    with pytest.raises(ValueError, match="token"):
        Client("http://h", "two\nlines")


def test_all_pages_of_tasks_are_asked_for(other: Any) -> None:
    pages = [
        (200, {}, {"tasks": [{"id": "a", "state": "ready", "version": 3}], "next": "a"}),
        (200, {}, {"tasks": [{"id": "b", "state": "failed"}]}),
    ]
    url = f"http://127.0.0.1:{other.server_port}/behind/a/proxy/"

    async def listed() -> list[Task]:
        async with AsyncClient(url) as client:
            return await client.tasks()

    other.answers += pages * 2
    with Client(url) as client:
        found = client.tasks()
    assert [(one.name, one.version) for one in found] == [("a", 3), ("b", None)]
    assert asyncio.run(listed()) == found
    assert other.paths == 2 * [f"/behind/a/proxy/tasks?after={after}" for after in ("", "a")]


def test_one_image_for_several_tasks_of_a_gateway(served: Served, tmp_path: Path) -> None:
    file = tmp_path / "image.png"
    file.write_bytes(png(1))
    url = f"http://127.0.0.1:{served.server.port}"

    async def both() -> tuple[list[Answer], Task]:
        async with AsyncClient(url, retries=PATIENT) as client:
            answers = await client.classify(file, "group/other", "no such", "plain", top=2)
            return answers, await client.task("plain")

    with Client(url, retries=PATIENT) as client:
        other, missing, plain = client.classify(png(1), "group/other", "no such", "plain", top=2)
        assert client.task("plain").digest == served.store.resolve("plain").digest
        assert client.classify(file, "plain", version=1, top=2)[0].task == "plain"
        with pytest.raises(ValueError, match="version"):
            client.classify(b"", "plain", "group/other", version=1)
        with pytest.raises(BadImage, match="PNG"):
            client.classify(b"no picture", "plain")
        with pytest.raises(BadImage, match="No such file"):
            client.classify(tmp_path / "missing.png", "plain")
        with pytest.raises(Refused, match="no task"):
            client.classify(file, "no such")
    assert (other.task, plain.task) == ("group/other", "plain")
    assert len(plain.predictions) == 2
    assert plain.best.probability >= plain.predictions[1].probability > 0
    assert missing.error is not None and missing.error.status == 404
    with pytest.raises(Refused, match="no task"):
        _ = missing.best
    answers, task = asyncio.run(both())
    assert [one.task for one in answers] == ["group/other", "no such", "plain"]
    assert answers[2].best.probability == pytest.approx(plain.best.probability, abs=1e-6)
    assert task.version == 1


def test_features_of_one_image_in_several_networks(served: Served) -> None:
    url = f"http://127.0.0.1:{served.server.port}"

    async def awaited_ones() -> list[Embedding]:
        async with AsyncClient(url, retries=PATIENT) as client:
            return await client.embed(png(1), "plain", depth=1)

    with Client(url, retries=PATIENT) as client:
        other, missing, plain = client.embed(png(1), "group/other", "no such", "plain", depth=1)
        whole = client.embed(png(1), "plain", version=1)[0]
        with pytest.raises(Refused, match="from 0 to 2"):
            client.embed(png(1), "plain", depth=7)
    assert (other.task, plain.task) == ("group/other", "plain")
    assert (plain.version, plain.depth, whole.depth) == (1, 1, 2)
    assert len(plain.features) == len(whole.features) == 32
    assert plain.features == pytest.approx(other.features, abs=1e-5)  # up to there they are one
    assert whole.features != pytest.approx(plain.features, abs=1e-2)
    assert missing.error is not None and missing.error.status == 404 and not missing.features
    assert asyncio.run(awaited_ones())[0].features == pytest.approx(plain.features, abs=1e-5)
