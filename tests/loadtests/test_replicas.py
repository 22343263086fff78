"""Several gateways behind HAProxy, measured small; and the simulation of more of them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import pytest

from loadtests import replicas
from loadtests.replicas import simulation
from loadtests.replicas.simulation import Cell
from tests.model_store.registries import program

RATES = {1: 100.0, 2: 180.0, 16: 400.0, 64: 420.0}  # answers per second, by requests in flight


@pytest.fixture(scope="module")
def cells() -> Iterator[list[Cell]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simulation, "BEFORE", 200)
        patch.setattr(simulation, "ANSWERS", 600)
        yield simulation.cells(RATES, 1000)


def test_one_simulated_replica_is_as_fast_as_the_measured_one(cells: list[Cell]) -> None:
    for cell in cells:
        if cell.replicas == 1:
            assert cell.rate == pytest.approx(RATES[cell.clients], rel=0.1)
            assert (cell.of_linear, cell.busiest, cell.away) == (1.0, 1.0, 0.0)


def test_more_simulated_replicas_answer_more_and_never_more_than_in_proportion(
    cells: list[Cell],
) -> None:
    for before, cell in pairwise(cells):
        if cell.replicas > 1:
            assert cell.rate > before.rate
            # With 16 clients each some replicas have more in flight, and so answer faster.
            assert cell.of_linear < 1.1


def test_equally_popular_tasks_keep_to_their_replicas_and_popular_ones_spread(
    cells: list[Cell],
) -> None:
    away = {(cell.popularity, cell.clients, cell.replicas): cell.away for cell in cells}
    assert max(away["uniform", 16, replicas] for replicas in simulation.REPLICAS) < 0.01
    assert away["zipf:1.1", 16, 12] > 0.1


@pytest.mark.slow
def test_a_killed_replica_fails_what_was_in_flight_and_costs_its_tasks_one_load_each() -> None:
    program("haproxy", "haproxy")
    setup = replicas.Setup(tasks=40, replicas=3, seconds=0.3)
    result = replicas.measure(setup, lambda _: None)
    assert sum(result.memory.tasks) == 40 and result.failed == 0
    assert result.warm == 1.0
    killed = result.killed
    assert killed.requests.unanswered == 0
    assert killed.requests.failed <= 16, "only what was in flight"
    # In the moment before HAProxy has noticed, three tasks at most may be loaded elsewhere first.
    assert killed.cold <= killed.loads <= killed.cold + 3
    assert replicas.render(setup, result)
    assert '"killed"' in replicas.json_line(setup, result)
