"""Data sets of TensorFlow Datasets that are prepared on this machine, a user's own among them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from evolution.data.errors import DataError
from evolution.data.rows import SPLITS, Row, Skipped, Source

AT_ONCE = 256  # records


def prepared_source(name: str) -> Source:
    """The splits that a task of this name has. Raises DataError."""
    # It takes seconds to load.
    from evolution.examples import TaskError
    from evolution.tasks import SHIPPED, default_data_dir, prepared_examples

    try:
        labels, examples = prepared_examples(name, (SHIPPED, default_data_dir()))
    except TaskError as error:
        raise DataError(f"tfds:{name}: {error}") from None
    scales = {each.decoding.pixel_scale for each in examples.values()}
    if scales != {1}:
        raise DataError(
            f"tfds:{name}: expected pictures as they are to be seen, found pixels to be multiplied "
            f"by {max(scales)}; train on it by its TFDS name, without adding it"
        )

    def rows() -> Iterator[Row | Skipped]:
        for split in SPLITS:
            found = examples[split]
            for start in range(0, len(found), AT_ONCE):
                numbers = np.arange(start, min(start + AT_ONCE, len(found)))
                for number, record in zip(numbers, found.encoded(numbers), strict=True):
                    where = f"{split} {number}"
                    try:
                        parsed = found.parse(record)
                        image, label = bytes(parsed["image"]), int(parsed["label"])
                        if not 0 <= label < len(labels):
                            raise ValueError(f"class {label}: unlabelled")
                    except Exception as error:  # TFDS' parser documents none
                        yield Skipped(where, str(error))
                        continue
                    yield Row(where, image, labels[label], split)

    return Source(rows, classes=labels, total=sum(map(len, examples.values())))
