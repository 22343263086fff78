"""Parquet files in the layout of the Hugging Face Hub and its library `datasets`.

data/train-00000-of-00002.parquet   image: struct<bytes: binary, path: string>, label: int64
schema metadata, key `huggingface`  {"info": {"features": {"image": {"_type": "Image"},
                                     "label": {"names": [...], "_type": "ClassLabel"}}}}

With several labels a picture, label: list<int64>
                                     "label": {"feature": {"names": …}, "_type": "Sequence"}
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

METADATA = b"huggingface"
IMAGE = pa.struct({"bytes": pa.binary(), "path": pa.string()})
# A row group is read as a whole, for one of its pictures or for all.
ROWS_A_GROUP = 100
BYTES_A_GROUP = 1 << 20
BYTES_A_SHARD = 256 << 20  # held in memory for a bucket


def schema_of(classes: Sequence[str], multi_label: bool = False) -> pa.Schema:
    """The schema of a set with these classes: one a picture, or any number."""
    label: dict[str, Any] = {"names": list(classes), "_type": "ClassLabel"}
    if multi_label:
        label = {"feature": label, "_type": "Sequence"}
    features = {"image": {"_type": "Image"}, "label": label}
    metadata = {METADATA: json.dumps({"info": {"features": features}}).encode()}
    number = pa.list_(pa.int64()) if multi_label else pa.int64()
    return pa.schema({"image": IMAGE, "label": number}, metadata=metadata)


def is_list(kind: pa.DataType) -> bool:
    """Whether a column of this type holds lists, of one length or of many."""
    types = pa.types
    return types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)


def classes_in(schema: pa.Schema, column: str) -> tuple[str, ...] | None:
    """The class names of a column, also of lists; None if the schema has none."""
    try:
        told: Any = json.loads((schema.metadata or {})[METADATA])
        feature = told["info"]["features"][column]
        if isinstance(feature, list):  # a list, as earlier versions of the library wrote it
            feature = {"feature": feature[0]}
        names = feature.get("feature", feature)["names"]
    except (KeyError, IndexError, TypeError, AttributeError, ValueError, RecursionError):
        return None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return None
    return tuple(names)


def shard(split: str, number: int, of: int) -> str:
    """The file's path within the set."""
    return f"data/{split}-{number:05d}-of-{of:05d}.parquet"
