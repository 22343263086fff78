"""A file of every kind that may be trained on and served, and of kinds that may be neither."""

from __future__ import annotations

import struct
from collections.abc import Mapping

import numpy as np
from PIL import Image

from tests.service.pictures.made import bmp_runs, chunk, exif, noise, png, saved, with_segments

WIDTH, HEIGHT = 40, 24
PICTURE, GREY = noise(WIDTH, HEIGHT), noise(WIDTH, HEIGHT, "L")
DEEP = Image.fromarray(np.random.default_rng(1).integers(0, 2**16, (HEIGHT, WIDTH), np.uint16))
EXIF_MARK, PNG_HEADER = b"Exif\0\0", 33


def orientation(value: int) -> bytes:
    """EXIF's bytes that say how a camera was held."""
    return exif((0x0112, 3, 1, struct.pack("<HH", value, 0)))


def ink(mode: str = "RGBA") -> Image.Image:
    """Black, and drawn by its transparency alone: half of it is half transparent."""
    clear = np.asarray(GREY)
    bands = [np.zeros_like(clear)] * (len(mode) - 1)
    return Image.fromarray(np.stack([*bands, clear], -1))


def palette(colours: int = 16) -> Image.Image:
    """Colours by number."""
    return PICTURE.quantize(colours)


def turned_jpeg(value: int) -> bytes:
    """A photograph with a flag."""
    marked = [(0xE1, EXIF_MARK + orientation(value))]
    return with_segments(saved(PICTURE, "JPEG", quality=95), marked)


def with_chunk(data: bytes, kind: bytes, content: bytes) -> bytes:
    """A PNG with one more chunk behind its header."""
    return data[:PNG_HEADER] + chunk(kind, content) + data[PNG_HEADER:]


TWO = {"save_all": True, "append_images": [PICTURE.rotate(180)]}
TURNED: Mapping[str, bytes] = {
    **{f"turned {value}.jpg": turned_jpeg(value) for value in range(1, 9)},
    "turned.png": with_chunk(saved(PICTURE, "PNG"), b"eXIf", orientation(6)),
    "turned.webp": saved(PICTURE, "WEBP", lossless=True, exif=orientation(8)),
    "turned deep.png": with_chunk(saved(DEEP, "PNG"), b"eXIf", orientation(5)),
    "turned ink.png": with_chunk(saved(ink(), "PNG"), b"eXIf", orientation(3)),
}
CLEAR: Mapping[str, bytes] = {
    "ink.png": saved(ink(), "PNG"),
    "grey ink.png": saved(ink("LA"), "PNG"),
    "ink.webp": saved(ink(), "WEBP", lossless=True, exact=True),
    "one clear colour.png": saved(PICTURE, "PNG", transparency=PICTURE.getpixel((0, 0))),
    "one clear grey.png": saved(GREY, "PNG", transparency=GREY.getpixel((0, 0))),
    "one clear deep grey.png": with_chunk(
        saved(DEEP, "PNG"), b"tRNS", struct.pack(">H", int(np.asarray(DEEP)[3, 5]))
    ),
    "clear palette.png": saved(palette(), "PNG", transparency=3),
    "half clear palette.png": saved(palette(), "PNG", transparency=bytes(range(0, 256, 16))),
    "clear.gif": saved(palette(), "GIF", transparency=3),
}
PLAIN: Mapping[str, bytes] = {
    "plain.png": saved(PICTURE, "PNG"),
    "grey.png": saved(GREY, "PNG"),
    "deep grey.png": saved(DEEP, "PNG"),
    "deep.png": png(WIDTH, HEIGHT, 16, 2),
    "bits.png": saved(GREY.convert("1"), "PNG"),
    "palette.png": saved(palette(), "PNG"),
    "two bits.png": saved(palette(4), "PNG", bits=2),
    "interlaced.png": png(WIDTH, HEIGHT, 8, 2, interlaced=True),
    "animated.png": saved(PICTURE, "PNG", **TWO),
    "photo.jpg": saved(PICTURE, "JPEG"),
    "progressive.jpg": saved(PICTURE, "JPEG", progressive=True, subsampling=0),
    "grey.jpg": saved(GREY, "JPEG"),
    "four inks.jpg": saved(PICTURE.convert("CMYK"), "JPEG"),
    "profile.jpg": saved(PICTURE, "JPEG", icc_profile=bytes(200)),
    "lossless.webp": saved(PICTURE, "WEBP", lossless=True),
    "lossy.webp": saved(PICTURE, "WEBP"),
    "animated.webp": saved(PICTURE, "WEBP", lossless=True, **TWO),
    "plain.bmp": saved(PICTURE, "BMP"),
    "palette.bmp": saved(palette(), "BMP"),
    "runs.bmp": bmp_runs(16, 16, b"\4\7\0\0\0\2\3\2\5\11\0\1"),
    "palette.gif": saved(palette(), "GIF"),
    "animated.gif": saved(palette(), "GIF", save_all=True, append_images=[palette().rotate(180)]),
    "large.png": saved(noise(700, 500), "PNG"),  # larger than what is converted at once
    "tall.png": saved(noise(1, 3000), "PNG"),
}
FILES: Mapping[str, bytes] = {**TURNED, **CLEAR, **PLAIN}
REFUSED: Mapping[str, tuple[bytes, str]] = {
    "TIFF": (saved(PICTURE, "TIFF"), "found a TIFF"),
    "AVIF": (saved(PICTURE, "AVIF"), "found an AVIF"),
    "HEIC": (b"\0\0\0\x18ftypheic" + bytes(100), "found a HEIC"),
    "cut off": (saved(PICTURE, "PNG")[:-60], "a PNG that ends before"),
    "text": (b"neither", "none of them"),
    "empty": (b"", "empty"),
}
