"""A published path as a network of Hugging Face's transformers: its tensors and config.json.

`export_classes` has the class that computes the path. An adapter, x + up(gelu(down(norm(x)))),
equals a block whose attention adds nothing, so it becomes such a block: the numbers stay exactly
the same, the network becomes deeper. Paths that no class computes are refused by name. The names of
arrays are those that `munet adopt` reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evolution.adopting.export_classes import (
    KNOWN,
    Arrays,
    ModelClass,
    class_of,
    further_of,
    heads_of,
    sizes_of,
    tokens_of,
)
from evolution.adopting.export_errors import ExportError
from evolution.adopting.hugging_face import ACTIVATIONS, PROBLEM_TYPES, TEMPERATURE
from model_store import ModelStore, Published, TaskPath
from vit import Architecture, kind_of, shapes
from vit.activation import activation_of, temperature_of
from vit.components import init
from vit.parameters import LAYER_NORM_EPSILON, Tree

# The path spec's activation -> transformers' name for the kind of problem.
KINDS_OF_PROBLEM = {ours: theirs for theirs, ours in PROBLEM_TYPES.items() if theirs}
# Our activation -> transformers' first name for it.
HIDDEN_ACTS = {ours: theirs for theirs, ours in reversed(ACTIVATIONS.items())}
# If there are adapters, blocks must have these values, as adapters do.
OF_ADAPTERS = {"activation": "gelu_tanh", "norm_epsilon": LAYER_NORM_EPSILON}
# The fields that decide the class.
OF_THE_CLASS = (
    "pooling", "prefix_tokens", "norm_after_pooling", "input_norm", "mlp_dim", "width",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Export:
    """The data of one export."""

    published: Published
    architecture: Architecture  # as published
    plain: Architecture  # of the exported network: adapters are blocks
    kind: ModelClass  # of the exported network
    tensors: Arrays
    activation: str  # of the answers
    temperature: float  # by which logits are divided before
    private: bool


def exported(store: ModelStore, published: Published, *, private: bool) -> Export:
    """Reads a version's components. Raises ExportError, or DamagedStore."""
    path = published.path
    arch, kind = network_of(path)
    activation, temperature = _of_answers(path)
    params = {
        name: _checked(path, arch, name, store.component(digest))
        for name, digest in path.components.items()
    }
    plain, blocks = without_adapters(arch, params)
    tensors = tensors_of(kind, plain, blocks)
    return Export(published, arch, plain, kind, tensors, activation, temperature, private)


def network_of(path: TaskPath) -> tuple[Architecture, ModelClass]:
    """The path's architecture, which fits its components, and its class. Raises ExportError."""
    if path.subpaths or path.architecture.get("kind"):
        raise refused(
            path, "one path", f"a {path.architecture.get('kind', 'multipath')} of several"
        )
    try:
        arch = Architecture.from_json(path.architecture)
    except (ValueError, TypeError) as error:
        raise refused(path, "an architecture", str(error)) from None
    if arch.component_names != tuple(path.components):
        found = ", ".join(path.components)
        raise refused(path, "the components of its architecture", f"{found:.200}")
    if len(path.labels) != arch.num_classes:
        raise refused(path, f"{arch.num_classes} labels", str(len(path.labels)))
    kind = class_of(arch)
    if kind is None:
        told = {name: getattr(arch, name) for name in OF_THE_CLASS}
        raise refused(path, KNOWN, ", ".join(f"{name} {value}" for name, value in told.items()))
    if arch.adapters:
        _require_adapters(path, arch)
        if arch.adapter_dim > arch.mlp_dim:
            raise refused(
                path,
                f"adapters of at most {arch.mlp_dim}, the width of a block's MLP",
                f"adapters of {arch.adapter_dim}",
            )
    return arch, kind


def _require_adapters(path: TaskPath, arch: Architecture) -> None:
    for name, value in OF_ADAPTERS.items():
        if getattr(arch, name) != value:
            raise refused(path, f"{name} {value} with adapters", str(getattr(arch, name)))


def _of_answers(path: TaskPath) -> tuple[str, float]:
    """The activation and the temperature of its probabilities."""
    try:
        return activation_of(path.extra), temperature_of(path.extra)
    except ValueError as error:
        raise refused(path, "a known activation and temperature", str(error)) from None


def refused(path: TaskPath, expected: str, found: str) -> ExportError:
    """The error for a path that no class computes."""
    return ExportError(
        f"exporting {path.task!r}: transformers takes {expected}; found {found}\n"
        "to move it as it is, write an OCI layout: munet store export --oci DIR"
    )


def _checked(path: TaskPath, arch: Architecture, name: str, tree: Tree) -> Tree:
    """A component, checked to have the arrays of its kind. Raises ExportError."""
    expected, found = _leaves(name, shapes(arch, name)), _leaves(name, tree)
    for leaf in sorted({**expected, **found}):
        wanted = expected[leaf].shape if leaf in expected else "no such array"
        there = found[leaf].shape if leaf in found else "none"
        if wanted != there:
            raise refused(path, f"{leaf} as {wanted}", str(there))
        if found[leaf].dtype.kind not in "fV" or not np.can_cast(found[leaf].dtype, np.float32):
            raise refused(path, f"{leaf} in at most 32 bits of floats", str(found[leaf].dtype))
    return tree


def _leaves(name: str, tree: Tree) -> dict[str, Any]:
    """Arrays by path, as "encoderblock_3/LayerNorm_0/scale" or "cls"."""
    if not isinstance(tree, Mapping):
        return {name: tree}
    parts = (_leaves(f"{name}/{key}", value) for key, value in tree.items())
    return {path: leaf for part in parts for path, leaf in part.items()}


# ---- tensors


def without_adapters(
    arch: Architecture, params: Mapping[str, Tree]
) -> tuple[Architecture, dict[str, Tree]]:
    """The same network with blocks for adapters; params by component, in forward order."""
    plain, blocks = {}, 0
    for name in arch.component_names:
        tree, kind = params[name], kind_of(name)
        if kind in ("encoderblock", "residual_adapter"):
            name, blocks = f"encoderblock_{blocks}", blocks + 1
        plain[name] = _as_block(arch, tree) if kind == "residual_adapter" else tree
    return replace(arch, num_layers=blocks, adapters=()), plain


def _as_block(arch: Architecture, adapter: Tree) -> Tree:
    """A block that equals an adapter: attention and all further hidden units are zero."""

    def zeros(tree: Tree) -> Tree:
        return {
            key: zeros(value) if isinstance(value, Mapping) else np.zeros_like(value)
            for key, value in tree.items()
        }

    more = arch.mlp_dim - arch.adapter_dim
    down, up = adapter["Dense_0"], adapter["Dense_1"]
    return {
        **zeros(init(arch, "encoderblock_0")),
        "LayerNorm_1": adapter["LayerNorm_0"],
        "MlpBlock_0": {
            "Dense_0": {
                "kernel": np.pad(_float32(down["kernel"]), ((0, 0), (0, more))),
                "bias": np.pad(_float32(down["bias"]), (0, more)),
            },
            "Dense_1": {
                "kernel": np.pad(_float32(up["kernel"]), ((0, more), (0, 0))),
                "bias": up["bias"],
            },
        },
    }


def tensors_of(kind: ModelClass, arch: Architecture, params: Mapping[str, Tree]) -> Arrays:
    """All arrays under the keys of a class, in its shapes, as float32."""
    layout = kind.names.layout
    leaves = {
        path: _float32(leaf)
        for name, tree in params.items()
        for path, leaf in _leaves(name, tree).items()
    }
    apart = tokens_of(
        kind,
        leaves.pop("cls", np.zeros((1, 0, arch.width), np.float32)),
        leaves.pop("posembed_input/pos_embedding"),
    ) | heads_of(kind, leaves.pop("head/kernel"), leaves.pop("head/bias"))
    found = {layout.key(path): layout.revert(path, leaf) for path, leaf in leaves.items()}
    found |= apart | further_of(kind, arch)
    return {key: np.ascontiguousarray(array) for key, array in found.items()}


def _float32(array: Any) -> NDArray[np.float32]:
    return np.asarray(array).astype(np.float32)


# ---- config.json


def config_of(export: Export) -> dict[str, Any]:
    """config.json."""
    arch, labels = export.plain, export.published.path.labels
    return {
        "architectures": [export.kind.name],
        "model_type": export.kind.model_type,
        "hidden_size": arch.width,
        "num_hidden_layers": arch.num_layers,
        "num_attention_heads": arch.heads,
        **sizes_of(export.kind, arch),
        "image_size": arch.image_size,
        "patch_size": arch.patch_size,
        "num_channels": 3,
        "qkv_bias": True,
        "hidden_act": HIDDEN_ACTS[arch.activation],
        "layer_norm_eps": arch.norm_epsilon,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "dtype": "float32",
        "problem_type": KINDS_OF_PROBLEM[export.activation],
        "id2label": {str(number): label for number, label in enumerate(labels)},
        "label2id": {label: number for number, label in enumerate(labels)},
        **({} if export.temperature == 1 else {TEMPERATURE: export.temperature}),
    }
