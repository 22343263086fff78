"""Writes small ViT directories with Hugging Face's own code, and the logits it computes of them.

    pip install torch==2.13.0 transformers==5.23.0 numpy    # in an environment of its own
    python -m tests.vit.golden.hf_files

`hf`: a classifier in one file, prefix `vit.`. `hf_sharded`: a bare model without prefix, with a
pooler, in several files. Logits are recorded as published (exact GELU, epsilon 1e-12) and with
the numbers of the network that these files were converted from (tanh GELU, epsilon 1e-6).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from numpy.typing import NDArray
from transformers import (  # pyright: ignore[reportMissingImports]
    ViTConfig,
    ViTForImageClassification,
    ViTModel,
)

from tests.vit.golden.networks import images

FOLDER = Path(__file__).parent / "pretrained"
SIZES = dict(
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=24,
    image_size=12,
    patch_size=4,
    num_labels=5,
)
OURS = dict(hidden_act="gelu_pytorch_tanh", layer_norm_eps=1e-6)


def randomise(model: torch.nn.Module) -> None:
    """Every parameter random: fresh biases are zero and fresh norms one, which hides mistakes."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            spread = 0.3 if parameter.ndim < 2 else parameter[0].numel() ** -0.5
            parameter.normal_(std=spread)
            if "layernorm" in name and name.endswith("weight"):
                parameter.add_(1)


def answer(model: torch.nn.Module) -> NDArray[np.float32]:
    """Logits, or the class token's features where there is no classifier: [images, n]."""
    pixels = torch.from_numpy(images(12).transpose(0, 3, 1, 2).copy())
    with torch.no_grad():
        found = model.eval()(pixels)
    return (found.logits if "logits" in found else found.last_hidden_state[:, 0]).numpy()


if __name__ == "__main__":
    recorded = {}
    for name, kind, most in (
        ("hf", ViTForImageClassification, "1GB"),
        ("hf_sharded", ViTModel, "8KB"),
    ):
        published = kind(ViTConfig(**SIZES))
        randomise(published)
        published.save_pretrained(FOLDER / name, max_shard_size=most)
        recorded[f"{name}_published"] = answer(published)
        converted = kind(ViTConfig(**SIZES, **OURS))
        converted.load_state_dict(published.state_dict())
        recorded[f"{name}_converted"] = answer(converted)
    np.savez(FOLDER / "hf_logits.npz", **recorded)
