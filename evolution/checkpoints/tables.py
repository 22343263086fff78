"""The CSV tables of published states: their cells, and their hyperparameters as ours.

pandas wrote them: an empty cell is an absent value, integers in a column with gaps are written
"3.0", dicts and lists are JSON (SYSTEMS.md, Tables).
"""

from __future__ import annotations

import csv
import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evolution.checkpoints.files import CheckpointError
from evolution.experiments.settings import DEFAULTS_PREFIX, HYPERPARAMETERS, SettingError, check

# Not `float(text)`: Python reads "0_2", a list of two blocks, as the number 2.
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_LARGEST_INTEGER = 2**53  # beyond, numbers of pandas are not exact
_LONGEST = 60  # characters of a cell in a message
csv.field_size_limit(16 << 20)  # of all readers: errors of cells name the column
_ABSENT = frozenset({"", "nan", "NaN", "None"})
_ENDED = ("metrics.end_time", "metrics.timestamp_end")  # of μ2Net, of agents

INTEGERS = frozenset({"num_layers", "adapter_dim", "ds_image_size", "num_classes", "num_paths"})
FLAGS = frozenset({"opt_nesterov", "ds_crop", "ds_flip_left_right"})
# Known from the head, the path and its lineage; `adapter_layers` becomes `adapters`.
_ELSEWHERE = frozenset({"num_classes", "paths", "parent_id", "parent_agent_id", "adapter_layers"})
# The values of hyperparameters that some layouts do not record: images are cropped if the least
# area is below 1, there are no adapters, JPEG quality stays. Momentum None is an empty cell.
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

    def share(self, column: str) -> float | None:
        """A number from 0 to 1. Raises CheckpointError."""
        return self._converted(column, _share)

    def numbers(self, column: str) -> list[float | None] | None:
        """A JSON list of numbers. Raises CheckpointError."""
        return self._converted(column, _numbers)

    def counts(self, column: str) -> dict[str, int] | None:
        """A JSON object of whole numbers. Raises CheckpointError."""
        return self._converted(column, _counts)

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
        """The present cells of columns with a prefix, by their names without it."""
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
            twice = [c for c, n in Counter(reader.fieldnames or ()).items() if n > 1]
            if twice:
                raise CheckpointError(f"{path}: column {twice[0]!r} is there twice, expected once")
            missing = [c for c in columns if c not in (reader.fieldnames or ())]
            if missing:
                raise CheckpointError(f"{path}: columns {', '.join(missing)} are missing")
            rows = [Row(f"{path} line {reader.line_num}", cells) for cells in reader]
    except FileNotFoundError:
        raise CheckpointError(f"{path}: the table is missing; copy the state whole") from None
    except (csv.Error, UnicodeDecodeError, OSError) as error:
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
    """Our hyperparameters from cells or JSON values by name; raises CheckpointError."""
    try:
        found = {
            key: _typed(key, value)
            for key, value in values.items()
            if key not in _ELSEWHERE and not _is_absent(value)
        }
        adapters = values.get("adapter_layers")
        if adapters is not None:
            found["adapters"] = _blocks(adapters)
        for key, value in found.items():
            if key in HYPERPARAMETERS:
                check(DEFAULTS_PREFIX + key, value)
        return found
    except SettingError as error:
        raise CheckpointError(f"{where}: column hparams.{_column(error)}") from None
    except ValueError as error:
        raise CheckpointError(f"{where}: column hparams.{error}") from None


def single_path_hyperparameters(row: Row) -> dict[str, Any]:
    """All hyperparameters of a single path, also unrecorded ones; raises CheckpointError."""
    return {**_UNSAID, **hyperparameters(row.starting("hparams."), row.where)}


def mutations(recorded: Mapping[str, Any], where: str) -> dict[str, list[Any]]:
    """Hyperparameter -> [parent's value, child's], named and typed as ours; raises CheckpointError.

    `recorded` has the original names of hyperparameters.
    """
    where = f"{where}: column metrics.mutations"
    if not isinstance(recorded, Mapping):
        raise CheckpointError(f"{where}: expected an object of [old, new] by name")
    changes: dict[str, list[Any]] = {}
    for key, pair in recorded.items():
        if not isinstance(pair, list) or len(pair) != 2:
            raise CheckpointError(f"{where}: {key}: {_shown(pair)}, expected [old, new]")
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
    """Block numbers joined by "_"; a single one may be written as a number."""
    if _is_absent(value):
        return []
    try:
        return sorted({_integer(part) for part in str(value).split("_")})
    except ValueError as error:
        raise ValueError(f"adapter_layers: {error}") from None


def _column(error: SettingError) -> str:
    return str(error).removeprefix(DEFAULTS_PREFIX)


def _shown(value: Any) -> str:
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def _number(value: Any) -> float:
    text = str(value)
    if isinstance(value, bool) or not _NUMBER.fullmatch(text):
        raise ValueError(f"{_shown(value)}, expected a number")
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{_shown(value)}, expected a finite number")
    return number


def _integer(value: Any) -> int:
    number = _number(value)
    if abs(number) > _LARGEST_INTEGER or number != int(number):
        raise ValueError(f"{_shown(value)}, expected a whole number")
    return int(number)


def _share(value: Any) -> float:
    number = _number(value)
    if not 0 <= number <= 1:
        raise ValueError(f"{_shown(value)}, expected a number from 0 to 1")
    return number


def _flag(value: Any) -> bool:
    known = {"True": True, "False": False, "1.0": True, "0.0": False, "1": True, "0": False}
    if str(value) not in known:
        raise ValueError(f"{_shown(value)}, expected True or False")
    return known[str(value)]


def _free(value: Any) -> Any:
    """A number if it is one; else the text itself, such as the name of a schedule."""
    is_number = not isinstance(value, bool) and _NUMBER.fullmatch(str(value))
    return _number(value) if is_number else value


def _json(value: str) -> Any:
    try:
        return json.loads(
            value, parse_constant=lambda name: None, parse_float=_number, parse_int=_json_integer
        )
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error}") from None
    except RecursionError:
        raise ValueError("not JSON of a table: it is nested too deeply") from None


def _json_integer(text: str) -> int:
    if len(text) > len(str(_LARGEST_INTEGER)):
        raise ValueError(f"{_shown(text)}, expected a number of fewer digits")
    return int(text)


def _numbers(value: str) -> list[float | None]:
    found = _json(value)
    known = isinstance(found, list) and all(
        v is None or (isinstance(v, int | float) and not isinstance(v, bool)) for v in found
    )
    if not known:
        raise ValueError(f"{_shown(found)}, expected a list of numbers")
    return found


def _counts(value: str) -> dict[str, int]:
    found = _json(value)
    if not isinstance(found, dict):
        raise ValueError(f"{_shown(found)}, expected an object of whole numbers")
    return {task: _integer(count) for task, count in found.items()}
