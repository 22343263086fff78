"""Prints sets: tables that fit 80 columns."""

from __future__ import annotations

from rich.console import Console
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from evolution.data.check import ACCURACY, Report
from evolution.data.rows import SPLITS
from evolution.data.stored import Card

CLASSES = 12  # to show, one a line
NAMES = 5
SHORT = {"validation": "valid."}


def grid() -> Table:
    """A table of two columns without lines."""
    made = Table.grid(padding=(0, 2))
    made.add_column(style="bold", no_wrap=True)
    made.add_column(overflow="fold")
    return made


def print_card(console: Console, card: Card, classes: tuple[str, ...]) -> None:
    """Prints a stored set and its content."""
    facts = grid()
    facts.add_row("data set", card.name)
    facts.add_row("from", Text(card.place))
    facts.add_row("source", Text(card.source or "not given (--source)"))
    facts.add_row("licence", Text(card.licence or "not given (--licence)"))
    facts.add_row("added", f"{card.created}, {decimal(card.bytes)}")
    facts.add_row("fingerprint", card.fingerprint.removeprefix("sha256:"))
    if card.made:
        facts.add_row("splits made", f"{', '.join(card.made)} (seed {card.seed})")
    if card.left_out:
        names = "\n".join(map(one_line, card.left_out_names[:NAMES]))
        more = f"\n… {card.left_out - NAMES} more" if card.left_out > NAMES else ""
        facts.add_row("left out", Text(f"{card.left_out} that cannot be used\n{names}{more}"))
    print_report(console, card.check, classes, facts)


def print_report(
    console: Console, report: Report, classes: tuple[str, ...], facts: Table | None = None
) -> None:
    """Prints the result of a check, after the rows of `facts`."""
    facts = facts or grid()
    facts.add_row("pictures", _pictures(report))
    facts.add_row("sizes", _sizes(report))
    facts.add_row("formats", Text(", ".join(f"{n:,} {mode}" for mode, n in report.modes.items())))
    facts.add_row("transparency", f"{report.alpha:,} with it; {report.turned:,} turned by a flag")
    repeated = report.duplicates
    facts.add_row(
        "repeated",
        f"{repeated['within']:,} within a split, {repeated['across']:,} of training, "
        f"{repeated['other classes']:,} "
        + ("with other labels" if report.multi_label else "of another class"),
    )
    if report.multi_label:
        told = ", ".join(f"{split} {n:,}" for split, n in report.unlabelled.items())
        facts.add_row("without label", told)
        told = f"one answer for all has a mean average precision of {report.majority:.3f}"
        facts.add_row("baseline", told)
    else:
        told = f"the commonest class is {report.majority:.1%} of the test pictures"
        facts.add_row("majority", told)
    for split, (low, high) in report.intervals.items():
        count = sum(report.counts[split])
        told = f"measures {ACCURACY:.0%} accuracy as {low:.1%} to {high:.1%} (of {count:,})"
        facts.add_row(split, told if count else "none")
    console.print(facts)
    _print_classes(console, report, classes)
    for finding in report.findings:
        style = "red" if finding.dangerous else "yellow"
        word = "danger" if finding.dangerous else "note"
        console.print(Text(f"{word}: {one_line(finding.message)} [{finding.name}]", style=style))


def _pictures(report: Report) -> str:
    if not report.multi_label:
        return f"{report.pictures:,} of {report.classes:,} classes"
    given = sum(map(sum, report.counts.values())) / max(1, report.pictures)
    return f"{report.pictures:,} of {report.classes:,} labels, {given:.2f} a picture"


def _sizes(report: Report) -> str:
    told = {
        name: " x ".join(map(str, report.sizes[name])) for name in ("smallest", "median", "largest")
    }
    if report.sizes["different"] == 1:
        return f"{told['median']}, all"
    return ", ".join(f"{name} {size}" for name, size in told.items())


def _print_classes(console: Console, report: Report, classes: tuple[str, ...]) -> None:
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("label" if report.multi_label else "class", overflow="ellipsis", no_wrap=True)
    for split in SPLITS:
        table.add_column(SHORT.get(split, split), justify="right")
    rows = list(zip(*(report.counts[split] for split in SPLITS), strict=True))
    for name, counts in list(zip(classes, rows, strict=True))[:CLASSES]:
        table.add_row(Text(one_line(name)), *(f"{count:,}" for count in counts))
    if left := rows[CLASSES:]:
        sums = (f"{sum(column):,}" for column in zip(*left, strict=True))
        table.add_row(Text(f"{len(left):,} more", style="italic"), *sums)
    console.print()
    console.print(table)
    console.print()


def one_line(name: str) -> str:
    """A class name with visible line breaks."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in name)


def print_list(console: Console, cards: list[Card]) -> None:
    """All sets, one a line."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("data set", overflow="fold")
    for heading in ("classes", "train", "valid.", "test", "size"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("findings", overflow="fold")
    for card in cards:
        report = card.check
        counts = (f"{report.in_split(split):,}" for split in SPLITS)
        names = ", ".join(finding.name for finding in report.findings)
        table.add_row(card.name, f"{report.classes:,}", *counts, decimal(card.bytes), names)
    console.print(table)
