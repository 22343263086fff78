"""Prepared data sets of TensorFlow Datasets: their pictures and classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from evolution.data.images import Examples, TaskError
from evolution.data.preparing import UNKNOWN, builders, unknown_told, warn_of_version
from evolution.data.splits import Label, SplitRule
from vit.decode import Decoding

READABLE_FORMAT = "array_record"


class NoSuchTask(TaskError):
    """No data set has that name."""


def prepared_builder(name: str, data_dirs: tuple[Path, ...]) -> tfds.core.DatasetBuilder:
    """The builder of the first folder that has the data set prepared.

    All folders are tried: a data set whose builder is not part of TFDS is known in its folder only.
    """
    looked = ", ".join(str(data_dir) for data_dir in data_dirs)
    unknown = []
    for data_dir in data_dirs:
        try:
            prepared = next((b for b in builders(name, data_dir) if b.info.splits), None)
        except UNKNOWN as error:
            unknown.append(error)
            continue
        if prepared is not None:
            warn_of_version(name, prepared)
            return prepared
    if len(unknown) == len(data_dirs):
        raise NoSuchTask(
            f"no TensorFlow data set is called {name!r}: {unknown_told(name, unknown[-1])}\n"
            f"none of that name is prepared in {looked} either, nor is one of your own there "
            "(munet data ls)"
        )
    raise TaskError(
        f"data set {name!r} is not prepared in {looked}; run: munet experiments prepare {name}"
    )


def readable(builder: tfds.core.DatasetBuilder) -> tfds.core.DatasetBuilder:
    """The builder; raises TaskError if its examples cannot be read at random without TensorFlow."""
    written = builder.info.file_format
    found = written.value if written else "nothing"
    if found != READABLE_FORMAT:
        name = builder.info.full_name.rpartition("/")[0]  # without the version
        raise TaskError(
            f"{builder.data_path} is prepared as {found}, and only {READABLE_FORMAT} is read at "
            "random without TensorFlow; prepare it as that (TFDS_DATA_DIR=FOLDER munet experiments "
            f"prepare {name}), or add it:\n"
            f"munet data add NAME --from tfds:{builder.data_path}"
        )
    return builder


def _feature(builder: tfds.core.DatasetBuilder, name: str) -> Any:
    features: Any = builder.info.features  # TFDS' types do not say that it is a mapping
    if name not in features:
        raise TaskError(
            f"{builder.name}: expected a feature {name!r}, found {', '.join(sorted(features))}; "
            "only data sets of images with one class each make tasks"
        )
    return features[name]


def class_names(builder: tfds.core.DatasetBuilder, label: Label) -> tuple[str, ...]:
    """The names of its classes; raises TaskError."""
    if label.classes:
        return label.classes
    feature = _feature(builder, label.feature)
    if not isinstance(feature, tfds.features.ClassLabel):
        raise TaskError(f"{builder.name}: expected {label.feature!r} to be classes: {feature}")
    return tuple(feature.names)


def examples_of(
    builder: tfds.core.DatasetBuilder, split: str, rule: SplitRule, decoding: Decoding
) -> Examples:
    """The pictures of a split, with the label of a rule; raises TaskError."""
    image, label = _feature(builder, "image"), _feature(builder, rule.label.feature)
    shape = tuple(image.shape)
    if image.np_dtype != np.uint8 or len(shape) != 3 or shape[2] not in (1, 3):
        raise TaskError(
            f"{builder.name}: expected uint8 images of 1 or 3 channels, found {image}; "
            "other images need a conversion of their own"
        )
    return Examples(
        source=f"{builder.name} {split}",
        records=records(builder, split),
        parse=_parser(image, label, rule.label),
        num_classes=len(class_names(builder, rule.label)),
        shape=shape,
        decoding=decoding,
    )


def records(builder: tfds.core.DatasetBuilder, split: str) -> Any:
    """The encoded examples of a split, by random access. Raises TaskError."""
    builder, raw = readable(builder), tfds.decode.DeserializeMethod.RAW_BYTES
    try:
        # TFDS' decorator hides the parameters of this method from type checkers.
        records: Any = builder.as_data_source(split=split, deserialize_method=raw)  # pyright: ignore[reportCallIssue]
    except (KeyError, ValueError) as error:
        raise TaskError(
            f"{builder.name}: expected examples in split {split!r}, found splits "
            f"{', '.join(sorted(builder.info.splits))}: {error}"
        ) from error
    return records


def _parser(image: Any, label: Any, rule: Label) -> Callable[[bytes], Mapping[str, Any]]:
    """Reads image and label only; other features, which may be images, are not decoded."""
    wanted = tfds.features.FeaturesDict({"image": image, rule.feature: label})
    undecoded = {"image": tfds.decode.SkipDecoding()}

    def parse(record: bytes) -> Mapping[str, Any]:
        example: Any = wanted.deserialize_example_np(record, decoders=undecoded)
        return {"image": example["image"], "label": rule.convert(example[rule.feature])}

    return parse
