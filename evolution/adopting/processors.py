"""A Hugging Face image processor's configuration -> the contract of a network's input.

Pixels are those of the processor with Pillow. (With torchvision, the other one that transformers
has, single pixels differ by one grey level.)
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evolution.adopting.errors import AdoptError
from evolution.adopting.files import read_json
from vit.contract import Contract

FILE = "preprocessor_config.json"
RESAMPLE = {1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}  # Pillow's numbers
STEPS = ("do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb")


@dataclass(frozen=True, slots=True)
class _Defaults:
    square: bool  # whether a size of one number means both edges, or the shorter one
    crops: bool
    resample: int


PROCESSORS = {
    "ViT": _Defaults(square=True, crops=False, resample=2),
    "DeiT": _Defaults(square=True, crops=True, resample=3),
    "Bit": _Defaults(square=False, crops=True, resample=3),
    "CLIP": _Defaults(square=False, crops=True, resample=3),
}


def contract_in(folder: Path) -> Contract:
    """The contract of the processor in a folder. Raises AdoptError."""
    path = folder / FILE
    if not path.exists():
        raise AdoptError(
            f"{path}: expected this file, which says how pictures are prepared; found none\n"
            "write it: processor.save_pretrained(folder)"
        )
    return _Processor(str(path), read_json(path)).contract()


class _Processor:
    def __init__(self, source: str, config: Mapping[str, Any]) -> None:
        self._source, self._config = source, config
        named = config.get("image_processor_type", config.get("feature_extractor_type"))
        kind = re.fullmatch(r"(\w+?)(ImageProcessor(Fast|Pil)?|FeatureExtractor)", str(named))
        found = PROCESSORS.get(kind[1]) if kind else None
        if found is None:
            known = ", ".join(f"{name}ImageProcessor" for name in PROCESSORS)
            raise self._refused("image_processor_type", f"one of {known}", named)
        self._defaults = found
        for name, value in config.items():
            if name.startswith("do_") and value and name not in STEPS:
                raise self._refused(name, "false: that step is not done here", value)

    def contract(self) -> Contract:
        edges, size = self._edges()
        rescale = self._number("rescale_factor", 1 / 255) if self._does("do_rescale") else 1.0
        mean, std = (0.0,) * 3, (1.0,) * 3
        if self._does("do_normalize"):
            mean, std = self._numbers("image_mean"), self._numbers("image_std")
        unit = 255 * rescale  # of the scale that mean and deviation are on: 1 nearly always
        try:
            return Contract(
                size=size,
                filter=self._filter(),
                edges=edges,
                mean=tuple(round(x / unit, 12) for x in mean),
                std=tuple(round(x / unit, 12) for x in std),
            )
        except (ValueError, ZeroDivisionError) as error:
            raise AdoptError(f"{self._source}: {error}") from None

    def _edges(self) -> tuple[int | tuple[int, int], int]:
        """The size for resizing, and the side of the crop."""
        crops = self._does("do_center_crop", self._defaults.crops)
        if not self._does("do_resize"):
            if crops:
                raise self._refused("do_resize", "true where pictures are cropped", False)
            # The library expects pictures of this size, so resizing changes nothing.
            size = self._side("size", self._size("size"))
            return (size, size), size
        edges = self._size("size")
        if crops:
            return edges, self._side("crop_size", self._size("crop_size", square=True))
        if isinstance(edges, int):
            raise self._refused("size", "height and width, or a crop", {"shortest_edge": edges})
        return edges, self._side("size", edges)

    def _size(self, name: str, *, square: bool = False) -> int | tuple[int, int]:
        found = self._config.get(name)
        if type(found) is int:
            return (found, found) if square or self._defaults.square else found
        if isinstance(found, dict):
            known: dict[str, Any] = {k: v for k, v in found.items() if v is not None}
            if set(known) == {"height", "width"}:
                edges = known["height"], known["width"]
                if all(type(edge) is int for edge in edges):
                    return edges
            if set(known) == {"shortest_edge"} and type(known["shortest_edge"]) is int:
                return known["shortest_edge"]
        raise self._refused(name, "a number, height and width, or shortest_edge", found)

    def _side(self, name: str, edges: int | tuple[int, int]) -> int:
        height, width = edges if isinstance(edges, tuple) else (edges, edges)
        if height != width:
            raise self._refused(name, "a square input", self._config[name])
        return height

    def _filter(self) -> str:
        found = self._config.get("resample", self._defaults.resample)
        if found not in RESAMPLE:
            known = ", ".join(f"{number} ({name})" for number, name in RESAMPLE.items())
            raise self._refused("resample", f"one of {known}", found)
        return RESAMPLE[found]

    def _does(self, step: str, default: bool = True) -> bool:
        found = self._config.get(step, default)
        if found is None:
            found = default
        if not isinstance(found, bool):
            raise self._refused(step, "true or false", found)
        return found

    def _number(self, name: str, default: float) -> float:
        found = self._config.get(name, default)
        if type(found) not in (int, float) or not found > 0:
            raise self._refused(name, "a number above 0", found)
        return found

    def _numbers(self, name: str) -> tuple[float, ...]:
        found = self._config.get(name)
        numbers: Any = [found] * 3 if type(found) in (int, float) else found
        if not isinstance(numbers, list) or not all(type(x) in (int, float) for x in numbers):
            raise self._refused(name, "three numbers", found)
        return tuple(numbers)

    def _refused(self, name: str, expected: str, found: Any) -> AdoptError:
        return AdoptError(f"{self._source}: {name}: expected {expected}; found {found!r:.80}")
