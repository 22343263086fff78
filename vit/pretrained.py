"""Published ViT weights -> components: AugReg's .npz, Hugging Face's and timm's safetensors.

Anything missing, unknown or of another shape than `vit.layouts` tells is an error: a network of
another design must not pass for ours. Heads and `pre_logits` are dropped.
"""

from __future__ import annotations

import json
import math
import re
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes  # its import also teaches safetensors bfloat16
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from vit.config import Architecture
from vit.layouts import HUGGING_FACE, LINEN, PRE_LINEN, TIMM, Layout, Shape
from vit.parameters import Tree, shapes

Arrays = dict[str, NDArray[Any]]
Root = tuple[Architecture, dict[str, Tree]]

HEADS = re.compile(r"(vit\.)?(head|pre_logits|classifier|pooler)[./]")  # never read
FLOATS = ("bfloat16", "float16", "float32", "float64")
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
# What NumPy and zipfile raise for a file that is cut off, damaged or of another kind.
UNREADABLE = (
    OSError, ValueError, EOFError, TypeError, NotImplementedError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
SMALLEST = Architecture(
    width=1, heads=1, mlp_dim=1, patch_size=1, image_size=1, num_layers=1, num_classes=1
)


class PretrainedError(ValueError):
    """A file of published weights that cannot be taken for a ViT of ours; says what and where."""


def read_augreg(path: Path) -> Root:
    """The architecture (one class) of an AugReg file and its components but the head, float32.

    Takes both numberings of a block's parts (evolution/SYSTEMS.md, Network), arXiv 2106.10270.
    Raises PretrainedError, naming file, key and shapes.
    """
    arrays = _read_npz(path)
    layout = _best((PRE_LINEN, LINEN), arrays)
    key = layout.key("encoderblock_0/MultiHeadDotProductAttention_0/query/kernel")
    return _assemble(path, arrays, layout, lambda width: _sized(path, arrays, key, 3)[1])


def read_hf(directory: Path) -> Root:
    """The same of a Hugging Face or timm directory: model.safetensors or its shards, config.json.

    Attention heads are config.json's, else width / 64, up to ViT-L. The numbers of the forward
    pass stay ours: tanh GELU and epsilon 1e-6, as the AugReg weights were trained, where these
    libraries run an exact GELU, Hugging Face with epsilon 1e-12. Measured on random weights of 12
    blocks that moves logits of spread 1.2 by less than 7e-4. Raises PretrainedError.
    """
    config = _read_json(directory / "config.json")
    activation = config.get("hidden_act", "gelu")
    if "gelu" not in str(activation) or "quick" in str(activation):
        raise PretrainedError(
            f"{directory / 'config.json'}: expected hidden_act gelu, found {activation!r}: "
            "no network of ours computes that; choose another root"
        )
    arrays = _read_safetensors(directory)
    layout = _best((HUGGING_FACE, replace(HUGGING_FACE, prefix="vit."), TIMM), arrays)
    return _assemble(directory, arrays, layout, lambda width: _heads(directory, config, width))


def _best(layouts: tuple[Layout, ...], arrays: Arrays) -> Layout:
    """The layout that knows most of the file's keys; what it lacks is reported in its words."""
    paths = _shapes(SMALLEST)
    return max(layouts, key=lambda layout: sum(layout.key(path) in arrays for path in paths))


def _shapes(arch: Architecture) -> dict[str, Shape]:
    """Our shapes of all leaves but the head's, by path."""
    trees = {name: shapes(arch, name) for name in arch.component_names if name != "head"}
    flat: Any = flatten_dict(trees, sep="/")
    return {path: leaf.shape for path, leaf in flat.items()}


def _assemble(file: Path, arrays: Arrays, layout: Layout, heads: Callable[[int], int]) -> Root:
    """`heads` tells the attention heads of a width."""
    num_layers = max(1, layout.blocks(arrays))
    paths = _shapes(replace(SMALLEST, num_layers=num_layers))
    _check_keys(file, arrays.keys(), {layout.key(path) for path in paths})
    arch = _architecture(file, arrays, layout, num_layers, heads)
    leaves = {}
    for path, shape in _shapes(arch).items():
        key = layout.key(path)
        wanted = layout.stored_shape(path, shape)
        if arrays[key].shape != wanted:
            raise PretrainedError(
                f"{file}: {key}: expected shape {wanted} next to the other arrays, "
                f"found {arrays[key].shape}"
            )
        leaf = layout.convert(path, arrays.pop(key), shape)
        leaves[path] = np.ascontiguousarray(leaf, np.float32)
    return arch, unflatten_dict(leaves, sep="/")


def _check_keys(file: Path, found: Set[str], known: set[str]) -> None:
    if missing := known - found:
        raise PretrainedError(
            f"{file}: expected the weights of a ViT, found no {_some(missing)}: "
            "not a ViT with a class token, or cut short; choose another root"
        )
    if unknown := found - known:
        raise PretrainedError(
            f"{file}: expected only the weights of a plain ViT, found also {_some(unknown)}: "
            "a network of another design; choose another root"
        )


def _architecture(
    file: Path, arrays: Arrays, layout: Layout, num_layers: int, heads: Callable[[int], int]
) -> Architecture:
    patch = _sized(file, arrays, layout.key("embedding/kernel"), 4)
    dense = _sized(file, arrays, layout.key("encoderblock_0/MlpBlock_0/Dense_0/kernel"), 2)
    positions = _sized(file, arrays, layout.key("posembed_input/pos_embedding"), 3)
    grid = math.isqrt(positions[1] - 1) if positions[1] > 1 else 0
    if grid * grid != positions[1] - 1:
        raise PretrainedError(
            f"{file}: {layout.key('posembed_input/pos_embedding')}: expected one position for the "
            f"class token and a square grid of others, found shape {positions}"
        )
    width, patch_size = patch[layout.width_axis], patch[layout.patch_axis]
    fields: dict[str, Any] = dict(
        width=width, heads=heads(width), mlp_dim=dense[layout.mlp_axis], patch_size=patch_size,
        image_size=grid * patch_size, num_layers=num_layers, num_classes=1,
    )  # fmt: skip
    try:
        return Architecture(**fields)
    except ValueError as error:
        raise PretrainedError(f"{file}: expected a ViT's sizes, found {error}") from None


def _sized(file: Path, arrays: Arrays, key: str, rank: int) -> Shape:
    if arrays[key].ndim != rank:
        raise PretrainedError(
            f"{file}: {key}: expected {rank} dimensions, found shape {arrays[key].shape}"
        )
    return arrays[key].shape


def _heads(directory: Path, config: Mapping[str, Any], width: int) -> int:
    arguments = config.get("model_args")  # timm's
    others = arguments if isinstance(arguments, dict) else {}
    heads = config.get("num_attention_heads", others.get("num_heads"))
    # Every ViT of these libraries up to L has heads of 64; larger ones have not.
    if heads is None and width <= 1024 and width % 64 == 0:
        return width // 64
    if not isinstance(heads, int):
        raise PretrainedError(
            f"{directory / 'config.json'}: expected num_attention_heads, or model_args.num_heads "
            f"of timm, found {heads!r}: write the number of attention heads there"
        )
    return heads


def _read_npz(path: Path) -> Arrays:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files if not HEADS.match(key)}
    except FileNotFoundError:
        raise PretrainedError(f"{path}: expected an AugReg .npz file, found no file") from None
    except UNREADABLE as error:
        # NumPy takes what is no archive for a pickle, and advises to load that.
        told = error if zipfile.is_zipfile(path) else "no ZIP archive"
        raise PretrainedError(
            f"{path}: expected an AugReg .npz file, found one that is damaged or something else "
            f"({told}); fetch it again"
        ) from None
    return {key: _floats(path, key, array) for key, array in arrays.items()}


def _read_safetensors(directory: Path) -> Arrays:
    arrays: Arrays = {}
    for name in _file_names(directory):
        file, found = directory / name, {}
        try:
            with safe_open(file, framework="numpy") as tensors:
                for key in tensors.keys():  # noqa: SIM118 - not a mapping
                    if not HEADS.match(key):
                        found[key] = tensors.get_tensor(key)
        except FileNotFoundError:
            raise PretrainedError(
                f"{file}: expected published weights as {SINGLE}, or {INDEX} and its files, found "
                "no such file; other formats must be converted by the library they are of"
            ) from None
        except (OSError, SafetensorError, TypeError) as error:
            raise PretrainedError(
                f"{file}: expected a safetensors file, found one that is damaged or something "
                f"else ({error}); fetch it again"
            ) from None
        for key, array in found.items():
            arrays |= _unfused(key, _floats(file, key, array))
    return arrays


def _file_names(directory: Path) -> list[str]:
    if not (directory / INDEX).exists():
        return [SINGLE]
    weight_map = _read_json(directory / INDEX).get("weight_map")
    if not isinstance(weight_map, dict):
        raise PretrainedError(f"{directory / INDEX}: expected a weight_map, found {weight_map!r}")
    # Names alone: an index cannot point out of its directory.
    return sorted({Path(str(name)).name for name in weight_map.values()})


def _unfused(key: str, array: NDArray[Any]) -> Arrays:
    """timm keeps query, key and value as the thirds of one array."""
    if ".attn.qkv." not in key:
        return {key: array}
    thirds = np.array_split(array, 3)
    return {f"{key}[{n}]": part for n, part in zip(("query", "key", "value"), thirds, strict=True)}


def _floats(file: Path, key: str, array: NDArray[Any]) -> NDArray[Any]:
    if array.dtype == np.dtype("V2"):  # how NumPy reads the bfloat16 it does not know
        array = array.view(ml_dtypes.bfloat16)
    if array.dtype.name not in FLOATS:
        raise PretrainedError(f"{file}: {key}: expected floats, found {array.dtype.name}")
    return array


def _read_json(path: Path) -> dict[str, Any]:
    """The object in the file; empty where there is no file."""
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise PretrainedError(f"{path}: expected JSON, found {error}") from None
    if not isinstance(found, dict):
        raise PretrainedError(f"{path}: expected a JSON object, found {type(found).__name__}")
    return found


def _some(keys: Iterable[str]) -> str:
    ordered = sorted(keys)
    more = f" … and {len(ordered) - 10} more" if len(ordered) > 10 else ""
    return ", ".join(ordered[:10]) + more
