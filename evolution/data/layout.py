"""Parquet files as the Hugging Face Hub has them, and its library `datasets` reads and writes them.

data/train-00000-of-00002.parquet   image: struct<bytes: binary, path: string>, label: int64
schema metadata, key `huggingface`  {"info": {"features": {"image": {"_type": "Image"},
                                     "label": {"names": [...], "_type": "ClassLabel"}}}}
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

METADATA = b"huggingface"
IMAGE = pa.struct({"bytes": pa.binary(), "path": pa.string()})
# A row group is what is read at once, to get at one of its pictures or at all of them.
ROWS_A_GROUP = 100
BYTES_A_GROUP = 8 << 20
BYTES_A_SHARD = 256 << 20  # a bucket takes it from memory


def schema_of(classes: Sequence[str]) -> pa.Schema:
    """The schema of a set with these classes."""
    features = {
        "image": {"_type": "Image"},
        "label": {"names": list(classes), "_type": "ClassLabel"},
    }
    metadata = {METADATA: json.dumps({"info": {"features": features}}).encode()}
    return pa.schema({"image": IMAGE, "label": pa.int64()}, metadata=metadata)


def classes_in(schema: pa.Schema, column: str) -> tuple[str, ...] | None:
    """The names of a column's classes; None where the schema tells none."""
    try:
        told: Any = json.loads((schema.metadata or {})[METADATA])
        names = told["info"]["features"][column]["names"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return None
    return tuple(names)


def shard(split: str, number: int, of: int) -> str:
    """The file's path within the set."""
    return f"data/{split}-{number:05d}-of-{of:05d}.parquet"
