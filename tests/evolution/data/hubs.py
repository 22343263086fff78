"""Pictures as the Hub has them."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from evolution.data.parquet_layout import IMAGE
from tests.evolution.data.drawn import SHAPES


def listing(folder: Path) -> list[tuple[str, str]]:
    """Path and class of each picture of class folders."""
    files = sorted(folder.rglob("*.png"))
    return [(str(file.relative_to(folder)), file.parent.name) for file in files]


def as_hub(folder: Path, split: str = "train") -> Path:
    rows = listing(folder)
    names = sorted(SHAPES)
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": names}}
    schema = pa.schema(
        {"image": IMAGE, "label": pa.int64()},
        {"huggingface": json.dumps({"info": {"features": features}})},
    )
    images = [{"bytes": (folder / path).read_bytes(), "path": path} for path, _ in rows]
    labels = [names.index(label) for _, label in rows]
    (folder.parent / "hub/data").mkdir(parents=True, exist_ok=True)
    half = len(rows) // 2
    for i, part in enumerate((slice(0, half), slice(half, None))):
        table = pa.table({"image": images[part], "label": labels[part]}, schema=schema)
        pq.write_table(table, folder.parent / f"hub/data/{split}-0000{i}-of-00002.parquet")
    return folder.parent / "hub"
