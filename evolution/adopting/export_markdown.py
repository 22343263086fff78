"""Markdown whose form no text of a user's can change."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~&$!])")


def text(value: Any, most: int = 300) -> str:
    """A user's text on one line, without meaning to Markdown."""
    line = " ".join(str(value).split())
    line = line if len(line) <= most else line[: most - 1] + "…"
    return _SPECIAL.sub(r"\\\1", line)


def table(headings: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Of cells whose users' texts went through `text`."""
    headings = list(headings)
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
