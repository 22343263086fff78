"""Arrays under a publisher's keys -> our architecture and components, which compute the same.

Parts that have no component here are folded into one, exactly except for the rounding of one
product: a layer scale into the kernel and bias before it, tokens without positions into positions
of zero, two heads with averaged logits into one head that reads two tokens. Every key is checked: a
missing or unknown one, or one of another shape, is an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from numpy.typing import NDArray

from evolution.adopting.errors import AdoptError
from evolution.adopting.files import Arrays
from evolution.adopting.names import Names
from evolution.adopting.positions import resampled
from vit import Architecture, shapes
from vit.components import Tree

Array = NDArray[np.float32]
QUERY_KEY_VALUE = tuple(f"MultiHeadDotProductAttention_0/{n}" for n in ("query", "key", "value"))
# Our parts before layer scales, in the order of Names.layer_scales.
SCALED = ("MultiHeadDotProductAttention_0/out", "MlpBlock_0/Dense_1")
SHOWN_KEYS = 4


@dataclass(frozen=True, slots=True)
class Facts:
    """Facts that the arrays do not show."""

    heads: int
    activation: str
    norm_epsilon: float
    pooling: str
    image_size: int  # of the input
    trained_size: int  # of the pictures that the position embeddings are for
    layers: int | None = None  # by the configuration; None: counted from the arrays
    antialias: bool | None = None  # of the resampling of positions; None: not resampled
    may_lack_bias: tuple[str, ...] = ()  # our parts


def assemble(
    source: str, arrays: Arrays, names: Names, facts: Facts
) -> tuple[Architecture, dict[str, Tree]]:
    """The architecture and the components by name. Raises AdoptError, naming the source."""
    return _Network(source, arrays, names, facts).assembled()


class _Network:
    def __init__(self, source: str, arrays: Arrays, names: Names, facts: Facts) -> None:
        self._source = source
        self._left = dict(arrays)
        self._names, self._layout, self._facts = names, names.layout, facts
        self._norms_pooled = self._has(names.pooled_norm)

    def assembled(self) -> tuple[Architecture, dict[str, Tree]]:
        tokens = self._prefix_tokens()
        heads = [self._head(template) for template in self._names.heads]
        arch = self._architecture(sum(token.shape[1] for token in tokens), heads)
        leaves = {path: leaf for path, leaf in self._leaves(arch)}
        components: dict[str, Tree] = unflatten_dict(leaves, sep="/")
        self._fold_layer_scales(arch, components)
        if tokens:
            components["cls"] = np.concatenate(tokens, axis=1)
        components["posembed_input"] = {
            "pos_embedding": self._positions(arch),
            **({"LayerNorm_0": self._norm(self._names.input_norm)} if arch.input_norm else {}),
        }
        components["head"] = _one_head(heads)
        self._require_nothing_left()
        return arch, {name: components[name] for name in arch.component_names}

    # ---- sizes

    def _architecture(self, prefix: int, heads: list[dict[str, Array]]) -> Architecture:
        kernel = self._shape(self._layout.key("embedding/kernel"), 4)
        dense = self._shape(self._layout.key("encoderblock_0/MlpBlock_0/Dense_0/kernel"), 2)
        width, channels, patch, columns = kernel
        if channels != 3 or patch != columns:
            raise self._refused("a square patch kernel of 3 channels", f"one of shape {kernel}")
        layers, facts = self._layout.blocks(self._left), self._facts
        if facts.layers not in (None, layers):
            raise self._refused(f"{facts.layers} blocks, as its configuration says", f"{layers}")
        input_norm = self._has(self._names.input_norm)
        if facts.image_size < patch or facts.trained_size < patch:
            raise self._refused(f"pictures of at least a patch, {patch}", f"{facts.image_size}")
        try:
            arch = Architecture(
                width=width, heads=facts.heads, mlp_dim=dense[0], patch_size=patch,
                image_size=facts.image_size, num_layers=layers,
                num_classes=len(heads[0]["bias"]), activation=facts.activation,
                norm_epsilon=facts.norm_epsilon, prefix_tokens=prefix, input_norm=input_norm,
                pooling=facts.pooling,
                norm_after_pooling=facts.pooling == "mean" and self._norms_pooled,
            )  # fmt: skip
        except ValueError as error:
            raise AdoptError(
                f"{self._source}: expected a ViT's sizes; found that {error}"
            ) from None
        found = heads[0]["kernel"].shape[0] * len(heads)
        if found != arch.features:
            raise self._refused(f"a head that reads {arch.features} features", f"one of {found}")
        return arch

    def _shape(self, key: str, rank: int) -> tuple[int, ...]:
        if key not in self._left:
            raise self._missing(key)
        shape = self._left[key].shape
        if len(shape) != rank:
            raise self._refused(f"{key} of {rank} dimensions", f"shape {shape}")
        return shape

    # ---- parts

    def _leaves(self, arch: Architecture) -> Iterator[tuple[str, Array]]:
        """All parts in `vit.layouts`, without positions and tokens before the patches."""
        for name in arch.component_names:
            if name in ("cls", "posembed_input", "head"):
                continue
            flat: Any = flatten_dict({name: shapes(arch, name)}, sep="/")
            for path, leaf in flat.items():
                yield path, self._leaf(path, leaf.shape)

    def _leaf(self, path: str, shape: tuple[int, ...]) -> Array:
        key = self._layout.key(path)
        if path.startswith("encoder_norm/") and self._norms_pooled:
            key = self._names.pooled_norm.format(key.rpartition(".")[2])
        part, _, leaf = path.removeprefix(path.partition("/")[0] + "/").rpartition("/")
        part = part or path.partition("/")[0]
        if key not in self._left and leaf == "bias" and part in self._facts.may_lack_bias:
            return np.zeros(shape, np.float32)
        wanted = self._layout.stored_shape(path, shape)
        found = self._take(key, wanted)
        return np.ascontiguousarray(self._layout.convert(path, found, shape))

    def _prefix_tokens(self) -> list[Array]:
        """The tokens before the patches, [1, n, width] each, in order; empty without any."""
        keys = [self._layout.key("cls"), *self._names.further_tokens]
        found = [self._left.pop(key) for key in keys if key in self._left]
        for token in found:
            if token.ndim != 3 or token.shape[0] != 1:
                raise self._refused("tokens [1, n, width] before the patches", f"{token.shape}")
        return found

    def _positions(self, arch: Architecture) -> Array:
        """The positions [1, tokens, width]; zero for tokens without positions."""
        key, facts = self._layout.key("posembed_input/pos_embedding"), self._facts
        count, width = self._shape(key, 3)[1:]
        side = facts.trained_size // arch.patch_size
        first = count - side * side
        if width != arch.width or first not in (0, min(1, arch.prefix_tokens), arch.prefix_tokens):
            raise self._refused(
                f"{key} for {side} x {side} patches of pictures of {facts.trained_size} pixels",
                f"shape {self._left[key].shape}",
            )
        stored = self._left.pop(key)[0]
        patches = stored[first:].reshape(side, side, width)
        if side != arch.grid:
            if facts.antialias is None:
                raise self._refused(
                    f"pictures of {facts.trained_size} pixels, which its positions are for",
                    f"pictures of {arch.image_size}",
                )
            patches = resampled(patches, arch.grid, antialias=facts.antialias)
        before = np.zeros((arch.prefix_tokens, width), np.float32)
        before[:first] = stored[:first]
        return np.concatenate([before, patches.reshape(-1, width)])[None]

    def _norm(self, template: str) -> dict[str, Array]:
        return {"scale": self._left.pop(template.format("weight")),
                "bias": self._left.pop(template.format("bias"))}  # fmt: skip

    def _head(self, template: str) -> dict[str, Array]:
        kernel, bias = template.format("weight"), template.format("bias")
        if kernel not in self._left:
            raise self._refused(f"a fine-tuned head, {kernel}", "none: use it as a root instead")
        classes = self._shape(kernel, 2)[0]
        weight = self._left.pop(kernel)
        zeros = np.zeros(classes, np.float32)
        found = self._take(bias, (classes,)) if bias in self._left else zeros
        return {"kernel": np.ascontiguousarray(weight.T), "bias": found}

    def _fold_layer_scales(self, arch: Architecture, components: dict[str, Tree]) -> None:
        for number in range(arch.num_layers):
            prefix = self._layout.prefix + self._layout.block_prefix.format(number)
            for name, part in zip(self._names.layer_scales, SCALED, strict=False):
                if prefix + name in self._left:
                    scale = self._take(prefix + name, (arch.width,))
                    outer, inner = part.split("/")
                    dense = components[f"encoderblock_{number}"][outer][inner]
                    dense["kernel"] = dense["kernel"] * scale
                    dense["bias"] = dense["bias"] * scale

    # ---- keys

    def _has(self, template: str) -> bool:
        return bool(template) and template.format("weight") in self._left

    def _take(self, key: str, shape: tuple[int, ...]) -> Array:
        if key not in self._left:
            raise self._missing(key)
        found = self._left.pop(key)
        if found.shape != shape:
            raise self._refused(f"{key} of shape {shape}, as the others", f"{found.shape}")
        return found

    def _require_nothing_left(self) -> None:
        left = sorted(key for key in self._left if not re.match(self._names.unused, key))
        if left:
            more = f" and {len(left) - SHOWN_KEYS} more" if len(left) > SHOWN_KEYS else ""
            shown = ", ".join(left[:SHOWN_KEYS]) + more
            raise self._refused("the arrays of a plain ViT alone", f"also {shown:.300}")

    def _missing(self, key: str) -> AdoptError:
        return self._refused(key, "no such array: cut short, or another network")

    def _refused(self, expected: str, found: str) -> AdoptError:
        return AdoptError(f"{self._source}: expected {expected};\nfound {found}")


def _one_head(heads: list[dict[str, Array]]) -> dict[str, Array]:
    """One head whose logits are the mean of all heads'; each reads its own token."""
    share = np.float32(1 / len(heads))
    bias = np.stack([head["bias"] * share for head in heads]).sum(axis=0)
    return {"kernel": np.concatenate([head["kernel"] * share for head in heads]), "bias": bias}
