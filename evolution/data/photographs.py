"""Draws photographs of four surfaces, as a folder of class folders, for examples.

`python -m evolution.data.photographs FOLDER` draws 240 of them. They are like people's pictures: of
many sizes and formats, in all kinds of light, blurred and noisy. Some lie on their side with an
EXIF flag, some are cut out on a transparent ground. The same seed draws the same files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

EACH = 60
SHORTEST, LONGEST = 90, 280  # sides, in pixels
FORMATS, OFTEN = ("jpg", "png", "webp"), (0.6, 0.15, 0.25)
ON_THEIR_SIDE, CUT_OUT = 0.3, 0.6  # shares of the JPEG files, and of the others
# What EXIF says -> how the stored picture lies, seen from the upright one.
FLAGS = {
    3: Image.Transpose.ROTATE_180,
    6: Image.Transpose.ROTATE_90,
    8: Image.Transpose.ROTATE_270,
}
ORIENTATION = 0x0112
Colour = tuple[int, ...]
Random = np.random.Generator


def _shade(rng: Random, colour: Colour, spread: float) -> Colour:
    """A colour near this one."""
    light = rng.normal(1.0, spread)
    return tuple(int(np.clip(c * light + rng.normal(0, 6), 0, 255)) for c in colour)


def _of(rng: Random, colours: tuple[Colour, ...]) -> Colour:
    return colours[int(rng.integers(len(colours)))]


def bricks(draw: ImageDraw.ImageDraw, size: int, rng: Random) -> None:
    """Courses of bricks, each set off by half a brick."""
    base = _of(rng, ((160, 82, 62), (176, 124, 92), (132, 118, 110)))
    draw.rectangle((0, 0, size, size), fill=_shade(rng, (188, 182, 172), 0.1))
    height = size / rng.uniform(5, 10)
    length, joint = height * rng.uniform(2.0, 2.8), height * rng.uniform(0.1, 0.2)
    for row in range(int(size / height) + 1):
        x = -length * (0.5 * (row % 2) + rng.uniform(0, 0.1))
        while x < size:
            box = (x, row * height, x + length - joint, (row + 1) * height - joint)
            draw.rectangle(box, fill=_shade(rng, base, 0.12))
            x += length


def boards(draw: ImageDraw.ImageDraw, size: int, rng: Random) -> None:
    """Upright boards with their grain."""
    base = _of(rng, ((150, 108, 70), (184, 150, 108), (120, 104, 92)))
    x = -rng.uniform(0, size / 6)
    while x < size:
        width, colour = size / rng.uniform(3, 6), _shade(rng, base, 0.12)
        draw.rectangle((x, 0, x + width, size), fill=colour)
        for _ in range(int(rng.integers(5, 10))):
            at, bend = x + rng.uniform(0, width), rng.uniform(0, width / 8)
            line = [(at + bend * np.sin(y / size * 5), y) for y in range(0, size + 8, 8)]
            draw.line(line, fill=_shade(rng, tuple(int(c * 0.78) for c in colour), 0.08))
        draw.line((x, 0, x, size), fill=(48, 40, 34), width=max(1, size // 90))
        x += width


def leaves(draw: ImageDraw.ImageDraw, size: int, rng: Random) -> None:
    """Leaves with their veins, lying over each other."""
    base = _of(rng, ((82, 128, 52), (150, 136, 48), (166, 92, 48)))
    draw.rectangle((0, 0, size, size), fill=_shade(rng, (92, 78, 58), 0.15))
    for _ in range(int(rng.integers(14, 26))):
        middle, length = rng.uniform(0, size, 2), size * rng.uniform(0.16, 0.3)
        angle, width = rng.uniform(0, 2 * np.pi), rng.uniform(0.25, 0.45)
        along = np.array([np.cos(angle), np.sin(angle)]) * length
        across = np.array([-along[1], along[0]]) * width
        steps = np.linspace(-1, 1, 13)
        bow = np.sqrt(1 - steps**2) * (1 - 0.3 * steps)
        sides = [middle + s * along + b * across for s, b in zip(steps, bow, strict=True)]
        sides += [
            middle + s * along - b * across for s, b in zip(steps[::-1], bow[::-1], strict=True)
        ]
        colour = _shade(rng, base, 0.18)
        vein = tuple(min(255, int(c * 1.35)) for c in colour)
        draw.polygon([tuple(p) for p in sides], fill=colour, outline=(44, 46, 28))
        draw.line([tuple(middle - along), tuple(middle + along)], fill=vein)
        for s in (-0.5, -0.1, 0.3):
            start = middle + s * along
            for side in (across, -across):
                draw.line([tuple(start), tuple(start + 0.25 * along + 0.6 * side)], fill=vein)


def pebbles(draw: ImageDraw.ImageDraw, size: int, rng: Random) -> None:
    """Round stones, each with its shadow and the light on it."""
    base = _of(rng, ((140, 138, 134), (172, 156, 132), (110, 116, 124)))
    draw.rectangle((0, 0, size, size), fill=_shade(rng, (70, 66, 60), 0.15))
    for _ in range(int(rng.integers(60, 90))):
        x, y = rng.uniform(0, size, 2)
        a, b = size * rng.uniform(0.04, 0.11), size * rng.uniform(0.04, 0.09)
        colour = _shade(rng, base, 0.2)
        draw.ellipse((x - a, y - b + b / 4, x + a, y + b * 1.3), fill=(40, 38, 36))
        draw.ellipse((x - a, y - b, x + a, y + b), fill=colour)
        light = tuple(min(255, int(c * 1.2)) for c in colour)
        draw.ellipse((x - a * 0.6, y - b * 0.7, x + a * 0.2, y + b * 0.1), fill=light)


SURFACES: Mapping[str, Callable[[ImageDraw.ImageDraw, int, Random], None]] = {
    "boards": boards,
    "bricks": bricks,
    "leaves": leaves,
    "pebbles": pebbles,
}


def photograph(surface: str, rng: Random) -> Image.Image:
    """An upright RGB picture of one of SURFACES, of any size and in any light."""
    width, height = (int(side) for side in rng.integers(SHORTEST, LONGEST, 2))
    size = int(1.5 * max(width, height))  # large enough to be turned a little
    drawn = Image.new("RGB", (size, size))
    SURFACES[surface](ImageDraw.Draw(drawn), size, rng)
    turned = drawn.rotate(rng.uniform(-12, 12), Image.Resampling.BILINEAR)
    left, top = (size - width) // 2, (size - height) // 2
    cropped = turned.crop((left, top, left + width, top + height))
    blurred = cropped.filter(ImageFilter.GaussianBlur(rng.uniform(0, 0.8)))
    return Image.fromarray(_lit(np.asarray(blurred, np.float32), rng))


def _lit(pixels: NDArray[np.float32], rng: Random) -> NDArray[np.uint8]:
    """The picture under a tinted light that falls off to one side, with noise."""
    height, width = pixels.shape[:2]
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    angle = rng.uniform(0, 2 * np.pi)
    fall = 1 + rng.uniform(0, 0.35) * (x * np.cos(angle) + y * np.sin(angle))
    tint = rng.normal(1, 0.05, 3) * rng.uniform(0.65, 1.2)
    noise = rng.normal(0, rng.uniform(2, 10), pixels.shape)
    return np.clip(pixels * fall[..., None] * tint + noise, 0, 255).astype(np.uint8)


def save(picture: Image.Image, path: Path, rng: Random) -> Path:
    """Writes it in one of FORMATS; the file, which is `path` with the format's ending."""
    file = path.with_suffix(f".{rng.choice(FORMATS, p=OFTEN)}")
    if file.suffix == ".jpg":
        exif = Image.Exif()
        if rng.random() < ON_THEIR_SIDE:
            flag = int(rng.choice(list(FLAGS)))
            picture, exif[ORIENTATION] = picture.transpose(FLAGS[flag]), flag
        picture.save(file, quality=int(rng.integers(70, 95)), exif=exif)
    else:
        if rng.random() < CUT_OUT:
            picture = _cut_out(picture)
        picture.save(file, lossless=False)
    return file


def _cut_out(picture: Image.Image) -> Image.Image:
    """Its middle on a transparent ground, which is black under the transparency."""
    shape = Image.new("L", picture.size, 0)
    width, height = picture.size
    ImageDraw.Draw(shape).ellipse((width * 0.03, height * 0.03, width * 0.97, height * 0.97), 255)
    black = Image.new("RGBA", picture.size, (0, 0, 0, 0))
    black.paste(picture, mask=shape)
    return black


def draw(folder: Path, each: int = EACH, seed: int = 0) -> list[Path]:
    """Draws `each` pictures of each surface below a folder; their files. Raises OSError."""
    files = []
    for number, surface in enumerate(SURFACES):
        (folder / surface).mkdir(parents=True, exist_ok=True)
        for i in range(each):
            rng = np.random.default_rng([seed, number, i])
            files.append(save(photograph(surface, rng), folder / surface / f"{i:03}", rng))
    return files


def main(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Gets one folder for each class.")
    ],
    each: Annotated[int, typer.Option(min=1, help="Pictures of each class.")] = EACH,
    seed: Annotated[int, typer.Option(min=0, help="The same seed draws the same.")] = 0,
) -> None:
    """Draws photographs of four surfaces, for examples."""
    files = draw(folder, each, seed)
    typer.echo(f"drew {len(files)} pictures of {', '.join(SURFACES)} in {folder}")


if __name__ == "__main__":
    typer.run(main)
