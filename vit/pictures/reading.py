"""Rows and columns of a decoded picture: turned, laid on one grey, with 8 bits.

Only what is asked for is converted, in bands of a bounded number of pixels.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

BAND_PIXELS = 2**18  # converted at once: the whole picture would be in memory several times
GAP_PIXELS = 2**13  # converted without need: a further call costs as much
DEEPER = 0x101  # a grey of 8 bits as one of 16
WIDE_GREY = ("I", "I;16", "I;16B", "I;16L", "I;16N")
PIXEL_BYTES = 64  # of memory for a pixel of a band, on its way through the modes
# Orientations that EXIF numbers: those of lines reversed, and those of rows that were columns.
ROWS_REVERSED, COLUMNS_REVERSED, SWAPPED = (3, 4, 6, 7), (2, 3, 7, 8), (5, 6, 7, 8)
Positions = NDArray[np.intp]


def size(width: int, height: int, orientation: int) -> tuple[int, int]:
    """Width and height of a stored picture when it is turned."""
    return (height, width) if orientation in SWAPPED else (width, height)


def read(
    image: Image.Image,
    orientation: int,
    background: int | None,
    rows: Positions,
    columns: Positions,
) -> NDArray[np.uint8]:
    """uint8 [rows, columns, 1 or 3]; positions of the picture as turned, ascending.

    `background` is the grey, 0 to 255, that what is transparent is laid on; without one,
    transparency is as if it were not there.
    """
    if background is None:
        image.info.pop("transparency", None)
    if orientation == 1:
        return _stored(image, background, rows, columns)
    if orientation in SWAPPED:
        rows, columns = columns, rows
    if orientation in ROWS_REVERSED:
        rows = image.height - 1 - rows[::-1]
    if orientation in COLUMNS_REVERSED:
        columns = image.width - 1 - columns[::-1]
    found = _stored(image, background, rows, columns)
    found = found[::-1] if orientation in ROWS_REVERSED else found
    found = found[:, ::-1] if orientation in COLUMNS_REVERSED else found
    found = found.swapaxes(0, 1) if orientation in SWAPPED else found
    return np.ascontiguousarray(found)


def _stored(
    image: Image.Image, background: int | None, rows: Positions, columns: Positions
) -> NDArray[np.uint8]:
    whole = image.width * image.height <= BAND_PIXELS
    if whole:
        return _lines(_converted(image, background), rows, columns)
    found = np.empty((len(rows), len(columns), 1 if _is_grey(image) else 3), np.uint8)
    for first_column, last_column in _spans(columns, 1):
        left, right = int(columns[first_column]), int(columns[last_column - 1]) + 1
        for first_row, last_row in _spans(rows, right - left):
            top, bottom = int(rows[first_row]), int(rows[last_row - 1]) + 1
            band = _converted(image.crop((left, top, right, bottom)), background)
            found[first_row:last_row, first_column:last_column] = _lines(
                band, rows[first_row:last_row] - top, columns[first_column:last_column] - left
            )
    return found


def _lines(band: NDArray[np.uint8], rows: Positions, columns: Positions) -> NDArray[np.uint8]:
    if len(rows) < len(band):
        band = band.take(rows, 0)
    return band if len(columns) == band.shape[1] else band.take(columns, 1)


def _spans(positions: Positions, pixels: int) -> Iterator[tuple[int, int]]:
    """Runs of positions that lie close enough, as from and to; each line has `width` pixels."""
    gap, longest = max(1, GAP_PIXELS // pixels), max(1, BAND_PIXELS // pixels)
    ends = np.append(np.flatnonzero(np.diff(positions) > gap) + 1, len(positions))
    start = 0
    while start < len(positions):
        near = int(np.searchsorted(positions, positions[start] + longest))
        stop = min(near, int(ends[np.searchsorted(ends, start, "right")]))
        yield start, stop
        start = stop


def _is_grey(image: Image.Image) -> bool:
    return image.mode in WIDE_GREY or (
        image.mode in ("1", "L") and "transparency" not in image.info
    )


def _converted(image: Image.Image, background: int | None) -> NDArray[np.uint8]:
    """[height, width, 1 or 3]"""
    if image.mode in WIDE_GREY:
        wide = np.asarray(image)
        if background is not None and "transparency" in image.info:
            wide = np.where(wide == image.info["transparency"], background * DEEPER, wide)
        return (wide >> 8).clip(0, 255).astype(np.uint8)[..., None]
    if _is_grey(image):
        return np.asarray(image if image.mode == "L" else image.convert("L"))[..., None]
    if background is not None and image.has_transparency_data:
        image = image.convert("RGBA")
        under = Image.new("RGBA", image.size, (background, background, background, 255))
        image = Image.alpha_composite(under, image)
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
