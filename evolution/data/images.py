"""Splits of a task as training and evaluation read them: in memory, or streamed from the disk.

Images are decoded by `vit.decode`, as in the gateway. The path spec names the rules. So a version
sees the same pixels of a file in training and in the gateway.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from model_store.files.limits import Machine
from vit.contract import Contract, Target, size_of
from vit.decode import LEAST, VIEWER, Decoding, decode, reduction
from vit.preprocess import cut, preprocess, resample

DECODE_THREADS = min(16, Machine().cores())
CHUNK = 1024  # records in memory at a time
BATCH = 64  # images preprocessed at a time
REMEDY = "the prepared files are damaged: delete them and prepare the data set again"

Pixels = NDArray[np.uint8]
Labels = NDArray[
    np.integer
]  # classes [n], int32; with several labels a picture 0 or 1, uint8 [n, c]
Rows = NDArray[np.integer]


class TaskError(Exception):
    """A task's data cannot be used; the message says what to do."""


class Records(Protocol):
    """The encoded records of a split, by random access."""

    def __len__(self) -> int: ...

    def __getitems__(self, keys: Sequence[int], /) -> Sequence[bytes]: ...


@dataclass(frozen=True, slots=True)
class Examples:
    """The original images of a split, of one size or of many, and their labels."""

    source: str  # data set and split, for messages
    records: Records
    # Record -> `image` (encoded) and `label`: a class, or with `multi_label` a list of labels.
    parse: Callable[[bytes], Mapping[str, Any]]
    num_classes: int
    shape: tuple[int | None, int | None, int]  # height and width are None where images differ
    decoding: Decoding = VIEWER  # the rules by which files become pixels
    remedy: str = REMEDY  # what to do where they are damaged
    multi_label: bool = False  # any number of labels a picture, none too

    def __len__(self) -> int:
        return len(self.records)

    def whole(self, target: Target | None) -> bool:
        """Whether all images are of one size, and decoded at that size for this target."""
        height, width, _ = self.shape
        if height is None or width is None:
            return False
        return target is None or not self.decoding.reduced or reduction(height, width, target) == 1

    def each(
        self, rows: Rows, use: Callable[[int, Pixels], None], target: Target | None = None
    ) -> Labels:
        """Calls `use(position, image)` for each of `rows`, in several threads; their labels.

        Images are of the size at which they are decoded for the target, if there is one.
        Raises TaskError, naming the example, if an image or a label cannot be used.
        """
        labels = self._no_labels(len(rows))

        def decode(block: range, records: Sequence[bytes]) -> None:
            for position, record in zip(block, records, strict=True):
                image, label = self._decode(int(rows[position]), record, target)
                self._note(labels, position, label)
                use(position, image)

        with ThreadPoolExecutor(DECODE_THREADS) as pool:
            for start in range(0, len(rows), CHUNK):
                chunk = range(start, min(start + CHUNK, len(rows)))
                records = self._read([int(row) for row in rows[chunk.start : chunk.stop]])
                # A task for each image would cost more than decoding a small one.
                step = math.ceil(len(chunk) / DECODE_THREADS)
                blocks = [(chunk[i : i + step], records[i : i + step])
                          for i in range(0, len(chunk), step)]  # fmt: skip
                for _ in pool.map(decode, *zip(*blocks, strict=True)):
                    pass  # raises what the thread raised
        return labels

    def classes(self) -> Labels:
        """The class of each example [n]. Decodes no image."""
        found = [
            self._label(row, self.parse(record)["label"])
            for start in range(0, len(self), CHUNK)
            for row, record in enumerate(
                self._read(list(range(start, min(start + CHUNK, len(self))))), start
            )
        ]
        return np.asarray(found, np.int32)

    def positives(self, count: int) -> list[int]:
        """How many of the first `count` examples have each label. Decodes no image."""
        found = np.zeros(self.num_classes, np.int64)
        for start in range(0, count, CHUNK):
            rows = range(start, min(start + CHUNK, count))
            for row, record in zip(rows, self._read(list(rows)), strict=True):
                found[self._label(row, self.parse(record)["label"])] += 1
        return found.tolist()

    def encoded(self, rows: Rows) -> Sequence[bytes]:
        """The records of `rows` as they are stored; raises TaskError."""
        return self._read([int(row) for row in rows])

    def _read(self, rows: list[int]) -> Sequence[bytes]:
        try:
            return self.records.__getitems__(rows)
        except Exception as error:  # array_record documents no errors
            raise TaskError(
                f"reading examples {rows[0]} to {rows[-1]} of {self.source}: {error}; {self.remedy}"
            ) from error

    def _no_labels(self, count: int) -> Labels:
        if self.multi_label:
            return np.zeros((count, self.num_classes), np.uint8)
        return np.empty(count, np.int32)

    def _note(self, labels: Labels, position: int, found: Any) -> None:
        if self.multi_label:
            labels[position, found] = 1
        else:
            labels[position] = found

    def _decode(self, row: int, record: bytes, target: Target | None) -> tuple[Pixels, Any]:
        try:
            example = self.parse(record)
            image = decode_image(example["image"], self.shape[2], self.decoding, target)
        except Exception as error:  # TFDS' parser documents none
            raise TaskError(f"example {row} of {self.source}: {error}; {self.remedy}") from error
        if self.whole(target) and image.shape != self.shape:
            raise TaskError(
                f"example {row} of {self.source}: expected an image of {self.shape}, as the data "
                f"set declares, found {image.shape}"
            )
        return image, self._label(row, example["label"])

    def _label(self, row: int, found: Any) -> Any:
        """A class, or with several labels a picture an array of them."""
        label = np.asarray(found, np.int64)
        if label.ndim != self.multi_label or not ((label >= 0) & (label < self.num_classes)).all():
            what = "a list of labels" if self.multi_label else "a class"
            raise TaskError(
                f"example {row} of {self.source}: expected {what} from 0 to "
                f"{self.num_classes - 1}, found {found} (-1: unlabelled); choose a labelled split"
            )
        return label


def decode_image(
    encoded: bytes, channels: int, decoding: Decoding = VIEWER, target: Target | None = None
) -> Pixels:
    """A file's pixels by these rules: uint8 [h, w, channels], 1 or 3; grey is repeated.

    Of the size at which the file is decoded for the target, if there is one.
    Raises vit.pictures.errors.ImageError, or ValueError for a coloured image where one channel is
    wanted: the gateway would serve it in colour.
    """
    pixels = decode(encoded, decoding, target)
    if pixels.shape[2] == channels:
        return pixels
    if channels == 3:
        return pixels.repeat(3, axis=-1)
    if (pixels != pixels[..., :1]).any():
        raise ValueError("expected a grey image, as the data set declares, found one in colour")
    return pixels[..., :1]


@dataclass(frozen=True, slots=True)
class Split:
    """A split whose training pixels are in memory."""

    name: str  # the TFDS split expression
    images: Pixels  # [n, h, w, 1 or 3]
    labels: Labels
    originals: Examples | None = None  # where `images` are resized: what evaluation reads
    source: Examples | None = None  # what the images were decoded from, if they were
    contract: Contract | None = None  # how they are prepared, unless plainly

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the training pixels."""
        height, width, channels = self.images.shape[1:]
        if self.contract is not None:
            height = width = self.contract.size
        return height, width, channels

    def training_images(self, rows: Rows) -> tuple[Pixels, Labels]:
        """Training pixels [k, h, w, c] and labels of `rows`."""
        if self.contract is None:
            return self.images[rows], self.labels[rows]
        if (originals := self._read_for(self.contract)) is not None:
            return _cut(originals, rows, self.contract)
        return cut(self.images[rows], self.contract), self.labels[rows]

    def positives(self, count: int) -> list[int]:
        """How many of the first `count` examples have each of several labels."""
        return self.labels[:count].sum(0, dtype=np.int64).tolist()

    @property
    def decoding(self) -> Decoding:
        """The rules by which files become pixels."""
        return VIEWER if self.source is None else self.source.decoding

    def by(self, decoding: Decoding) -> Split | StreamedSplit:
        """The same split decoded by other rules; raises TaskError if it is not from files."""
        if decoding == self.decoding:
            return self
        if self.source is None:
            raise TaskError(f"{self.name}: expected files to decode by rules {decoding.name!r}")
        canvas = max(self.images.shape[1:3])
        return StreamedSplit(self.name, self.source, canvas, self.contract).by(decoding)

    def evaluation_inputs(self, rows: Rows, size: int) -> tuple[NDArray[np.float32], Labels]:
        """The network's inputs [k, size, size, 3] from the original images of `rows`, labels."""
        target = size if self.contract is None else self.contract.at(size)
        if (originals := self._read_for(target)) is not None:
            return _evaluation_inputs(originals, rows, target)
        return _inputs(self.images[rows], target), self.labels[rows]

    def _read_for(self, target: Target) -> Examples | None:
        """What is decoded again for this target; None where `images` have its pixels."""
        if self.originals is None and self.source is not None and not self.source.whole(target):
            return self.source
        return self.originals


@dataclass(frozen=True, slots=True)
class StreamedSplit:
    """A split whose images are read and decoded at each use."""

    name: str  # the TFDS split expression
    examples: Examples
    canvas: int  # where images differ in size, or are reduced: the side of the training pixels
    contract: Contract | None = None  # how images are prepared, unless plainly

    def __len__(self) -> int:
        return len(self.examples)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the training pixels."""
        height, width, channels = self.examples.shape
        if self.contract is not None:
            return self.contract.size, self.contract.size, channels
        if not self._whole or height is None or width is None:
            return self.canvas, self.canvas, channels
        return height, width, channels

    def positives(self, count: int) -> list[int]:
        """How many of the first `count` examples have each of several labels."""
        return self.examples.positives(count)

    @property
    def decoding(self) -> Decoding:
        """The rules by which files become pixels."""
        return self.examples.decoding

    def by(self, decoding: Decoding) -> StreamedSplit:
        """The same split by other rules."""
        return replace(self, examples=replace(self.examples, decoding=decoding))

    @property
    def bytes_in_memory(self) -> int:
        """Bytes that the training pixels would take in memory."""
        return len(self) * math.prod(self.shape)

    def in_memory(self) -> Split:
        """The same split with its training pixels in memory."""
        images, labels = self.training_images(np.arange(len(self)))
        originals = None if self._whole else self.examples
        return Split(self.name, images, labels, originals, self.examples)

    def training_images(self, rows: Rows) -> tuple[Pixels, Labels]:
        """Training pixels [k, h, w, c] and labels of `rows`.

        Images that differ in size are resized to the canvas first, without keeping their aspect.
        The papers crop from the original. Compiled programs need one shape. A canvas is twice the
        network's input, for crops, so that images are reduced as far as for the input.
        """
        if self.contract is not None:
            return _cut(self.examples, rows, self.contract)
        images = np.empty((len(rows), *self.shape), np.uint8)

        def keep(position: int, image: Pixels) -> None:
            if not self._whole:
                image = np.rint(resample(image, self.canvas)).astype(np.uint8)
            images[position] = image

        labels = self.examples.each(rows, keep, self._input)
        return images, labels

    def evaluation_inputs(self, rows: Rows, size: int) -> tuple[NDArray[np.float32], Labels]:
        """The network's inputs [k, size, size, 3] from the original images of `rows`, labels."""
        if self.contract is not None:
            return _evaluation_inputs(self.examples, rows, self.contract.at(size))
        if self._whole and self.examples.whole(size):
            images, labels = self.training_images(rows)
            return _inputs(images, size), labels
        return _evaluation_inputs(self.examples, rows, size)

    @property
    def _input(self) -> int:
        """The side of a plain input that training pixels are made for."""
        return max(1, self.canvas // LEAST)

    @property
    def _whole(self) -> bool:
        """Whether training pixels are the images as they are."""
        return self.examples.whole(self._input)


def _cut(examples: Examples, rows: Rows, contract: Contract) -> tuple[Pixels, Labels]:
    """The training pixels of images that another library's contract prepares."""
    shape = (len(rows), contract.size, contract.size, examples.shape[2])
    images = np.empty(shape, np.uint8)

    def keep(position: int, image: Pixels) -> None:
        images[position] = contract.cut(image)

    labels = examples.each(rows, keep, contract)
    return images, labels


def _inputs(images: Pixels, target: Target) -> NDArray[np.float32]:
    size = size_of(target)
    inputs = np.empty((len(images), size, size, 3), np.float32)
    for start in range(0, len(images), BATCH):
        inputs[start : start + BATCH] = preprocess(images[start : start + BATCH], target)
    return inputs


def _evaluation_inputs(
    examples: Examples, rows: Rows, target: Target
) -> tuple[NDArray[np.float32], Labels]:
    size = size_of(target)
    inputs = np.empty((len(rows), size, size, 3), np.float32)

    def keep(position: int, image: Pixels) -> None:
        inputs[position] = preprocess(image, target)

    labels = examples.each(rows, keep, target)
    return inputs, labels
