"""The benchmarks of many tasks, small: they measure real gateways and none fails a request."""

import pytest

from loadtests import churn, density, residency


@pytest.mark.slow
def test_less_memory_makes_misses_and_fails_nothing():
    setup = residency.Setup(12, "Ti/16", 32, 1.0, exponents=(0.6,), budgets=(1.0, 0.25))
    result = residency.measure(setup, lambda _: None)
    whole, quarter = result.cells
    assert (whole.failed, quarter.failed) == (0, 0)
    assert whole.miss_share == 0.0 < 0.2 < quarter.miss_share
    assert quarter.predicted < whole.predicted == 1.0
    assert '"own_bytes"' in residency.json_line(setup, result)
    assert residency.render(result).row_count == 2


@pytest.mark.slow
def test_a_store_of_more_tasks_takes_the_memory_of_its_own_bytes():
    setup = density.Setup(20, "Ti/16", 32, 30, 0.5)
    result = density.measure(setup, lambda _: None)
    assert set(result.ready_s) == {10, 20, 30}
    assert result.memory.unique < result.memory.loaded
    assert min(result.rates) > 0
    assert density.render(setup, result).row_count == len(list(density._rows(setup, result)))


@pytest.mark.slow
def test_changes_reach_the_gateway_and_fail_no_request():
    setup = churn.Setup(changes=21, seconds=1.0)
    result = churn.measure(setup, lambda _: None)
    assert result.changes == {"add": 6, "damaged": 3, "version": 3, "remove": 9}
    assert result.failed == {}
    assert result.requests > 0
    assert '"readings"' in churn.json_line(setup, result)
