"""What the comparison of one request for all tasks with separate ones says."""

from rich.console import Console

from loadtests import sharing


def test_a_line_has_medians_and_medians_of_ratios_and_whether_the_target_is_met():
    rounds = [(0.010, 0.100, 0.020), (0.030, 0.050, 0.040), (0.020, 0.040, 0.100)]
    found = sharing._summary(64, rounds, 12.0)
    assert (found.together_ms, found.one_by_one_ms, found.at_once_ms) == (20.0, 50.0, 40.0)
    assert (found.of_one_by_one, found.of_at_once) == (0.5, 0.5)
    console = Console(width=200)
    with console.capture() as shown:
        console.print(sharing.render(sharing.Setup(), sharing.Result([found])))
    heading, row = (line for line in shown.get().splitlines() if "pixels" in line or "64" in line)
    assert [cell.strip() for cell in heading.strip("┃").split("┃")] == [
        "pixels", "together", "one by one", "at once", "shared",
    ]  # fmt: skip
    met = "within" if sharing.TARGET >= 0.5 else "above"
    assert [cell.strip() for cell in row.strip("│").split("│")] == [
        "64", "20.0 ms", f"50.0 ms: 50%, {met} {sharing.TARGET:.0%}", "40.0 ms: 50%",
        "12 row-stages",
    ]  # fmt: skip
