"""Roll-outs, as clients and operators see them: shares, shadows, rules, and who ends them."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from model_store import ModelStore, Rollout, Rules, StorageError
from model_store.rollouts import draw, image_key
from service.compute.shadows import Shadows
from tests.service.in_process import Gateway
from tests.service.systems import png, publish
from tests.service.tasks.rolling import NEVER, begin, gateway, store, trial, version
from tests.service.waiting import eventually

__all__ = ["gateway", "store"]


def copied(gateway: Gateway, *seeds: int) -> None:
    """Asks one by one, each after the copy of the one before was answered."""
    for seed in seeds:
        before = trial(gateway).numbers.tried()[0]
        assert version(gateway, seed) == 1
        eventually(lambda before=before: trial(gateway).numbers.tried()[0] > before)


def spoil(gateway: Gateway, number: int, value: float) -> None:
    """Lets one version answer with something else, as nobody would publish it."""
    engine = gateway.app.state.runtime.engine
    finish, begun = engine.finish, engine.begin

    def changed(rows: Any, found: Any) -> Any:
        return found and [
            np.full_like(one, value) if row.path.published.version == number else one
            for row, one in zip(rows, found, strict=True)
        ]

    engine.finish = lambda fork, rows, go_on: changed(rows, finish(fork, rows, go_on))

    def begin(rows: Any, later: Any) -> Any:
        answers, fork = begun(rows, later)
        return changed(rows, answers), fork

    engine.begin = begin


# -- which version answers


def test_a_task_tells_what_was_counted_of_its_roll_outs(gateway: Gateway) -> None:
    begin(gateway, shadow=True)
    copied(gateway, 1, 2)
    found = gateway.get("/tasks/t")["rollouts"]["canary"]
    assert found["shadow"] and not found["ended"]
    here = found["here"]
    assert here["requests"] == {"live": {"answered": 2}, "shadow": {"answered": 2}}
    assert here["compared"] == 2 >= here["agree"] and not here["stopped"]
    assert set(here["mean_ms"]) == {"live", "shadow"} and min(here["mean_ms"].values()) > 0


def test_a_share_of_keys_is_answered_by_the_alias_and_stays_there(gateway: Gateway) -> None:
    begin(gateway, weight=0.3)
    keys = [f"user-{number}" for number in range(60)]
    expected = [2 if draw("t", 2, key.encode()) < 0.3 else 1 for key in keys]
    assert 10 < expected.count(2) < 30  # of these keys
    for _ in range(2):
        assert [version(gateway, munet_rollout_key=key) for key in keys] == expected


def test_without_a_key_the_image_decides(gateway: Gateway) -> None:
    begin(gateway, weight=0.5)
    expected = [2 if draw("t", 2, image_key(png(seed))) < 0.5 else 1 for seed in range(12)]
    assert set(expected) == {1, 2}
    assert [version(gateway, seed) for seed in range(12)] == expected


def test_who_names_a_version_gets_it(gateway: Gateway) -> None:
    begin(gateway, weight=1.0)
    assert version(gateway) == 2
    assert gateway.get("/tasks/t")["rollouts"]["canary"]["weight"] == 1.0
    assert "rollouts" not in gateway.get("/tasks/plain")
    assert version(gateway, query="?version=1") == 1
    assert version(gateway, query="?version=canary") == 2


def test_several_tasks_and_the_open_protocol_follow_it_too(gateway: Gateway) -> None:
    begin(gateway, weight=1.0)
    several = gateway.request(
        "POST", "/classify?task=plain&task=t", content=png(0), headers={"content-type": "image/png"}
    )
    assert [one["version"] for one in several.json()["results"]] == [1, 2]
    pixels = {"name": "pixels", "shape": [1, 16, 16, 3], "datatype": "UINT8", "data": [7] * 768}
    for path, expected in (("t", "2"), ("t/versions/1", "1")):
        answer = gateway.request("POST", f"/v2/models/{path}/infer", json={"inputs": [pixels]})
        assert answer.json()["model_version"] == expected


def test_the_live_version_answers_until_the_other_is_loaded(gateway: Gateway) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("it cannot be loaded")

    gateway.app.state.runtime.loader.prepare = broken
    gateway.store.alias("t", "canary", 3, Rollout(weight=1.0, rules=NEVER))
    eventually(lambda: "t" in gateway.app.state.runtime.catalog.rollouts.active)
    assert [version(gateway, seed) for seed in range(4)] == [1] * 4


def test_it_is_over_when_the_alias_is_moved_promoted_or_gone(gateway: Gateway) -> None:
    store, rollouts = gateway.store, gateway.app.state.runtime.catalog.rollouts
    for end in (
        lambda: store.alias("t", "canary", 2),
        lambda: store.remove_alias("t", "canary"),
        lambda: store.end_rollout("t", "canary", store.rollouts("t")["canary"].began, "by hand"),
    ):
        begin(gateway, weight=1.0)
        assert version(gateway) == 2
        assert 'munet_rollout_weight{alias="canary",task="t"} 1.0' in page(gateway)
        end()
        eventually(lambda: not rollouts.active)
        assert version(gateway) == 1
        assert 'task="t",alias=' not in page(gateway) and 'alias="canary"' not in page(gateway)
    begin(gateway, weight=0.01)
    store.promote_alias("t", "canary")
    eventually(lambda: gateway.get("/tasks/t")["version"] == 2)
    assert version(gateway) == 2 and not rollouts.active


def page(gateway: Gateway) -> str:
    return gateway.request("GET", "/metrics").text


# -- shadows


def test_a_shadow_answers_nobody_and_is_compared(gateway: Gateway) -> None:
    begin(gateway, shadow=True)
    copied(gateway, *range(8))

    def best(seed: int, query: str) -> str:
        predictions = gateway.classify("t", png(seed), query).json()["predictions"]
        return predictions[0]["label"]

    agree = sum(best(seed, "?version=1") == best(seed, "?version=2") for seed in range(8))
    assert 0 < agree < 8 and trial(gateway).numbers.compared() == (8, agree)
    labels = 'alias="canary",'
    requests = f'munet_rollout_requests_total{{{labels}outcome="answered",'
    assert gateway.metric(f'{requests}role="shadow",task="t"}}') == 8
    assert gateway.metric(f'{requests}role="live",task="t"}}') == 8
    assert gateway.metric(f'munet_rollout_compared_total{{agrees="yes",{labels}task="t"}}') == agree


def test_a_shadow_computes_only_what_differs(gateway: Gateway) -> None:
    """Its head has other numbers, all before it is the live version's."""
    ran: list[tuple[str, ...]] = []
    programs = gateway.app.state.runtime.engine.programs
    run = programs.run

    def noted(chain: Any, bucket: int, **named: Any) -> Any:
        ran.extend(program.kinds for program in chain)
        return run(chain, bucket, **named)

    begin(gateway, shadow=True)
    programs.run = noted
    version(gateway, query="?version=1")
    alone, ran[:] = list(ran), []
    copied(gateway, 0)
    assert ran[-len(alone) - 1 :] == [*alone, alone[-1]] and "head" in alone[-1]


def test_a_shadow_that_fails_is_seen_by_nobody(gateway: Gateway) -> None:
    begin(gateway, shadow=True)
    engine = gateway.app.state.runtime.engine

    def broken(*_: Any) -> Any:
        raise RuntimeError("of the shadow")

    engine.finish = broken
    copied(gateway, 0, 1, 2)
    assert trial(gateway).numbers.tried() == (3, 3, 0)
    before, Shadows.run = Shadows.run, broken  # pyright: ignore[reportAttributeAccessIssue]
    try:
        assert version(gateway, 7) == 1
    finally:
        Shadows.run = before
    assert gateway.app.state.runtime.batcher.alive


def test_a_shadow_runs_after_the_answer_and_not_while_rows_wait(gateway: Gateway) -> None:
    """Its step is asked for only when its batch is answered; with a row waiting, it is dropped."""
    begin(gateway, shadow=True)
    batcher = gateway.app.state.runtime.batcher
    engine, asked = gateway.app.state.runtime.engine, []
    finish = engine.finish

    def noted(fork: Any, rows: Any, go_on: Callable[[], bool]) -> Any:
        asked.append(batcher._running)
        batcher._waiting += 1
        try:
            return finish(fork, rows, go_on)
        finally:
            batcher._waiting -= 1

    engine.finish = noted
    assert version(gateway) == 1
    dropped = (
        'munet_rollout_requests_total{alias="canary",outcome="dropped",role="shadow",task="t"}'
    )
    eventually(lambda: gateway.metric(dropped) == 1)
    assert asked == [0] and trial(gateway).numbers.tried() == (0, 0, 0)


# -- rules


@pytest.mark.parametrize(
    ("rules", "value", "reason"),
    [
        (Rules(4), float("nan"), "non_finite: 4 of 4 answers, at most 0"),
        (Rules(4, agreement=0.9), 0.0, "agreement: "),
    ],
)
def test_a_shadow_that_breaks_a_rule_ends_in_the_store(
    gateway: Gateway, rules: Rules, value: float, reason: str
) -> None:
    begin(gateway, shadow=True, rules=rules)
    spoil(gateway, 2, value)
    numbers = trial(gateway).numbers
    for seed in range(4):
        assert version(gateway, seed) == 1
        eventually(lambda seed=seed: numbers.tried()[0] > seed)
    eventually(lambda: bool(gateway.store.rollouts("t")["canary"].ended))
    assert gateway.store.rollouts("t")["canary"].ended.startswith(reason)
    assert gateway.store.live()["t"][0] == 1 and gateway.store.aliases("t") == {"canary": 2}
    rule = reason.split(":")[0]
    eventually(lambda: gateway.metric(f'munet_rollbacks_total{{reason="{rule}"}}') == 1)
    eventually(lambda: not gateway.app.state.runtime.catalog.rollouts.active)


def test_an_alias_that_fails_its_requests_is_stopped_at_once(gateway: Gateway) -> None:
    begin(gateway, weight=1.0, rules=Rules(3))
    spoil(gateway, 2, float("inf"))
    statuses = [gateway.classify("t", png(seed)).status_code for seed in range(6)]
    assert statuses == [500, 500, 500, 200, 200, 200]
    eventually(lambda: bool(gateway.store.rollouts("t")["canary"].ended))
    assert "3 of 3" in gateway.store.rollouts("t")["canary"].ended


def test_refusals_say_nothing_of_a_version(gateway: Gateway) -> None:
    begin(gateway, weight=1.0, rules=Rules(1))
    assert gateway.classify("t", b"no image").status_code == 400
    assert trial(gateway).numbers.tried() == (0, 0, 0) and version(gateway) == 2


def test_of_two_gateways_one_ends_it_and_both_stop(
    store: ModelStore, gateway: Gateway, compilations: str
) -> None:
    other = Gateway(store, compilations, preload="*")
    try:
        begin(gateway, weight=1.0, rules=Rules(3))
        begun = other.app.state.runtime.catalog.rollouts
        eventually(lambda: any(one.slot.path for one in begun.active.get("t", ())))
        for one in (gateway, other):
            spoil(one, 2, float("nan"))
            # It learns of the end only after its own rule was broken too.
            one.app.state.runtime.catalog.rollouts._writer.submit = lambda *_: None
        trials = trial(gateway), trial(other)
        for _ in range(3):
            assert gateway.classify("t", png(0)).status_code == 500
            assert other.classify("t", png(0)).status_code == 500
        for one, mine in zip((gateway, other), trials, strict=True):
            assert version(one) == 1 and mine.stopped
            one.app.state.runtime.catalog.rollouts._write_end(mine)
        rolled_back = 'munet_rollbacks_total{reason="non_finite"}'
        assert sorted(one.metric(rolled_back) for one in (gateway, other)) == [0, 1]
        eventually(lambda: not begun.active)
    finally:
        other.close()


def test_where_the_store_cannot_be_written_the_gateway_stops_it_by_itself(
    gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    begin(gateway, weight=1.0, rules=Rules(2))
    spoil(gateway, 2, float("nan"))
    runtime = gateway.app.state.runtime
    ends: list[str] = []

    def read_only(task: str, *_: str) -> bool:
        ends.append(task)
        raise (OSError(30, "Read-only file system") if len(ends) == 1 else StorageError("denied"))

    end, runtime.loader.store.end_rollout = runtime.loader.store.end_rollout, read_only
    assert [gateway.classify("t", png(0)).status_code for _ in range(2)] == [500, 500]
    assert [version(gateway, seed) for seed in range(3)] == [1] * 3
    eventually(lambda: len(ends) >= 1)
    labels = '{alias="canary",task="t"}'
    assert gateway.metric(f"munet_rollout_stopped{labels}") == 1
    assert gateway.metric(f"munet_rollout_weight{labels}") == 0
    eventually(
        lambda: "event=rollout_not_ended task=t alias=canary stopped_here=True" in caplog.text
    )
    assert not gateway.store.rollouts("t")["canary"].ended
    trial(gateway).due_at = 0.0  # the pause is over
    eventually(lambda: len(ends) >= 2)
    runtime.loader.store.end_rollout = end
    trial(gateway).due_at = 0.0
    eventually(lambda: bool(gateway.store.rollouts("t")["canary"].ended))


# -- what it costs


def calls(gateway: Gateway) -> list[str]:
    """The roll-outs' functions that the event loop calls for a request of the plain task."""
    found: list[str] = []

    def note(frame: Any, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_filename.endswith(("rollouts.py", "shadows.py")):
            found.append(frame.f_code.co_qualname)

    sys.setprofile(note)
    try:
        gateway.classify("plain", png(0))
    finally:
        sys.setprofile(None)
    return found


def test_a_task_without_one_does_not_pay_for_it(gateway: Gateway) -> None:
    assert calls(gateway) == []
    begin(gateway, weight=0.5, shadow=True)
    assert calls(gateway) == ["Rollouts.route"]
    gateway.store.remove_alias("t", "canary")
    eventually(lambda: not gateway.app.state.runtime.catalog.rollouts.active)
    assert calls(gateway) == []


def test_private_tasks_have_no_series_for_everybody(store: ModelStore, compilations: str) -> None:
    publish(store, "secret", own={"head": 5}, private=True)
    publish(store, "secret", own={"head": 6}, private=True)
    store.alias("secret", "canary", 1, Rollout(shadow=True))
    made = Gateway(store, compilations, preload="*")
    try:
        metrics = made.app.state.runtime.metrics
        rollouts = made.app.state.runtime.catalog.rollouts
        eventually(lambda: "secret" in rollouts.active)
        assert re.search(r"munet_rollout\w+{.*secret", metrics.exposition().decode())
        assert "secret" not in metrics.exposition(private=False).decode()
    finally:
        made.close()
