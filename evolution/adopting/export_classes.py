"""The class of Hugging Face's transformers that computes a path, and its parts beyond a plain ViT.

The class depends on what the head reads, and on the number of tokens before the patches. Parts that
the class needs and a path lacks are added without changing any number: layer scales of one,
positions of register tokens added to the tokens, a head of two tokens as two heads whose logits are
averaged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evolution.adopting.names import HUGGING_FACE_NAMES, Names
from vit import Architecture

Arrays = dict[str, NDArray[np.float32]]
KNOWN = (
    "pooling token with prefix_tokens 1 or 2, two_tokens with 2, token_and_mean with 1 or more "
    "and an MLP of a multiple of the width, or mean with 0 behind the final norm"
)


@dataclass(frozen=True, slots=True)
class ModelClass:
    """One class."""

    name: str
    model_type: str  # as config.json says

    @property
    def names(self) -> Names:
        """The keys of its arrays."""
        return HUGGING_FACE_NAMES[self.name]


VIT = ModelClass("ViTForImageClassification", "vit")
# By pooling and tokens before the patches.
CLASSES: Mapping[tuple[str, int], ModelClass] = {
    ("token", 1): VIT,
    ("token", 2): ModelClass("DeiTForImageClassification", "deit"),
    ("two_tokens", 2): ModelClass("DeiTForImageClassificationWithTeacher", "deit"),
    ("token_and_mean", 1): ModelClass("Dinov2ForImageClassification", "dinov2"),
    ("mean", 0): ModelClass("IJepaForImageClassification", "ijepa"),
}
WITH_REGISTERS = ModelClass("Dinov2WithRegistersForImageClassification", "dinov2_with_registers")


def class_of(arch: Architecture) -> ModelClass | None:
    """The class that computes a path; None if no class does."""
    if arch.input_norm or arch.norm_after_pooling:
        return None
    if arch.pooling == "token_and_mean" and arch.mlp_dim % arch.width:
        return None  # these classes need a whole ratio of the two
    found = CLASSES.get((arch.pooling, arch.prefix_tokens))
    return WITH_REGISTERS if found is None and arch.pooling == "token_and_mean" else found


def sizes_of(kind: ModelClass, arch: Architecture) -> dict[str, Any]:
    """The fields of config.json that only some classes have."""
    if arch.pooling != "token_and_mean":
        return {"intermediate_size": arch.mlp_dim}
    registers = {"num_register_tokens": arch.prefix_tokens - 1} if kind is WITH_REGISTERS else {}
    return {"mlp_ratio": arch.mlp_dim // arch.width, "use_swiglu_ffn": False, **registers}


def tokens_of(kind: ModelClass, tokens: NDArray[Any], positions: NDArray[Any]) -> Arrays:
    """The tokens before the patches [1, n, width] and all positions [1, tokens, width] by key."""
    names = kind.names
    cls, further = tokens[:, :1], tokens[:, 1:]
    found = {names.layout.key("cls"): cls} if cls.size else {}
    if kind is WITH_REGISTERS:  # which have no positions there
        count = further.shape[1]
        further = further + positions[:, 1 : 1 + count]
        positions = np.delete(positions, np.s_[1 : 1 + count], axis=1)
    if names.further_tokens:
        found[names.further_tokens[0]] = further
    return {**found, names.layout.key("posembed_input/pos_embedding"): positions}


def heads_of(kind: ModelClass, kernel: NDArray[Any], bias: NDArray[Any]) -> Arrays:
    """The head by key: kernel [features, classes], bias [classes]."""
    templates = kind.names.heads
    found = {}
    for template, part in zip(templates, np.split(kernel, len(templates)), strict=True):
        found[template.format("weight")] = part.T * len(templates)
        found[template.format("bias")] = bias
    return found


def further_of(kind: ModelClass, arch: Architecture) -> Arrays:
    """Parts that a path lacks: the layer scales of each block, and a token for training only."""
    names, ones = kind.names, np.ones(arch.width, np.float32)
    if not names.layer_scales:
        return {}
    blocks = [
        names.layout.prefix + names.layout.block_prefix.format(number)
        for number in range(arch.num_layers)
    ]
    found = {f"{block}{scale}": ones for block in blocks for scale in names.layer_scales}
    return {f"{names.layout.prefix}embeddings.mask_token": 0 * ones[None], **found}
