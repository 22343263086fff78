"""One Flax module per kind of component, applied functionally over plain dicts of arrays.

Names and parameter trees are those of the published checkpoints, so that their layers load
unchanged; `cls` is a bare array. Numbers of the forward pass: evolution/SYSTEMS.md, Network.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import scipy  # loads ndimage at its first use
from jax import Array

from vit.config import Architecture
from vit.parameters import LAYER_NORM_EPSILON, Tree, kind_of


class Embedding(nn.Module):
    """Patches to tokens: a convolution whose stride is the patch size, flattened row by row."""

    arch: Architecture

    @nn.compact
    def __call__(self, images: Array) -> Array:
        """[b, h, w, 3] -> [b, patches, width]"""
        patch = (self.arch.patch_size,) * 2
        kernel = self.param(
            "kernel", nn.initializers.lecun_normal(), (*patch, 3, self.arch.width), jnp.float32
        )
        bias = self.param("bias", nn.initializers.zeros, (self.arch.width,), jnp.float32)
        b, _, _, c = images.shape
        grid, size = self.arch.grid, self.arch.patch_size
        # The stride equals the window, so the convolution is a matrix product over cut patches:
        # on a CPU twice as fast as XLA's strided convolution, and its gradient far more.
        patches = images[:, : grid * size, : grid * size]
        patches = patches.reshape(b, grid, size, grid, size, c).transpose(0, 1, 3, 2, 4, 5)
        patches = patches.reshape(b, grid * grid, size * size * c)
        return patches @ kernel.reshape(size * size * c, -1) + bias


class PrefixTokens(nn.Module):
    """The class token and its like, put first."""

    arch: Architecture

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[b, patches, width] -> [b, prefix + patches, width]"""
        count = self.arch.prefix_tokens
        cls = self.param("cls", nn.initializers.zeros, (1, count, self.arch.width), jnp.float32)
        return jnp.concatenate([jnp.broadcast_to(cls, (x.shape[0], count, x.shape[2])), x], axis=1)


class PositionEmbedding(nn.Module):
    """Learned position embeddings, added, and the norm behind them where there is one."""

    arch: Architecture

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[b, tokens, width] -> [b, tokens, width]"""
        shape = (1, self.arch.tokens, self.arch.width)
        x = x + self.param("pos_embedding", nn.initializers.normal(0.02), shape, jnp.float32)
        return nn.LayerNorm(epsilon=self.arch.norm_epsilon)(x) if self.arch.input_norm else x


class MlpBlock(nn.Module):
    """Two dense layers with the architecture's activation between."""

    arch: Architecture

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[b, tokens, width] -> [b, tokens, width]"""
        dense = partial(
            nn.Dense,
            kernel_init=nn.initializers.xavier_uniform(),
            bias_init=nn.initializers.normal(1e-6),
        )
        x = dense(self.arch.mlp_dim)(x)
        return dense(self.arch.width)(_ACTIVATIONS[self.arch.activation](x))


def attention(query: Array, key: Array, value: Array, **_: Any) -> Array:
    """Softmax attention, heads apart: [b, tokens, heads, d] each -> [b, queries, heads, d].

    The softmax is float32, of bfloat16 arrays too.

    Heads are put before tokens for plain matrix products: on a CPU a block of many tokens is half
    as fast again as with Flax's own, which leaves the order to XLA.
    """
    query, key, value = (x.transpose(0, 2, 1, 3) for x in (query, key, value))
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(0, 1, 3, 2)
    weights = jax.nn.softmax(scores.astype(jnp.float32)).astype(value.dtype)
    return (weights @ value).transpose(0, 2, 1, 3)


_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu_tanh": partial(nn.gelu, approximate=True),
    "gelu": partial(nn.gelu, approximate=False),
    "quick_gelu": lambda x: x * nn.sigmoid(1.702 * x),
    "relu": nn.relu,
    "silu": nn.silu,
}


class EncoderBlock(nn.Module):
    """A pre-norm transformer block.

    With `class_token_only` it computes nothing but what becomes of the class token.
    """

    arch: Architecture
    class_token_only: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[b, tokens, width] -> [b, tokens, width], or [b, 1, width]"""
        y = nn.LayerNorm(epsilon=self.arch.norm_epsilon)(x)
        heads = nn.MultiHeadDotProductAttention(
            num_heads=self.arch.heads,
            kernel_init=nn.initializers.xavier_uniform(),
            deterministic=True,
            attention_fn=attention,
        )
        wanted = slice(1 if self.class_token_only else None)
        x = x[:, wanted] + heads(y[:, wanted], y)
        y = nn.LayerNorm(epsilon=self.arch.norm_epsilon)(x)
        return x + MlpBlock(self.arch)(y)


class ResidualAdapter(nn.Module):
    """A bottleneck before a block; the identity when inserted (second kernel zero)."""

    arch: Architecture

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[b, tokens, width] -> [b, tokens, width]"""
        y = nn.LayerNorm(epsilon=LAYER_NORM_EPSILON)(x)
        y = nn.gelu(nn.Dense(self.arch.adapter_dim)(y), approximate=True)
        return x + nn.Dense(self.arch.width, kernel_init=nn.initializers.zeros)(y)


class EncoderNorm(nn.Module):
    """The final layer norm, of what the head reads alone; and the pooling, before or behind it."""

    arch: Architecture

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[b, tokens, width] -> [b, features]"""
        scale = self.param("scale", nn.initializers.ones, (self.arch.width,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.arch.width,), jnp.float32)

        def normed(x: Array) -> Array:
            exact = x.astype(jnp.float32)
            mean = exact.mean(axis=-1, keepdims=True)
            variance = jnp.square(exact - mean).mean(axis=-1, keepdims=True)
            rest = (exact - mean) * jax.lax.rsqrt(variance + self.arch.norm_epsilon)
            return rest.astype(x.dtype) * scale + bias

        patches = x[:, self.arch.prefix_tokens :]
        if self.arch.pooling == "mean":
            if self.arch.norm_after_pooling:
                return normed(patches.mean(axis=1))
            return normed(patches).mean(axis=1)
        first = normed(x[:, 0])
        if self.arch.pooling == "token":
            return first
        if self.arch.pooling == "two_tokens":
            return jnp.concatenate([first, normed(x[:, 1])], axis=-1)
        return jnp.concatenate([first, normed(patches).mean(axis=1)], axis=-1)


class Head(nn.Module):
    """The classifier, all zeros at first."""

    arch: Architecture

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[b, features] -> logits [b, classes]"""
        shape = (self.arch.features, self.arch.num_classes)
        kernel = self.param("kernel", nn.initializers.zeros, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.arch.num_classes,), jnp.float32)
        return x @ kernel + bias


MODULES: dict[str, type[nn.Module]] = {
    "embedding": Embedding,
    "cls": PrefixTokens,
    "posembed_input": PositionEmbedding,
    "encoderblock": EncoderBlock,
    "residual_adapter": ResidualAdapter,
    "encoder_norm": EncoderNorm,
    "head": Head,
}


def _module(arch: Architecture, name: str) -> nn.Module:
    kind = kind_of(name)
    if kind not in MODULES:
        raise ValueError(f"unknown component {name!r}: expected a kind of {', '.join(MODULES)}")
    return MODULES[kind](arch)


def apply(arch: Architecture, name: str, params: Tree, x: Array) -> Array:
    """Runs one component: images, tokens or features in, the same of the next stage out.

    `params` is the component's tree, of the shapes that `shapes` tells. Where the norm after the
    architecture's last block reads no other token than the first, only that one comes out of the
    block, [b, 1, width]: it costs less than half.
    """
    tree = {"cls": params} if kind_of(name) == "cls" else params
    module = _module(arch, name)
    if arch.one_token_answers and name == f"encoderblock_{arch.num_layers - 1}":
        module = EncoderBlock(arch, class_token_only=True)
    return module.apply({"params": tree}, x)  # pyright: ignore[reportReturnType]


def _input_shape(arch: Architecture, name: str) -> tuple[int, ...]:
    before = {
        "embedding": (1, arch.image_size, arch.image_size, 3),
        "cls": (1, arch.grid**2, arch.width),
        "head": (1, arch.features),
    }
    return before.get(kind_of(name), (1, arch.tokens, arch.width))


def init(arch: Architecture, name: str, seed: int = 0) -> Tree:
    """Fresh parameters (NumPy, float32) of one component.

    Unless there is a seed, the key is derived from the name alone, so every new component of one
    shape is the same, as in the published system (evolution/SYSTEMS.md, Network).
    """
    key = jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()) & 0x7FFFFFFF)
    kind = kind_of(name)
    # One program serves all architectures that differ only in what does not shape this component.
    arch = replace(arch, num_layers=0, adapters=())
    if kind != "head":
        arch = replace(arch, num_classes=1)
    if kind != "posembed_input":
        arch = replace(arch, image_size=arch.patch_size)
    params = jax.tree.map(np.asarray, _init_kind(arch, kind, key)["params"])
    return params["cls"] if kind == "cls" else params


@partial(jax.jit, static_argnames=("arch", "kind"))
def _init_kind(arch: Architecture, kind: str, key: Array) -> Any:
    # Run eagerly, Flax would compile some hundred small programs.
    return _module(arch, kind).init(key, jnp.zeros(_input_shape(arch, kind), jnp.float32))


def position_embedding_for(arch: Architecture, params: Tree) -> Tree:
    """Position embeddings resampled to `arch`'s grid: bilinear; those before the patches are kept.

    `params` holds `pos_embedding` [1, prefix + side^2, width]; corners stay where they are, as the
    original loader does it (evolution/SYSTEMS.md, Network). Raises ValueError if the grid is not
    square.
    """
    stored, first = np.asarray(params["pos_embedding"]), arch.prefix_tokens
    side = int(np.sqrt(stored.shape[1] - first))
    if side * side != stored.shape[1] - first:
        raise ValueError(f"position embeddings of a square grid expected, found {stored.shape}")
    if side == arch.grid:
        return {**params, "pos_embedding": stored}
    grid = stored[0, first:].reshape(side, side, -1)
    zoom = (arch.grid / side, arch.grid / side, 1)
    grid = np.asarray(scipy.ndimage.zoom(grid, zoom, order=1))
    grid = grid.reshape(1, arch.tokens - first, -1)
    return {**params, "pos_embedding": np.concatenate([stored[:, :first], grid], axis=1)}
