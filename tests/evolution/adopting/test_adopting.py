"""Networks of other libraries: the logits that those give, to 1e-4, on pixels that are theirs.

What the libraries answer was written by `make adopt-fixtures` (make_fixtures.py).
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from evolution.adopting import augreg, hugging_face, peft, timm
from evolution.adopting.models import Model
from vit.decode import decode
from vit.forward import forward
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
HUGGING_FACE = (
    "vit", "vit-variant", "vit-msn", "ijepa", "deit", "deit-distilled", "dinov2",
    "dinov2-registers",
)  # fmt: skip


TIMM = ("vit", "gap", "gap-fc", "registers", "registers-token", "clip", "deit")


def agrees(model: Model, folder: Path) -> None:
    """The picture's pixels are the library's, and its logits; and those of the other files, where
    the library was asked."""
    expected = np.load(folder / "expected.npz")
    pixels = preprocess(decode(PICTURE, model.decoding), model.target)
    assert np.abs(pixels - expected["pixels"].transpose(1, 2, 0)).max() < EXACT
    told = ANSWERS.get(f"{folder.parent.name}/{folder.name}", {})
    others = [preprocess(decode(FILES[file], model.decoding), model.target) for file in told]
    logits = forward(model.architecture, model.components, np.stack([pixels, *others]))
    wanted = np.array([expected["logits"], *told.values()])
    apart = np.abs(np.asarray(logits) - wanted).max(1)
    assert apart.max() < EQUAL, dict(zip(["picture.png", *told], apart.tolist(), strict=True))
    assert model.labels == LABELS


def test_the_libraries_were_asked_about_every_file():
    networks = [f"hf/{name}" for name in HUGGING_FACE] + [f"timm/{name}" for name in TIMM]
    assert ANSWERS.keys() == set(networks)
    assert all(told.keys() == FILES.keys() for told in ANSWERS.values())


@pytest.mark.parametrize("name", HUGGING_FACE)
def test_networks_of_transformers_answer_as_there(name):
    folder = FIXTURES / "hf" / name
    agrees(hugging_face.read(folder, None), folder)


@pytest.mark.parametrize("name", ["lora", "lora-rs"])
def test_adapters_of_peft_are_merged(name):
    folder = FIXTURES / "hf" / name
    agrees(peft.read(folder, None, None), folder)


@pytest.mark.parametrize("name", TIMM)
def test_networks_of_timm_answer_as_there(name):
    folder = FIXTURES / "timm" / name
    agrees(timm.read(folder / "model.safetensors", None), folder)


def test_a_file_of_augreg_answers_with_its_head():
    folder = FIXTURES / "augreg"
    labels = (folder / "labels.txt").read_text().splitlines()
    agrees(augreg.read(folder / "tiny.npz", labels), folder)
