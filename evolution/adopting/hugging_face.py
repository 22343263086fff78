"""A folder of Hugging Face's transformers: config.json, safetensors, preprocessor_config.json."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evolution.adopting.errors import AdoptError
from evolution.adopting.exported_input import exported_input
from evolution.adopting.files import Arrays, read_folder, read_json
from evolution.adopting.models import Model, checked_labels
from evolution.adopting.names import HUGGING_FACE_NAMES, classic
from evolution.adopting.networks import QUERY_KEY_VALUE, Facts, assemble
from evolution.adopting.processors import contract_in
from vit import Architecture
from vit.activation import SIGMOID, SOFTMAX
from vit.contract import size_of
from vit.decode import UPRIGHT

CONFIG = "config.json"
TEMPERATURE = "calibration_temperature"  # our own field: what logits are divided by before softmax
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
# By class; all others read the class token.
POOLINGS = {
    "IJepaForImageClassification": "mean",
    "DeiTForImageClassificationWithTeacher": "two_tokens",
    "Dinov2ForImageClassification": "token_and_mean",
    "Dinov2WithRegistersForImageClassification": "token_and_mean",
}
# Classes that resample positions to the picture, and whether with antialias.
ANTIALIAS = {
    "Dinov2ForImageClassification": False,
    "Dinov2WithRegistersForImageClassification": True,
}
PROBLEM_TYPES = {
    None: SOFTMAX,
    "single_label_classification": SOFTMAX,
    "multi_label_classification": SIGMOID,
}


def read(folder: Path, labels: Sequence[str] | None) -> Model:
    """The model in a folder; `labels` replace its own. Raises AdoptError."""
    config = read_config(folder)
    return model_of(folder, config, read_folder(folder), labels)


def read_config(folder: Path) -> dict[str, Any]:
    """Its configuration. Raises AdoptError for a folder of something else."""
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing"
        raise AdoptError(
            f"{folder}: expected a folder with {CONFIG} and safetensors; found {found}"
        )
    config = read_json(folder / CONFIG)
    if "architecture" in config and "architectures" not in config:
        raise AdoptError(f"{folder / CONFIG}: is timm's; adopt it with --from timm:{folder}")
    return config


def model_of(
    folder: Path, config: Mapping[str, Any], arrays: Arrays, labels: Sequence[str] | None
) -> Model:
    """The model of a configuration and arrays. Raises AdoptError."""
    source = str(folder / CONFIG)
    kind = _class_of(source, config)
    # The record of our own exports says what preprocessor_config.json cannot.
    target, decoding = exported_input(folder) or (contract_in(folder), UPRIGHT)
    names = HUGGING_FACE_NAMES[kind]
    arch, components = assemble(
        str(folder),
        {classic(key, names.layout.prefix): array for key, array in arrays.items()},
        names,
        _facts(source, kind, config, size_of(target)),
    )
    _require_sizes(source, config, arch)
    told = {"publisher": "transformers", "class": kind, "name": folder.resolve().name}
    return Model(
        architecture=arch,
        components=components,
        labels=checked_labels(source, labels, _labels(source, config), arch.num_classes),
        target=target,
        decoding=decoding,
        told=told,
        activation=PROBLEM_TYPES[config.get("problem_type")],
        temperature=_Fields(source, config).above_0(TEMPERATURE) if TEMPERATURE in config else 1.0,
    )


def _class_of(source: str, config: Mapping[str, Any]) -> str:
    found = config.get("architectures")
    kind = found[0] if isinstance(found, list) and len(found) == 1 else found
    if not isinstance(kind, str) or kind not in HUGGING_FACE_NAMES:
        raise AdoptError(
            f"{source}: architectures: expected one of\n{', '.join(HUGGING_FACE_NAMES)};\n"
            f"found {kind!r:.100}"
        )
    return kind


def _facts(source: str, kind: str, config: Mapping[str, Any], image_size: int) -> Facts:
    fields = _Fields(source, config)
    fields.require("num_channels", (3, None))
    fields.require("use_swiglu_ffn", (False, None))
    fields.require("problem_type", tuple(PROBLEM_TYPES))
    fields.require("use_mean_pooling", (False, None))
    fields.require("hidden_act", tuple(ACTIVATIONS))
    no_bias = config.get("qkv_bias", True) is False
    return Facts(
        heads=fields.whole("num_attention_heads"),
        activation=ACTIVATIONS[config["hidden_act"]],
        norm_epsilon=fields.above_0("layer_norm_eps"),
        pooling=POOLINGS.get(kind, "token"),
        image_size=image_size,
        trained_size=fields.whole("image_size"),
        layers=fields.whole("num_hidden_layers"),
        antialias=ANTIALIAS.get(kind),
        may_lack_bias=QUERY_KEY_VALUE if no_bias else (),
    )


def _require_sizes(source: str, config: Mapping[str, Any], arch: Architecture) -> None:
    """Checks that the configuration and the arrays have the same sizes, as the library does."""
    fields = _Fields(source, config)
    for name, found in (
        ("hidden_size", arch.width),
        ("patch_size", arch.patch_size),
        ("intermediate_size", arch.mlp_dim),
    ):
        if config.get(name) is not None and (said := fields.whole(name)) != found:
            raise AdoptError(
                f"{source}: {name}: expected {found}, as its arrays have; found {said}\n"
                "the two are of different networks: fetch both again"
            )


class _Fields:
    """Fields of a configuration, checked."""

    def __init__(self, source: str, config: Mapping[str, Any]) -> None:
        self._source, self._config = source, config

    def require(self, name: str, known: tuple[Any, ...]) -> None:
        found = self._config.get(name)
        if not any(type(found) is type(one) and found == one for one in known):
            expected = ", ".join(str(one) for one in known if one is not None)
            raise self._refused(name, expected, found)

    def whole(self, name: str) -> int:
        found = self._config.get(name)
        if isinstance(found, list) and len(found) == 2 and found[0] == found[1]:
            found = found[0]
        if type(found) is not int or found < 1:
            raise self._refused(name, "a whole number, 1 or more", found)
        return found

    def above_0(self, name: str) -> float:
        found: Any = self._config.get(name)
        if type(found) not in (int, float) or not 0 < found <= sys.float_info.max:
            raise self._refused(name, "a number above 0", found)
        return float(found)

    def _refused(self, name: str, expected: str, found: Any) -> AdoptError:
        return AdoptError(f"{self._source}: {name}: expected {expected}; found {found!r:.80}")


def _labels(source: str, config: Mapping[str, Any]) -> list[Any] | None:
    found = config.get("id2label")
    if found is None:
        return None
    if not isinstance(found, dict) or set(found) != {str(i) for i in range(len(found))}:
        raise AdoptError(
            f"{source}: id2label: expected a label for each of 0, 1, 2, …; found {found!r:.80}"
        )
    return [found[str(i)] for i in range(len(found))]
