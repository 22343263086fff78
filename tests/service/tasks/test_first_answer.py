"""Ready means that it has loaded something and answered once; nothing takes that back."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from model_store import ModelStore
from service.tasks import first_answer
from service.tasks.first_answer import FirstAnswer
from tests.service.in_process import Gateway
from tests.service.systems import png, publish
from tests.service.waiting import eventually


class Named:
    """In the place of an entry of the catalog and its slot."""

    def __init__(self, task: str) -> None:
        self.task, self.version, self.path, self.slot = task, 1, None, self


class World:
    """Tasks of which some work, and what was tried."""

    def __init__(self, tasks: Sequence[str], working: Sequence[str], *, ready: bool = True) -> None:
        self.tasks, self.working, self.ready = list(tasks), set(working), ready
        self.tried: list[str] = []
        self.passes = 0

    def entries(self) -> dict[str, Any]:
        self.passes += 1
        return {task: Named(task) for task in self.tasks}

    def answer(self, slot: Any) -> None:
        self._try(slot.task)

    def built_in(self) -> None:
        self._try("built-in")

    def _try(self, task: str) -> None:
        self.tried.append(task)
        if task not in self.working:
            raise OSError(30, "Read-only file system")


@contextmanager
def trying(world: World, *preload: str) -> Iterator[FirstAnswer]:
    answer = FirstAnswer(world, preload, world.answer, world.built_in)
    answer.start()
    try:
        yield answer
    finally:
        answer.stop()


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_answer, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(first_answer, "LONGEST_PAUSE_S", 0.01)


@pytest.mark.parametrize("working", ["a", "b", "c"])
def test_one_task_that_answers_is_enough(working: str) -> None:
    with trying(World("abc", working)) as answer:
        eventually(lambda: answer.given)


def test_it_is_not_ready_while_every_task_fails_and_tries_again() -> None:
    world = World("abc", ())
    with trying(world) as answer:
        eventually(lambda: world.passes > 3)
        assert not answer.given
        assert set(world.tried) == set("abc")  # what is built in would prove nothing of these
        world.working = {"c"}
        eventually(lambda: answer.given)


def test_what_is_loaded_at_start_is_tried_alone_if_it_is_there() -> None:
    world = World("abc", "a")
    with trying(world, "b", "c", "gone") as answer:
        eventually(lambda: world.passes > 3)
        assert not answer.given and set(world.tried) == set("bc")
        world.working = {"c"}
        eventually(lambda: answer.given)
    for preload in (("*",), ("gone",), ()):
        with trying(World("abc", "a"), *preload) as answer:
            eventually(lambda answer=answer: answer.given)


def test_an_empty_store_is_tried_by_what_is_built_in() -> None:
    world = World((), ())
    with trying(world) as answer:
        eventually(lambda: world.tried.count("built-in") > 2)
        assert not answer.given
        world.working = {"built-in"}
        eventually(lambda: answer.given)


def test_a_store_that_was_not_read_is_not_an_empty_one() -> None:
    world = World((), ("built-in",), ready=False)
    with trying(world) as answer:
        assert not threading.Event().wait(0.1)
        assert not answer.given and not world.tried
        world.ready = True
        eventually(lambda: answer.given)


def test_nothing_is_tried_after_the_first_answer() -> None:
    world = World("a", "a")
    with trying(world) as answer:
        eventually(lambda: answer.given)
        world.working, world.ready = set(), False  # an outage
        answer._thread.join()
        assert answer.given and world.tried == ["a"]


def test_a_failure_that_goes_on_is_one_line_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    world = World("abc", ())
    with trying(world):
        eventually(lambda: world.passes > 3)
    assert caplog.text.count("event=not_ready") == 1
    assert "Read-only file system" in caplog.text


def ready(gateway: Gateway) -> bool:
    return gateway.request("GET", "/readyz").status_code == 200


def spoilt(store: ModelStore, task: str) -> None:
    """A task whose head is not in the store any more."""
    path = publish(store, task).path
    hexadecimal = path.components["head"].removeprefix("sha256:")
    (Path(store.url) / "blobs" / "sha256" / hexadecimal).unlink()


@contextmanager
def serving(store: ModelStore, compilations: str, **settings: Any) -> Iterator[Gateway]:
    gateway = Gateway(store, compilations, **settings)
    try:
        yield gateway
    finally:
        gateway.close()


def tried(caplog: pytest.LogCaptureFixture) -> bool:
    return "event=not_ready" in caplog.text


def test_a_gateway_whose_tasks_all_fail_is_ready_when_one_is_published(
    tmp_path: Path, compilations: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = ModelStore(tmp_path / "store", create=True)
    spoilt(store, "broken")
    with serving(store, compilations) as gateway:
        eventually(lambda: tried(caplog))
        assert not ready(gateway)
        publish(store, "plain")
        eventually(lambda: ready(gateway))
        assert gateway.metric('munet_tasks{state="ready"}') == 0  # nobody has asked for it
        (tmp_path / "store").rename(tmp_path / "away")  # an outage
        assert ready(gateway)


def test_a_gateway_is_not_ready_where_all_that_it_preloads_failed(
    tmp_path: Path, compilations: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = ModelStore(tmp_path / "store", create=True)
    publish(store, "plain")
    spoilt(store, "broken")
    with serving(store, compilations, preload="broken") as gateway:
        eventually(lambda: tried(caplog))
        assert not ready(gateway)
        assert gateway.classify("plain", png(1)).status_code == 200
        assert not ready(gateway)
    with serving(store, compilations, preload="broken,plain") as gateway:
        eventually(lambda: ready(gateway))


def test_a_gateway_on_an_empty_store_is_ready(tmp_path: Path, compilations: str) -> None:
    store = ModelStore(tmp_path / "store", create=True)
    with serving(store, compilations, backend="openvino", max_batch_rows=1) as gateway:
        eventually(lambda: ready(gateway))
        assert gateway.metric('munet_tasks{state="ready"}') == 0
        publish(store, "plain")
        eventually(lambda: gateway.classify("plain", png(1)).status_code == 200)


def test_a_gateway_that_starts_in_an_outage_is_ready_once_that_is_over(
    tmp_path: Path, compilations: str
) -> None:
    store = ModelStore(tmp_path / "store", create=True)
    publish(store, "plain")
    (tmp_path / "store").rename(tmp_path / "away")
    with serving(store, compilations) as gateway:
        assert not ready(gateway)
        (tmp_path / "away").rename(tmp_path / "store")
        eventually(lambda: ready(gateway))
        assert gateway.classify("plain", png(1)).status_code == 200
