"""Tasks from TensorFlow Datasets: which splits, read without TensorFlow.

The builders are TFDS' own and are read as data sources (array_record files). Nothing is downloaded
here: a data set that is not prepared is an error that says how to prepare it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from numpy.typing import NDArray
from PIL import Image, ImageFilter, ImageOps

from model_store.names import require_name

STROKES = (1, 5)  # pixels by which `omniglot` widens strokes; 1 = as they are
SHIPPED = Path(__file__).with_name("datasets")
READABLE_FORMAT = "array_record"
PRIVATE_PREFIX = "private:"  # in a task list: nobody may start from this task's path

# Splits that differ from the default rule, by data set (spec/benchmarks.md §2).
SPLITS: Mapping[str, tuple[str, str, str]] = {
    "cmaterdb": ("train[20%:]", "train[:20%]", "test"),
}


class TaskError(Exception):
    """A task's data cannot be used; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Split:
    """Examples in memory."""

    name: str  # the TFDS split expression
    images: NDArray[np.uint8]  # [n, h, w, 1 or 3]
    labels: NDArray[np.int32]  # [n]


@dataclass(frozen=True, slots=True)
class Task:
    """One image classification task."""

    name: str  # the TFDS name, which is also the task's id in the store
    private: bool
    labels: tuple[str, ...]
    train: Split
    validation: Split
    test: Split

    @property
    def num_classes(self) -> int:
        """How many classes there are to tell apart."""
        return len(self.labels)


@dataclass(slots=True)
class TaskSource:
    """Loads tasks by name, once each."""

    data_dirs: tuple[Path, ...] = field(default_factory=lambda: (SHIPPED, default_data_dir()))
    _loaded: dict[str, Task] = field(default_factory=dict)

    def __call__(self, entry: str) -> Task:
        """The task of an entry of a task list; raises TaskError."""
        if entry not in self._loaded:
            self._loaded[entry] = load(entry, self.data_dirs)
        return self._loaded[entry]


def default_data_dir() -> Path:
    """TFDS' own place for prepared data sets (environment variable TFDS_DATA_DIR)."""
    return Path(os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser()


def task_name(entry: str) -> str:
    """A task list's entry without the mark of a private task."""
    return entry.removeprefix(PRIVATE_PREFIX)


def load(entry: str, data_dirs: tuple[Path, ...]) -> Task:
    """Reads all three splits of a task into memory."""
    name = require_name("task", task_name(entry))
    builder = _prepared_builder(name, data_dirs)
    train, validation, test = _splits(name, builder)
    return Task(
        name=name,
        private=entry.startswith(PRIVATE_PREFIX),
        labels=_label_names(builder),
        train=_read(builder, train),
        validation=_read(builder, validation),
        test=_read(builder, test),
    )


def _prepared_builder(name: str, data_dirs: tuple[Path, ...]) -> tfds.core.DatasetBuilder:
    for data_dir in data_dirs:
        try:
            builder = tfds.builder(name, data_dir=data_dir)
        except (tfds.core.DatasetNotFoundError, ValueError, AssertionError) as error:
            raise TaskError(f"no TensorFlow data set is called {name!r}: {error}") from None
        if builder.info.splits:
            return _readable(builder)
    looked = ", ".join(str(data_dir) for data_dir in data_dirs)
    raise TaskError(
        f"data set {name!r} is not prepared in {looked}; "
        f"run: python -m evolution prepare {name} (needs the `prepare` extra)"
    )


def _readable(builder: tfds.core.DatasetBuilder) -> tfds.core.DatasetBuilder:
    written = builder.info.file_format
    if written is None or written.value != READABLE_FORMAT:
        raise TaskError(
            f"{builder.data_path} is prepared as {written.value if written else 'nothing'}, and "
            f"only {READABLE_FORMAT} reads without TensorFlow; prepare it into another folder: "
            f"TFDS_DATA_DIR=FOLDER python -m evolution prepare {builder.name}"
        )
    return builder


def _label_names(builder: tfds.core.DatasetBuilder) -> tuple[str, ...]:
    features: Any = builder.info.features  # TFDS' types do not tell that it is a mapping
    label = dict(features.items()).get("label")
    if not isinstance(label, tfds.features.ClassLabel) or "image" not in features:
        raise TaskError(
            f"{builder.name}: expected features `image` and `label` (classes), found {features}"
        )
    return tuple(label.names)


def _splits(name: str, builder: tfds.core.DatasetBuilder) -> tuple[str, str, str]:
    special = SPLITS.get(name) or SPLITS.get(name.split("/")[0])
    if special:
        return special
    # The default rule: each of test and validation that is missing takes the next 5 % of train.
    taken, chosen = 0, {}
    for wanted in ("test", "validation"):
        chosen[wanted] = wanted
        if wanted not in builder.info.splits:
            chosen[wanted] = f"train[{taken}%:{taken + 5}%]"
            taken += 5
    return (f"train[{taken}%:]" if taken else "train", chosen["validation"], chosen["test"])


def _examples(builder: tfds.core.DatasetBuilder, split: str) -> Sequence[Mapping[str, Any]]:
    # TFDS' decorator hides the parameters of this method from type checkers.
    return builder.as_data_source(split=split)  # pyright: ignore[reportCallIssue]


def _read(builder: tfds.core.DatasetBuilder, split: str) -> Split:
    examples = [(np.asarray(e["image"]), e["label"]) for e in _examples(builder, split)]
    kinds = {(image.dtype, image.shape[2:]) for image, _ in examples}
    if not kinds <= {(np.dtype(np.uint8), (1,)), (np.dtype(np.uint8), (3,))}:
        raise TaskError(f"{builder.name}: expected uint8 images of 1 or 3 channels, found {kinds}")
    shapes = {image.shape for image, _ in examples}
    if len(shapes) != 1:
        raise TaskError(
            f"{builder.name} {split}: expected images of one size, found {len(shapes)} sizes; "
            "data sets of mixed sizes are not supported yet"
        )
    images = np.stack([image for image, _ in examples])
    return Split(split, images, np.asarray([label for _, label in examples], np.int32))


def omniglot(data_dir: Path) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """All 1,623 characters of Omniglot, for training a root: images [n, 32, 32, 1] and labels [n].

    Each image comes twice, as it is and with wider strokes. Raises TaskError if it is not prepared.
    """
    builder = _prepared_builder("omniglot", (data_dir,))
    images, labels = [], []
    for split in ("train", "test"):  # different alphabets
        for example in _examples(builder, split):
            for stroke in STROKES:
                images.append(draw_character(example["image"], stroke, 32))
                labels.append(example["label"])
    return np.stack(images), np.asarray(labels, np.int32)


def draw_character(image: NDArray[np.uint8], stroke: int, size: int) -> NDArray[np.uint8]:
    """[h, w, c] of 0 and 1 -> [size, size, 1]: strokes widened, cropped to the ink, resized."""
    page = Image.fromarray((image[..., 0] > 0).astype(np.uint8) * 255)
    page = page.filter(ImageFilter.MinFilter(stroke))
    page = page.crop(ImageOps.invert(page).getbbox())
    # A single stroke would otherwise fill the whole image.
    narrowest = max(page.size) // 3
    width, height = (max(side, narrowest) for side in page.size)
    framed = Image.new("L", (width, height), 255)
    framed.paste(page, ((width - page.width) // 2, (height - page.height) // 2))
    return np.asarray(framed.resize((size, size), Image.Resampling.BOX))[..., None]
