"""The parts of TensorFlow that TFDS' builders use to prepare images: files and PNG encoding.

It replaces these parts only, so that many data sets can be prepared without TensorFlow.
"""

from __future__ import annotations

import glob
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image


class MissingFromTensorFlow(AttributeError):
    """A builder needs a part of TensorFlow that has no replacement here; names it."""


class Part:
    """Replaces a module of TensorFlow; refuses names that it does not have."""

    def __init__(self, path: str, **contents: Any) -> None:
        self._path = path
        vars(self).update(contents)

    def __getattr__(self, name: str) -> Any:
        raise MissingFromTensorFlow(f"{self._path}.{name}")


def missing_part(error: BaseException | None) -> str | None:
    """The missing part of TensorFlow that caused `error`, as "tf.strings"; None if another cause.

    TFDS wraps the errors of builders, so the causes of the error are searched.
    """
    while error is not None:
        if isinstance(error, MissingFromTensorFlow):
            return str(error)
        error = error.__cause__ or error.__context__
    return None


class _OpenBytes(io.BytesIO):
    """A file's bytes, which TensorFlow's files still give after their `with` block."""

    def __exit__(self, *exception: object) -> None:
        pass


def _open(name: str | os.PathLike[str], mode: str = "r") -> IO[Any]:
    return _OpenBytes(Path(name).read_bytes()) if mode == "rb" else Path(name).open(mode)


def _glob(pattern: str | os.PathLike[str]) -> list[str]:
    return sorted(glob.glob(os.fspath(pattern)))


def _listdir(path: str | os.PathLike[str]) -> list[str]:
    return sorted(os.listdir(path))


def _walk(top: str | os.PathLike[str]) -> Iterator[tuple[str, list[str], list[str]]]:
    for folder, folders, files in os.walk(top):
        folders.sort()  # in place: the order of the walk
        yield folder, folders, sorted(files)


# In place of the module `tensorflow`. `as_text` is what TFDS calls on paths in archives.
TENSORFLOW = Part(
    "tf",
    compat=Part("tf.compat", as_text=os.fsdecode),
    io=Part(
        "tf.io",
        gfile=Part(
            "tf.io.gfile",
            GFile=_open,
            exists=os.path.exists,
            glob=_glob,
            isdir=os.path.isdir,
            listdir=_listdir,
            walk=_walk,
        ),
    ),
)


def encode_png(image: NDArray[np.uint8]) -> bytes:
    """uint8 [h, w, 1, 3 or 4] -> the bytes of a PNG file that decodes to the same pixels."""
    file = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(file, "PNG")
    return file.getvalue()
