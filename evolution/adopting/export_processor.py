"""preprocessor_config.json: a path's input contract as transformers' image processors have it.

Adopted contracts are written exactly. The plain input cannot be: the processor's resize has
antialias, and the model card describes the difference.
"""

from __future__ import annotations

from typing import Any

from evolution.adopting.export_network import refused
from evolution.adopting.processors import RESAMPLE
from model_store import TaskPath
from vit.contract import Contract, Target, contract_of, size_of
from vit.decode import Decoding, decoding_of
from vit.preprocess import CONTRACT

NUMBERS = {name: number for number, name in RESAMPLE.items()}
HALF = (0.5, 0.5, 0.5)  # mean and deviation of x / 127.5 - 1


def input_of(path: TaskPath, size: int) -> tuple[Target, Decoding]:
    """The target of resizing, and the rules of decoding; raises ExportError."""
    try:
        decoding, contract = decoding_of(path.input), contract_of(path.input)
    except ValueError as error:
        raise refused(path, "a known input", str(error)) from None
    told = contract.to_json() if contract else {"size": size, **CONTRACT}
    for name, rule in told.items():
        if path.input.get(name) != rule:
            raise refused(path, f"input with {name} {rule!r}", repr(path.input.get(name)))
    target = contract or size
    if size_of(target) != size:
        raise refused(path, f"input of {size} pixels a side", str(size_of(target)))
    return target, decoding


def processor_of(target: Target) -> dict[str, Any]:
    """The file's content."""
    if isinstance(target, Contract):
        return _processor(target.size, target.edges, target.filter, target.mean, target.std)
    return _processor(target, (target, target), "bilinear", HALF, HALF)


def _processor(
    size: int,
    edges: int | tuple[int, int],
    filter: str,
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> dict[str, Any]:
    square = {"height": size, "width": size}
    kind, crop = "ViT", {}
    if edges != (size, size):
        kind = "DeiT" if isinstance(edges, tuple) else "Bit"
        crop = {"do_center_crop": True, "crop_size": square}
    if isinstance(edges, tuple):
        resized = {"height": edges[0], "width": edges[1]}
    else:
        resized = {"shortest_edge": edges}
    return {
        "image_processor_type": f"{kind}ImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": resized,
        "resample": NUMBERS[filter],
        **crop,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(mean),
        "image_std": list(std),
    }
