"""Seeded networks and images, made alike here and in the environment that records the goldens.

NumPy alone: the recording environment has no JAX. The shapes are written out from the published
table of parameter trees, not taken from `vit`, so that `vit` can be tested against them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Shape = tuple[int, ...]

# name -> (fields of an Architecture, scale of the three components that make the tokens). Tokens
# of scale .01 have a variance near the layer norm's epsilon, which thereby shows in the logits.
NETWORKS: dict[str, tuple[dict[str, int], float]] = {
    "depth0_patch16_size32": (
        dict(width=32, heads=2, mlp_dim=48, patch_size=16, image_size=32, num_layers=0),
        0.01,
    ),
    "depth1_patch8_size24": (
        dict(width=32, heads=4, mlp_dim=96, patch_size=8, image_size=24, num_layers=1),
        0.01,
    ),
    "depth1_patch16_size24": (  # one patch; eight rows and columns of pixels are never seen
        dict(width=24, heads=3, mlp_dim=40, patch_size=16, image_size=24, num_layers=1),
        1.0,
    ),
    "depth3_patch4_size32": (
        dict(width=32, heads=1, mlp_dim=64, patch_size=4, image_size=32, num_layers=3),
        1.0,
    ),
    "Ti16_size32": (
        dict(width=192, heads=3, mlp_dim=768, patch_size=16, image_size=32, num_layers=12),
        1.0,
    ),
}
NUM_CLASSES = 10


def shapes(component: str, arch: Mapping[str, int], adapter_dim: int = 32) -> dict[str, Shape]:
    """Leaf path -> shape of one component's parameters; `cls` is a single leaf without a path."""
    d, h, mlp = arch["width"], arch["heads"], arch["mlp_dim"]
    p, grid = arch["patch_size"], arch["image_size"] // arch["patch_size"]
    kind = component.rstrip("0123456789").rstrip("_")
    attention = "MultiHeadDotProductAttention_0"
    return {
        "embedding": {"kernel": (p, p, 3, d), "bias": (d,)},
        "cls": {"": (1, 1, d)},
        "posembed_input": {"pos_embedding": (1, 1 + grid * grid, d)},
        "encoderblock": {
            "LayerNorm_0/scale": (d,),
            "LayerNorm_0/bias": (d,),
            f"{attention}/query/kernel": (d, h, d // h),
            f"{attention}/query/bias": (h, d // h),
            f"{attention}/key/kernel": (d, h, d // h),
            f"{attention}/key/bias": (h, d // h),
            f"{attention}/value/kernel": (d, h, d // h),
            f"{attention}/value/bias": (h, d // h),
            f"{attention}/out/kernel": (h, d // h, d),
            f"{attention}/out/bias": (d,),
            "LayerNorm_1/scale": (d,),
            "LayerNorm_1/bias": (d,),
            "MlpBlock_0/Dense_0/kernel": (d, mlp),
            "MlpBlock_0/Dense_0/bias": (mlp,),
            "MlpBlock_0/Dense_1/kernel": (mlp, d),
            "MlpBlock_0/Dense_1/bias": (d,),
        },
        "residual_adapter": {
            "LayerNorm_0/scale": (d,),
            "LayerNorm_0/bias": (d,),
            "Dense_0/kernel": (d, adapter_dim),
            "Dense_0/bias": (adapter_dim,),
            "Dense_1/kernel": (adapter_dim, d),
            "Dense_1/bias": (d,),
        },
        "encoder_norm": {"scale": (d,), "bias": (d,)},
        "head": {"kernel": (d, arch["num_classes"]), "bias": (arch["num_classes"],)},
    }[kind]


def component_names(num_layers: int) -> list[str]:
    """The components of a network without adapters."""
    blocks = [f"encoderblock_{i}" for i in range(num_layers)]
    return ["embedding", "cls", "posembed_input", *blocks, "encoder_norm", "head"]


def flat_weights(
    arch: Mapping[str, int], token_scale: float, seed: int = 0
) -> dict[str, dict[str, NDArray[np.float32]]]:
    """Component -> leaf path -> values. Every leaf is random: a zero would hide a mistake."""
    # RandomState is the one NumPy generator whose numbers are promised never to change.
    random = np.random.RandomState(seed)
    return {
        name: {
            path: _random_leaf(
                random,
                path,
                shape,
                token_scale if name in ("embedding", "cls", "posembed_input") else 1.0,
            )
            for path, shape in shapes(name, arch).items()
        }
        for name in component_names(arch["num_layers"])
    }


def _random_leaf(
    random: np.random.RandomState, path: str, shape: Shape, scale: float
) -> NDArray[np.float32]:
    values = random.standard_normal(shape)
    if path.endswith("scale"):
        return (1 + 0.3 * values).astype(np.float32)
    if path.endswith("kernel"):
        fan_in = shape[0] if len(shape) == 3 and "out" not in path else math.prod(shape[:-1])
        values /= math.sqrt(fan_in)
    return (scale * values).astype(np.float32)


def nested(flat: Mapping[str, NDArray[np.float32]]) -> Any:
    """The tree that `vit` takes: {"a/b": x} -> {"a": {"b": x}}, {"": x} -> x."""
    if "" in flat:
        return flat[""]
    tree: dict[str, Any] = {}
    for path, leaf in flat.items():
        *folders, last = path.split("/")
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})
        node[last] = leaf
    return tree


def images(size: int, count: int = 4) -> NDArray[np.float32]:
    """[count, size, size, 3] in [-1, 1]."""
    values = np.random.RandomState(1).uniform(-1, 1, (count, size, size, 3))
    return values.astype(np.float32)
