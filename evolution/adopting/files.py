"""Reads the files of published networks: JSON and arrays; errors name the file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes  # needed by safetensors for bfloat16, too
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from evolution.adopting.errors import AdoptError

Arrays = dict[str, NDArray[np.float32]]
MODEL, INDEX = "model.safetensors", "model.safetensors.index.json"
FLOATS = ("bfloat16", "float16", "float32", "float64")
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "adapter_model.bin")
LARGEST_JSON = 64 << 20  # bytes


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file."""
    try:
        if path.stat().st_size > LARGEST_JSON:
            raise AdoptError(f"{path}: expected at most {LARGEST_JSON:,} bytes of JSON, found more")
        return json_object(path.read_bytes(), str(path))
    except FileNotFoundError:
        raise AdoptError(f"{path}: expected this file, found none") from None
    except IsADirectoryError:
        raise AdoptError(f"{path}: expected a file, found a folder") from None


def json_object(data: bytes | str, where: str) -> dict[str, Any]:
    """The object in some JSON."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise AdoptError(f"{where}: expected JSON, found {error!s:.200}") from None
    if not isinstance(found, dict):
        raise AdoptError(f"{where}: expected a JSON object, found {type(found).__name__}")
    return found


def read_folder(folder: Path, single: str = MODEL, index: str = INDEX) -> Arrays:
    """All arrays of a folder's safetensors, in one file or in several with an index."""
    if not (folder / index).exists():
        if not (folder / single).exists():
            raise _no_tensors(folder, single)
        return read_tensors(folder / single)
    names = read_json(folder / index).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(n, str) for n in names.values()):
        raise AdoptError(
            f"{folder / index}: expected a weight_map of file names, found {names!r:.80}"
        )
    arrays: Arrays = {}
    for name in sorted(set(names.values())):  # an index cannot point out of its folder
        arrays |= read_tensors(folder / Path(name).name)
    if missing := sorted(set(names) - set(arrays)):
        raise AdoptError(f"{folder / index}: names {missing[0]}, which no file of it holds")
    return arrays


def _no_tensors(folder: Path, single: str) -> AdoptError:
    pickles = [name for name in PICKLES if (folder / name).exists()]
    if pickles:
        return AdoptError(
            f"{folder}: expected {single}, found {pickles[0]}: a pickle, whose reading would run "
            "code\nwrite it again: model.save_pretrained(folder, safe_serialization=True)"
        )
    return AdoptError(f"{folder}: expected {single}, or {INDEX} and its files; found neither")


def read_tensors(path: Path) -> Arrays:
    """All arrays of one file, as float32."""

    def read(file: Any) -> Arrays:
        return {key: _floats(path, key, file.get_tensor(key)) for key in list(file.keys())}

    return _opened(path, read)


def metadata_of(path: Path) -> dict[str, str]:
    """The metadata of a file."""
    return _opened(path, lambda file: file.metadata() or {})


def _opened(path: Path, read: Callable[[Any], Any]) -> Any:
    try:
        with safe_open(path, framework="numpy") as file:
            return read(file)
    except FileNotFoundError:
        raise AdoptError(f"{path}: expected this file, found none") from None
    except (OSError, SafetensorError, TypeError, ValueError) as error:
        raise AdoptError(
            f"{path}: expected a safetensors file, found one that is cut off, damaged or something "
            f"else\n({error!s:.150}); fetch it again"
        ) from None


def _floats(path: Path, key: str, array: NDArray[Any]) -> NDArray[np.float32]:
    if array.dtype == np.dtype("V2"):  # NumPy reads bfloat16 so
        array = array.view(ml_dtypes.bfloat16)
    if array.dtype.name not in FLOATS:
        raise AdoptError(
            f"{path}: {key}: expected floats, found {array.dtype.name}: quantised weights are not "
            "adopted\nwrite it again in float32, float16 or bfloat16"
        )
    found = np.asarray(array, np.float32)
    if not np.isfinite(found).all():
        raise AdoptError(f"{path}: {key}: expected finite numbers, found others")
    return found
