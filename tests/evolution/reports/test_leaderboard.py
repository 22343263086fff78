"""The table of a store's tasks."""

from rich.console import Console

from evolution.reports.leaderboard import table_of

FULL = {
    "task": "a", "version": 3, "private": True, "validation": 0.98765, "test": 0.5,
    "parameters": 1234567, "accounted": 4567.8, "by": "demo",
}  # fmt: skip
EMPTY = {key: None for key in FULL} | {"task": "imported", "version": 1, "private": False}


def test_each_task_is_a_line_of_numbers_that_people_read():
    console = Console(width=200)
    with console.capture() as shown:
        console.print(table_of([FULL, EMPTY]))
    cells = [
        [cell.strip() for cell in line.replace("┃", "│").strip("│").split("│")]
        for line in shown.get().splitlines()
        if set(line) & {"│", "┃"}
    ]
    assert cells == [
        ["task", "v", "valid.", "test", "parameters", "accounted", "by"],
        ["a (private)", "3", "0.9877", "0.5000", "1,234,567", "4,568", "demo"],
        ["imported", "1", "-", "-", "-", "-", "-"],
    ]
