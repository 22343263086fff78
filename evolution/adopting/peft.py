"""A LoRA adapter of PEFT, merged into the network that it adapts.

A kernel becomes W + scale * B A. Parts that were trained as a whole (the classifier, biases)
replace those of the base. So requests do not pay for the adapter.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evolution.adopting import hugging_face
from evolution.adopting.errors import AdoptError
from evolution.adopting.files import PICKLES, Arrays, read_folder, read_json, read_tensors
from evolution.adopting.models import Model
from evolution.adopting.names import HUGGING_FACE_NAMES, classic
from evolution.adopting.processors import FILE

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
LORA = re.compile(r"(?P<module>.+)\.lora_(?P<half>[AB])(\.\w+)?\.weight")
# Options that change the weights in another way, with the values that do not.
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "use_dora": (False, None),
    "use_qalora": (False, None),
    "use_bdlora": (False, None),
    "fan_in_fan_out": (False, None),
    "lora_bias": (False, None),
    "alpha_pattern": ({}, None),
    "layer_replication": (None,),
    "target_parameters": (None, []),
    "trainable_token_indices": (None,),
    "alora_invocation_tokens": (None,),
    # Others start from changed weights of the base, which its folder does not hold.
    "init_lora_weights": (True, False, "gaussian", None),
}


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter."""
    return (folder / CONFIG).exists()


def read(folder: Path, base: Path | None, labels: Sequence[str] | None) -> Model:
    """The merged model. `base` is the folder of the network that is adapted. Raises AdoptError."""
    adapter = read_json(folder / CONFIG)
    _require_plain(folder, adapter)
    base = base or _base_of(folder, adapter)
    config = dict(hugging_face.read_config(base))
    kind = _class_of(adapter, config)
    config["architectures"] = [kind]
    if (folder / hugging_face.CONFIG).exists():  # its trainer may have written labels there
        own = read_json(folder / hugging_face.CONFIG).get("id2label")
        config["id2label"] = own or config.get("id2label")
    prefix = HUGGING_FACE_NAMES[kind].layout.prefix if kind in HUGGING_FACE_NAMES else ""
    arrays = {classic(key, prefix): array for key, array in read_folder(base).items()}
    merged = _merged(folder, arrays, _tensors(folder), prefix, adapter)
    prepared = folder if (folder / FILE).exists() else base
    model = hugging_face.model_of(prepared, config, merged, labels)
    told = {**model.told, "name": folder.resolve().name, "base": base.resolve().name}
    return replace(model, told={**told, "adapter": "LoRA"})


def _require_plain(folder: Path, adapter: Mapping[str, Any]) -> None:
    for name, known in NEUTRAL.items():
        found = adapter.get(name)
        if not any(type(found) is type(one) and found == one for one in known):
            expected = known[0] if known[0] not in (None, {}) else "nothing"
            raise _refused(folder, name, str(expected), found)


def _refused(folder: Path, name: str, expected: str, found: Any) -> AdoptError:
    return AdoptError(
        f"{folder / CONFIG}: {name}: expected {expected}; found {found!r:.80}\n"
        "merge it with PEFT, and adopt the result: model.merge_and_unload().save_pretrained(…)"
    )


def _base_of(folder: Path, adapter: Mapping[str, Any]) -> Path:
    named = adapter.get("base_model_name_or_path")
    if isinstance(named, str) and named:
        for place in (folder / named, Path(named)):
            if (place / hugging_face.CONFIG).is_file():
                return place
    raise AdoptError(
        f"{folder / CONFIG}: base_model_name_or_path: expected a folder; found {named!r:.80}\n"
        "fetch that network, and name its folder: --base hf:DIR"
    )


def _class_of(adapter: Mapping[str, Any], config: Mapping[str, Any]) -> Any:
    """A base without a head gets the class that the adapter was trained with."""
    found = config.get("architectures")
    own = found[0] if isinstance(found, list) and found else None
    mapping = adapter.get("auto_mapping")
    told = mapping.get("base_model_class") if isinstance(mapping, dict) else None
    return told if told in HUGGING_FACE_NAMES and own not in HUGGING_FACE_NAMES else own


def _tensors(folder: Path) -> Arrays:
    pickle = next((name for name in PICKLES if (folder / name).exists()), None)
    if pickle and not (folder / TENSORS).exists():
        raise AdoptError(
            f"{folder}: expected {TENSORS}, found {pickle}: a pickle, whose reading would run "
            "code\nwrite it again: model.save_pretrained(folder, safe_serialization=True)"
        )
    return read_tensors(folder / TENSORS)


def _merged(
    folder: Path, base: Arrays, tensors: Arrays, prefix: str, adapter: Mapping[str, Any]
) -> Arrays:
    found, halves = dict(base), dict[str, Arrays]()
    for key, array in tensors.items():
        if not key.startswith(PREFIX):
            raise AdoptError(f"{folder / TENSORS}: expected keys {PREFIX}…; found {key:.100}")
        key = key.removeprefix(PREFIX)
        match = LORA.fullmatch(key)
        if match:
            kernel = classic(match["module"] + ".weight", prefix)
            halves.setdefault(kernel, {})[match["half"]] = array
        else:  # trained as a whole
            key = re.sub(r"\.(base_layer|modules_to_save(\.\w+)?)(?=\.(weight|bias)$)", "", key)
            found[classic(key, prefix)] = array
    scale = _scale(folder, adapter)
    for kernel, parts in halves.items():
        down, up, weight = parts.get("A"), parts.get("B"), base.get(kernel)
        shapes = [None if part is None else part.shape for part in (up, down, weight)]
        if down is None or up is None or weight is None or not _fits(up, down, weight):
            raise AdoptError(
                f"{folder / TENSORS}: expected lora_B [out, r] and lora_A [r, in] for {kernel:.80} "
                f"[out, in] of the base;\nfound {shapes}"
            )
        update = np.float32(scale(len(down))) * (up @ down)
        found[kernel] = (weight + update).astype(np.float32)
    return found


def _scale(folder: Path, adapter: Mapping[str, Any]) -> Callable[[int], float]:
    """The scale of an update of this rank."""
    alpha = adapter.get("lora_alpha")
    if not isinstance(alpha, int | float) or isinstance(alpha, bool):
        raise _refused(folder, "lora_alpha", "a number", alpha)
    if adapter.get("use_rslora") is True:
        return lambda rank: alpha / math.sqrt(rank)
    return lambda rank: alpha / rank


def _fits(up: NDArray[Any], down: NDArray[Any], weight: NDArray[Any]) -> bool:
    matrices = up.ndim == down.ndim == weight.ndim == 2
    return matrices and up.shape[1] == len(down) > 0 and weight.shape == (len(up), down.shape[1])
