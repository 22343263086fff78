"""An offline HTML page of titled sections with tables and figures, and its data files.

The page fetches no script, font or style sheet. It is also well-formed XML. Tables are written as
CSV files too, with all digits.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from evolution.reports import figures

Form = Callable[[Any], str]

_CSS = """
:root { color-scheme: light dark; --ink: #16181d; --paper: #ffffff; --soft: #5d6470;
  --line: #d9dce1; --panel: #f6f7f9; --link: #1a5fb4; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --paper: #15171b; --soft: #a3a9b4;
  --line: #343941; --panel: #1d2025; --link: #8ab4f8; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1.25rem 4rem; max-width: 1240px; color: var(--ink);
  background: var(--paper); font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 .25rem; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .5rem; border-top: 1px solid var(--line);
  padding-top: 1rem; }
h3 { font-size: 1rem; margin: 1.5rem 0 .5rem; }
a { color: var(--link); }
nav ul { columns: 3 15rem; padding-left: 1.2rem; }
.soft, figcaption { color: var(--soft); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .87rem; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .55rem; border-bottom: 1px solid var(--line); text-align: left;
  vertical-align: top; }
td { overflow-wrap: anywhere; }
th { color: var(--soft); font-weight: 600; }
.number { text-align: right; white-space: nowrap; }
figure { margin: 1rem 0 1.5rem; }
figure svg { display: block; height: auto; }
summary { cursor: pointer; }
.views > figure { display: none; }
.views > label { margin-right: 1rem; }
.views > input:nth-of-type(1):checked ~ figure:nth-of-type(1),
.views > input:nth-of-type(2):checked ~ figure:nth-of-type(2),
.views > input:nth-of-type(3):checked ~ figure:nth-of-type(3),
.views > input:nth-of-type(4):checked ~ figure:nth-of-type(4) { display: block; }
figcaption { font-size: .87rem; max-width: 46rem; }
.key { display: flex; flex-wrap: wrap; gap: .2rem 1rem; list-style: none; padding: 0;
  font-size: .87rem; }
.key span { display: inline-block; width: .8em; height: .8em; border-radius: 2px;
  margin-right: .4em; }
"""


def integer(value: float) -> str:
    """1,234."""
    return f"{value:,.0f}"


def accuracy(value: float) -> str:
    """Four decimals."""
    return f"{value:.4f}"


def percent(value: float) -> str:
    """A share of 1, in whole per cent."""
    return f"{value:.0%}"


def plain(value: Any) -> str:
    """The text unchanged."""
    return str(value)


def engineering(value: float) -> str:
    """Three significant digits with a unit prefix: 4.50 G."""
    for size, prefix in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= size:
            return f"{value / size:.3g}{prefix}"
    return f"{value:.3g}"


def duration(value: float) -> str:
    """Seconds as 1 h 02 min, 3 min 04 s or 5.6 s."""
    if value >= 3600:
        return f"{int(value // 3600)} h {int(value % 3600 // 60):02d} min"
    return f"{int(value // 60)} min {int(value % 60):02d} s" if value >= 60 else f"{value:.1f} s"


@dataclass(frozen=True, slots=True)
class Table:
    """Raw values under column names; a column with a format holds numbers."""

    columns: Mapping[str, Form | None]
    rows: Sequence[Sequence[Any]]

    def html(self) -> str:
        """The table as the page shows it; unknown values are a dash."""
        forms = list(self.columns.values())
        head = "".join(
            f"<th{_CLASS if form else ''}>{escape(name)}</th>"
            for name, form in self.columns.items()
        )
        body = "".join(
            f"<tr>{''.join(_cell(v, form) for v, form in zip(row, forms, strict=True))}</tr>\n"
            for row in self.rows
        )
        return (
            f'<div class="wide"><table><thead><tr>{head}</tr></thead>\n'
            f"<tbody>{body}</tbody></table></div>\n"
        )


_CLASS = ' class="number"'


def _cell(value: Any, form: Form | None) -> str:
    text = "–" if value is None else form(value) if form else str(value)  # noqa: RUF001
    return f"<td{_CLASS if form else ''}>{escape(text)}</td>"


@dataclass(slots=True)
class Report:
    """A page being built; its data files are written when they are added."""

    directory: Path
    title: str
    lead: str  # one line below the title
    _sections: list[tuple[str, list[str]]] = field(default_factory=list)
    _data: list[str] = field(default_factory=list)

    def section(self, title: str) -> None:
        """Starts a section; later additions belong to it."""
        self._sections.append((title, []))

    def heading(self, text: str) -> None:
        """A heading within the section."""
        self._add(f"<h3>{escape(text)}</h3>\n")

    def text(self, text: str) -> None:
        """A paragraph."""
        self._add(f"<p>{escape(text)}</p>\n")

    def links(self, targets: Mapping[str, str]) -> None:
        """A list of links: text -> relative address."""
        items = "".join(
            f'<li><a href="{escape(target)}">{escape(text)}</a></li>\n'
            for text, target in targets.items()
        )
        self._add(f"<ul>{items}</ul>\n")

    def key(self, colours: Mapping[str, str]) -> None:
        """A legend of the colours."""
        items = "".join(
            f'<li><span style="background: {colour}"></span>{escape(name)}</li>\n'
            for name, colour in colours.items()
        )
        self._add(f'<ul class="key">{items}</ul>\n')

    def table(self, table: Table, name: str = "") -> None:
        """Shows a table; with a name it is also the file `name`.csv."""
        self._add(table.html())
        if name:
            self.data(table, name)

    def details(self, summary: str, table: Table) -> None:
        """A table that is shown after a click on its summary."""
        self._add(f"<details><summary>{escape(summary)}</summary>{table.html()}</details>\n")

    @contextmanager
    def views(self, name: str, labels: Sequence[str]) -> Iterator[None]:
        """Shows one of the figures added in the context, at most four; first the last."""
        checked = ' checked="checked"'
        buttons = "".join(
            f'<input type="radio" name="{name}" id="{name}-{i}"'
            f"{checked if i == len(labels) else ''}/>"
            f'<label for="{name}-{i}">{escape(label)}</label>\n'
            for i, label in enumerate(labels, 1)
        )
        self._add(f'<div class="views">{buttons}')
        yield
        self._add("</div>\n")

    def data(self, table: Table, name: str) -> None:
        """Writes a table as `name`.csv in the page's folder, without showing it."""
        self._data.append(f"{name}.csv")
        with (self.directory / self._data[-1]).open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(table.columns)
            writer.writerows(["" if v is None else v for v in row] for row in table.rows)

    def figure(self, figure: Figure, name: str, how_to_read: str) -> None:
        """Shows a figure, which is also the file `name`.svg."""
        document = figures.svg(figure, name)
        (self.directory / f"{name}.svg").write_text(document, encoding="utf-8")
        self._add(
            f'<figure><div class="wide">{_inlined(document, how_to_read)}</div>\n'
            f"<figcaption>{escape(how_to_read)} "
            f'<a href="{name}.svg">{name}.svg</a></figcaption></figure>\n'
        )

    def _add(self, html: str) -> None:
        self._sections[-1][1].append(html)

    def write(self) -> Path:
        """Writes index.html, which ends with a list of the data files; its path."""
        self.section("Data")
        self.text("The numbers behind this page, one table a file.")
        self.links({name: name for name in self._data})
        contents = "".join(
            f'<li><a href="#s{i}">{escape(title)}</a></li>\n'
            for i, (title, _) in enumerate(self._sections)
        )
        body = "".join(
            f'<section id="s{i}"><h2>{escape(title)}</h2>\n{"".join(parts)}</section>\n'
            for i, (title, parts) in enumerate(self._sections)
        )
        page = self.directory / "index.html"
        page.write_text(
            '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"/>\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1"/>\n'
            f"<title>{escape(self.title)}</title>\n<style>{_CSS}</style></head>\n"
            f'<body><h1>{escape(self.title)}</h1>\n<p class="soft">{escape(self.lead)}</p>\n'
            f"<nav><ul>{contents}</ul></nav>\n{body}</body></html>\n",
            encoding="utf-8",
        )
        return page


def _inlined(document: str, description: str) -> str:
    """The SVG element alone, its text in the colour and font of the page."""
    svg = document[document.index("<svg") :]
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="{escape(description)}" ', 1)
    svg = re.sub(r"font: ([^;\"]*?)'DejaVu Sans'[^;\"]*", r"font: \1system-ui, sans-serif", svg)
    return svg.replace(figures.INK, "currentColor")
