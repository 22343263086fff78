"""A batcher under more load than it can do, in virtual time: no figure depends on this machine."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from service.errors import TaskQueueFull, Unavailable
from tests.service.simulation import Arrival, Simulation, poisson

TASKS = [f"task-{number}" for number in range(16)]
PATIENCE_S = 1.0


def cpu(rows: int) -> float:
    """Padded to a bucket; beyond some rows nothing is gained."""
    return 0.008 + 0.009 * (1 << (rows - 1).bit_length())


def accelerator(rows: int) -> float:
    """Hardly slower for many rows than for one."""
    return 0.040 + 0.0005 * rows


def shaky(rng: np.random.Generator) -> Callable[[int], float]:
    """A processor that others use, too."""
    return lambda rows: cpu(rows) * (0.6 + rng.exponential(0.4))


def best(speed: Callable[[int], float]) -> float:
    return max(rows / speed(rows) for rows in (1, 2, 4, 8, 16, 32))


@pytest.mark.parametrize(
    ("factor", "speed"),
    [
        *((1.5, cpu), (1.5, accelerator), (10.0, cpu)),
        pytest.param(10.0, accelerator, marks=pytest.mark.slow),
    ],
)
def test_goodput_stays_and_what_is_accepted_is_in_time(
    speed: Callable[[int], float], factor: float
) -> None:
    """The larger bound: batches are large enough for nine tenths of the best, see WORTHWHILE."""
    rng, seconds = np.random.default_rng(0), 8.0
    arrivals = poisson(rng, factor * best(speed), seconds, TASKS, patience=PATIENCE_S)
    Simulation(speed).play(arrivals)
    good = sum(arrival.good for arrival in arrivals)
    accepted = [arrival for arrival in arrivals if arrival.refused is None]
    assert good > 0.9 * 0.9 * best(speed) * seconds
    assert good >= 0.98 * len(accepted)
    refused = [arrival.refused for arrival in arrivals if arrival.refused]
    assert {type(error) for error in refused} <= {Unavailable, TaskQueueFull}
    assert all(error.retry_after_s for error in refused)


def test_forecasts_bear_a_machine_that_is_shared() -> None:
    rng = np.random.default_rng(1)
    arrivals = poisson(rng, 10 * best(cpu), 8.0, TASKS, patience=PATIENCE_S)
    Simulation(shaky(rng)).play(arrivals)
    accepted = [arrival for arrival in arrivals if arrival.refused is None]
    assert sum(arrival.good for arrival in arrivals) >= 0.9 * len(accepted)


@pytest.mark.parametrize("speed", [cpu, pytest.param(accelerator, marks=pytest.mark.slow)])
def test_a_light_task_beside_a_flood_waits_at_most_twice_as_long(
    speed: Callable[[int], float],
) -> None:
    rng, seconds = np.random.default_rng(2), 10.0
    times = np.arange(2.0, seconds, 0.2) + rng.uniform(0.0, 0.1, 40)
    light = [Arrival(at, "light", patience=PATIENCE_S) for at in times]
    flood = poisson(rng, 10 * best(speed), seconds, ["flood"], patience=PATIENCE_S)
    simulation = Simulation(speed)
    simulation.play([*light, *flood])
    assert all(arrival.good for arrival in light)
    assert np.median([arrival.latency for arrival in light]) <= 2 * speed(1)
    assert {type(arrival.refused) for arrival in flood if arrival.refused} == {TaskQueueFull}
    assert sum(arrival.good for arrival in flood) > 0.6 * best(speed) * seconds


def test_batches_grow_only_as_far_as_it_pays() -> None:
    def rows(speed: Callable[[int], float]) -> float:
        arrivals = poisson(np.random.default_rng(3), 2 * best(speed), 5.0, TASKS)
        simulation = Simulation(speed)
        simulation.play(arrivals)
        return float(np.median([len(batch) for batch in simulation.batches[30:60]]))

    assert rows(accelerator) == 32
    assert rows(lambda rows: 0.01 * rows) == 1
    assert 4 <= rows(cpu) <= 16


def test_the_engine_never_rests_while_something_waits() -> None:
    speed = cpu
    arrivals = poisson(np.random.default_rng(4), 0.8 * best(speed), 20.0, TASKS)
    simulation = Simulation(speed)
    simulation.play(arrivals)
    ends = sorted({(batch[0].finished, len(batch)) for batch in simulation.batches})
    before = 0.0
    for end, rows in ends:
        began = end - speed(rows)
        waiting = [a for a in arrivals if a.at < began - 1e-9 and a.finished >= end - 1e-9]
        assert not waiting or began == pytest.approx(before), "it had been free"
        before = end


def test_higher_priority_is_sooner_and_the_lowest_is_served() -> None:
    arrivals = [
        Arrival(at, "a", priority=priority)
        for at in np.arange(0.0, 2.0, 0.01)
        for priority in (1, 2, 3)
    ]
    Simulation(cpu).play(arrivals)
    first, second, third = (
        np.median([a.latency for a in arrivals if a.priority == level and a.finished])
        for level in (1, 2, 3)
    )
    assert first < second < third
    assert min(a.finished for a in arrivals if a.priority == 3 and a.finished) < 0.5


def test_a_pause_of_the_engine_is_survived() -> None:
    """Everything that waited is late; what comes afterwards is answered as before."""
    pause = iter([0.02] * 50 + [5.0])
    arrivals = poisson(np.random.default_rng(5), 60.0, 20.0, TASKS, patience=PATIENCE_S)
    Simulation(lambda rows: next(pause, 0.02)).play(arrivals)
    late = [arrival.at for arrival in arrivals if not arrival.good]
    assert late and max(late) - min(late) < 5.0 + PATIENCE_S


def test_one_slow_trial_of_a_larger_batch_refuses_nobody_for_good() -> None:
    """Its size is not believed yet: what waits is forecast by sizes that are."""

    def speed(rows: int) -> float:
        first_trial = rows > 1 and not any(len(batch) > 1 for batch in simulation.batches[:-1])
        return 0.3 if first_trial else 0.01

    simulation = Simulation(speed)
    alone = [Arrival(at=0.1 * turn, task="a", patience=0.25) for turn in range(10)]
    pairs = [
        Arrival(at=1.0 + 0.5 * turn + late, task=task, patience=0.25)
        for turn in range(20)
        for task, late in (("a", 0.0), ("b", 0.001), ("c", 0.002))
    ]
    simulation.play([*alone, *pairs])
    assert sum(one.good for one in pairs[-30:]) == 30
