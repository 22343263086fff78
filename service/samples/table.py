"""A parquet file of samples: one row for each picture and task.

image        struct<bytes, path>  the upload as it came; the path is made of its digest
label        list<string>         the answer: the most probable class; with several labels a
                                  picture, those that are more probable than not
probability  double               of that class; with several labels, of the least sure yes or no
answers      list<struct<label, probability>>  the best, and all of `label`
task         string
version      int64                that answered
activation   string               softmax: one label a picture; sigmoid: any number
time         timestamp, UTC

`image` has the form of the Hugging Face Hub, so its library shows the pictures.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from vit.activation import SIGMOID, sigmoid, softmax

BEST = 5  # classes of an answer that are kept
ROWS_A_GROUP = 16  # so that a reader needs little memory
ROW_BYTES = 1000  # of a row, without its picture
DIGEST_CHARACTERS = 32
ENDINGS = (
    (b"\x89PNG", ".png"),
    (b"\xff\xd8", ".jpg"),
    (b"GIF8", ".gif"),
    (b"BM", ".bmp"),
    (b"RIFF", ".webp"),
)
_ANSWER = pa.struct([("label", pa.string()), ("probability", pa.float64())])
SCHEMA = pa.schema([
    ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
    ("label", pa.list_(pa.string())),
    ("probability", pa.float64()),
    ("answers", pa.list_(_ANSWER)),
    ("task", pa.string()),
    ("version", pa.int64()),
    ("activation", pa.string()),
    ("time", pa.timestamp("ms", "UTC")),
])  # fmt: skip


def certainty(logits: NDArray[np.float32], activation: str, temperature: float) -> float:
    """How sure an answer is, by its logits [classes]: the probability of its class; with several
    labels a picture, of the least sure yes or no. NaN where a logit is.
    """
    if activation == SIGMOID:
        return float(1 / (1 + np.exp(-np.abs(logits).min() / temperature)))
    return float(1 / np.exp((logits - logits.max()) / temperature).sum())


@dataclass(frozen=True, slots=True)
class Answer:
    """A version's answer to a picture; it holds no weights."""

    task: str
    version: int
    labels: Sequence[str]
    activation: str
    temperature: float
    logits: NDArray[np.float32]  # [classes]

    def probabilities(self) -> NDArray[np.float32]:
        """Calibrated, of each class, as the client was told."""
        of = sigmoid if self.activation == SIGMOID else softmax
        return of(self.logits / np.float32(self.temperature))


@dataclass(frozen=True, slots=True)
class Sample:
    """An uploaded picture and what was answered."""

    image: bytes
    answers: Sequence[Answer]
    time: float  # seconds since 1970

    def copied(self) -> Sample:
        """With a picture of its own: the upload's memory is counted until it is freed."""
        return replace(self, image=bytes(memoryview(self.image)))

    @property
    def size(self) -> int:
        """Bytes of its rows, about; each row has the picture."""
        return sum(len(self.image) + one.logits.nbytes + ROW_BYTES for one in self.answers)


def parquet_of(samples: Sequence[Sample]) -> bytes:
    """The file of these samples."""
    file = io.BytesIO()
    with pq.ParquetWriter(file, SCHEMA) as writer:
        for rows in _groups(row for sample in samples for row in _rows(sample)):
            writer.write_table(pa.Table.from_pylist(rows, SCHEMA))
    return file.getvalue()


def _groups(rows: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    group: list[dict[str, Any]] = []
    for row in rows:
        group.append(row)
        if len(group) == ROWS_A_GROUP:
            yield group
            group = []
    if group:
        yield group


def _rows(sample: Sample) -> Iterator[dict[str, Any]]:
    digest = hashlib.sha256(sample.image).hexdigest()[:DIGEST_CHARACTERS]
    ending = next((end for begin, end in ENDINGS if sample.image.startswith(begin)), "")
    image = {"bytes": sample.image, "path": f"{digest}{ending}"}
    time = datetime.fromtimestamp(sample.time, UTC)
    for answer in sample.answers:
        found = answer.probabilities()
        best = (-found).argsort(kind="stable").tolist()
        said = best[:1]
        if answer.activation == SIGMOID:
            said = [index for index in best if found[index] >= 0.5]
        listed = best[: max(BEST, len(said))]
        yield {
            "image": image,
            "label": [answer.labels[index] for index in said],
            "probability": certainty(answer.logits, answer.activation, answer.temperature),
            "answers": [
                {"label": answer.labels[index], "probability": float(found[index])}
                for index in listed
            ],
            "task": answer.task,
            "version": answer.version,
            "activation": answer.activation,
            "time": time,
        }
