"""File bytes -> pixels: one definition for training, evaluation and serving.

The formats are PNG, JPEG, WEBP, BMP and GIF, in all their modes. A file of another format is
refused, in training as in serving: TIFF, AVIF and HEIC among them, whose decoders' memory and time
no header bounds.

The rules by which a file becomes pixels are a `Decoding`, which a path spec's `input` names. By all
rules the first frame is used, 16 bits are cut to the upper 8, a palette and four inks become RGB,
and colour profiles are ignored. By some, a large JPEG is decoded at reduced size (`reduction`).
What a file holds besides its pixels refuses nothing (`pictures/`).
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    WebPImagePlugin,
)

from vit.contract import Target
from vit.pictures import bmp, gif, jpeg, orientation, png, reading, webp
from vit.pictures.errors import ImageError, ImageTooLarge, UnreadableImage
from vit.pictures.picture import Picture, damaged
from vit.preprocess import Lines, whole

JPEG, REDUCED = "jpeg", "reduced"  # a field of a path spec's `input`, and its only value
LEAST = 2  # pixels of a reduced picture for one of the input, on each side
MAX_PIXELS = 2**26  # of one image, where no other limit is given
FILE_COPIES = 3  # of what Pillow reads: as it was sent, in pieces, and what is left of them

# -- rules


@dataclass(frozen=True, slots=True)
class Decoding:
    """The rules by which a file becomes pixels, as far as they differ between versions."""

    name: str
    turned: bool  # as EXIF or XMP says; otherwise the picture stays as it is stored
    background: int | None  # grey, 0 to 255, under transparency; None: transparency is dropped
    pixel_scale: int = 1  # pixels are multiplied by it, up to 255: for files that hold 0 and 1
    reduced: bool = False  # large JPEG files are decoded at a half, a quarter or an eighth

    def to_json(self) -> dict[str, Any]:
        """What a path spec's `input` says of it."""
        scale = {} if self.pixel_scale == 1 else {"pixel_scale": self.pixel_scale}
        size = {JPEG: REDUCED} if self.reduced else {}
        return {"decoding": self.name, **scale, **size}


VIEWER = Decoding("viewer", turned=True, background=255)
# TensorFlow's own decoders also transform JPEG more coarsely: by one grey level on average.
TENSORFLOW = Decoding("tensorflow", turned=False, background=None)
# As transformers opens files; networks adopted from there have been trained so.
UPRIGHT = Decoding("upright", turned=True, background=None)
DECODINGS: Mapping[str, Decoding] = {one.name: one for one in (VIEWER, TENSORFLOW, UPRIGHT)}


def decoding_of(input: Mapping[str, Any]) -> Decoding:
    """The rules that a path spec's `input` names; a viewer's where it names none.

    Raises ValueError for rules that are not known here.
    """
    name, scale = input.get("decoding", VIEWER.name), input.get("pixel_scale", 1)
    found = DECODINGS.get(name) if isinstance(name, str) else None
    if found is None:
        raise ValueError(f"decoding: expected one of {', '.join(DECODINGS)}, found {name!r:.80}")
    if type(scale) is not int or not 1 <= scale <= 255:
        raise ValueError(f"pixel_scale: expected a whole number, 1 to 255, found {scale!r:.80}")
    size = input.get(JPEG)
    if JPEG in input and size != REDUCED:
        raise ValueError(f"{JPEG}: expected {REDUCED}, or no such field, found {size!r:.80}")
    if scale == 1 and size is None:
        return found
    return replace(found, pixel_scale=scale, reduced=size is not None)


def least_side(target: Target) -> int:
    """Pixels that the shorter side of a reduced picture has at least, however it lies."""
    edges = target if isinstance(target, int) else target.edges
    return LEAST * (max(edges) if isinstance(edges, tuple) else edges)


def reduction(height: int, width: int, target: Target) -> int:
    """By what a JPEG's sides are divided in decoding, where the rules say so: 1, 2, 4 or 8.

    Law: the reduced picture has at least twice the sides that it is resized to.
    """
    most = min(height, width) // least_side(target)
    return next((scale for scale in reversed(jpeg.SCALES) if scale <= most), 1)


def scale_of(picture: Picture, decoding: Decoding, target: Target) -> int:
    """By what this picture's sides are divided when it is decoded for a target."""
    if not decoding.reduced or not picture.reduced_memory:
        return 1
    return reduction(picture.height, picture.width, target)


# -- formats


@dataclass(frozen=True, slots=True)
class _Format:
    begins: Callable[[bytes], bool]
    look: Callable[[bytes], Picture]
    open: Callable[[io.BytesIO], Image.Image]  # of what `look` found


# Few decoders, all of them much used: each further one is further code for hostile bytes.
FORMATS: Mapping[str, _Format] = {
    "PNG": _Format(
        lambda data: data.startswith(png.SIGNATURE), png.look, PngImagePlugin.PngImageFile
    ),
    "JPEG": _Format(
        lambda data: data.startswith(jpeg.SIGNATURE), jpeg.look, JpegImagePlugin.JpegImageFile
    ),
    "WEBP": _Format(
        lambda data: data[:4] == b"RIFF" and data[8:12] == b"WEBP",
        webp.look,
        WebPImagePlugin.WebPImageFile,
    ),
    "BMP": _Format(lambda data: data[:2] == b"BM", bmp.look, BmpImagePlugin.BmpImageFile),
    "GIF": _Format(
        lambda data: data.startswith(gif.SIGNATURES), gif.look, GifImagePlugin.GifImageFile
    ),
}
# What else is sent, by how it begins, at which byte.
OTHERS: tuple[tuple[int, bytes, str], ...] = (
    (0, b"II*\0", "a TIFF"),
    (0, b"MM\0*", "a TIFF"),
    (4, b"ftypavif", "an AVIF"),
    (4, b"ftyphei", "a HEIC"),
    (4, b"ftypmif1", "a HEIC"),
    (4, b"ftyp", "a video (MP4)"),
    (0, b"\0\0\1\0", "an icon (ICO)"),
    (0, b"\xff\x0a", "a JPEG XL"),
    (0, b"\0\0\0\x0cJXL ", "a JPEG XL"),
    (0, b"\0\0\0\x0cjP", "a JPEG 2000"),
    (0, b"8BPS", "a Photoshop file"),
    (0, b"%PDF", "a PDF"),
    (0, b"<svg", "an SVG"),
    (0, b"<?xml", "XML"),
    (0, b"<!", "HTML"),
    (0, b"\x1f\x8b", "gzip"),
    (0, b"PK\3\4", "a ZIP"),
    (0, b"data:", "a data URL"),
    (0, b"{", "JSON"),
)


def look(data: bytes) -> Picture:
    """What a file states, read without decoding it; raises UnreadableImage or ImageTooLarge."""
    if not data:
        raise UnreadableImage("decoding the image: the body is empty")
    for name, format in FORMATS.items():
        if format.begins(data):
            try:
                return format.look(data)
            except (struct.error, IndexError, ValueError) as error:  # it ends where it should not
                raise _damaged(name, error) from None
    found = f"{len(data)} bytes that are none of them"
    for start, head, other in OTHERS:
        if data.startswith(head, start):
            found = other
            break
    else:
        for name, head in (("PNG", png.SIGNATURE), ("JPEG", jpeg.SIGNATURE), ("GIF", b"GIF8")):
            if head.startswith(data[: len(head)]):
                found = f"the first {len(data)} bytes of a {name}"
    raise UnreadableImage(f"decoding the image: expected {', '.join(FORMATS)}; found {found}")


# -- pixels


def decode(
    data: bytes,
    decoding: Decoding = VIEWER,
    target: Target | None = None,
    *,
    max_pixels: int = MAX_PIXELS,
) -> NDArray[np.uint8]:
    """The whole picture, of the size at which it is decoded for a target: uint8 [h, w, 1 or 3].

    Raises UnreadableImage, or ImageTooLarge by the width and height that its header states and by
    the pieces that it is in.
    """
    picture = look(data)
    if picture.pixels > max_pixels:
        raise ImageTooLarge(
            f"decoding the image: {picture.width} x {picture.height} pixels, at most {max_pixels} "
            "are accepted; use a smaller image"
        )
    if target is not None:
        picture = picture.at(scale_of(picture, decoding, target))
    return read(picture, decoding, whole(*shown_size(picture, decoding)))


def shown_size(picture: Picture, decoding: Decoding) -> tuple[int, int]:
    """Height and width of what `read` gives."""
    width, height = reading.size(picture.width, picture.height, _turn(picture, decoding))
    return height, width


def memory(picture: Picture) -> int:
    """Bytes that `read` takes at most, besides its result; `picture.perhaps` are more."""
    band = reading.PIXEL_BYTES * min(picture.pixels, reading.BAND_PIXELS)
    return picture.memory + band + FILE_COPIES * picture.file_bytes


def read(picture: Picture, decoding: Decoding, lines: Lines) -> NDArray[np.uint8]:
    """The rows and columns `lines` of the picture: uint8 [rows, columns, 1 or 3].

    Raises UnreadableImage, or ImageTooLarge for a picture larger than Pillow decodes.
    """
    try:
        with opened(picture) as image:
            if image.size != (picture.width, picture.height):
                raise UnreadableImage(f"decoding the image: a {picture.format} of two sizes")
            image.load()
            turn = _turn(picture, decoding)
            found = reading.read(image, turn, decoding.background, lines.rows, lines.columns)
    except ImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageTooLarge(f"decoding the image: {error}") from None
    # A broken file raises what its decoder stumbles over: OSError, SyntaxError, struct.error ...
    except Exception as error:
        raise _damaged(picture.format, error) from None
    scale = np.uint8(decoding.pixel_scale)
    return found if scale == 1 else np.minimum(found, 255 // scale) * scale


def opened(picture: Picture) -> Image.Image:
    """The picture as an image of Pillow that is not decoded yet. Raises what Pillow raises."""
    data = picture.file()
    if picture.format == bmp.FORMAT:
        data = bmp.plain(data)
    image = FORMATS[picture.format].open(io.BytesIO(data))
    if picture.scale > 1:  # to these sides, or the next larger ones that the decoder has
        image.draft(None, (image.width // picture.scale, image.height // picture.scale))
    return image


def _turn(picture: Picture, decoding: Decoding) -> int:
    return picture.orientation if decoding.turned else orientation.UPRIGHT


def _damaged(format: str, error: Exception) -> UnreadableImage:
    if "truncated" in str(error):
        missing = "the last of its pixels"
        if format == "JPEG":  # without its last two bytes all pixels may be there
            missing += " or the marker of its end (EOI)"
        return damaged(format, f"that ends before {missing}; send the whole file")
    return damaged(format, f"that is damaged: {type(error).__name__}: {error}")
