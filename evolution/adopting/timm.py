"""A ViT of timm: a safetensors file with a config.json in its folder or its metadata."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from evolution.adopting.errors import AdoptError
from evolution.adopting.files import (
    MODEL,
    Arrays,
    json_object,
    metadata_of,
    read_json,
    read_tensors,
)
from evolution.adopting.models import Model, checked_labels
from evolution.adopting.names import TIMM_DISTILLED_NAMES, TIMM_NAMES
from evolution.adopting.networks import QUERY_KEY_VALUE, Facts, assemble
from vit.contract import FILTERS, Contract
from vit.decode import TENSORFLOW

# Facts that weights do not show, by architecture; written by `make adopt-fixtures`.
TABLE = Path(__file__).with_name("timm_architectures.json")
CONFIG, METADATA = "config.json", "config"
ACTIVATIONS = ("gelu", "gelu_tanh", "quick_gelu", "relu", "silu")
POOLINGS = {"token": "token", "avg": "mean", "distilled": "two_tokens"}
# Arguments that arrays show, that do nothing at inference, or that are read here.
SHOWN_ARGUMENTS = frozenset(
    {
        "img_size", "patch_size", "embed_dim", "depth", "mlp_ratio", "num_classes", "in_chans",
        "class_token", "reg_tokens", "no_embed_class", "init_values", "fc_norm", "pre_norm",
        "dynamic_img_size", "dynamic_img_pad", "weight_init", "fix_init", "drop_rate",
        "pos_drop_rate", "patch_drop_rate", "proj_drop_rate", "attn_drop_rate", "drop_path_rate",
        "num_heads", "act_layer", "global_pool", "qkv_bias",
    }
)  # fmt: skip
# Arguments that change the computation, with the values that do not.
NEUTRAL = {"pool_include_prefix": (False,), "qk_norm": (False,), "scale_attn_norm": (False,),
           "scale_mlp_norm": (False,), "proj_bias": (True,), "final_norm": (True,),
           "pos_embed": ("learn",), "norm_layer": (None,), "embed_norm_layer": (None,)}  # fmt: skip


class Row(NamedTuple):
    """An architecture of the table."""

    heads: int
    activation: str
    norm_epsilon: float
    pooling: str
    qkv_bias: bool


@functools.cache
def _table() -> dict[str, Row]:
    return {name: Row(*row) for name, row in json.loads(TABLE.read_text()).items()}


def read(place: Path, labels: Sequence[str] | None) -> Model:
    """The model in a file, or in a folder saved by timm. Raises AdoptError."""
    file = place / MODEL if place.is_dir() else place
    source, config = _config_of(file)
    return _Config(source, config).model(file, labels)


def _config_of(file: Path) -> tuple[str, dict[str, Any]]:
    if file.suffix == ".bin":
        raise AdoptError(
            f"{file}: expected a .safetensors file, found a pickle, whose reading would run code\n"
            "write it again: timm.models.save_for_hf(model, folder, safe_serialization=True)"
        )
    stored, path = metadata_of(file).get(METADATA), file.with_name(CONFIG)
    if stored is None and not path.exists():
        raise AdoptError(
            f"{file}: expected timm's {CONFIG} in its folder, or {METADATA} in its metadata; found "
            "neither\nwrite both: timm.models.save_for_hf(model, folder)"
        )
    if stored is not None:
        return f"{file}, metadata", json_object(stored, f"{file}, metadata")
    config = read_json(path)
    if "model_type" in config:
        raise AdoptError(f"{path}: is transformers'; adopt it with --from hf:{file.parent}")
    return str(path), config


class _Config:
    def __init__(self, source: str, config: Mapping[str, Any]) -> None:
        self._source, self._config = source, config
        self._arguments = self._object("model_args")
        self._pretrained = self._object("pretrained_cfg")
        self._name = config.get("architecture")
        found = _table().get(self._name) if isinstance(self._name, str) else None
        if found is None:
            expected = f"one of the {len(_table())} plain ViTs (vit_…, deit_…, deit3_…) of timm"
            raise self._refused("architecture", expected, self._name)
        self._row = found
        for name, value in self._arguments.items():
            known = NEUTRAL.get(name, ())
            if name not in SHOWN_ARGUMENTS and not any(value == one for one in known):
                expected = f"{known[0]}" if known else "no such argument"
                raise self._refused(f"model_args.{name}", expected, value)

    def model(self, file: Path, labels: Sequence[str] | None) -> Model:
        contract, facts = self._contract(), self._facts()
        names = TIMM_DISTILLED_NAMES if facts.pooling == "two_tokens" else TIMM_NAMES
        arch, components = assemble(str(file), _unfused(read_tensors(file)), names, facts)
        own = self._config.get("label_names", self._pretrained.get("label_names"))
        if own is not None and not isinstance(own, list):
            raise self._refused("label_names", "a list", own)
        told = {"publisher": "timm", "class": self._name, "name": file.resolve().parent.name}
        licence = self._pretrained.get("license")
        return Model(
            architecture=arch,
            components=components,
            labels=checked_labels(self._source, labels, own, arch.num_classes),
            target=contract,
            decoding=TENSORFLOW,
            told={**told, "licence": licence} if isinstance(licence, str) else told,
        )

    def _facts(self) -> Facts:
        row, arguments = self._row, self._arguments
        pooling = arguments.get("global_pool", self._config.get("global_pool", row.pooling))
        if row.pooling == "distilled" and pooling == "token":
            pooling = row.pooling
        if pooling not in POOLINGS:
            raise self._refused("global_pool", "token or avg", pooling)
        activation = arguments.get("act_layer") or row.activation
        if activation not in ACTIVATIONS:
            raise self._refused(
                "model_args.act_layer", f"one of {', '.join(ACTIVATIONS)}", activation
            )
        heads = arguments.get("num_heads", row.heads)
        if type(heads) is not int or heads < 1:
            raise self._refused("model_args.num_heads", "a whole number, 1 or more", heads)
        biased = arguments.get("qkv_bias", row.qkv_bias)
        size = self._image_size()
        return Facts(
            heads=heads,
            activation=activation,
            norm_epsilon=row.norm_epsilon,
            pooling=POOLINGS[pooling],
            image_size=size,
            trained_size=size,
            may_lack_bias=("embedding", *(() if biased else QUERY_KEY_VALUE)),
        )

    def _image_size(self) -> int:
        wanted = self._pretrained.get("input_size")
        if not isinstance(wanted, list) or len(wanted) != 3 or wanted[0] != 3:
            raise self._refused("pretrained_cfg.input_size", "3 channels, height and width", wanted)
        found = self._arguments.get("img_size", wanted[1:])
        edges = found if isinstance(found, list) else [found, found]
        if edges != wanted[1:]:
            raise self._refused("model_args.img_size", f"that of the input, {wanted[1:]}", found)
        if len(set(edges)) != 1 or type(edges[0]) is not int or edges[0] < 1:
            raise self._refused("pretrained_cfg.input_size", "a square", wanted)
        return edges[0]

    def _contract(self) -> Contract:
        """The contract of timm's own transform for evaluation."""
        cfg, size = self._pretrained, self._image_size()
        share, mode = cfg.get("crop_pct", 0.875), cfg.get("crop_mode", "center")
        if type(share) not in (int, float) or not 0 < share <= 1:
            raise self._refused("pretrained_cfg.crop_pct", "a share, above 0 and at most 1", share)
        if mode not in ("center", "squash"):
            raise self._refused("pretrained_cfg.crop_mode", "center or squash", mode)
        filter = cfg.get("interpolation", "bicubic")
        if filter not in FILTERS:
            raise self._refused(
                "pretrained_cfg.interpolation", f"one of {', '.join(FILTERS)}", filter
            )
        edge = math.floor(size / share)
        try:
            return Contract(
                size=size,
                filter=filter,
                edges=edge if mode == "center" else (edge, edge),
                mean=tuple(self._numbers("mean")),
                std=tuple(self._numbers("std")),
                rounding="half_even",
            )
        except ValueError as error:
            raise AdoptError(f"{self._source}: pretrained_cfg: {error}") from None

    def _numbers(self, name: str) -> list[float]:
        found = self._pretrained.get(name)
        if not isinstance(found, list):
            raise self._refused(f"pretrained_cfg.{name}", "three numbers", found)
        return found

    def _object(self, name: str) -> Mapping[str, Any]:
        found = self._config.get(name) or {}
        if not isinstance(found, dict):
            raise self._refused(name, "a JSON object", found)
        return found

    def _refused(self, name: str, expected: str, found: Any) -> AdoptError:
        return AdoptError(f"{self._source}: {name}: expected {expected}; found {found!r:.80}")


def _unfused(arrays: Arrays) -> Arrays:
    """Query, key and value, the thirds of one array of timm, each under its own key."""
    found: Arrays = {}
    for key, array in arrays.items():
        if ".attn.qkv." in key and len(array) % 3 == 0:
            thirds = np.split(array, 3)
            found |= {
                f"{key}[{n}]": part
                for n, part in zip(("query", "key", "value"), thirds, strict=True)
            }
        else:
            found[key] = array
    return found
