"""Measures what decoding takes: prints for each picture its name and numbers of bytes, as JSON.

Run in a process of its own, whose peak of memory can be reset.
"""

from __future__ import annotations

import ctypes
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from PIL import Image

from service.images import File
from tests.service.pictures.made import (
    bmp_runs,
    noise,
    png,
    saved,
    webp_of_many_groups,
)
from vit.decode import VIEWER, least_side

SIZE = 64
N = 300_000
Image.MAX_IMAGE_PIXELS = None
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
C = ctypes.CDLL(None)


REDUCED = "reduced"  # JPEG files that are decoded at a smaller size begin with it
RULES = (VIEWER, replace(VIEWER, reduced=True))


def cases() -> Mapping[str, Callable[[], bytes]]:
    """Each format in the forms that decoders treat apart, square, wide and tall."""
    return {**pngs(), **bmps(), **jpegs_and_gifs(), **webps()}


def pngs() -> Mapping[str, Callable[[], bytes]]:
    return {
        f"png {w}x{h} {depth} bits, type {colour}, {interlaced}": partial(
            png, w, h, depth, colour, interlaced=interlaced
        )
        for w, h in [(550, 550), (N, 1), (1, N), (2, N // 2)]
        for depth, colour in [(8, 2), (16, 6), (8, 0), (1, 0), (16, 0), (8, 3), (16, 4)]
        for interlaced in (False, True)
    }


def bmps() -> Mapping[str, Callable[[], bytes]]:
    made: dict[str, Callable[[], bytes]] = {}
    for w, h in [(550, 550), (N, 1), (1, N)]:
        for mode in ("RGB", "L", "1"):
            made[f"bmp {w}x{h} {mode}"] = partial(one_colour, "BMP", mode, w, h)
        made[f"bmp runs {w}x{h}"] = partial(bmp_runs, w, h, b"\1\2\0\0\0\1")
    return made


def jpegs_and_gifs() -> Mapping[str, Callable[[], bytes]]:
    made: dict[str, Callable[[], bytes]] = {}
    for w, h in [(550, 550), (65_500, 5), (5, 65_500), (65_500, 1), (1, 65_500)]:
        for mode in ("RGB", "L", "CMYK"):
            for options in ({}, {"progressive": True}, {"progressive": True, "subsampling": 0}):
                made[f"jpeg {w}x{h} {mode} {options}"] = partial(
                    one_colour, "JPEG", mode, w, h, **options
                )
                if min(w, h) >= 2 * least_side(SIZE):
                    made[f"{REDUCED} {mode} {options}"] = partial(
                        one_colour, "JPEG", mode, 2 * w, 2 * h, **options
                    )
        made[f"gif {w}x{h}"] = partial(one_colour, "GIF", "P", w, h, transparency=3, disposal=2)
    return made


def webps() -> Mapping[str, Callable[[], bytes]]:
    made: dict[str, Callable[[], bytes]] = {"groups": partial(webp_of_many_groups, 512, 512)}
    for w, h in [(550, 550), (16_383, 20), (20, 16_383)]:
        for mode in ("RGB", "RGBA"):
            for options in ({}, {"lossless": True}, {"save_all": True}):
                made[f"webp {w}x{h} {mode} {options}"] = partial(webp, mode, w, h, **options)
    return made


def one_colour(format: str, mode: str, width: int, height: int, **options: object) -> bytes:
    return saved(Image.new(mode, (width, height)), format, **options)


def webp(mode: str, width: int, height: int, **options: object) -> bytes:
    if "save_all" in options:
        options = {**options, "append_images": [noise(width, height, mode)] * 2}
    return saved(noise(width, height, mode), "WEBP", method=0, **options)


def of_process(name: str) -> int:
    for line in STATUS.read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise KeyError(name)


def main() -> None:
    """Warm first, so that no library is loaded while it is measured."""
    File(png(8, 8)).look(N).decoded([SIZE])
    for name, make in cases().items():
        data = make()
        C.malloc_trim(0)
        CLEAR.write_text("5")  # sets the peak to what is there now
        before = of_process("VmRSS")
        picture = File(data).look(100 * N).by(RULES[name.startswith(REDUCED)])
        picture.decoded([SIZE])
        peak = of_process("VmHWM") - before
        needed, perhaps = picture.memory([SIZE])
        found = {"name": name, "peak": peak, "needed": needed, "perhaps": perhaps,
                 "pixels": picture.pixels, "width": picture.picture.width,
                 "height": picture.picture.height, "file": len(data)}  # fmt: skip
        sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
