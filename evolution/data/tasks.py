"""Tasks from TensorFlow Datasets and VTAB: found, split and labelled; read without TensorFlow.

The builders are TFDS' own and are read as data sources (array_record files). Nothing is downloaded
here: a data set that is not prepared is an error that says how to prepare it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from evolution.data.drawn_sets import DRAWN, DrawnSet
from evolution.data.errors import DataError
from evolution.data.images import Examples, Labels, Split, StreamedSplit, TaskError
from evolution.data.own import own_data
from evolution.data.preparing import default_data_dir
from evolution.data.rows import SPLITS
from evolution.data.small_tasks import SIDE, SMALL_TASKS, Chosen, SmallTask
from evolution.data.splits import (
    CLASS_LABEL,
    MU2NET_SPLITS,
    MUNET_SPLITS,
    SplitRule,
    SplitRules,
    decoding_rules,
    published_version,
    split_rule,
)
from evolution.data.tfds_builders import class_names, examples_of, prepared_builder
from evolution.data.vtab import is_thousand, vtab_task
from evolution.experiments.experiment import Experiment
from evolution.training.objectives import OBJECTIVES, Objective
from model_store.names import require_name
from vit.activation import SIGMOID, SOFTMAX
from vit.contract import Contract
from vit.decode import Decoding

logger = logging.getLogger(__name__)

PRIVATE_PREFIX = "private:"  # in a task list: no other task may start from this path
# Side in pixels of training images if a data set has images of many sizes; large enough for crops.
# The command line passes less to experiments of small images.
CANVAS = 448
MEMORY_LIMIT = 2 << 30  # bytes: splits with more training pixels are streamed from the disk
KEPT_BYTES = 4 << 30  # what a TaskSource keeps for later use
SPLIT_RULES = {"munet": MUNET_SPLITS, "mu2net": MU2NET_SPLITS}  # Method.splits


@dataclass(frozen=True, slots=True)
class Task:
    """One image classification task."""

    name: str  # the TFDS or VTAB name, which is also the task's id in the store
    private: bool
    labels: tuple[str, ...]
    train: Split | StreamedSplit
    validation: Split | StreamedSplit
    test: Split | StreamedSplit
    data: Mapping[str, Any] | None = None  # a user's own set: name, fingerprint, source, licence
    activation: str = SOFTMAX  # one class a picture; SIGMOID: several labels, or none

    def under(self, contract: Contract | None) -> Task:
        """The same task with its images prepared by a contract; None for the plain way."""
        train, validation, test = (
            replace(split, contract=contract) for split in (self.train, self.validation, self.test)
        )
        return replace(self, train=train, validation=validation, test=test)

    @property
    def contract(self) -> Contract | None:
        """How its images are prepared; None for the plain way."""
        return self.train.contract

    @property
    def objective(self) -> Objective:
        """How its heads are trained and judged."""
        return OBJECTIVES[self.activation]

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.labels)

    @property
    def decoding(self) -> Decoding:
        """The rules by which its files become pixels, in training and in serving."""
        return self.train.decoding

    @property
    def bytes_in_memory(self) -> int:
        """The pixels of all splits that are held in memory."""
        splits = (self.train, self.validation, self.test)
        return sum(split.images.nbytes for split in splits if isinstance(split, Split))


@dataclass(slots=True)
class TaskSource:
    """Loads tasks by name; keeps those used last."""

    data_dirs: tuple[Path, ...] = field(default_factory=lambda: (default_data_dir(),))
    rules: SplitRules = field(default_factory=lambda: MU2NET_SPLITS)
    canvas: int = CANVAS
    memory_limit: int = MEMORY_LIMIT
    _loaded: dict[str, Task] = field(default_factory=dict)

    def __call__(self, entry: str) -> Task:
        """The task of an entry of a task list; raises TaskError."""
        task = self._loaded.pop(entry, None)
        if task is None:
            task = load(
                entry, self.data_dirs, self.rules, self.canvas, self.memory_limit, self._make_room
            )
        self._loaded[entry] = task  # last in the order of eviction
        return task

    def _make_room(self, needed: int) -> None:
        """Drops the tasks used longest ago, until `needed` bytes fit too."""
        kept = self._loaded
        while kept and needed + sum(t.bytes_in_memory for t in kept.values()) > KEPT_BYTES:
            kept.pop(next(iter(kept)))


def task_name(entry: str) -> str:
    """A task list's entry without the prefix of a private task."""
    return entry.removeprefix(PRIVATE_PREFIX)


def load(
    entry: str,
    data_dirs: tuple[Path, ...],
    rules: SplitRules = MU2NET_SPLITS,
    canvas: int = CANVAS,
    memory_limit: int = MEMORY_LIMIT,
    make_room: Callable[[int], object] = lambda needed: None,
) -> Task:
    """Opens all three splits of a task: in memory up to `memory_limit` bytes each, else streamed.

    `canvas` is the side of training images if originals differ in size. `make_room` is called with
    the bytes of all splits in memory before they are read. Raises TaskError.
    """
    name = require_name("task", task_name(entry))
    found = _own(name) or _small(name, data_dirs, rules) or _prepared(name, data_dirs, rules)
    side = found.side or canvas
    streamed = [StreamedSplit(split, examples, side) for split, examples in found.parts]

    def fits(split: StreamedSplit) -> bool:
        return split.bytes_in_memory <= memory_limit

    make_room(sum(split.bytes_in_memory for split in streamed if fits(split)))
    if found.side:  # evaluation sees the scaled pictures too
        train, validation, test = (replace(s.in_memory(), originals=None) for s in streamed)
    else:
        train, validation, test = (s.in_memory() if fits(s) else s for s in streamed)
    return Task(
        name=name,
        private=entry.startswith(PRIVATE_PREFIX),
        labels=found.labels,
        train=train,
        validation=validation,
        test=test,
        data=found.data,
        activation=SIGMOID if found.multi_label else SOFTMAX,
    )


@dataclass(frozen=True, slots=True)
class _Originals:
    """A task's images as they lie on the disk."""

    labels: tuple[str, ...]
    parts: tuple[tuple[str, Examples], ...]  # names and images of training, validation and test
    data: Mapping[str, Any] | None = None
    multi_label: bool = False
    side: int | None = None  # all pictures are scaled to this many pixels


def _own(name: str) -> _Originals | None:
    """A user's own set of that name, if there is one."""
    try:
        own = own_data(name)
    except DataError as error:
        raise TaskError(str(error)) from error
    if own is None:
        return None
    for warning in own.warnings:
        logger.info("event=caution task=%s caution=%r", name, warning)
    return _Originals(own.labels, tuple(own.examples.items()), own.told, own.multi_label)


def _small(name: str, data_dirs: tuple[Path, ...], rules: SplitRules) -> _Originals | None:
    """Some classes and pictures of a data set, if a small task has that name."""
    task = SMALL_TASKS.get(name)
    if task is None:
        return None
    if task.dataset in DRAWN:
        names, whole, labels = _drawn(task.dataset)
    else:
        names, whole, labels = _source_of(task, data_dirs, rules)
    classes = task.chosen(names)
    numbers = {label: number for number, label in enumerate(classes)}

    def parse(record: bytes) -> Mapping[str, Any]:
        example = whole.parse(record)
        return {**example, "label": numbers[example["label"]]}

    def chosen(rows: Sequence[int]) -> Examples:
        records = Chosen(whole.records, rows)
        shape = (None, None, whole.shape[2])  # they are scaled
        return replace(whole, records=records, parse=parse, num_classes=len(classes), shape=shape)

    rows = task.rows(labels, classes)
    parts = tuple((f"{task.source}, {split}", chosen(rows[split])) for split in SPLITS)
    return _Originals(tuple(names[label] for label in classes), parts, side=SIDE)


_Whole = tuple[tuple[str, ...], Examples, Labels]  # class names, pictures, the class of each


def _drawn(dataset: str) -> _Whole:
    found = DrawnSet(dataset)
    examples = Examples(dataset, found, DrawnSet.parse, len(found.names), (None, None, 3))
    return found.names, examples, found.labels


def _source_of(task: SmallTask, data_dirs: tuple[Path, ...], rules: SplitRules) -> _Whole:
    builder = prepared_builder(task.dataset, data_dirs)
    scale = split_rule(task.dataset, rules, builder.info.splits).pixel_scale
    decoding = replace(decoding_rules(builder.name), pixel_scale=scale)
    whole = examples_of(builder, task.source, SplitRule("", "", ""), decoding)
    labels = _all_classes(task.dataset, task.source, data_dirs)
    return class_names(builder, CLASS_LABEL), whole, labels


@cache
def _all_classes(dataset: str, source: str, data_dirs: tuple[Path, ...]) -> Labels:
    builder = prepared_builder(dataset, data_dirs)
    rule = SplitRule("", "", "")
    return examples_of(builder, source, rule, decoding_rules(builder.name)).classes()


def _prepared(name: str, data_dirs: tuple[Path, ...], rules: SplitRules) -> _Originals:
    builder, rule = _recipe(name, data_dirs, rules)
    if rule.caution:
        logger.warning("event=caution task=%s caution=%r", name, rule.caution)
    validating = builder
    if rule.validation_dataset:
        validating = prepared_builder(rule.validation_dataset, data_dirs)
    parts = ((builder, rule.train), (validating, rule.validation), (builder, rule.test))
    decoding = replace(decoding_rules(builder.name), pixel_scale=rule.pixel_scale)
    examples = tuple((split, examples_of(of, split, rule, decoding)) for of, split in parts)
    return _Originals(class_names(builder, rule.label), examples)


def prepared_examples(
    name: str, data_dirs: tuple[Path, ...], rules: SplitRules = MU2NET_SPLITS
) -> tuple[tuple[str, ...], dict[str, Examples]]:
    """Class names of a TFDS or VTAB task, and its training, validation and test images.

    Raises TaskError.
    """
    found = _prepared(name, data_dirs, rules)
    images = (examples for _, examples in found.parts)
    return found.labels, dict(zip(SPLITS, images, strict=True))


def is_published(name: str) -> bool:
    """Whether a benchmark has splits and classes of its own for a name."""
    named = any(fnmatchcase(name, pattern) for pattern in MU2NET_SPLITS)
    return named or vtab_task(name) is not None or published_version(name) is not None


def _recipe(
    name: str, data_dirs: tuple[Path, ...], rules: SplitRules
) -> tuple[tfds.core.DatasetBuilder, SplitRule]:
    """The data set that a task is made of, and how it is split and labelled."""
    vtab = vtab_task(name)
    if vtab is None:
        builder = prepared_builder(name, data_dirs)
        return builder, split_rule(name, rules, builder.info.splits)
    builder = prepared_builder(vtab.dataset, data_dirs)
    counts = {split: info.num_examples for split, info in builder.info.splits.items()}
    return builder, vtab.rule(counts, is_thousand(name))


def source_of(experiment: Experiment) -> TaskSource:
    """The tasks of an experiment, as its method splits them."""
    # Crops need more pixels, if a data set has images of many sizes.
    canvas = min(2 * experiment.defaults["ds_image_size"], CANVAS)
    return TaskSource(rules=SPLIT_RULES[experiment.method.splits], canvas=canvas)
