"""Twenty minutes of load while a thousand tasks come and go, some of them damaged."""

import pytest
from rich.console import Console

from loadtests import churn

SECONDS = 1200
CHANGES = 1000
FLAT = 0.02


@pytest.mark.slow
def test_a_thousand_changes_fail_no_request_and_leave_nothing_behind():
    console = Console()
    result = churn.measure(churn.Setup(CHANGES, SECONDS), console.print)
    console.print(churn.render(result))
    assert sum(result.changes.values()) == CHANGES
    assert result.changes["damaged"] >= CHANGES / 10
    assert result.seconds >= SECONDS * 0.99
    assert result.requests > SECONDS
    assert result.failed == {}
    memory, series = result.grown(0.25)  # from the second quarter to the end
    assert memory < FLAT, f"resident memory grew by {memory:.1%}"
    assert series < FLAT, f"the number of series grew by {series:.1%}"
