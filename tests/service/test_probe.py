"""A version is served only after it has answered a probe image with finite numbers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from model_store import ModelStore, TaskPath
from service.compute import probe
from tests.service.in_process import Gateway, refused
from tests.service.systems import TINY, multipath, png, publish, random_component
from tests.service.waiting import eventually

Poison = Callable[[Any], Any]


@pytest.fixture(scope="module")
def tried(tmp_path_factory: pytest.TempPathFactory, compilations: str) -> Iterator[Gateway]:
    store = ModelStore(tmp_path_factory.mktemp("probe"), create=True)
    publish(store, "good")
    made = Gateway(store, compilations, preload="good")
    yield made
    made.close()


def everywhere(value: float) -> Poison:
    def fill(tree: Any) -> Any:
        if isinstance(tree, Mapping):
            return {name: fill(inner) for name, inner in tree.items()}
        return np.full_like(tree, value)

    return fill


def in_one_class(value: float) -> Poison:
    def fill(tree: Any) -> Any:
        bias = tree["bias"].copy()
        bias[1] = value
        return {**tree, "bias": bias}

    return fill


POISONS: dict[str, tuple[str, Poison]] = {
    "NaN in the norm": ("encoder_norm", everywhere(np.nan)),
    "NaN in a block": ("encoderblock_0", everywhere(np.nan)),
    "NaN in the embedding": ("embedding", everywhere(np.nan)),
    "NaN in the class token": ("cls", everywhere(np.nan)),
    "NaN of one class": ("head", in_one_class(np.nan)),
    "infinity of one class": ("head", in_one_class(np.inf)),
    "minus infinity of one class": ("head", in_one_class(-np.inf)),
    "finite but huge": ("encoder_norm", everywhere(3e38)),
    "huge in the last block": ("encoderblock_1", everywhere(3e38)),
}


def poisoned(store: ModelStore, path: TaskPath, poison: str) -> TaskPath:
    name, change = POISONS[poison]
    bad = store.put(change(random_component(TINY, name, 5)))
    return replace(path, components={**path.components, name: bad})


@pytest.mark.parametrize("poison", POISONS)
def test_a_version_without_numbers_does_not_replace_a_good_one(tried: Gateway, poison: str) -> None:
    task = f"t/{poison.replace(' ', '-')}"
    good = publish(tried.store, task)
    before = tried.classify(task, png(1)).json()["predictions"]
    tried.store.publish(poisoned(tried.store, good.path, poison))

    def shown() -> Any:
        return tried.get(f"/tasks/{task}")

    eventually(lambda: "not finite" in shown().get("reason", ""))
    assert (shown()["state"], shown()["version"], shown()["live_version"]) == ("ready", 1, 2)
    answer = tried.classify(task, png(1)).json()
    assert (answer["version"], answer["predictions"]) == (1, before)
    by_number = refused(tried.classify(task, png(1), "?version=2"), 503, "unavailable")
    assert "not finite" in by_number["detail"]
    tried.store.publish(replace(good.path, metrics={"another": 1}))
    eventually(lambda: tried.classify(task, png(1)).json()["version"] == 3)
    older = refused(tried.classify(task, png(1), "?version=2"), 503, "unavailable")
    assert "not finite" in older["detail"]


def test_a_first_version_without_numbers_answers_nobody_and_says_why(tried: Gateway) -> None:
    path = replace(tried.store.resolve("good").path, task="only/bad")
    tried.store.publish(poisoned(tried.store, path, "NaN of one class"))
    body = refused(tried.classify("only/bad", png(1)), 503, "unavailable")
    assert "answered a probe image with numbers that are not finite" in body["detail"]
    assert tried.get("/tasks/only/bad")["state"] == "failed"
    assert tried.classify("good", png(1)).status_code == 200


def test_a_mixer_without_numbers_is_refused(tried: Gateway) -> None:
    """Its paths are sound; only what mixes them is not."""
    parts = [publish(tried.store, f"part/{n}", own={"encoderblock_1": n}) for n in (1, 2)]
    path = multipath(tried.store, "mixed", parts)
    tried.store.publish(path)
    assert tried.classify("mixed", png(1)).json()["version"] == 1
    for version, name in enumerate(("multipath_router", "head_adapter_path_1"), 2):
        bad = tried.store.put(everywhere(np.nan)(tried.store.component(path.components[name])))
        tried.store.publish(replace(path, components={**path.components, name: bad}))
        eventually(
            lambda version=version: (
                (found := tried.get("/tasks/mixed"))["live_version"] == version
                and "not finite" in found.get("reason", "")
            )
        )
        assert tried.classify("mixed", png(1)).json()["version"] == 1


def test_a_probe_takes_its_turn_between_batches(
    tried: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stream runs one batch at a time, and who waits comes before who came later."""
    runtime = tried.app.state.runtime
    assert tried.classify("good", png(1)).status_code == 200
    path = runtime.catalog.entries()["good"].slot.path
    engine: Any = runtime.engine
    real, entered, gate = engine._answers, list[str](), threading.Event()

    def watched(*rows: Any) -> Any:
        entered.append(threading.current_thread().name)
        assert gate.wait(60)
        return real(*rows)

    monkeypatch.setattr(engine, "_answers", watched)
    first, second = (
        threading.Thread(target=engine.run, args=([probe.row(path)],), name=name)
        for name in ("first", "second")
    )
    probing = threading.Thread(target=engine.probe, args=(path,), name="probe")
    first.start()
    eventually(lambda: entered)
    probing.start()
    eventually(engine._next.locked)  # it waits for the batch to end
    second.start()
    assert entered == ["first"]
    gate.set()
    for thread in (first, probing, second):
        thread.join(60)
    assert entered == ["first", "probe", "second"]


def test_a_probe_is_nobodys_request(tried: Gateway) -> None:
    runtime = tried.app.state.runtime
    parts = [publish(tried.store, f"one/{n}", own={"encoderblock_1": n}) for n in (1, 2)]
    tried.store.publish(multipath(tried.store, "both", parts))  # its paths share what is computed
    assert tried.classify("both", png(1)).status_code == 200
    path = runtime.catalog.entries()["both"].slot.path
    lines = ("munet_shared_rows_total", "munet_padded_rows_total", "munet_batch_rows_count")
    before = [tried.metric(line) for line in lines]
    runtime.engine.probe(path)
    assert [tried.metric(line) for line in lines] == before
