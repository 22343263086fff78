"""What the benchmarks of many tasks make of their measurements."""

import asyncio
from collections import Counter

import pytest

from loadtests import churn, density
from loadtests.traffic import Traffic

SETUP = density.Setup(tasks=200, size="Ti/16", image_size=32, catalog=1000, seconds=0.5)


def test_the_table_of_a_density_has_each_number_in_its_unit():
    memory = density.Memory(unique=200_000_000, empty=100_000_000, loaded=350_000_000)
    result = density.Result(
        ready_s={10: 1.234, 200: 2.0}, memory=memory, warm_ms=2.04, cold_p50_ms=20.0,
        cold_p99_ms=31.06, rates=(800.0, 600.0), few_ms=(2.0, 3.0), catalog_ms=(2.5, 3.5),
    )  # fmt: skip
    rows = dict(density._rows(SETUP, result))
    assert [rows[name] for name in list(rows)[:10]] == [
        "200 MB", "350 MB", "100 MB", "1.250", "1.750", "1.23 s", "2.00 s", "2.0 ms", "20.0 ms",
        "31.1 ms",
    ]  # fmt: skip
    assert result.rate_ratio == 0.75
    assert density.render(SETUP, result).row_count == len(rows)


def test_rates_are_medians_of_rounds_with_few_tasks_and_with_all(monkeypatch, tmp_path):
    asked = []

    def drive(gateway, requests, tasks, clients, seconds):
        asked.append(sorted({next(tasks) for _ in range(2 * SETUP.tasks)}))
        count = 1000 * len(asked) if len(asked[-1]) == density.FEW else len(asked)
        return Traffic(1.0, Counter({200: count}))

    monkeypatch.setattr("loadtests.traffic.drive", drive)
    runs = density._Runs(SETUP, tmp_path, print)
    assert runs.rates(None) == (5000.0, 6.0)  # of turns 1, 3, 5, 7, 9 and 2, 4, 6, 8, 10
    assert [len(tasks) for tasks in asked] == [density.FEW, SETUP.tasks] * density.ROUNDS


@pytest.mark.parametrize(
    ("changes", "expected"),
    [(1, {"add": 1}), (9, {"add": 4, "damaged": 1, "version": 1, "remove": 3})],
)
def test_changes_are_counted_by_kind(monkeypatch, changes, expected):
    """Two additions for each damaged one and each version, and three removals."""
    made = []

    class Made:
        loaded = ("a",)

        def make(self, kind, number):
            made.append((number, kind))

    async def loop(*_):
        return Traffic(1.0, Counter({200: 3, 503: 1}), [0.25, 0.25])

    class Idle:
        def __init__(self, _): ...
        def close(self): ...

    monkeypatch.setattr(churn, "Client", Idle)
    monkeypatch.setattr("loadtests.traffic.loop", loop)
    monkeypatch.setattr(churn, "_read", lambda _, number: churn.Reading(number, 1, 1))

    class Gateway:
        port = 1

    setup = churn.Setup(changes=changes, seconds=0.0)
    result = asyncio.run(churn._run(setup, Gateway(), None, Made(), print))
    assert result.changes == expected == Counter(kind for _, kind in made)
    assert [number for number, _ in made] == list(range(changes))
    assert [reading.changes for reading in result.readings] == list(range(changes))
    assert (result.requests, result.failed, result.latency_ms) == (4, {503: 1}, (250.0, 250.0))
