"""Samples for tests, and what lies in a folder of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from service.samples.table import Answer, Sample

LABELS = ("leaves", "boards", "stones")


def sample(image: bytes = b"\x89PNG-1", *logits: float, **fields: Any) -> Sample:
    """A picture with one answer."""
    found = np.array(logits or (3, 2, 1), np.float32)
    given = {"task": "photos", "version": 1, "activation": "softmax", "temperature": 1.0}
    time = fields.pop("time", 1.8e9)
    return Sample(image, [Answer(logits=found, **{"labels": LABELS, **given, **fields})], time)


def rows(folder: Path) -> list[dict[str, Any]]:
    """All rows of all files, in the order of the files' names."""
    files = sorted(folder.glob("samples-*.parquet"))
    return [row for file in files for row in pq.read_table(file).to_pylist()]
