"""The exact input of an export, from its path spec; `preprocessor_config.json` only comes close."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evolution.adopting.errors import AdoptError
from evolution.adopting.export_folder import RECORD, digest_of_file
from evolution.adopting.files import read_json
from vit.contract import Target, contract_of
from vit.decode import Decoding, decoding_of
from vit.preprocess import CONTRACT

CHECKED = ("config.json", "model.safetensors", "preprocessor_config.json")


def exported_input(folder: Path) -> tuple[Target, Decoding] | None:
    """The input of a folder that `munet export` wrote; None for other folders or networks.

    Raises AdoptError for an export with a path spec that this version does not know.
    """
    if not (folder / RECORD).is_file():
        return None
    record = read_json(folder / RECORD)
    files, path = record.get("files"), record.get("path")
    if not isinstance(files, Mapping) or not isinstance(path, Mapping):
        return None
    if any(files.get(name) != digest_of_file(folder / name) for name in CHECKED):
        return None  # trained further, or another network: its own configuration holds
    return _input(folder / RECORD, path.get("input"))


def _input(source: Path, told: Any) -> tuple[Target, Decoding]:
    try:
        decoding, contract = decoding_of(told), contract_of(told)
        plain = {"size": told["size"], **CONTRACT, **decoding.to_json()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise AdoptError(f"{source}: expected an input that is known here; {error!s:.80}") from None
    if contract is not None:
        return contract, decoding
    if plain != {**decoding.to_json(), **told} or type(told["size"]) is not int:
        raise AdoptError(f"{source}: expected an input that is known here; found {told!s:.200}")
    return told["size"], decoding
