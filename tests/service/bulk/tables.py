"""Runs `munet classify`, and reads the tables that it writes."""

from __future__ import annotations

import csv
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import munet

PICTURES = 330  # more than one part has
TASKS = ("plain", "group/wide")
ASKED = ("--task", "plain", "--task", "group/wide")


@dataclass(frozen=True, slots=True)
class Done:
    code: int
    out: str
    err: str


def run(capsys: pytest.CaptureFixture[str], monkeypatch: Any, *arguments: object) -> Done:
    """In this process."""
    monkeypatch.setattr(sys, "argv", ["munet", "classify", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        munet.main()
    out, err = capsys.readouterr()
    return Done(int(ended.value.code or 0), out, err)


def rows(table: Path) -> list[dict[str, Any]]:
    """Of a table of any form, as in parquet."""
    if table.suffix == ".parquet":
        return pq.read_table(table).to_pylist()
    if table.suffix == ".jsonl":
        return [json.loads(line) for line in table.read_text().splitlines()]
    with table.open(newline="") as file:
        found = [{key: value or None for key, value in row.items()} for row in csv.DictReader(file)]
    return [
        {
            **row,
            "version": int(row["version"] or 0),
            "top": json.loads(row["top"] or ""),
            "probability": float(row["probability"]) if row["probability"] else None,
        }
        for row in found
    ]
