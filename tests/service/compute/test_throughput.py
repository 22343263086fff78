"""What the batcher learns of the engine's speed."""

from __future__ import annotations

import pytest

from service.compute.throughput import Throughput
from service.compute.tuning import KEPT


def learn(throughput: Throughput, seconds: dict[int, float], times: int = KEPT) -> Throughput:
    for _ in range(times):
        for rows, each in seconds.items():
            throughput.note(rows, float(rows), each, each)
    return throughput


def test_nothing_is_forecast_before_anything_has_run() -> None:
    throughput = Throughput(32)
    assert throughput.seconds(8, 8.0) == throughput.drain(100.0) == 0.0
    assert throughput.limit(1000) == 1
    assert throughput.free_rows(1) == 32


def test_one_pause_changes_nothing_and_a_slower_machine_is_noticed() -> None:
    throughput = learn(Throughput(8), {4: 0.4})
    throughput.note(4, 4.0, 100.0, 100.0)
    assert throughput.seconds(4, 4.0) == pytest.approx(0.4)
    learn(throughput, {4: 0.8})
    assert throughput.seconds(4, 4.0) == pytest.approx(0.8)


def test_what_was_never_tried_is_guessed_from_the_nearest() -> None:
    throughput = learn(Throughput(32), {2: 0.2, 16: 0.8})
    assert throughput.seconds(1, 1.0) == pytest.approx(0.1)
    assert throughput.seconds(32, 32.0) == pytest.approx(1.6)


def test_sizes_are_chosen_by_what_they_cost_and_forecasts_are_of_what_passes() -> None:
    throughput = Throughput(8)
    for rows, cost_s in {1: 0.3, 2: 0.31, 4: 0.4, 8: 0.8}.items():
        for _ in range(KEPT):
            throughput.note(rows, float(rows), rows * 0.5, cost_s)  # other work runs, too
    assert throughput.limit(5) == 4
    assert throughput.seconds(4, 4.0) == pytest.approx(2.0)


def test_a_batch_beside_another_has_rows_enough() -> None:
    """Where rows gain nothing from one another, one is enough."""
    assert learn(Throughput(8), {1: 0.3, 2: 0.31, 4: 0.44, 8: 0.8}).enough_rows == 4
    assert learn(Throughput(8), {1: 0.1, 2: 0.2, 4: 0.4, 8: 0.8}).enough_rows == 1
    assert Throughput(8).enough_rows == 1


def test_batches_are_no_larger_than_pays() -> None:
    saturated = learn(Throughput(8), {1: 0.3, 2: 0.31, 4: 0.4, 8: 0.8})
    assert saturated.limit(5) == 4
    linear = learn(Throughput(8), {1: 0.1, 2: 0.2, 4: 0.4, 8: 0.8})
    assert linear.limit(1) == 1


def test_where_light_tasks_come_a_batch_takes_twice_the_time_of_a_row() -> None:
    throughput = learn(Throughput(8), {1: 0.3, 2: 0.35, 4: 0.59, 8: 0.9})
    assert (throughput.limit(9), throughput.limit(9, considerate=True)) == (8, 4)
    tried = [throughput.limit(100, considerate=True) for _ in range(64)]
    assert {size: tried.count(size) for size in set(tried)} == {4: 60, 8: 2, 1: 2}
    learn(throughput, {1: 0.3, 2: 0.4, 4: 0.7})
    assert throughput.limit(9, considerate=True) == 2
    assert Throughput(8).limit(9, considerate=True) == 1


def test_that_is_never_more_than_pays_nor_less_than_half_of_the_throughput() -> None:
    saturated = learn(Throughput(8), {1: 0.3, 2: 0.31, 4: 0.32, 8: 0.63})
    assert saturated.limit(7) == saturated.limit(7, considerate=True) == 4
    edge = learn(Throughput(8), {1: 0.3, 2: 0.61, 4: 0.65, 8: 0.9})
    assert edge.limit(9, considerate=True) == 4


def test_one_row_that_has_become_faster_is_noticed_where_light_tasks_come() -> None:
    throughput = learn(Throughput(8), {1: 0.6, 2: 0.65, 4: 0.7, 8: 0.9})
    truth = {1: 0.3, 2: 0.35, 4: 0.59, 8: 0.9}
    for _ in range(64 * KEPT):
        rows = throughput.limit(100, considerate=True)
        throughput.note(rows, float(rows), truth[rows], truth[rows])
    assert throughput.limit(9, considerate=True) == 4


def test_other_sizes_are_tried_now_and_then() -> None:
    throughput = learn(Throughput(8), {1: 0.3, 2: 0.31, 4: 0.4, 8: 0.8})
    tried = [throughput.limit(100) for _ in range(64)]
    assert {size: tried.count(size) for size in set(tried)} == {4: 60, 8: 2, 2: 2}


def test_padding_is_filled_and_an_accelerator_takes_all() -> None:
    assert learn(Throughput(8), {1: 0.1, 2: 0.2, 4: 0.4, 8: 0.8}).free_rows(3) == 4
    assert learn(Throughput(8), {1: 0.10, 2: 0.101, 4: 0.102, 8: 0.104}).free_rows(1) == 8
