"""Small photographs that are drawn: coloured shapes on noisy grounds, one class a shape."""

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

SHAPES: tuple[str, ...] = ("disc", "square", "cross")


def picture(kind: str, seed: int, side: int = 24) -> Image.Image:
    """One of SHAPES, of a colour, size and place drawn from the seed."""
    rng = np.random.default_rng([SHAPES.index(kind), seed])
    ground = rng.integers(0, 90, (6, 6, 3), dtype=np.uint8)
    image = Image.fromarray(ground).resize((side, side), Image.Resampling.BILINEAR)
    draw = ImageDraw.Draw(image)
    colour = tuple(int(v) for v in rng.integers(140, 256, 3))
    x, y, r = (int(rng.integers(low, high)) for low, high in ((8, 16), (8, 16), (5, 8)))
    box = (x - r, y - r, x + r, y + r)
    if kind == "disc":
        draw.ellipse(box, fill=colour)
    elif kind == "square":
        draw.rectangle(box, fill=colour)
    else:
        draw.line((x - r, y, x + r, y), fill=colour, width=3)
        draw.line((x, y - r, x, y + r), fill=colour, width=3)
    return image


def encoded(image: Image.Image, form: str = "PNG", **how) -> bytes:
    """An image as a file's bytes."""
    file = io.BytesIO()
    image.save(file, form, **how)
    return file.getvalue()


def class_folders(folder: Path, each: int = 10, kinds=SHAPES, first: int = 0, names=()) -> Path:
    """A folder for each shape, called as it or by `names`, with this many pictures in it."""
    for kind, name in zip(kinds, names or kinds, strict=True):
        (folder / name).mkdir(parents=True)
        for i in range(first, first + each):
            (folder / name / f"{i:03}.png").write_bytes(encoded(picture(kind, i)))
    return folder
