"""What the batcher learns of the engine's speed."""

from __future__ import annotations

import pytest

from service.compute.pace import KEPT, Pace


def learn(pace: Pace, seconds: dict[int, float], times: int = KEPT) -> Pace:
    for _ in range(times):
        for rows, each in seconds.items():
            pace.note(rows, float(rows), each, each)
    return pace


def test_nothing_is_forecast_before_anything_has_run() -> None:
    pace = Pace(32)
    assert pace.seconds(8, 8.0) == pace.drain(100.0) == 0.0
    assert pace.limit(1000) == 1
    assert pace.free_rows(1) == 32


def test_one_pause_changes_nothing_and_a_slower_machine_is_noticed() -> None:
    pace = learn(Pace(8), {4: 0.4})
    pace.note(4, 4.0, 100.0, 100.0)
    assert pace.seconds(4, 4.0) == pytest.approx(0.4)
    learn(pace, {4: 0.8})
    assert pace.seconds(4, 4.0) == pytest.approx(0.8)


def test_what_was_never_tried_is_guessed_from_the_nearest() -> None:
    pace = learn(Pace(32), {2: 0.2, 16: 0.8})
    assert pace.seconds(1, 1.0) == pytest.approx(0.1)
    assert pace.seconds(32, 32.0) == pytest.approx(1.6)


def test_sizes_are_chosen_by_what_they_cost_and_forecasts_are_of_what_passes() -> None:
    pace = Pace(8)
    for rows, cost_s in {1: 0.3, 2: 0.31, 4: 0.4, 8: 0.8}.items():
        for _ in range(KEPT):
            pace.note(rows, float(rows), rows * 0.5, cost_s)  # the machine has other work, too
    assert pace.limit(5) == 4
    assert pace.seconds(4, 4.0) == pytest.approx(2.0)


def test_a_batch_beside_another_has_rows_enough() -> None:
    """Where rows gain nothing from one another, one is enough."""
    assert learn(Pace(8), {1: 0.3, 2: 0.31, 4: 0.44, 8: 0.8}).enough_rows == 4
    assert learn(Pace(8), {1: 0.1, 2: 0.2, 4: 0.4, 8: 0.8}).enough_rows == 1
    assert Pace(8).enough_rows == 1


def test_batches_are_no_larger_than_pays() -> None:
    saturated = learn(Pace(8), {1: 0.3, 2: 0.31, 4: 0.4, 8: 0.8})
    assert saturated.limit(5) == 4
    linear = learn(Pace(8), {1: 0.1, 2: 0.2, 4: 0.4, 8: 0.8})
    assert linear.limit(1) == 1


def test_where_light_tasks_come_a_batch_takes_twice_the_time_of_a_row() -> None:
    pace = learn(Pace(8), {1: 0.3, 2: 0.35, 4: 0.59, 8: 0.9})
    assert (pace.limit(9), pace.limit(9, considerate=True)) == (8, 4)
    tried = [pace.limit(100, considerate=True) for _ in range(64)]
    assert {size: tried.count(size) for size in set(tried)} == {4: 60, 8: 2, 1: 2}
    learn(pace, {1: 0.3, 2: 0.4, 4: 0.7})
    assert pace.limit(9, considerate=True) == 2
    assert Pace(8).limit(9, considerate=True) == 1


def test_that_is_never_more_than_pays_nor_less_than_half_of_the_throughput() -> None:
    saturated = learn(Pace(8), {1: 0.3, 2: 0.31, 4: 0.32, 8: 0.63})
    assert saturated.limit(7) == saturated.limit(7, considerate=True) == 4
    edge = learn(Pace(8), {1: 0.3, 2: 0.61, 4: 0.65, 8: 0.9})
    assert edge.limit(9, considerate=True) == 4


def test_one_row_that_has_become_faster_is_noticed_where_light_tasks_come() -> None:
    pace = learn(Pace(8), {1: 0.6, 2: 0.65, 4: 0.7, 8: 0.9})
    truth = {1: 0.3, 2: 0.35, 4: 0.59, 8: 0.9}
    for _ in range(64 * KEPT):
        rows = pace.limit(100, considerate=True)
        pace.note(rows, float(rows), truth[rows], truth[rows])
    assert pace.limit(9, considerate=True) == 4


def test_other_sizes_are_tried_now_and_then() -> None:
    pace = learn(Pace(8), {1: 0.3, 2: 0.31, 4: 0.4, 8: 0.8})
    tried = [pace.limit(100) for _ in range(64)]
    assert {size: tried.count(size) for size in set(tried)} == {4: 60, 8: 2, 2: 2}


def test_padding_is_filled_and_an_accelerator_takes_all() -> None:
    assert learn(Pace(8), {1: 0.1, 2: 0.2, 4: 0.4, 8: 0.8}).free_rows(3) == 4
    assert learn(Pace(8), {1: 0.10, 2: 0.101, 4: 0.102, 8: 0.104}).free_rows(1) == 8
