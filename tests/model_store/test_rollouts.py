"""Roll-outs: all of their state is in a task's document, and each ends once."""

import json
import threading
from pathlib import Path

import pytest
from typer.testing import CliRunner

from model_store import (
    CorruptRef,
    LiveVersion,
    ModelStore,
    Rollout,
    Rules,
    UnknownName,
    Unstorable,
)
from model_store.cli.app import app
from model_store.names import task_key
from model_store.refs import Refs
from model_store.rollouts import draw, image_key
from model_store.upkeep import verify_store
from tests.model_store.format_page import PAGE, on_page
from tests.model_store.places import Place
from tests.model_store.samples import document, new_store, publish, write_value

CANARY = Rollout(weight=0.05, shadow=True, rules=Rules(50, agreement=0.9))


def with_canary(store: ModelStore) -> ModelStore:
    """Version 1 of `t` is live, version 2 its canary."""
    for seed in (1, 2, 3):
        publish(store, "t", seed)
    store.rollback("t", 1)
    store.alias("t", "canary", 2, CANARY)
    return store


def test_a_watcher_is_told_when_one_begins_and_ends(place: Place) -> None:
    store = with_canary(place.open(create=True))
    watcher = place.open()
    (offer,) = watcher.watched().offers["t"]
    assert (offer.alias, offer.version, offer.digest) == ("canary", 2, store.version("t", 2))
    found = offer.rollout
    assert (found.weight, found.shadow, found.rules, found.base) == (0.05, True, CANARY.rules, 1)
    same = watcher.watched()
    assert watcher.watched() is same
    store.alias("t", "stable", 3)  # of a name that gets nothing, nobody is told
    assert store.end_rollout("t", "canary", found.began, "errors")
    assert not watcher.watched().offers and store.rollouts("t")["canary"].ended == "errors"
    assert store.aliases("t") == {"canary": 2, "stable": 3}
    store.alias("t", "canary", 2, CANARY)
    assert watcher.watched().offers["t"][0].rollout.began != found.began
    store.alias("t", "canary", 3)
    assert not watcher.watched().offers and not store.rollouts("t")
    assert not verify_store(store)


def test_of_many_that_call_for_its_end_one_gets_it(place: Place) -> None:
    began = with_canary(place.open(create=True)).rollouts("t")["canary"].began
    done: list[bool] = []
    callers = [
        threading.Thread(
            target=lambda: done.append(place.open().end_rollout("t", "canary", began, "errors"))
        )
        for _ in range(6)
    ]
    for one in callers:
        one.start()
    for one in callers:
        one.join()
    assert sorted(done) == [False] * 5 + [True]


def test_the_end_of_one_that_is_over_does_not_end_the_next(tmp_path: Path) -> None:
    store = with_canary(new_store(tmp_path))
    began = store.rollouts("t")["canary"].began
    store.alias("t", "canary", 3, CANARY)
    assert not store.end_rollout("t", "canary", began, "late")
    assert store.watched().offers["t"][0].version == 3


def test_it_is_promoted_only_in_place_of_what_it_was_compared_with(tmp_path: Path) -> None:
    store = with_canary(new_store(tmp_path))
    with pytest.raises(UnknownName):
        store.promote_alias("t", "other")
    store.rollback("t", 3)
    with pytest.raises(LiveVersion, match=r"expected v1 to be live.*found v3"):
        store.promote_alias("t", "canary")
    assert store.live()["t"][0] == 3
    store.alias("t", "canary", 2, CANARY)
    assert store.promote_alias("t", "canary") == 2
    assert store.live()["t"][0] == 2 and not store.rollouts("t") and not store.watched().offers
    assert store.promote_alias("t", "canary") == 2  # is done
    store.alias("t", "stable", 1)
    assert store.promote_alias("t", "stable") == 1


def test_of_what_is_live_already_nothing_is_offered(tmp_path: Path) -> None:
    store = with_canary(new_store(tmp_path))
    store.rollback("t", 2)
    assert not store.watched().offers
    store.rollback("t", 1)
    assert store.watched().offers


def test_one_of_a_task_has_a_weight_and_four_are_under_way(tmp_path: Path) -> None:
    store = with_canary(new_store(tmp_path))
    with pytest.raises(Unstorable, match="canary too; end it first"):
        store.alias("t", "other", 3, Rollout(weight=0.5))
    for name in ("a", "b", "c"):
        store.alias("t", name, 3, Rollout(shadow=True))
    with pytest.raises(Unstorable, match="at most 4"):
        store.alias("t", "d", 3, Rollout(shadow=True))
    store.remove_alias("t", "canary")
    store.alias("t", "d", 3, Rollout(weight=0.5))
    assert [one.alias for one in store.watched().offers["t"]] == ["a", "b", "c", "d"]


def test_a_document_without_one_is_as_it_was_before_there_were_any(tmp_path: Path) -> None:
    store = with_canary(new_store(tmp_path))
    store.alias("t", "canary", 2)
    assert set(json.loads(document(store, "t").read_bytes())["value"]) == {
        "aliases", "chosen", "live", "next", "versions",
    }  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        {"weight": 2}, {"weight": 0, "shadow": False}, {"weight": True}, {"shadow": 1},
        {"base": "1"}, {"rules": {}}, {"rules": None}, {"weight": None},
    ],
)  # fmt: skip
def test_one_that_makes_no_sense_is_damage(tmp_path: Path, change: dict[str, object]) -> None:
    store = with_canary(new_store(tmp_path))
    value = store.refs.read(task_key("t")).value
    value["rollouts"]["canary"] |= change
    write_value(store, task_key("t"), value)
    with pytest.raises(CorruptRef):
        ModelStore(store.url).rollouts("t")
    value["rollouts"] = {"gone": CANARY.to_json()}
    write_value(store, task_key("t"), value)
    with pytest.raises(CorruptRef, match="alias that is not there"):
        Refs(store.storage).versions("t")


def test_a_share_of_keys_falls_below_a_weight_and_stays_there() -> None:
    keys = [b"user-%d" % number for number in range(10_000)]
    at_5, at_10 = ({key for key in keys if draw("t", 2, key) < most} for most in (0.05, 0.1))
    assert at_5 < at_10
    for found, share in ((at_5, 0.05), (at_10, 0.1)):  # four standard deviations; keys are fixed
        assert abs(len(found) - 10_000 * share) < 4 * (10_000 * share * (1 - share)) ** 0.5
    assert at_5 != {key for key in keys if draw("t", 3, key) < 0.05}
    assert image_key(bytes(70_000)) != image_key(bytes(70_001))


def test_the_page_says_how_a_key_is_drawn_and_what_stands_in_a_document() -> None:
    assert f"this number is {draw('a', 7, b'user-1'):.10f}" in PAGE
    ((name, example),) = on_page("rollouts")["rollouts"].items()
    assert name == "canary" and Rollout.from_json(example).to_json() == example


def run(store: ModelStore, *arguments: str) -> tuple[int, str]:
    """Exit code and output of one command."""
    done = CliRunner().invoke(app, [*arguments, "--store", store.url], env={"COLUMNS": "200"})
    return done.exit_code, done.output


def test_commands(tmp_path: Path) -> None:
    where = store = with_canary(new_store(tmp_path))
    code, output = run(
        where, "alias", "t", "canary", "3", "--weight", "12.5%", "--shadow",
        "--min-agreement", "0.9", "--max-errors", "1%", "--after", "7",
    )  # fmt: skip
    assert code == 0
    assert output == "t: canary is v3; answers 12.5% of the requests, gets a copy of the others\n"
    found = store.rollouts("t")["canary"]
    assert (found.weight, found.shadow, found.rules) == (0.125, True, Rules(7, 0.01, 0.0, 0.9))
    store.end_rollout("t", "canary", found.began, "agreement of 0.5")
    shown = run(where, "show", "t", "--version", "3")[1]
    assert "answers 12.5% of the requests, shadow, since" in shown
    assert "ended: agreement of 0.5" in shown
    whole = json.loads(run(where, "show", "t", "--json")[1])
    assert whole["rollouts"]["canary"]["weight"] == 0.125
    assert run(where, "promote", "t", "canary") == (0, "t: v3 is live\n")
    assert store.live()["t"][0] == 3
    for wrong in (["--weight", "x"], ["--weight", "101%"], ["--min-agreement", "0.9"],
                  ["--after", "5"]):  # fmt: skip
        assert run(where, "alias", "t", "canary", "1", *wrong)[0] == 2
