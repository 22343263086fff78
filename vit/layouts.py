"""Under which keys and in which shapes publishers of ViT weights keep what we keep in components.

AugReg (both numberings of a block's parts: evolution/SYSTEMS.md, Network), Hugging Face and timm.
Tables only: `vit.pretrained` reads the files.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray

Shape = tuple[int, ...]

# Our part -> its name in AugReg's files (pre-Linen numbering), Hugging Face's and timm's; {} is
# the leaf (scale, kernel, bias). Below: the parts of one block.
OUTER = {
    "embedding": (
        "embedding/{}", "embeddings.patch_embeddings.projection.{}", "patch_embed.proj.{}",
    ),
    "cls": ("cls", "embeddings.cls_token", "cls_token"),
    "posembed_input": (
        "Transformer/posembed_input/{}", "embeddings.position_embeddings", "pos_embed",
    ),
    "encoder_norm": ("Transformer/encoder_norm/{}", "layernorm.{}", "norm.{}"),
}  # fmt: skip
_OURS, _AUGREG, _HF = (
    "MultiHeadDotProductAttention_0", "MultiHeadDotProductAttention_1", "attention.attention",
)  # fmt: skip
BLOCK = {
    "LayerNorm_0": ("LayerNorm_0/{}", "layernorm_before.{}", "norm1.{}"),
    f"{_OURS}/query": (f"{_AUGREG}/query/{{}}", f"{_HF}.query.{{}}", "attn.qkv.{}[query]"),
    f"{_OURS}/key": (f"{_AUGREG}/key/{{}}", f"{_HF}.key.{{}}", "attn.qkv.{}[key]"),
    f"{_OURS}/value": (f"{_AUGREG}/value/{{}}", f"{_HF}.value.{{}}", "attn.qkv.{}[value]"),
    f"{_OURS}/out": (f"{_AUGREG}/out/{{}}", "attention.output.dense.{}", "attn.proj.{}"),
    "LayerNorm_1": ("LayerNorm_2/{}", "layernorm_after.{}", "norm2.{}"),
    "MlpBlock_0/Dense_0": ("MlpBlock_3/Dense_0/{}", "intermediate.dense.{}", "mlp.fc1.{}"),
    "MlpBlock_0/Dense_1": ("MlpBlock_3/Dense_1/{}", "output.dense.{}", "mlp.fc2.{}"),
}
TORCH_LEAVES = {"scale": "weight", "kernel": "weight", "bias": "bias"}


def _flax_shape(path: str, shape: Shape) -> Shape:
    return shape


def _torch_shape(path: str, shape: Shape) -> Shape:
    """The shape that PyTorch gives the leaf at `path`, of `shape` with us: outputs first."""
    if len(shape) == 4:  # a patch kernel, ours [rows, columns, channels, width]
        return shape[3], shape[2], shape[0], shape[1]
    if path.endswith("kernel"):  # heads are a part of the inputs or of the outputs
        inputs = math.prod(shape[:-1]) if path.endswith("out/kernel") else shape[0]
        return math.prod(shape) // inputs, inputs
    return shape if len(shape) == 3 else (math.prod(shape),)


def _from_flax(path: str, array: NDArray[Any], shape: Shape) -> NDArray[Any]:
    return array


def _from_torch(path: str, array: NDArray[Any], shape: Shape) -> NDArray[Any]:
    if array.ndim == 4:
        return array.transpose(2, 3, 1, 0)
    return (array.T if path.endswith("kernel") else array).reshape(shape)


def _to_flax(path: str, array: NDArray[Any]) -> NDArray[Any]:
    return array


def _to_torch(path: str, array: NDArray[Any]) -> NDArray[Any]:
    """Inverse of `_from_torch`."""
    if array.ndim == 4:
        return array.transpose(3, 2, 0, 1)
    shape = _torch_shape(path, array.shape)
    return array.reshape(shape[::-1]).T if path.endswith("kernel") else array.reshape(shape)


@dataclass(frozen=True, slots=True)
class Layout:
    """Where one publisher's files keep what we keep in components, and in which shape."""

    outer: Mapping[str, str]  # our part -> template of the key
    block: Mapping[str, str]  # the same within a block
    block_prefix: str  # of all keys of a block; {} is its number
    leaves: Mapping[str, str]  # our leaf -> theirs, where they differ
    width_axis: int  # of the patch kernel
    patch_axis: int  # of the patch kernel
    mlp_axis: int  # of the first dense kernel
    stored_shape: Callable[[str, Shape], Shape]
    convert: Callable[[str, NDArray[Any], Shape], NDArray[Any]]  # theirs into ours
    revert: Callable[[str, NDArray[Any]], NDArray[Any]]  # ours into theirs
    prefix: str = ""  # of every key

    def key(self, path: str) -> str:
        """The file's key of our leaf, as "encoderblock_3/LayerNorm_0/scale" or "cls"."""
        component, _, inner = path.partition("/")
        part, _, leaf = inner.rpartition("/")
        name = self.leaves.get(leaf, leaf)
        if component in self.outer:
            return self.prefix + self.outer[component].format(name)
        number = component.removeprefix("encoderblock_")
        return self.prefix + self.block_prefix.format(number) + self.block[part].format(name)

    def blocks(self, keys: Iterable[str]) -> int:
        """How many blocks the keys speak of."""
        pattern = re.escape(self.prefix + self.block_prefix).replace(r"\{\}", r"(\d+)")
        found = (re.match(pattern, key) for key in keys)
        return len({match[1] for match in found if match})


def _column(table: Mapping[str, tuple[str, str, str]], column: int) -> dict[str, str]:
    return {part: names[column] for part, names in table.items()}


PRE_LINEN = Layout(
    outer=_column(OUTER, 0), block=_column(BLOCK, 0), block_prefix="Transformer/encoderblock_{}/",
    leaves={}, width_axis=3, patch_axis=0, mlp_axis=1,
    stored_shape=_flax_shape, convert=_from_flax, revert=_to_flax,
)  # fmt: skip
LINEN = replace(PRE_LINEN, block={part: f"{part}/{{}}" for part in BLOCK})
HUGGING_FACE = Layout(
    outer=_column(OUTER, 1), block=_column(BLOCK, 1), block_prefix="encoder.layer.{}.",
    leaves=TORCH_LEAVES, width_axis=0, patch_axis=3, mlp_axis=0,
    stored_shape=_torch_shape, convert=_from_torch, revert=_to_torch,
)  # fmt: skip
TIMM = replace(
    HUGGING_FACE, outer=_column(OUTER, 2), block=_column(BLOCK, 2), block_prefix="blocks.{}."
)
