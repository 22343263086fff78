"""model_store/FORMAT.md lists what a path spec may say of a network and its input."""

from dataclasses import fields
from pathlib import Path

import pytest

import model_store
from vit.config import ACTIVATIONS, POOLINGS, Architecture
from vit.contract import FILTERS, ROUNDINGS, SCALING, Contract
from vit.decode import DECODINGS, TENSORFLOW
from vit.preprocess import CONTRACT

PAGE = (Path(model_store.__file__).parent / "FORMAT.md").read_text("utf-8")
OTHERS = Contract(8, "bilinear", 8, (0.5,) * 3, (0.5,) * 3).to_json()
ARCHITECTURE = [field.name for field in fields(Architecture)]
VALUES = [*ACTIVATIONS, *POOLINGS, *FILTERS, *ROUNDINGS, *DECODINGS, SCALING, CONTRACT["scaling"]]


@pytest.mark.parametrize(
    "name",
    dict.fromkeys(
        [*ARCHITECTURE, *OTHERS, *CONTRACT, *TENSORFLOW.to_json(), "pixel_scale", *VALUES]
    ),
)
def test_the_page_names_each_field_and_each_value(name):
    assert f"`{name}`" in PAGE.partition("## Path spec")[2].partition("## Manifest")[0]
