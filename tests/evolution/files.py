"""Tasks whose images lie in files of many kinds, as people have them."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from evolution.data.images import Examples, StreamedSplit
from evolution.data.tasks import PRIVATE_PREFIX, Task, task_name
from tests.service.pictures.kinds import orientation
from vit.decode import TENSORFLOW, VIEWER, Decoding

CLASSES = ("x", "y", "z")
Write = Callable[[np.ndarray, np.random.Generator], bytes]  # dark on light, uint8 [h, w]


class Records(list[bytes]):
    """A class, then the file."""

    def __getitems__(self, keys: Sequence[int], /) -> Sequence[bytes]:
        return [self[key] for key in keys]


def parse(record: bytes) -> Mapping[str, Any]:
    return {"image": record[1:], "label": record[0]}


def examples(files: Sequence[bytes], labels: Sequence[int], decoding: Decoding) -> Examples:
    """Of any sizes."""
    records = Records(bytes([label]) + file for file, label in zip(files, labels, strict=True))
    return Examples("made up", records, parse, len(CLASSES), (None, None, 3), decoding)


def _saved(picture: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format, **options)
    return buffer.getvalue()


def ink(grey: np.ndarray, _: np.random.Generator) -> bytes:
    """An icon: black, drawn by its transparency."""
    black = np.zeros_like(grey)
    return _saved(Image.fromarray(np.stack([black, black, black, 255 - grey], -1)), "PNG")


def turned(grey: np.ndarray, rng: np.random.Generator) -> bytes:
    """A photograph of a camera that was held in some way, and says so."""
    flag = int(rng.choice([1, 3, 6, 8]))
    back = {1: 0, 3: 180, 6: 90, 8: 270}[flag]  # degrees against the clock
    picture = Image.fromarray(grey).convert("RGB").rotate(back, expand=True)
    return _saved(picture, "JPEG", quality=95, exif=b"Exif\0\0" + orientation(flag))


def deep(grey: np.ndarray, rng: np.random.Generator) -> bytes:
    """A scan of 16 bits."""
    low = rng.integers(0, 256, grey.shape).astype(np.uint16)
    return _saved(Image.fromarray(grey.astype(np.uint16) * 256 + low), "PNG")


def palette(grey: np.ndarray, _: np.random.Generator) -> bytes:
    """A drawing whose paper is a transparent colour of its palette."""
    picture = ImageOps.colorize(Image.fromarray(grey), "navy", "black", "red").quantize(8)
    paper = int(np.bincount(np.asarray(picture).ravel()).argmax())
    return _saved(picture, "GIF", transparency=paper)


def flagged(grey: np.ndarray, rng: np.random.Generator) -> bytes:
    """A photograph whose flag is wrong: it is upright as it is stored."""
    flag = orientation(int(rng.choice([3, 6, 8])))
    return _saved(Image.fromarray(grey), "JPEG", quality=95, exif=b"Exif\0\0" + flag)


KINDS: Mapping[str, tuple[Sequence[Write], Decoding]] = {
    "files/ink": ([ink], VIEWER),
    "files/turned": ([turned], VIEWER),
    "files/mixed": ([ink, turned, deep, palette], VIEWER),
    "files/flagged": ([flagged], TENSORFLOW),
}


def drawn_files(
    writers: Sequence[Write], rng: np.random.Generator, count: int
) -> tuple[list[bytes], list[int]]:
    """Light pictures with a dark square in one of three corners, and in which."""
    labels = rng.integers(len(CLASSES), size=count).tolist()
    files = []
    for label in labels:
        height, width = (int(side) for side in rng.integers(5, 12, 2) * 2)
        grey = rng.integers(190, 256, (height, width), dtype=np.uint8)
        row, column = divmod(label, 2)
        corner = slice(row * height // 2, (row + 1) * height // 2)
        grey[corner, column * width // 2 : (column + 1) * width // 2] //= 8
        files.append(writers[len(files) % len(writers)](grey, rng))
    return files, labels


@cache
def file_task(entry: str) -> Task:
    """In which of three corners of a light picture there is a dark square."""
    name = task_name(entry)
    writers, decoding = KINDS[name]
    rng = np.random.default_rng(sum(name.encode()))

    def split(kind: str, count: int) -> StreamedSplit:
        files, labels = drawn_files(writers, rng, count)
        return StreamedSplit(kind, examples(files, labels, decoding), 16)

    return Task(
        name=name,
        private=entry.startswith(PRIVATE_PREFIX),
        labels=CLASSES,
        train=split("train", 1024).in_memory(),
        validation=split("validation", 48).in_memory(),
        test=split("test", 60),
    )
