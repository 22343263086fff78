"""Losses and learning rates of a run's children as files for other programs: CSV, TensorBoard.

A point is the mean over a stretch of steps (evolution.training.curves). Its step is the last of
them, counted from 1.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evolution.training.curves import points

Row = Mapping[str, Any]  # a child in a history
COLUMNS = ("child", "task", "iteration", "generation", "step", "loss", "learning_rate")
LIBRARY = "tensorboardX"


class MissingExtra(Exception):
    """An optional library is not installed."""


def write_csv(history: Sequence[Row], file: Path) -> int:
    """Writes a line for each point of each child; the number of points. The file appears whole.

    A loss that was not a finite number is empty.
    """
    if not file.parent.is_dir():
        raise FileNotFoundError(f"no folder {file.parent} to write {file.name} into; make it first")
    part = file.with_name(f"{file.name}.part")
    try:
        with part.open("w", newline="", encoding="utf-8") as out:
            writer = csv.writer(out)
            writer.writerow(COLUMNS)
            count = 0
            for row in history:
                place = (row["id"], row["task"], row.get("iteration"), row.get("generation"))
                found = [(*place, *point) for point in points(row.get("training"))]
                writer.writerows(["" if v is None else v for v in line] for line in found)
                count += len(found)
        os.replace(part, file)
    finally:
        part.unlink(missing_ok=True)
    return count


def write_tensorboard(history: Sequence[Row], folder: Path) -> int:
    """Writes events for each child into a folder of its own, TASK/child_ID; how many children.

    Raises MissingExtra without the library.
    """
    try:
        from tensorboardX import SummaryWriter  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise MissingExtra(
            f"--tensorboard needs the library {LIBRARY}, which is not installed:\n"
            f"pip install {LIBRARY}; or write a CSV file, which needs nothing: --csv FILE"
        ) from None
    count = 0
    for row in history:
        if not (curve := points(row.get("training"))):
            continue
        count += 1
        name = f"child_{row['id']}"
        with SummaryWriter(str(folder / row["task"] / name), write_to_disk=True) as writer:
            for step, loss, rate in curve:
                for tag, value in (("loss", loss), ("learning_rate", rate)):
                    if value is not None:
                        writer.add_scalar(f"training/{tag}", value, step, row.get("ended"))
            for number, quality in enumerate(row["evaluations"], 1):
                writer.add_scalar("validation/quality", quality, number, row.get("ended"))
    return count
