"""The rows of a table of answers, and the files that they are written to.

One row for each image and task. `label` and `probability` are those of the most probable class;
`top` lists the best. A row without an answer has the name of the `error` and its `message`.
"""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from service.bulk.answering import Answered, Pins

Row = Mapping[str, Any]
COLUMNS = (
    *("source", "task", "version", "digest", "label", "probability", "top"),
    *("error", "message"),
)
ROWS_AT_ONCE = 20_000  # of a parquet file


class UnknownForm(Exception):
    """A table of this name cannot be written."""


def rows_of(answered: Answered, pins: Pins) -> Iterator[Row]:
    """The row of each task."""
    name, answers = answered
    for answer in answers:
        pin, error = pins[answer.task], answer.error
        top = [{"label": one.label, "probability": one.probability} for one in answer.predictions]
        best = top[0] if top else {"label": None, "probability": None}
        yield {
            "source": name,
            "task": answer.task,
            "version": pin.version,
            "digest": pin.digest,
            **best,
            "top": top,
            "error": error.kind if error else None,
            "message": error.detail if error else None,
        }


def require_form(table: Path) -> None:
    """Raises UnknownForm."""
    if table.suffix.lower() not in FORMS:
        raise UnknownForm(
            f"--out: expected a name that ends in {', '.join(FORMS)}, found {table.name!r}"
        )


def write(path: Path, form: str, rows: Iterable[Row]) -> tuple[int, int]:
    """Writes a table; how many rows it has, and how many of them have errors."""
    count = errors = 0

    def counted() -> Iterator[Row]:
        nonlocal count, errors
        for row in rows:
            count += 1
            errors += row["error"] is not None
            yield row

    FORMS[form](path, counted())
    return count, errors


def _parquet(path: Path, rows: Iterator[Row]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    best = pa.list_(pa.struct([("label", pa.string()), ("probability", pa.float64())]))
    kinds = {"version": pa.int64(), "probability": pa.float64(), "top": best}
    schema = pa.schema([(name, kinds.get(name, pa.string())) for name in COLUMNS])
    with pq.ParquetWriter(path, schema) as writer:
        while some := list(itertools.islice(rows, ROWS_AT_ONCE)):
            writer.write_table(pa.Table.from_pylist(some, schema))


def _csv(path: Path, rows: Iterator[Row]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for row in rows:
            writer.writerow({**row, "top": json.dumps(row["top"], ensure_ascii=False)})


def _jsonl(path: Path, rows: Iterator[Row]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


FORMS: Mapping[str, Callable[[Path, Iterator[Row]], None]] = {
    ".parquet": _parquet,
    ".csv": _csv,
    ".jsonl": _jsonl,
}
