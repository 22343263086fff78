"""`munet classify` next to a session for each task: what is compared, and how."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from loadtests.errors import LoadTestError, OptionError
from loadtests.peers.many_images import Setup, Speeds, _read, difference


def table(path: Path, *rows: tuple[str, str, float]) -> Path:
    """Of image, task and the probability of its label `a`."""
    lines = [
        {"source": source, "task": task, "top": [{"label": "a", "probability": probability}]}
        for source, task, probability in rows
    ]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return path


def test_answers_of_the_same_image_and_task_are_compared(tmp_path: Path) -> None:
    ours = _read(table(tmp_path / "a", ("photos/1.jpg", "t", 0.5), ("photos/1.jpg", "u", 0.25)))
    theirs = _read(table(tmp_path / "b", ("1.jpg", "u", 0.25), ("1.jpg", "t", 0.500002)))
    assert difference(ours, theirs) == pytest.approx(2e-6)
    with pytest.raises(LoadTestError, match=r"difference of 0\.25"):
        difference(ours, {**theirs, ("1.jpg", "t"): {"a": 0.75}})
    with pytest.raises(LoadTestError, match="expected 1 answers, found 2"):
        difference(ours, {("1.jpg", "t"): {"a": 0.5}})


def test_the_ratio_is_the_median_of_the_rounds() -> None:
    assert Speeds([1.0, 2.0, 4.0], [3.0, 8.0, 8.0], 0.0).ratio == 3.0


def test_nothing_to_measure_is_refused() -> None:
    with pytest.raises(OptionError):
        Setup(images=0)
