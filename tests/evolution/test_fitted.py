"""The method of fitted heads: whom a task starts from, what is kept, and what it costs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evolution import cycle, mutation
from evolution.events import ChildTrained, Remark, TaskPublished
from evolution.experiments.baselines import baseline
from evolution.methods import FITTED, MU2NET
from evolution.population import POSITION_SOURCE, ROOT
from evolution.run import Run
from evolution.training.trainer import Round, Trainer
from tests.evolution.systems import start, tasks, tiny
from vit import kind_of

FIT = tiny(method=FITTED, tasks=("toy/a", "toy/b"), passes=1, samples_per_task=4)


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that has ended."""
    run = start(tmp_path_factory.mktemp("fitted") / "store", FIT)
    list(run.run())
    return run


def rows_of(run: Run, task: str) -> list[dict[str, Any]]:
    return [row for row in run.progress.history if row["task"] == task]


def test_the_first_child_is_a_frozen_body_with_a_head_of_its_own(grown: Run) -> None:
    first = rows_of(grown, "toy/a")[0]
    root = grown.population.paths[ROOT][0]
    assert first["trained"] == ["head"] and first["training"]["steps"] == 0
    others = {name: number for name, number in first["components"].items() if name != "head"}
    assert others == {c.name: c.id for c in root.components if c.name != "head"}
    assert first["evaluations"] == [first["quality"]]


def test_a_child_with_more_parameters_is_kept_only_if_its_losses_are_clearly_smaller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = iter([(0.8, math.inf), (0.9, 1.9), (0.7, 2.1), (0.6, 0.1), (0.9, -0.1)])
    sizes = dict(enumerate((1, 9, 9, 9, 8), start=1))  # by the paths' numbers
    monkeypatch.setattr(cycle, "_own", lambda path: sizes[path.id])
    train = Trainer.train

    def instead(trainer: Trainer, child: Any, *given: Any) -> Iterator[Round]:
        quality, gain = next(told)
        return (replace(r, quality=quality, gain=gain) for r in train(trainer, child, *given))

    monkeypatch.setattr(Trainer, "train", instead)
    run = start(tmp_path / "store", replace(FIT, tasks=("toy/a",), samples_per_task=5))
    list(run.run())
    rows = rows_of(run, "toy/a")
    assert [row["improved"] for row in rows] == [True, False, True, True, False]
    (kept,) = run.population.paths["toy/a"]
    assert kept.id == rows[3]["id"] and kept.quality == 0.6


def test_a_child_is_compared_with_the_best_path_on_the_validation_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[float] = []
    train = Trainer.train

    def watched(*given: Any) -> Iterator[Round]:
        for reached in train(*given):
            found.append(reached.gain)
            yield reached

    monkeypatch.setattr(Trainer, "train", watched)
    run = start(tmp_path / "store", replace(FIT, tasks=("toy/a",), samples_per_task=2))
    list(run.run())
    assert found[0] == math.inf and all(math.isfinite(gained) for gained in found[1:])


def test_a_task_starts_from_the_published_body_that_suits_it_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    former = start(tmp_path / "store", tiny(method=MU2NET, tasks=("toy/a",), passes=1), name="a")
    list(former.run())
    losses: dict[int, float] = {}
    fitted_loss = Trainer.fitted_loss

    def noted(trainer: Trainer, path: Any, arch: Any) -> float:
        losses[path.parent.id] = fitted_loss(trainer, path, arch)
        return losses[path.parent.id]

    monkeypatch.setattr(Trainer, "fitted_loss", noted)
    run = Run.extend(
        replace(FIT, tasks=("toy/b",), samples_per_task=1),
        former.store, 0, tasks, (former.store, "a"), name="b",
    )  # fmt: skip
    list(run.run())
    (row,) = rows_of(run, "toy/b")
    assert len(losses) == 2  # the root's body, and that of toy/a, which was trained
    assert row["trained"] == ["head"] and row["parent"] == min(losses, key=losses.__getitem__)


def test_equal_bodies_are_tried_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []
    monkeypatch.setattr(Trainer, "fitted_loss", lambda _, path, __: tried.append(path.id) or 1.0)
    names = tuple(f"toy/{letter}" for letter in "abc")
    run = start(tmp_path / "store", replace(FIT, tasks=names, samples_per_task=1))
    root = run.population.paths[ROOT][0]
    positions = root.named("posembed_input")
    assert positions is not None
    # A root that was trained at another size has those position embeddings too.
    source = mutation.new_component(run.population, POSITION_SOURCE, positions.params)
    root.components += (source,)
    list(run.run())
    assert len(tried) == 3  # the root's body for each


def test_baselines_of_it_train_as_those_of_other_methods() -> None:
    changed = baseline("finetune-all", FIT).method
    assert not changed.fits_heads and not changed.margin


def test_a_linear_probe_is_one_head_on_the_root_though_others_have_published(
    tmp_path: Path,
) -> None:
    former = start(tmp_path / "store", tiny(method=MU2NET, tasks=("toy/a",), passes=1), name="a")
    list(former.run())
    run = Run.extend(
        baseline("linear-probe", replace(FIT, tasks=("toy/b",))),
        former.store, 0, tasks, (former.store, "a"), name="b",
    )  # fmt: skip
    list(run.run())
    (row,) = rows_of(run, "toy/b")
    assert row["trained"] == ["head"] and row["parent_task"] == ROOT


def test_random_search_trains_everything_from_the_root_with_values_of_its_own(
    tmp_path: Path,
) -> None:
    run = start(tmp_path / "store", baseline("random-search", replace(FIT, tasks=("toy/a",))))
    list(run.run())
    rows = rows_of(run, "toy/a")
    assert len(rows) == FIT.samples_per_task - 1  # of which the first would take no step
    assert all(row["parent_task"] == ROOT for row in rows)
    assert all(set(row["trained"]) == set(row["components"]) for row in rows)
    first, *others = ({k: row["hyperparameters"][k] for k in FIT.ranges if k != "_mu_"
                       and k != "num_layers"} for row in rows)  # fmt: skip
    assert all(value == FIT.defaults[key] for key, value in first.items())
    assert len({str(drawn) for drawn in others}) == len(others)


def test_the_operations_of_a_search_count_features_training_and_validation(grown: Run) -> None:
    from_first, *others = rows_of(grown, "toy/a")
    path = grown.population.paths["toy/a"][0]
    forward = path.metrics["flops"]
    pictures = 64 + 48  # features of the training and validation pictures, to fit a head
    assert from_first["search_flops"] > pictures * 0.9 * forward
    assert from_first["search_flops"] < 4 * pictures * forward
    for row in others:
        steps, forward = row["training"]["steps"], row["flops"]
        trained = steps * FIT.batch_size * 3 * forward
        heads = (3 * len(row["evaluations"]) + 1) * pictures * forward
        assert 0 < row["search_flops"] < trained + heads


def test_the_first_child_is_served_while_the_search_goes_on(tmp_path: Path) -> None:
    run = start(tmp_path / "store", replace(FIT, tasks=("toy/a",)))
    events, served = [], None
    for event in run.run():
        events.append(event)
        if isinstance(event, ChildTrained) and len(events) > 1 and served is None:
            served = run.store.live()["toy/a"][0]  # the search still goes on
    assert served == 1
    assert isinstance(events[0], ChildTrained) and isinstance(events[1], Remark)
    assert isinstance(events[-1], TaskPublished) and events[-1].added and events[-1].live


def test_a_task_grows_from_a_head_to_adapters_to_everything(grown: Run) -> None:
    for task in FIT.tasks:
        head, adapters, everything = rows_of(grown, task)[:3]
        assert head["trained"] == ["head"]
        kinds = {kind_of(name) for name in adapters["trained"]}
        assert kinds == {"residual_adapter", "encoder_norm", "head"}
        blocks = adapters["hyperparameters"]["num_layers"]
        assert adapters["hyperparameters"]["adapters"] == list(range(blocks))
        if not adapters["improved"]:
            assert everything["parent"] == head["id"]
        if everything["parent"] in (head["id"], adapters["id"]):
            assert set(everything["trained"]) == set(everything["components"])
            changed = {k for k in everything["mutations"] if k.startswith("opt_")}
            assert everything["hyperparameters"]["opt_lr"] == FIT.defaults["opt_lr"]
            assert changed <= {"opt_lr"}
