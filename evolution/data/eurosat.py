"""Satellite pictures for training the shipped root: EuroSAT without its labels, and not all of it.

Of each class the files numbered 1000 to 1199 are never trained on, so that a linear probe on them
measures what the root sees, not what it remembers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from numpy.typing import NDArray

from evolution.data.images import Labels, TaskError, decode_image
from evolution.data.tfds_builders import prepared_builder, records

DATASET = "eurosat"
KEPT_OUT = range(1000, 1200)  # file numbers within each class
PROBE_TRAIN, PROBE_TEST = range(1000, 1100), range(1100, 1150)  # 1,000 and 500 pictures


def satellite_pictures(data_dir: Path) -> NDArray[np.uint8]:
    """The pictures that a root may be trained on: uint8 [n, 64, 64, 3]. Raises TaskError."""
    files = _files(data_dir, lambda number: number not in KEPT_OUT)
    return np.stack([image for _, _, image in files])


def probe_pictures(data_dir: Path) -> tuple[tuple[NDArray[np.uint8], Labels], ...]:
    """Pictures and their classes, of PROBE_TRAIN and of PROBE_TEST. Raises TaskError."""
    files = [*_files(data_dir, lambda number: number in PROBE_TRAIN or number in PROBE_TEST)]

    def part(numbers: range) -> tuple[NDArray[np.uint8], Labels]:
        found = [(image, label) for number, label, image in files if number in numbers]
        images, labels = zip(*found, strict=True)
        return np.stack(images), np.asarray(labels, np.int32)

    return part(PROBE_TRAIN), part(PROBE_TEST)


def _files(
    data_dir: Path, wanted: Callable[[int], bool]
) -> Iterator[tuple[int, int, NDArray[np.uint8]]]:
    """File number, class and image of each picture whose number is wanted."""
    builder = prepared_builder(DATASET, (data_dir,))
    features: Any = builder.info.features
    undecoded = {"image": tfds.decode.SkipDecoding()}
    for record in records(builder, "train"):
        example = features.deserialize_example_np(record, decoders=undecoded)
        name = example["filename"].decode()
        number = re.search(r"_(\d+)\.", name)
        if number is None:
            raise TaskError(f"{DATASET}: expected a file name such as River_7.jpg, found {name!r}")
        if wanted(int(number[1])):
            yield int(number[1]), int(example["label"]), decode_image(example["image"], 3)
