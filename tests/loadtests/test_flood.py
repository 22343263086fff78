"""The benchmark of overload: its client on real sockets, and what is made of the replies."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from rich.console import Console

from loadtests.client import Client, Reply, closed_loop, open_loop, post
from loadtests.errors import OptionError
from loadtests.flood import Setup, json_line, measure, render
from loadtests.flood.measure import _Run
from tests.loadtests.fake_gateway import fake_gateway


def test_an_open_loop_waits_for_nobody() -> None:
    with fake_gateway("slow/a", stage_s=0.2) as gateway:
        replies = asyncio.run(play(gateway.url, [(0.0, "slow/a")] * 3 + [(0.01, "busy")]))
    assert sorted(reply.status for reply in replies) == [200, 200, 200, 503]
    (refused,) = (reply for reply in replies if reply.status == 503)
    slowest = max(reply.latency_s for reply in replies)
    assert not refused.retry_after
    assert refused.latency_s < slowest and slowest >= 0.6


SECONDS = 0.3


async def play(url: str, *schedules: list[tuple[float, str]]) -> list[Reply]:
    """One after the other, on the same connections."""
    client = Client(urlsplit(url).port or 0)
    try:
        replies: list[Reply] = []
        for schedule in schedules:
            requests = [(at, post(task, b"x", 1000)) for at, task in schedule]
            replies += await open_loop(client, requests)
        return replies
    finally:
        client.close()


def test_a_lost_connection_is_a_reply_and_another_one_is_opened() -> None:
    with fake_gateway("a") as gateway:
        replies = asyncio.run(play(gateway.url, [(0.0, "cut")], [(0.0, "a"), (0.0, "a")]))
    assert [reply.status for reply in replies] == [0, 200, 200]


def test_a_closed_loop_counts_answers() -> None:
    async def run(url: str) -> float:
        client = Client(urlsplit(url).port or 0)
        try:
            return await closed_loop(client, [post("a", b"x", 1000)], 2, SECONDS)
        finally:
            client.close()

    with fake_gateway("a") as gateway:
        rate = asyncio.run(run(gateway.url))
        assert gateway.most_in_flight <= 2
    assert 0 <= rate <= len(gateway.posts) / SECONDS
    assert gateway.posts


def test_numbers_are_those_of_the_replies() -> None:
    run = _Run(Setup(seconds=2.0, deadline_ms=100), 1, print)
    good, slow, late = Reply(200, 0.05, 0, False), Reply(200, 0.2, 0, False), Reply(504, 0.1, 0, 0)
    refused = [Reply(503, 0.001, 0, True), Reply(429, 0.003, 0, False)]
    load = run.offer(2.0, 10.0, [good, slow, late, *refused], 0.1)
    assert (load.goodput, load.accepted, load.in_time) == (0.5, 3, 1)
    assert load.statuses == {"200": 2, "429": 1, "503": 1, "504": 1}
    assert (load.refusal_p50_ms, load.without_retry_after) == (pytest.approx(2.0), 1)


def test_senseless_options_are_refused() -> None:
    for options in ({"tasks": 1}, {"seconds": 0.0}, {"deadline_ms": 0}):
        with pytest.raises(OptionError):
            Setup(**options)


@pytest.mark.slow
def test_the_whole_of_it_on_a_tiny_network(tmp_path: Path) -> None:
    setup = Setup(image_size=32, layers=2, tasks=2, factors=(1.0, 4.0), seconds=2.0, rounds=1)
    result = measure(setup, print)
    assert [load.factor for load in result.loads] == [1.0, 4.0]
    assert all(load.without_retry_after == 0 for load in result.loads)
    assert result.alone.answered == result.alone.sent
    assert json.loads(json_line(result))["setup"]["tasks"] == 2
    console = Console(record=True, width=160, file=(tmp_path / "shown").open("w"))
    console.print(render(result))
    assert "4x" in console.export_text()
