"""A fine-tuned file of the AugReg paper (arXiv 2106.10270); its head is kept.

Pictures are prepared as in the paper's evaluation: resized as a whole, scaled to -1 .. 1.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from evolution.adopting.errors import AdoptError
from evolution.adopting.models import Model, checked_labels
from vit.decode import TENSORFLOW
from vit.pretrained import UNREADABLE, PretrainedError, read_augreg

HEAD = ("head/kernel", "head/bias")


def read(path: Path, labels: Sequence[str] | None) -> Model:
    """The model in a .npz file, which has no labels. Raises AdoptError."""
    try:
        root, components = read_augreg(path)
    except PretrainedError as error:
        text = str(error).replace("; choose another root", "")
        raise AdoptError(text) from None
    head = _head(path)
    classes = head["kernel"].shape[-1]
    if head["kernel"].shape != (root.width, classes) or head["bias"].shape != (classes,):
        found = ", ".join(f"{name} {array.shape}" for name, array in head.items())
        raise AdoptError(f"{path}: expected a head of {root.width} features; found {found}")
    arch = type(root).from_json({**root.to_json(), "num_classes": classes})
    everything = {**components, "head": head}
    return Model(
        architecture=arch,
        components={name: everything[name] for name in arch.component_names},
        labels=checked_labels(str(path), labels, None, classes),
        target=arch.image_size,
        decoding=TENSORFLOW,
        told={"publisher": "augreg", "class": "ViT", "name": path.name},
    )


def _head(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            names = [str(name) for name in file.files]
            between = [name for name in names if re.match(r"pre_logits/", name)]
            if between:
                raise AdoptError(
                    f"{path}: expected a head on the class token; found {between[0]} between "
                    "them, which no network of ours computes"
                )
            missing = [name for name in HEAD if name not in names]
            if missing:
                raise AdoptError(
                    f"{path}: expected a fine-tuned head; found no {missing[0]}: use it as a root"
                )
            found = [np.asarray(file[name], np.float32) for name in HEAD]
    except UNREADABLE as error:
        raise AdoptError(
            f"{path}: expected a .npz file; found one that is damaged ({error})"
        ) from None
    if not all(np.isfinite(array).all() for array in found):
        raise AdoptError(f"{path}: expected a head of finite numbers, found others")
    return dict(zip(("kernel", "bias"), found, strict=True))
