"""What the comparison of a gateway with roll-outs and one without says."""

from rich.console import Console

from loadtests.rollouts import ALL, NONE, Result, Round, render


def test_a_ratio_is_the_median_of_those_of_the_rounds() -> None:
    result = Result(counted={"shadow answered": 7.0})
    result.rounds[ALL] = [Round(10, 0, 2.0, 9.0, 10**8), Round(10, 1, 4.0, 8.0, 2 * 10**8)]
    result.rounds[NONE] = [Round(10, 0, 1.0, 9.0, 10**8), Round(10, 0, 1.0, 4.0, 10**8)]
    assert (result.ratio("p50_ms"), result.ratio("p99_ms")) == (3.0, 1.5)
    console = Console(width=120)
    with console.capture() as shown:
        console.print(render(result))
    rows = [
        [cell.strip() for cell in line.strip("│").split("│")]
        for line in shown.get().splitlines()
        if line.startswith("│")
    ]
    assert rows == [
        ["p50, ms", "3.00", "1.00", "3.00"],
        ["p99, ms", "8.50", "6.50", "1.50"],
        ["requests", "20", "20", ""],
        ["of them failed", "1", "0", ""],
        ["memory, first and last round, MB", "100, 200", "100, 100", ""],
        ["shadow answered", "7", "", ""],
    ]
