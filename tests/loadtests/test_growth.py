"""How cost grows: the figures and tables of a made-up run; once, small, a real one."""

from __future__ import annotations

import io
import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from rich.console import Console

from loadtests import growth
from loadtests.errors import OptionError
from loadtests.growth.measure import APART, SHARING, Mix, Result, Size

FIGURES = {"memory", "cold", "latency", "throughput", "start", "components"}


def made_up() -> Result:
    sizes = [
        Size(
            tasks,
            unique_mb=22 + tasks * 0.06,
            empty_mb=180,
            loaded_mb=250 + tasks * 0.07,
            cold_p50_ms=9,
            cold_p99_ms=21,
            start_s=[2.0, 2.2, 2.4],
            p50_ms=[4.0, 4.5],
            p99_ms=[8.0, 9.0],
            rate=[300.0, 340.0],
        )
        for tasks in (10, 100, 1_000, 10_000)
    ]
    mixes = [
        Mix(shared, n, 17 * n, [30.0 * n, 34.0 * n]) for shared in (SHARING, APART) for n in (1, 16)
    ]
    return Result(growth.Setup(rounds=2), sizes, mixes)


def test_each_cost_has_a_figure_that_is_the_same_for_the_same_run(tmp_path: Path) -> None:
    files = growth.write(made_up(), tmp_path / "new")
    assert {file.name for file in files} == {f"growth-{name}.svg" for name in FIGURES}
    texts = {file.name: file.read_text() for file in files}
    for text in texts.values():
        assert ElementTree.fromstring(text).tag.endswith("svg")
    assert all(mark in texts["growth-memory.svg"] for mark in (">10,000<", ">memory, MB (PSS)<"))
    assert f">tasks that share {APART}<" in texts["growth-components.svg"]
    growth.write(made_up(), tmp_path / "new")
    assert {file.name: file.read_text() for file in files} == texts


def test_the_tables_fit_and_the_line_has_every_round() -> None:
    file = io.StringIO()
    Console(file=file, width=80).print(growth.render(made_up()))
    text = file.getvalue()
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "10,000" in text and "320±20" in text and "2.20±0.20" in text
    line = json.loads(growth.json_line(made_up()))
    assert line["setup"]["tasks"] == [10, 100, 1000, 10000]
    assert line["result"]["sizes"][3]["rate"] == [300.0, 340.0]


@pytest.mark.parametrize("tasks", [(), (1, 10), (100, 10), (10, 10)])
def test_numbers_that_make_no_line_are_refused(tasks: tuple[int, ...]) -> None:
    with pytest.raises(OptionError, match="from 2 upwards"):
        growth.Setup(tasks)


@pytest.mark.slow
def test_a_small_run_measures_every_number() -> None:
    result = growth.measure(growth.Setup((2, 4), rounds=1, seconds=0.3), lambda _: None)
    assert [size.tasks for size in result.sizes] == [2, 4]
    for size in result.sizes:
        assert 0 < size.unique_mb < size.loaded_mb
        assert size.rate[0] > 0 and len(size.start_s) == 3
    assert [mix.components for mix in result.mixes if mix.shared == APART] == [17, 34, 68, 136, 272]
    assert all(mix.ms[0] > 0 for mix in result.mixes)
