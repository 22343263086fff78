"""Loads the small AugReg file with timm, writes it as timm does, and records timm's logits.

    pip install torch torchvision timm==1.0.31 safetensors numpy    # in an environment of its own
    python -m tests.vit.golden.augreg_files                         # first
    python -m tests.vit.golden.timm_files

Logits are recorded as timm computes them (exact GELU) and with the tanh GELU of the AugReg files.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import timm  # pyright: ignore[reportMissingImports]
import torch  # pyright: ignore[reportMissingImports]
from numpy.typing import NDArray

from tests.vit.golden.networks import images

FOLDER = Path(__file__).parent / "pretrained"
SIZES = dict(
    embed_dim=16, depth=2, num_heads=2, mlp_ratio=1.5, img_size=12, patch_size=4, num_classes=5
)


def model(**others: object) -> torch.nn.Module:
    """timm's ViT with the AugReg file's weights and head."""
    made = timm.create_model("vit_tiny_patch16_224", **SIZES, **others)
    made.load_pretrained(FOLDER / "augreg_pre_linen.npz")
    return made.eval()


def logits(network: torch.nn.Module) -> NDArray[np.float32]:
    """[images, classes]"""
    with torch.no_grad():
        return network(torch.from_numpy(images(12).transpose(0, 3, 1, 2).copy())).numpy()


if __name__ == "__main__":
    published = model()
    timm.models.save_for_hf(published, FOLDER / "timm", safe_serialization=True)
    tanh = model(act_layer=partial(torch.nn.GELU, approximate="tanh"))
    np.savez(FOLDER / "timm_logits.npz", published=logits(published), converted=logits(tanh))
