"""Networks of other libraries: the logits that those give, to 1e-4, on pixels that are theirs.

What the libraries answer was written by `make adopt-fixtures` (make_fixtures.py).
"""

from __future__ import annotations

import pytest

from evolution.adopting import augreg, hugging_face, peft, timm
from tests.evolution.adopting.networks import ANSWERS, FILES, FIXTURES, agrees

HUGGING_FACE = (
    "vit", "vit-variant", "vit-msn", "ijepa", "deit", "deit-distilled", "dinov2",
    "dinov2-registers",
)  # fmt: skip


TIMM = ("vit", "gap", "gap-fc", "registers", "registers-token", "clip", "deit")


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
