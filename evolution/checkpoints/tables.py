"""The CSV tables of published states: their cells, and what our hyperparameters make of theirs.

pandas wrote them: an empty cell is an absent value, integers of a column with gaps come back as
"3.0", dicts and lists are JSON (spec/mu2net.md §8, mu4net.md §6).
"""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evolution.checkpoints.files import CheckpointError

# Not `float(text)`: Python reads "0_2", a list of two blocks, as the number 2.
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_ABSENT = frozenset({"", "nan", "NaN", "None"})
_ENDED = ("metrics.end_time", "metrics.timestamp_end")  # of μ2Net, of agents

INTEGERS = frozenset({"num_layers", "adapter_dim", "ds_image_size", "num_classes", "num_paths"})
FLAGS = frozenset({"opt_nesterov", "ds_crop", "ds_flip_left_right"})
# Told by the head, the path and its lineage; `adapter_layers` becomes `adapters`.
_ELSEWHERE = frozenset({"num_classes", "paths", "parent_id", "parent_agent_id", "adapter_layers"})
# What the layouts that lack a hyperparameter do without saying so: images are cropped where the
# least area is below 1, there are no adapters, JPEG quality stays. Momentum None is written empty.
_UNSAID = {
    "adapters": [],
    "adapter_dim": 32,
    "ds_crop": True,
    "ds_quality_delta": 0.0,
    "opt_momentum": None,
}


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a table; a cell that is absent reads as None."""

    where: str  # file and line, for messages
    cells: Mapping[str, str]

    def text(self, column: str) -> str | None:
        """The cell as it is."""
        value = self.cells.get(column)
        return None if value is None or value in _ABSENT else value

    def number(self, column: str) -> float | None:
        """A number. Raises CheckpointError."""
        return self._converted(column, _number)

    def integer(self, column: str) -> int | None:
        """A whole number, also as "3.0". Raises CheckpointError."""
        return self._converted(column, _integer)

    def flag(self, column: str) -> bool | None:
        """True or False. Raises CheckpointError."""
        return self._converted(column, _flag)

    def json(self, column: str) -> Any:
        """A JSON document without its NaNs. Raises CheckpointError."""
        return self._converted(column, _json)

    def first(self, *columns: str) -> float | None:
        """The first of these numbers that is there. Raises CheckpointError."""
        found = (self.number(column) for column in columns)
        return next((value for value in found if value is not None), None)

    def ended(self) -> float | None:
        """When the model was finished, in seconds. Raises CheckpointError."""
        return self.first(*_ENDED)

    def required(self, column: str) -> str:
        """A cell that must not be absent. Raises CheckpointError."""
        value = self.text(column)
        if value is None:
            raise CheckpointError(f"{self.where}: column {column} is empty, expected a value")
        return value

    def starting(self, prefix: str) -> dict[str, str]:
        """The present cells of the columns that begin so, named without that beginning."""
        return {
            column.removeprefix(prefix): value
            for column, value in self.cells.items()
            if column.startswith(prefix) and value not in _ABSENT
        }

    def _converted(self, column: str, convert: Any) -> Any:
        value = self.text(column)
        try:
            return None if value is None else convert(value)
        except ValueError as error:
            raise CheckpointError(f"{self.where}: column {column}: {error}") from None


def read_table(path: Path, columns: tuple[str, ...]) -> list[Row]:
    """All rows, one or more, of a CSV file that has at least these columns; or CheckpointError."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file, strict=True)
            missing = [c for c in columns if c not in (reader.fieldnames or ())]
            if missing:
                raise CheckpointError(f"{path}: columns {', '.join(missing)} are missing")
            rows = [Row(f"{path} line {reader.line_num}", cells) for cells in reader]
    except FileNotFoundError:
        raise CheckpointError(f"{path}: the table is missing; copy the state whole") from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: not a CSV table: {error}") from None
    if not rows:
        raise CheckpointError(f"{path}: columns but no rows, expected one or more; copy it again")
    for row in rows:
        if None in row.cells or None in row.cells.values():
            raise CheckpointError(
                f"{row.where}: more or fewer cells than columns; the table is truncated or damaged"
            )
    return rows


def hyperparameters(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Ours from theirs, cells or JSON values by name; raises CheckpointError."""
    try:
        found = {
            key: _typed(key, value)
            for key, value in values.items()
            if key not in _ELSEWHERE and not _is_absent(value)
        }
        adapters = values.get("adapter_layers")
        return found if adapters is None else {**found, "adapters": _blocks(adapters)}
    except ValueError as error:
        raise CheckpointError(f"{where}: hyperparameter {error}") from None


def single_path_hyperparameters(row: Row) -> dict[str, Any]:
    """All that a single path has, also where its layout does not say so; raises CheckpointError."""
    return {**_UNSAID, **hyperparameters(row.starting("hparams."), row.where)}


def mutations(recorded: Mapping[str, Any], where: str) -> dict[str, list[Any]]:
    """Hyperparameter -> [parent's value, child's], named and typed as ours; raises CheckpointError.

    `recorded` names the same hyperparameters as the originals did.
    """
    changes: dict[str, list[Any]] = {}
    for key, pair in recorded.items():
        if not isinstance(pair, list) or len(pair) != 2:
            raise CheckpointError(f"{where}: mutation {key}: {pair!r}, expected [old, new]")
        name = "adapters" if key == "adapter_layers" else key
        if name == "adapters" or key not in _ELSEWHERE:
            changes[name] = [hyperparameters({key: value}, where).get(name) for value in pair]
    return changes


def _typed(key: str, value: Any) -> Any:
    convert = _integer if key in INTEGERS else _flag if key in FLAGS else _free
    try:
        return convert(value)
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from None


def _is_absent(value: Any) -> bool:
    if isinstance(value, float):
        return math.isnan(value)
    return value is None or (isinstance(value, str) and value in _ABSENT)


def _blocks(value: Any) -> list[int]:
    """Block numbers joined by "_"; a single one may have become a number."""
    if _is_absent(value):
        return []
    try:
        return sorted({_integer(part) for part in str(value).split("_")})
    except ValueError as error:
        raise ValueError(f"adapter_layers: {error}") from None


def _number(value: Any) -> float:
    text = str(value)
    if isinstance(value, bool) or not _NUMBER.fullmatch(text):
        raise ValueError(f"{value!r}, expected a number")
    return float(text)


def _integer(value: Any) -> int:
    number = _number(value)
    if number != int(number):
        raise ValueError(f"{value!r}, expected a whole number")
    return int(number)


def _flag(value: Any) -> bool:
    known = {"True": True, "False": False, "1.0": True, "0.0": False, "1": True, "0": False}
    if str(value) not in known:
        raise ValueError(f"{value!r}, expected True or False")
    return known[str(value)]


def _free(value: Any) -> Any:
    """A number if it is one; else the text itself, such as the name of a schedule."""
    is_number = not isinstance(value, bool) and _NUMBER.fullmatch(str(value))
    return float(value) if is_number else value


def _json(value: str) -> Any:
    try:
        return json.loads(value, parse_constant=lambda name: None)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error}") from None
