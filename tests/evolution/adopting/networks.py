"""Networks of other libraries, and what those libraries answer (`make adopt-fixtures`)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from evolution.adopting import hugging_face, timm
from evolution.adopting.models import Model
from tests.evolution.adopting.exported import compiled
from vit.decode import decode
from vit.preprocess import preprocess

FIXTURES = Path(__file__).with_name("fixtures")
PICTURE = (FIXTURES / "picture.png").read_bytes()
FILES = {
    file.name: file.read_bytes()
    for file in sorted((FIXTURES / "files").iterdir())
    if file.suffix != ".json"
}
ANSWERS = json.loads((FIXTURES / "files/logits.json").read_text())  # by network and file
LABELS = ("tabby cat", 'naïve, "quoted"', "dog", "owl", "fox")
EXACT, EQUAL = 1e-6, 1e-4


def agrees(model: Model, folder: Path) -> None:
    """The picture's pixels are the library's, and its logits; and those of the other files, where
    the library was asked."""
    expected = np.load(folder / "expected.npz")
    pixels = preprocess(decode(PICTURE, model.decoding), model.target)
    assert np.abs(pixels - expected["pixels"].transpose(1, 2, 0)).max() < EXACT
    told = ANSWERS.get(f"{folder.parent.name}/{folder.name}", {})
    others = [preprocess(decode(FILES[file], model.decoding), model.target) for file in told]
    logits = compiled(model.architecture, model.components, np.stack([pixels, *others]))
    wanted = np.array([expected["logits"], *told.values()])
    apart = np.abs(np.asarray(logits) - wanted).max(1)
    assert apart.max() < EQUAL, dict(zip(["picture.png", *told], apart.tolist(), strict=True))
    assert model.labels == LABELS


def model(name: str) -> Model:
    """That of a fixture."""
    folder = FIXTURES / name
    return (timm if name.startswith("timm/") else hugging_face).read(folder, None)
