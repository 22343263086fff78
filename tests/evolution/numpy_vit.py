"""A published model's forward pass, NumPy, double precision (evolution/SYSTEMS.md, Network)."""

from typing import Any

import numpy as np


def norm(x, params: Any):
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + 1e-6) * params["scale"] + params["bias"]


def dense(x, params: Any):
    return x @ params["kernel"] + params["bias"]


def gelu(x):
    return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def softmax(x):
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def attention(x, params: Any):
    query, key, value = (
        np.einsum("btd,dhk->bhtk", x, params[n]["kernel"]) + params[n]["bias"][:, None]
        for n in ("query", "key", "value")
    )
    weights = softmax(query @ key.swapaxes(-1, -2) / np.sqrt(query.shape[-1]))
    return (
        np.einsum("bhtk,hkd->btd", weights @ value, params["out"]["kernel"]) + params["out"]["bias"]
    )


def features(path: dict[str, Any], images):
    """[b, size, size, 3] in [-1, 1] -> the class token after the last norm, [b, width]."""
    kernel = path["embedding"]["kernel"]
    patch, count = kernel.shape[0], images.shape[1] // kernel.shape[0]
    x = np.stack(
        [
            np.einsum("bijc,ijcd->bd", images[:, r : r + patch, c : c + patch], kernel)
            for r in range(0, count * patch, patch)
            for c in range(0, count * patch, patch)
        ],
        axis=1,
    )
    x = x + path["embedding"]["bias"]
    cls = np.broadcast_to(path["cls"], (len(x), 1, x.shape[2]))
    x = np.concatenate([cls, x], axis=1) + path["posembed_input"]["pos_embedding"]
    for i in range(sum(name.startswith("encoderblock") for name in path)):
        if (adapter := path.get(f"residual_adapter_{i}")) is not None:
            inner = gelu(dense(norm(x, adapter["LayerNorm_0"]), adapter["Dense_0"]))
            x = x + dense(inner, adapter["Dense_1"])
        block = path[f"encoderblock_{i}"]
        x = x + attention(norm(x, block["LayerNorm_0"]), block["MultiHeadDotProductAttention_0"])
        inner = gelu(dense(norm(x, block["LayerNorm_1"]), block["MlpBlock_0"]["Dense_0"]))
        x = x + dense(inner, block["MlpBlock_0"]["Dense_1"])
    return norm(x, path["encoder_norm"])[:, 0]


def logits(path: dict[str, Any], images):
    """[b, size, size, 3] in [-1, 1] -> [b, classes]"""
    return dense(features(path, images.astype(np.float64)), path["head"])
