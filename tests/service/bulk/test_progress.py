"""The line that tells how far a table is."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from service.bulk.progress import Progress
from service.client import Answer, Refused

GOOD = ("a.png", [Answer("t", 1)])
BAD = ("b.png", [Answer("t", 1), Answer("u", None, error=Refused("why", 400, "bad-image"))])


def test_it_tells_how_far_it_is_how_fast_and_what_is_left_within_80_columns() -> None:
    now = [100.0]
    console = Console(file=io.StringIO(), width=80, force_terminal=True)
    progress = Progress(1_200_000, 200_000, console, lambda: now[0])
    assert progress.line() == "200,000 of 1,200,000 images"
    now[0] += 500  # until the models are there
    progress.begin()
    now[0] += 10
    progress.count([GOOD] * 1_000)
    assert progress.line() == "201,000 of 1,200,000 images, 100 images/s, 2.8 h left"
    progress.count([BAD] * 99_999)
    assert progress.errors == 99_999 and progress.images == 100_999
    assert len(progress.line()) <= 80
    assert progress.seconds == 510.0


@pytest.mark.parametrize("terminal", [True, False])
def test_without_a_terminal_it_writes_a_line_now_and_then(terminal: bool) -> None:
    now, file = [0.0], io.StringIO()
    console = Console(file=file, width=80, force_terminal=terminal)
    progress = Progress(100, 0, console, lambda: now[0])
    with progress.shown():
        for now[0] in (10.0, 20.0, 31.0, 40.0):
            progress.count([GOOD])
    lines = file.getvalue().splitlines()
    if terminal:
        assert "reading the models" in lines[0]
    else:
        assert lines == ["3 of 100 images, 0.1 images/s, 17 min left"]
