"""A version of a task as a folder that Hugging Face's transformers opens.

transformers reads config.json, model.safetensors and preprocessor_config.json. README.md is the
model card. munet.json has the path spec, for an exact import of the folder.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors.numpy import save

from evolution.adopting.export_card import card
from evolution.adopting.export_facts import (
    Ancestor,
    ancestors,
    is_private,
    root_of,
    sharing,
)
from evolution.adopting.export_folder import require_free, write_folder
from evolution.adopting.export_network import config_of, exported
from evolution.adopting.export_processor import input_of, processor_of
from model_store import ModelStore, Published

FORMAT = 1
WEIGHTS, CONFIG, PROCESSOR = "model.safetensors", "config.json", "preprocessor_config.json"
CARD = "README.md"


def write(store: ModelStore, published: Published, folder: Path) -> None:
    """Writes the version to `folder`, whole or not at all.

    Raises ExportError for a version that transformers cannot run, and if `folder` is in use;
    DamagedStore; OSError.
    """
    require_free(folder)  # before the work
    export = exported(store, published, private=is_private(store, published))
    target, decoding = input_of(published.path, export.plain.image_size)
    chain = list(ancestors(store, published))
    oldest = ([each.version for each in chain if each.version] or [published])[-1]
    told = card(
        export,
        chain,
        sharing(store, published),
        root_of(store, oldest),
        target,
        decoding,
    )

    def fill(made: Path) -> None:
        # Not by save_file, whose errors do not say that the disk is full.
        (made / WEIGHTS).write_bytes(save(export.tensors, {"format": "pt"}))
        (made / CONFIG).write_text(_json(config_of(export)), "utf-8")
        (made / PROCESSOR).write_text(_json(processor_of(target)), "utf-8")
        (made / CARD).write_text(told, "utf-8")

    record = {
        "format": FORMAT,
        "version": published.version,
        "manifest": published.digest,
        "path": _path(published, chain),
    }
    write_folder(folder, fill, record)


def _path(published: Published, chain: Sequence[Ancestor]) -> dict[str, Any]:
    """The path spec, without the name of a private task that it was made from."""
    told = published.path.to_json()
    if chain and chain[0].hidden:
        told["lineage"] = {**told["lineage"], "parent": None, "parent_task": None}
    return told


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2) + "\n"
