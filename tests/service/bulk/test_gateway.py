"""Tables that a running gateway answers, next to those of this process."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from service.bulk import gateway
from service.bulk.answering import Pin
from service.bulk.sources import Item
from service.client import Client, Refused, Retries
from tests.service.bulk.tables import Done, rows, run
from tests.service.client.canned import Time, problem, serving
from tests.service.conftest import Served
from tests.service.systems import png

TASKS = ("plain", "group/other")
Run = Callable[..., Done]


@pytest.fixture
def classify(
    settings: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    asked = [word for task in TASKS for word in ("--task", task)]
    return lambda *arguments: run(capsys, monkeypatch, *arguments, *asked)


def test_both_ways_give_what_the_gateway_answers_alone(
    classify: Run, served: Served, place: Path, tmp_path: Path
) -> None:
    url, tables = f"http://127.0.0.1:{served.server.port}", (tmp_path / "a.csv", tmp_path / "b.csv")
    ways = ("--url", url), ("--store", served.store.url)
    for table, way in zip(tables, ways, strict=True):
        done = classify("photos/00*.png", *way, "--out", table, "--top-k", "2")
        assert done.code == 1, done.err  # a picture is none
    asked, computed = map(rows, tables)
    assert len(asked) == len(computed) > 100
    with Client(url, retries=Retries(total_s=300)) as client:
        for one, other in zip(asked, computed, strict=True):
            same = ("source", "task", "version", "digest", "label", "error")
            assert [one[name] for name in same] == [other[name] for name in same]
            if one["error"]:
                continue
            (alone,) = client.classify(place / one["source"], one["task"], top=2)
            for row in (one, other):
                found = [(best["label"], best["probability"]) for best in row["top"]]
                assert [label for label, _ in found] == [p.label for p in alone.predictions]
                for (_, probability), expected in zip(found, alone.predictions, strict=True):
                    assert probability == pytest.approx(expected.probability, abs=1e-6)


def test_a_gateway_that_is_not_there_is_told_at_once(classify: Run, tmp_path: Path) -> None:
    out = tmp_path / "answers.csv"
    done = classify("photos", "--url", "http://127.0.0.1:9", "--out", out)
    assert done.code == 1 and "no gateway answers" in done.err
    assert not [*tmp_path.iterdir()]


def test_a_task_that_there_is_not_ends_it_before_a_table_is_begun(
    settings: dict[str, str], served: Served, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    out = tmp_path / "answers.csv"
    for way in (["--url", f"http://127.0.0.1:{served.server.port}"], ["--store", "store"]):
        done = run(capsys, monkeypatch, "photos", "--task", "plan", *way, "--out", out)
        assert done.code == 1 and "plan" in done.err
        assert not [*tmp_path.iterdir()]


def answered(server: Any, count: int) -> list[list[int | None]]:
    """The version of each task for each of some images, from a server with canned answers."""
    time = Time()
    url = f"http://127.0.0.1:{server.server_port}"
    with Client(url, retries=time.retries(), sleep=time.sleep) as client:
        asking = gateway._Gateway(client, {"a": Pin(1, "x"), "b": Pin(1, "y")}, 3)
        items = [Item(str(number), lambda: png(1)) for number in range(count)]
        return [[one.version for one in asking.image(item)[1]] for item in items]


def of(task: str, version: int) -> dict[str, Any]:
    return {"task": task, "version": version, "predictions": []}


def test_another_version_goes_live_meanwhile() -> None:
    with serving() as server:
        server.answers += [
            (200, {}, {"results": [of("a", 1), of("b", 1)]}),
            (200, {}, {"results": [of("a", 1), of("b", 2)]}),
            (200, {}, of("b", 1)),
            (200, {}, of("a", 1)),
            (200, {}, of("b", 1)),
        ]
        assert answered(server, 3) == [[1, 1]] * 3
        paths = [path.partition("&top_k")[0] for path in server.paths]
    both = "/classify?task=a&task=b"
    assert paths[:2] == [both, both]
    assert paths[2] == paths[4] == "/classify/b?version=1"


def test_a_task_that_fails_is_asked_again_alone_and_then_ends_it() -> None:
    failed = {"task": "b", "problem": problem(503, "is loading")[2] | {"status": 503}}
    with serving() as server:
        server.answers += [(200, {}, {"results": [of("a", 1), failed]}), (200, {}, of("b", 1))]
        assert answered(server, 1) == [[1, 1]]
        server.answers += [(200, {}, {"results": [of("a", 1), failed]}), problem(404, "is gone")]
        with pytest.raises(Refused, match="is gone"):
            answered(server, 1)


def test_a_gateway_that_is_lost_ends_the_run_and_the_next_one_goes_on(
    settings: dict[str, str], tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    out, task = tmp_path / "answers.csv", {"id": "t", "version": 1, "digest": "sha256:x"}
    good = (200, {}, {"task": "t", "version": 1, "predictions": [{"label": "a", "probability": 1}]})
    arguments = ("photos/more", "--task", "t", "--out", out, "--json", "--url")
    with serving() as server:
        url = f"http://127.0.0.1:{server.server_port}"
        server.answers += [(200, {}, task)] + [good] * 50 + [problem(401, "not known")] * 60
        done = run(capsys, monkeypatch, *arguments, url)
        assert done.code == 1 and "not known" in done.err and not out.exists()
        server.answers[:] = [(200, {}, task)] + [good] * 110
        done = run(capsys, monkeypatch, *arguments, url)
    assert done.code == 0, done.err
    assert 0 < json.loads(done.out)["images_of_this_run"] < 110
    found = [row["source"] for row in rows(out)]
    assert len(found) == 110 and found == sorted(set(found))
