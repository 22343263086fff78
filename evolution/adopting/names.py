"""The keys of a fine-tuned ViT's parts in files of Hugging Face and timm: tables only.

The tables of `vit.layouts` have the parts of every ViT, with shapes. Here are the parts that only
some have. Hugging Face's files have the names of its version 4 or 5: `classic` converts version 5
to version 4.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from vit.layouts import HUGGING_FACE, TIMM, Layout


@dataclass(frozen=True, slots=True)
class Names:
    """One publisher's keys; {} is the leaf, weight or bias. Empty if there is no such part."""

    layout: Layout
    further_tokens: tuple[str, ...] = ()  # after the class token, before the patches
    layer_scales: tuple[str, str] | tuple[()] = ()  # in a block: of attention and MLP
    input_norm: str = ""
    pooled_norm: str = ""  # after the pooling, instead of the final norm
    heads: tuple[str, ...] = ("classifier.{}",)  # two: their logits are averaged
    unused: str = r"$^"  # keys that no logits depend on


_HF_BLOCK = dict(HUGGING_FACE.block)
_DINOV2_BLOCK = {
    **_HF_BLOCK,
    "LayerNorm_0": "norm1.{}",
    "LayerNorm_1": "norm2.{}",
    "MlpBlock_0/Dense_0": "mlp.fc1.{}",
    "MlpBlock_0/Dense_1": "mlp.fc2.{}",
}
_HF_UNUSED = r".*(\.mask_token|\.pooler\..*)"


def _hugging_face(prefix: str, *further: str) -> Names:
    return Names(replace(HUGGING_FACE, prefix=prefix), further_tokens=further, unused=_HF_UNUSED)


def _dinov2(prefix: str, *further: str) -> Names:
    plain = _hugging_face(prefix, *further)
    return replace(
        plain,
        layout=replace(plain.layout, block=_DINOV2_BLOCK),
        layer_scales=("layer_scale1.lambda1", "layer_scale2.lambda1"),
    )


_DEIT = _hugging_face("deit.", "deit.embeddings.distillation_token")
# By the class in config.json.
HUGGING_FACE_NAMES: Mapping[str, Names] = {
    "ViTForImageClassification": _hugging_face("vit."),
    "ViTMSNForImageClassification": _hugging_face("vit."),
    "IJepaForImageClassification": _hugging_face("ijepa."),
    "DeiTForImageClassification": _DEIT,
    "DeiTForImageClassificationWithTeacher": replace(
        _DEIT, heads=("cls_classifier.{}", "distillation_classifier.{}")
    ),
    "Dinov2ForImageClassification": _dinov2("dinov2."),
    "Dinov2WithRegistersForImageClassification": _dinov2(
        "dinov2_with_registers.", "dinov2_with_registers.embeddings.register_tokens"
    ),
}
TIMM_NAMES = Names(
    TIMM,
    further_tokens=("dist_token", "reg_token"),
    layer_scales=("ls1.gamma", "ls2.gamma"),
    input_norm="norm_pre.{}",
    pooled_norm="fc_norm.{}",
    heads=("head.{}",),
)
TIMM_DISTILLED_NAMES = replace(TIMM_NAMES, heads=("head.{}", "head_dist.{}"))

# Parts of keys: names of modules in version 5 of transformers -> names in files.
_RENAMED = (
    (r"^(\w+\.)layers\.(\d+)\.", r"\1encoder.layer.\2."),
    (r"\.attention\.q_proj\.", ".attention.attention.query."),
    (r"\.attention\.k_proj\.", ".attention.attention.key."),
    (r"\.attention\.v_proj\.", ".attention.attention.value."),
    (r"\.attention\.o_proj\.", ".attention.output.dense."),
)
_RENAMED_MLP = ((r"\.mlp\.fc1\.", ".intermediate.dense."), (r"\.mlp\.fc2\.", ".output.dense."))


_BARE = ("embeddings.", "encoder.", "layers.", "layernorm.")


def classic(key: str, prefix: str) -> str:
    """A key of Hugging Face as in its files; some files lack the prefix."""
    key = prefix + key if key.startswith(_BARE) else key
    for pattern, wanted in _RENAMED if key.startswith("dinov2") else _RENAMED + _RENAMED_MLP:
        key = re.sub(pattern, wanted, key)
    return key
