"""Records the logits of Hugging Face's ViTForImageClassification for the seeded networks.

    pip install torch==2.13.0 transformers==5.23.0 numpy    # in an environment of its own
    python -m tests.vit.golden.hf_vit                       # writes hf_vit.npz next to this file

Logits only: the tests make weights and images again from their seeds.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from numpy.typing import NDArray
from transformers import (  # pyright: ignore[reportMissingImports]
    ViTConfig,
    ViTForImageClassification,
)

from tests.vit.golden.networks import NETWORKS, NUM_CLASSES, flat_weights, images

Leaves = Mapping[str, NDArray[np.float32]]


def state_dict(weights: Mapping[str, Leaves]) -> dict[str, NDArray[np.float32]]:
    """Our components under Hugging Face's names, in its layout."""
    state = {
        "vit.embeddings.cls_token": weights["cls"][""],
        "vit.embeddings.position_embeddings": weights["posembed_input"]["pos_embedding"],
        "vit.embeddings.patch_embeddings.projection.weight": (
            weights["embedding"]["kernel"].transpose(3, 2, 0, 1)
        ),
        "vit.embeddings.patch_embeddings.projection.bias": weights["embedding"]["bias"],
        "vit.layernorm.weight": weights["encoder_norm"]["scale"],
        "vit.layernorm.bias": weights["encoder_norm"]["bias"],
        "classifier.weight": weights["head"]["kernel"].T,
        "classifier.bias": weights["head"]["bias"],
    }
    for name, leaves in weights.items():
        if name.startswith("encoderblock_"):
            number = name.removeprefix("encoderblock_")
            for key, value in block_state(leaves).items():
                state[f"vit.layers.{number}.{key}"] = value
    return state


def block_state(leaves: Leaves) -> dict[str, NDArray[np.float32]]:
    """One transformer block under Hugging Face's names."""
    attention, width = "MultiHeadDotProductAttention_0", leaves["LayerNorm_0/bias"].size
    state = {}
    for theirs, ours in (("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value")):
        kernel = leaves[f"{attention}/{ours}/kernel"].reshape(width, width)
        state[f"attention.{theirs}.weight"] = kernel.T
        state[f"attention.{theirs}.bias"] = leaves[f"{attention}/{ours}/bias"].reshape(width)
    out = leaves[f"{attention}/out/kernel"].reshape(width, width)
    state["attention.o_proj.weight"] = out.T
    state["attention.o_proj.bias"] = leaves[f"{attention}/out/bias"]
    for theirs, ours in (("before", "LayerNorm_0"), ("after", "LayerNorm_1")):
        state[f"layernorm_{theirs}.weight"] = leaves[f"{ours}/scale"]
        state[f"layernorm_{theirs}.bias"] = leaves[f"{ours}/bias"]
    for theirs, ours in (("fc1", "Dense_0"), ("fc2", "Dense_1")):
        state[f"mlp.{theirs}.weight"] = leaves[f"MlpBlock_0/{ours}/kernel"].T
        state[f"mlp.{theirs}.bias"] = leaves[f"MlpBlock_0/{ours}/bias"]
    return state


def logits(fields: Mapping[str, int], token_scale: float) -> NDArray[np.float32]:
    """What Hugging Face's model answers, float32 on the CPU: [images, classes]."""
    config = ViTConfig(
        hidden_size=fields["width"],
        num_hidden_layers=fields["num_layers"],
        num_attention_heads=fields["heads"],
        intermediate_size=fields["mlp_dim"],
        image_size=fields["image_size"],
        patch_size=fields["patch_size"],
        num_labels=NUM_CLASSES,
        hidden_act="gelu_pytorch_tanh",
        layer_norm_eps=1e-6,
    )
    model = ViTForImageClassification(config).eval()
    state = state_dict(flat_weights({**fields, "num_classes": NUM_CLASSES}, token_scale))
    tensors = {key: torch.from_numpy(np.ascontiguousarray(value)) for key, value in state.items()}
    model.load_state_dict(tensors, strict=True)
    pixels = torch.from_numpy(images(fields["image_size"]).transpose(0, 3, 1, 2).copy())
    with torch.no_grad():
        return model(pixels).logits.numpy()


if __name__ == "__main__":
    recorded = {name: logits(fields, scale) for name, (fields, scale) in NETWORKS.items()}
    np.savez_compressed(  # the arrays are its keyword arguments
        Path(__file__).with_suffix(".npz"),
        **recorded,  # pyright: ignore[reportArgumentType]
    )
