"""Data sets of TensorFlow Datasets (TFDS): prepared on this machine, or by a user's own builder.

    tfds:NAME       prepared below TFDS_DATA_DIR; a benchmark's set has its published splits
    tfds:FOLDER     prepared, in any folder
    tfds:FILE.py    the file of a builder, which is run

Records are read one after the other, without TensorFlow.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evolution.data.errors import DataError, listed
from evolution.data.rows import MAX_FILE_BYTES, SPLITS, Row, Skipped, Source, split_named

if TYPE_CHECKING:
    from tensorflow_datasets.core import DatasetBuilder

AT_ONCE = 256  # records
INFO = "dataset_info.json"  # a prepared folder has it
TFRECORD = "tfrecord"
Parse = Callable[[bytes], Mapping[str, Any]]


def prepared_source(name: str, scratch: Path) -> Source:
    """The pictures of a name, folder or builder, prepared in the new folder `scratch` if needed.

    Raises DataError.
    """
    # TFDS takes seconds to load.
    from evolution.data.images import TaskError
    from evolution.data.preparing import PreparationError, default_data_dir, prepared_by
    from evolution.data.tasks import is_published
    from evolution.data.tfds_builders import prepared_builder

    path, places = Path(name).expanduser(), (default_data_dir(),)
    try:
        if path.suffix == ".py":
            builder = prepared_by(builder_class(path), scratch)
        elif path.is_dir():
            builder = _in_folder(path)
        elif is_published(name):
            return _published_source(name, places)
        else:
            builder = prepared_builder(name, places)
        return _source(name, builder)
    except (TaskError, PreparationError) as error:
        raise DataError(f"tfds:{name}: {error}") from None


def _published_source(name: str, places: tuple[Path, ...]) -> Source:
    """A set with the splits and classes of its benchmark."""
    from evolution.data.tasks import prepared_examples

    labels, examples = prepared_examples(name, places)
    scales = {each.decoding.pixel_scale for each in examples.values()}
    if scales != {1}:
        raise DataError(
            f"tfds:{name}: expected pictures as they are to be seen, found pixels to be multiplied "
            f"by {max(scales)}; train on it by its TFDS name, without adding it"
        )

    def rows() -> Iterator[Row | Skipped]:
        for split in SPLITS:
            found = examples[split]
            records = _by_number(found.encoded, len(found))
            yield from _rows(split, split, records, found.parse, labels)

    return Source(rows, classes=labels, total=sum(map(len, examples.values())))


def _source(name: str, builder: DatasetBuilder) -> Source:
    """A set with its own splits."""
    splits = {part: split for part in builder.info.splits if (split := split_named(part))}
    if not splits or len(set(splits.values())) < len(splits):
        raise DataError(
            f"tfds:{name}: expected splits called {', '.join(SPLITS)}, found "
            f"{listed(list(builder.info.splits)) or 'none'}"
        )
    parse, labels, multi_label = _parser(name, builder)
    others = [part for part in builder.info.splits if part not in splits]
    notes = [f"left out, as they are no splits known here: {listed(others)}"] if others else []

    def rows() -> Iterator[Row | Skipped]:
        for part, split in splits.items():
            yield from _rows(part, split, _records(builder, part), parse, labels)

    total = sum(builder.info.splits[part].num_examples for part in splits)
    return Source(rows, labels, total, notes, lambda: multi_label)


def _rows(
    part: str, split: str, records: Iterator[bytes], parse: Parse, labels: tuple[str, ...]
) -> Iterator[Row | Skipped]:
    for number, record in enumerate(records):
        where = f"{part} {number}"
        try:
            parsed = parse(record)
            image, found = bytes(parsed["image"]), np.atleast_1d(parsed["label"]).tolist()
            if not all(0 <= label < len(labels) for label in found):
                raise ValueError(f"class {found}: unlabelled")
        except Exception as error:  # TFDS' parser documents none
            yield Skipped(where, str(error))
            continue
        yield Row(where, image, tuple(dict.fromkeys(labels[label] for label in found)), split)


def _parser(name: str, builder: DatasetBuilder) -> tuple[Parse, tuple[str, ...], bool]:
    """Reads picture and class of a record; names of classes; whether a picture has several."""
    import tensorflow_datasets as tfds

    told: Any = builder.info.features  # TFDS' types do not say that it is a mapping
    features = dict(told.items())
    keys: Any = builder.info.supervised_keys or ("image", "label")
    image, label = (features.get(key) for key in keys[:2])
    multi_label = isinstance(label, tfds.features.Sequence)
    named: Any = label.feature if multi_label else label
    if not isinstance(image, tfds.features.Image) or not isinstance(
        named, tfds.features.ClassLabel
    ):
        raise DataError(
            f"tfds:{name}: expected an image and its class as supervised_keys, or as features "
            f"`image` and `label`; found {listed([*features])}"
        )
    wanted = tfds.features.FeaturesDict({keys[0]: image, keys[1]: label})
    undecoded = {keys[0]: tfds.decode.SkipDecoding()}

    def parse(record: bytes) -> Mapping[str, Any]:
        found: Any = wanted.deserialize_example_np(record, decoders=undecoded)
        return {"image": found[keys[0]], "label": found[keys[1]]}

    return parse, tuple(named.names), multi_label


# ---- builders


def _in_folder(folder: Path) -> DatasetBuilder:
    """The builder of the folder of a version, or of the newest version below it."""
    import tensorflow_datasets as tfds

    found = sorted(folder.glob(f"**/{INFO}"))
    if not found:
        raise DataError(
            f"tfds:{folder}: expected a data set that TFDS prepared ({INFO}), found none; give its "
            "folder, as ~/tensorflow_datasets/NAME/1.0.0, or the file of its builder"
        )
    if len({path.parent.parent for path in found}) > 1:
        raise DataError(
            f"tfds:{folder}: expected one data set, found "
            f"{listed([str(path.parent.relative_to(folder)) for path in found])}; name one"
        )
    newest = max(found, key=lambda path: [part.zfill(9) for part in path.parent.name.split(".")])
    try:
        return tfds.builder_from_directory(newest.parent)
    except Exception as error:  # TFDS documents none
        raise DataError(f"tfds:{folder}: TFDS cannot read it: {error!s:.300}") from None


def builder_class(path: Path) -> type[DatasetBuilder]:
    """The builder that a file of Python defines, which is run."""
    import tensorflow_datasets as tfds

    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise DataError(f"tfds:{path}: expected the file of a TFDS builder, found no file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise DataError(f"tfds:{path}: {type(error).__name__}: {error!s:.300}") from error
    found = [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, tfds.core.DatasetBuilder)
        and value.__module__ == path.stem
    ]
    if len(found) != 1:
        raise DataError(
            f"tfds:{path}: expected one class of a builder (tfds.core.GeneratorBasedBuilder), "
            f"found {len(found)}"
        )
    return found[0]


# ---- records


def _records(builder: DatasetBuilder, split: str) -> Iterator[bytes]:
    from evolution.data.tfds_builders import records

    if builder.info.file_format is None or builder.info.file_format.value != TFRECORD:
        found = records(builder, split)
        return _by_number(lambda rows: found.__getitems__(rows.tolist()), len(found))
    files = builder.info.splits[split].filepaths
    return (record for file in files for record in _tfrecords(Path(file)))


def _by_number(read: Callable[[Any], Any], count: int) -> Iterator[bytes]:
    for start in range(0, count, AT_ONCE):
        yield from read(np.arange(start, min(start + AT_ONCE, count)))


def _tfrecords(file: Path) -> Iterator[bytes]:
    """Length (8 bytes), checksum (4), record, checksum (4); the checksums are not checked."""
    with file.open("rb") as stream:
        while head := stream.read(12):
            length = int.from_bytes(head[:8], "little")
            record = stream.read(length) if length <= 2 * MAX_FILE_BYTES else b""
            if len(record) < length or len(head) + len(stream.read(4)) < 16:
                raise DataError(
                    f"{file}: expected records of TFDS, found one that is cut off or too large at "
                    f"byte {stream.tell():,}; prepare the data set again"
                )
            yield record
