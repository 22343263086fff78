"""Accuracy with large JPEG files at reduced size, next to that with the same files decoded whole.

A linear classifier on the shipped root, trained and tested on the same halves of each set. The last
figure is that of a classifier trained on reduced pictures and asked about whole ones.
EUROSAT_FOLDER: as for test_eurosat.py, unpacked.
"""

from __future__ import annotations

import io
import os
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evolution.data import photographs
from evolution.roots.loading import load_root
from evolution.roots.probes import features, ridge_answers
from vit.decode import VIEWER, decode
from vit.preprocess import preprocess

SOURCE = os.environ.get("EUROSAT_FOLDER", "")
SIZES, LAYERS, DRAWS, LEAST = (32, 64), 3, 10, -0.01
NUMBERS = range(1000, 1200)  # of EuroSAT's files in each class: the root was trained on others
Set = tuple[list[bytes], list[int]]


def drawn(each: int = 300) -> Set:
    """Photographs with sides of 480 to 800 pixels."""
    files, labels = [], []
    for label, surface in enumerate(photographs.SURFACES):
        for number in range(each):
            rng = np.random.default_rng([1, label, number])
            files.append(jpeg(photographs.photograph(surface, rng), rng))
            labels.append(label)
    return files, labels


def enlarged(noise: bool) -> Set:
    """EuroSAT at 512 pixels, with a camera's noise or without."""
    files, labels, rng = [], [], np.random.default_rng(0)
    folders = sorted({file.parent for file in Path(SOURCE).rglob("*_1000.jpg")})
    for label, folder in enumerate(folders):
        for number in NUMBERS:
            with Image.open(folder / f"{folder.name}_{number}.jpg") as small:
                pixels = np.asarray(small.resize((512, 512), Image.Resampling.BICUBIC), np.float32)
            if noise:
                pixels = pixels + rng.normal(0, rng.uniform(2, 10), pixels.shape)
            files.append(jpeg(Image.fromarray(pixels.clip(0, 255).astype(np.uint8)), rng))
            labels.append(label)
    return files, labels


def jpeg(picture: Image.Image, rng: np.random.Generator) -> bytes:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=int(rng.integers(70, 95)))
    return file.getvalue()


def right(files: list[bytes], labels: np.ndarray, size: int) -> dict[str, np.ndarray]:
    """Which answers are, [draws, pictures], by how files were decoded to train and to ask."""
    arch, components = load_root("shipped", size, LAYERS)
    seen = []
    for rules in (VIEWER, replace(VIEWER, reduced=True)):
        images = np.stack([preprocess(decode(file, rules, size), size) for file in files])
        found = features(arch, components, images).reshape(len(files), -1, arch.width)
        seen.append(found[:, 0] if arch.one_token_answers else found.mean(1))
    whole, reduced = seen
    wanted, answers = np.eye(labels.max() + 1)[labels], {}
    for name, trained, asked in (
        ("whole", whole, whole), ("reduced", reduced, reduced), ("mixed", reduced, whole),
    ):  # fmt: skip
        answers[name] = []
        for draw in range(DRAWS):
            order = np.random.default_rng(draw).permutation(len(files))
            train, test = np.split(order, 2)
            found = ridge_answers(trained[train], wanted[train], asked[test])
            answers[name].append(found.argmax(1) == labels[test])
    return {name: np.array(found) for name, found in answers.items()}


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("name", "made"),
    [("photographs", drawn), ("EuroSAT", partial(enlarged, False)),
     ("EuroSAT, noise", partial(enlarged, True))],
)  # fmt: skip
def test_accuracy_is_equal_within_noise(name, made, size, monkeypatch, capsys):
    if made is not drawn and not SOURCE:
        pytest.skip("EUROSAT_FOLDER names no folder with EuroSAT's class folders")
    monkeypatch.setattr(photographs, "SHORTEST", 480)
    monkeypatch.setattr(photographs, "LONGEST", 800)
    files, labels = made()
    found = right(files, np.array(labels), size)
    paired = found["reduced"].astype(float) - found["whole"]
    interval = 1.96 * paired.std(1).mean() / np.sqrt(paired.shape[1])
    accuracy = ", ".join(f"{kind} {of.mean():.4f}" for kind, of in found.items())
    with capsys.disabled():
        sys.stdout.write(
            f"\n{name} at {size} px: {accuracy}; paired {paired.mean():+.4f} ± {interval:.4f}\n"
        )
    assert paired.mean() >= LEAST
