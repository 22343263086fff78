"""Markdown whose structure users' texts cannot change."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~&$!])")


def text(value: Any, most: int = 300) -> str:
    """A user's text on one line, escaped for Markdown."""
    line = " ".join(str(value).split())
    line = line if len(line) <= most else line[: most - 1] + "…"
    return _SPECIAL.sub(r"\\\1", line)


def table(headings: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table; users' texts in cells must be escaped with `text`."""
    headings = list(headings)
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
