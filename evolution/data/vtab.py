"""The tasks of the Visual Task Adaptation Benchmark (arXiv 1910.04867): splits and classes.

They are those of google-research/task_adaptation with the arguments that the μ2Net code passes to
it. That code misspells two names, which are right here: the suffix of `smallnorb/label_azimuth/1k`
(`/1`) and the attribute of `smallnorb/label_elevation` (without n). It also leaves dSprites
ungrouped (32 positions, 40 orientations), where VTAB groups them by 16. That is kept, because the
published models have these outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from evolution.data.splits import CLASS_LABEL, Label, SplitRule

THOUSAND = "/1k"  # suffix of VTAB-1k: the same task from 800 + 200 examples

Share = tuple[str, int, int]  # a TFDS split, first and last per cent
Objects = Mapping[str, Any]  # the objects of a scene: arrays whose first axis is the object


@dataclass(frozen=True, slots=True)
class Partition:
    """Where VTAB's splits `train`, `val` and `test` come from."""

    train: Share
    validation: Share
    test: Share


OFFICIAL = Partition(("train", 0, 100), ("validation", 0, 100), ("test", 0, 100))
TRAIN_90 = Partition(("train", 0, 90), ("train", 90, 100), ("test", 0, 100))
TRAIN_80 = Partition(("train", 0, 80), ("train", 80, 100), ("test", 0, 100))
ONLY_TRAIN_60 = Partition(("train", 0, 60), ("train", 60, 80), ("train", 80, 100))
ONLY_TRAIN_80 = Partition(("train", 0, 80), ("train", 80, 90), ("train", 90, 100))
# The objects of CLEVR's test images are not published.
CLEVR = Partition(("train", 0, 90), ("train", 90, 100), ("validation", 0, 100))
# NORB's test images show other toys than its training images, so they also validate.
SMALLNORB = Partition(("train", 0, 100), ("test", 0, 50), ("test", 50, 100))


@dataclass(frozen=True, slots=True)
class VtabTask:
    """One task of VTAB, and its version of 1,000 examples with the suffix `/1k`."""

    dataset: str  # TFDS name
    partition: Partition
    label: Label = CLASS_LABEL
    pixel_scale: int = 1

    def rule(self, counts: Mapping[str, int], thousand: bool) -> SplitRule:
        """The task's splits, given how many examples each TFDS split has."""
        return SplitRule(
            train=_expression(self.partition.train, counts, 800 if thousand else None),
            validation=_expression(self.partition.validation, counts, 200 if thousand else None),
            test=_expression(self.partition.test, counts, None),
            label=self.label,
            pixel_scale=self.pixel_scale,
        )


def _expression(share: Share, counts: Mapping[str, int], first: int | None) -> str:
    """A share, or its first examples, in examples: VTAB rounds down where TFDS would round."""
    split, start, stop = share
    begin, end = counts[split] * start // 100, counts[split] * stop // 100
    if first is not None:
        end = min(end, begin + first)
    return split if (begin, end) == (0, counts[split]) else f"{split}[{begin}:{end}]"


def bin_index(value: float, edges: Sequence[float]) -> int:
    """The last edge that is below `value`: bins are open below, closed above. -1: no edge is.

    In float32, as TensorFlow compares.
    """
    return int((np.asarray(edges, np.float32) < np.float32(value)).sum()) - 1


def bin_names(edges: Sequence[float], unit: str = "") -> tuple[str, ...]:
    """The names of the bins of `edges`; the last has no upper end."""
    inner = [f"{low:g} to {high:g}{unit}" for low, high in pairwise(edges[1:])]
    return (f"up to {edges[1]:g}{unit}", *inner, f"above {edges[-1]:g}{unit}")


CLEVR_DISTANCES = (0.0, 8.0, 8.5, 9.0, 9.5, 10.0)
KITTI_OBJECT_DISTANCES = (-100, 5.6, 8.4, 13.4, 23.4)  # metres
KITTI_VEHICLE_DISTANCES = (-100.0, 8.0, 20.0, 999.0)  # beyond the last: no vehicle
NO_VEHICLE = 1000.0
CYLINDER = 2  # among CLEVR's shapes
VEHICLES = 3  # KITTI's first types of objects: car, van, truck


def clevr_count_all(objects: Objects) -> int:
    """How many objects there are; scenes have 3 to 10."""
    return len(objects["size"]) - 3


def clevr_count_cylinders(objects: Objects) -> int:
    """How many objects are cylinders."""
    return int((np.asarray(objects["shape"]) == CYLINDER).sum())


def clevr_closest_object_distance(objects: Objects) -> int:
    """How far the closest object is from the camera, in six bins."""
    return bin_index(_depths(objects["pixel_coords"]).min(initial=np.inf), CLEVR_DISTANCES)


def kitti_closest_object_distance(objects: Objects) -> int:
    """How far the closest object is from the camera, in five bins."""
    return bin_index(_depths(objects["location"]).min(initial=np.inf), KITTI_OBJECT_DISTANCES)


def kitti_count_vehicles(objects: Objects) -> int:
    """How many vehicles there are: 0, 1, 2, 3 or more."""
    return min(int((np.asarray(objects["type"]) < VEHICLES).sum()), 3)


def kitti_closest_vehicle_distance(objects: Objects) -> int:
    """How far the closest vehicle is from the camera, in three bins and one for none."""
    vehicles = np.asarray(objects["type"]) < VEHICLES
    distance = _depths(objects["location"])[vehicles].min(initial=NO_VEHICLE)
    return bin_index(distance, KITTI_VEHICLE_DISTANCES)


def _depths(points: Any) -> np.ndarray:
    """The third coordinate of points [n, 3]; n may be 0."""
    return np.asarray(points, np.float32).reshape(-1, 3)[:, 2]


def _scenes(
    dataset: str,
    partition: Partition,
    convert: Callable[[Objects], int],
    classes: Sequence[str],
) -> VtabTask:
    return VtabTask(dataset, partition, Label("objects", convert, tuple(classes)))


VTAB_TASKS: Mapping[str, VtabTask] = {
    "caltech101": VtabTask("caltech101", TRAIN_90),
    "cifar10": VtabTask("cifar10", TRAIN_90),
    "cifar100": VtabTask("cifar100", TRAIN_90),
    "dtd": VtabTask("dtd", OFFICIAL),
    "oxford_flowers102": VtabTask("oxford_flowers102", OFFICIAL),
    "oxford_iiit_pet": VtabTask("oxford_iiit_pet", TRAIN_80),
    "sun397": VtabTask("sun397/tfds", OFFICIAL),
    "svhn_cropped": VtabTask("svhn_cropped", TRAIN_90),
    "patch_camelyon": VtabTask("patch_camelyon", OFFICIAL),
    "eurosat": VtabTask("eurosat/rgb", ONLY_TRAIN_60),
    "resisc45": VtabTask("resisc45", ONLY_TRAIN_60),
    "diabetic_retinopathy_detection/btgraham-300": VtabTask(
        "diabetic_retinopathy_detection/btgraham-300", OFFICIAL
    ),
    "clevr/count_all": _scenes("clevr", CLEVR, clevr_count_all, [str(n) for n in range(3, 11)]),
    "clevr/count_cylinders": _scenes(
        "clevr", CLEVR, clevr_count_cylinders, [str(n) for n in range(11)]
    ),
    "clevr/closest_object_distance": _scenes(
        "clevr", CLEVR, clevr_closest_object_distance, bin_names(CLEVR_DISTANCES)
    ),
    "dmlab": VtabTask("dmlab", OFFICIAL),
    # The files hold 0 and 1; VTAB makes them black and white.
    "dsprites/label_x_position": VtabTask(
        "dsprites", ONLY_TRAIN_80, Label("label_x_position"), pixel_scale=255
    ),
    "dsprites/label_orientation": VtabTask(
        "dsprites", ONLY_TRAIN_80, Label("label_orientation"), pixel_scale=255
    ),
    "kitti/closest_object_distance": _scenes(
        "kitti",
        OFFICIAL,
        kitti_closest_object_distance,
        bin_names(KITTI_OBJECT_DISTANCES, " m"),
    ),
    "kitti/count_vehicles": _scenes(
        "kitti", OFFICIAL, kitti_count_vehicles, ["0", "1", "2", "3 or more"]
    ),
    "kitti/closest_vehicle_distance": _scenes(
        "kitti",
        OFFICIAL,
        kitti_closest_vehicle_distance,
        (*bin_names(KITTI_VEHICLE_DISTANCES, " m")[:-1], "no vehicle"),
    ),
    "smallnorb/label_category": VtabTask("smallnorb", SMALLNORB, Label("label_category")),
    "smallnorb/label_lighting": VtabTask("smallnorb", SMALLNORB, Label("label_lighting")),
    "smallnorb/label_azimuth": VtabTask("smallnorb", SMALLNORB, Label("label_azimuth")),
    "smallnorb/label_elevation": VtabTask("smallnorb", SMALLNORB, Label("label_elevation")),
}

# In full, these are tasks of the ViT benchmark with other splits (evolution/data/splits.py).
ONLY_THOUSAND = frozenset({"cifar10", "cifar100"})


def vtab_task(name: str) -> VtabTask | None:
    """The VTAB task of a task's name, with or without `/1k`; None if VTAB has no such task."""
    base = name.removesuffix(THOUSAND)
    return None if name in ONLY_THOUSAND else VTAB_TASKS.get(base)


def is_thousand(name: str) -> bool:
    """Whether a task of VTAB is its version of 1,000 examples."""
    return name.endswith(THOUSAND)
