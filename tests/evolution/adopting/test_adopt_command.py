"""What `munet adopt` stores, shares, tells and refuses."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

import evolution.adopting.command as command
import munet
from evolution.adopting.errors import AdoptError
from model_store import ModelStore, StoreError, encode
from munet import LONGEST_MESSAGE
from tests.evolution.adopting.networks import FIXTURES
from vit.contract import FILTERS, ROUNDINGS, Contract, contract_of

Edit = Callable[[dict[str, Any]], Any]


def adopt(store: Path, task: str, place: str, *options: str) -> str:
    """What the command prints; raises what it raises."""
    asked = [task, "--from", place, "--store", str(store), *options]
    found = CliRunner().invoke(command.app, asked, env={"COLUMNS": "80"})
    if isinstance(found.exception, AdoptError | StoreError | OSError):
        raise found.exception
    assert found.exit_code == 0, found.output
    return found.output


def edited(tmp_path: Path, name: str, file: str, edit: Edit) -> Path:
    """A copy of a fixture with one JSON file changed."""
    folder = tmp_path / "edited"
    shutil.copytree(FIXTURES / name, folder)
    told = json.loads((folder / file).read_text())
    edit(told)
    (folder / file).write_text(json.dumps(told))
    return folder


# ---- stored once


def test_heads_on_one_backbone_share_it(tmp_path):
    folder, store = tmp_path / "head", tmp_path / "store"
    shutil.copytree(FIXTURES / "hf" / "vit", folder)
    arrays = load_file(folder / "model.safetensors")
    first = adopt(store, "head-0", f"hf:{folder}")
    assert "33.4 kB added, nothing there before" in first
    for number in range(1, 4):
        rng = np.random.default_rng(number)
        arrays["classifier.weight"] = rng.normal(size=(5, 16)).astype(np.float32)
        save_file(arrays, folder / "model.safetensors", {"format": "pt"})
        told = adopt(store, f"head-{number}", f"hf:{folder}")
        head = encode({"kernel": np.zeros((16, 5), np.float32), "bias": np.zeros(5, np.float32)})
        assert f"stored      {len(head)} bytes added" in told
        assert "shared with head-0" in " ".join(told.split())
    components = [ModelStore(store).resolve(f"head-{n}").path.components for n in range(4)]
    assert len({name for c in components for name in c.values()}) == 7 + 3


def test_the_same_again_adds_nothing_and_another_is_a_new_version(tmp_path):
    store, place = tmp_path / "store", f"hf:{FIXTURES / 'hf' / 'vit'}"
    adopt(store, "pets", place)
    assert "there already" in adopt(store, "pets", place)
    told = adopt(store, "pets", f"timm:{FIXTURES / 'timm' / 'vit'}")
    assert "pets v2" in told and "rollback pets 1" in told
    assert list(ModelStore(store).versions("pets")) == [1, 2]


def test_what_is_told_fits_80_columns_and_has_no_gaps(tmp_path):
    told = adopt(tmp_path / "s", "pets", f"timm:{FIXTURES / 'timm' / 'clip'}")
    for word in ("patch", "quick_gelu", "5: tabby cat", "shorter edge", "16,469", "curl"):
        assert word in told
    lines = [line for line in told.splitlines() if not line.startswith(("from", "serve", "ask"))]
    assert max(map(len, lines)) <= 80


def test_a_private_task_stays_private(tmp_path):
    store, place = tmp_path / "store", f"hf:{FIXTURES / 'hf' / 'vit'}"
    adopt(store, "pets", place, "--private")
    assert ModelStore(store).resolve("pets").path.private
    with pytest.raises(AdoptError, match="--private"):
        adopt(store, "pets", f"hf:{FIXTURES / 'hf' / 'deit'}")
    assert list(ModelStore(store).versions("pets")) == [1]


def test_a_head_of_several_labels_says_so(tmp_path):
    folder = edited(
        tmp_path, "hf/vit", "config.json",
        lambda told: told.update(problem_type="multi_label_classification"),
    )  # fmt: skip
    adopt(tmp_path / "store", "tags", f"hf:{folder}")
    assert ModelStore(tmp_path / "store").resolve("tags").path.extra["activation"] == "sigmoid"


# ---- refused


def refused(tmp_path: Path, place: str, *expected: str, options: tuple[str, ...] = ()) -> None:
    """By name, in few lines, and nothing is left."""
    with pytest.raises((AdoptError, StoreError)) as found:
        adopt(tmp_path / "store", "pets", place, *options)
    text = str(found.value)
    for part in expected:
        assert part in text
    assert len(text.splitlines()) <= LONGEST_MESSAGE
    assert not (tmp_path / "store").exists()


CONFIGS = {
    "hidden_act": "mish",
    "layer_norm_eps": 0,
    "num_attention_heads": 3,
    "num_hidden_layers": 3,
    "num_channels": 1,
    "image_size": 64,
    "architectures": ["BeitForImageClassification"],
    "problem_type": "regression",
    "id2label": {"0": "one", "2": "two"},
    "hidden_size": 32,
    "patch_size": 16,
    "intermediate_size": 7,
    "calibration_temperature": 10**400,
}


@pytest.mark.parametrize("field", CONFIGS)
def test_a_configuration_that_no_network_of_ours_has_is_refused_by_name(tmp_path, field):
    folder = edited(
        tmp_path, "hf/vit", "config.json", lambda told: told.update({field: CONFIGS[field]})
    )
    expected = {
        "num_attention_heads": "heads 3",
        "num_hidden_layers": "3 blocks",
        "image_size": "64 pixels",
    }
    refused(tmp_path, f"hf:{folder}", expected.get(field, field), "expected", "found")


PROCESSORS = {
    "resample": 0,
    "size": {"longest_edge": 32},
    "image_mean": [0.5],
    "image_std": [0.5, 0.5, 0.0],
    "image_processor_type": "ConvNextImageProcessor",
    "do_pad": True,
    "do_resize": "yes",
    "crop_size": {"height": 32, "width": 48},
    "rescale_factor": 0,
}


@pytest.mark.parametrize("field", PROCESSORS)
def test_a_preparation_that_is_not_done_here_is_refused_by_name(tmp_path, field):
    folder = edited(
        tmp_path, "hf/deit", "preprocessor_config.json",
        lambda told: told.update({field: PROCESSORS[field]}),
    )  # fmt: skip
    name = {"image_mean": "mean", "image_std": "std"}.get(field, field)
    refused(tmp_path, f"hf:{folder}", name, "expected", "found")


def test_pictures_that_are_cropped_must_be_resized(tmp_path):
    folder = edited(
        tmp_path, "hf/deit", "preprocessor_config.json", lambda told: told.update(do_resize=False)
    )
    refused(tmp_path, f"hf:{folder}", "do_resize")


TIMM = {
    "architecture": ("resnet50", "architecture"),
    "architecture of blocks that norm elsewhere": ("vit_base_patch16_rpn_224", "architecture"),
    "global_pool": ("map", "global_pool"),
    "qk_norm": (True, "qk_norm"),
    "mlp_layer": ("swiglu", "mlp_layer"),
    "act_layer": ("hard_mish", "act_layer"),
    "crop_mode": ("border", "crop_mode"),
    "interpolation": ("random", "interpolation"),
    "input_size": ([3, 32, 48], "img_size"),
    "num_heads": (5, "heads 5"),
}


@pytest.mark.parametrize("field", TIMM)
def test_a_network_of_timm_that_is_another_is_refused_by_name(tmp_path, field):
    value, expected = TIMM[field]

    def edit(told: dict[str, Any]) -> None:
        name = field.split(" ")[0]
        if name == "architecture":
            told[name] = value
        elif name in ("crop_mode", "interpolation", "input_size"):
            told["pretrained_cfg"][name] = value
        else:
            told["model_args"][name] = value

    refused(tmp_path, f"timm:{edited(tmp_path, 'timm/vit', 'config.json', edit)}", expected)


ADAPTERS = {
    "use_dora": True,
    "peft_type": "LOHA",
    "fan_in_fan_out": True,
    "init_lora_weights": "pissa",
    "alpha_pattern": {"fc1": 3},
    "lora_alpha": None,
    "base_model_name_or_path": "google/vit-base-patch16-224",
}


@pytest.mark.parametrize("field", ADAPTERS)
def test_an_adapter_of_another_kind_is_refused_by_name(tmp_path, field):
    folder = edited(
        tmp_path, "hf/lora", "adapter_config.json",
        lambda told: told.update({"base_model_name_or_path": str(FIXTURES / "hf" / "vit"),
                                  field: ADAPTERS[field]}),
    )  # fmt: skip
    refused(tmp_path, f"hf:{folder}", field)


def test_the_base_of_an_adapter_can_be_named(tmp_path):
    folder = edited(
        tmp_path, "hf/lora", "adapter_config.json",
        lambda told: told.update(base_model_name_or_path="google/vit"),
    )  # fmt: skip
    base = ("--base", f"hf:{FIXTURES / 'hf' / 'vit'}")
    assert "pets v1" in adopt(tmp_path / "one", "pets", f"hf:{folder}", *base)
    refused(tmp_path, f"hf:{folder}", "[out, in]", options=("--base", f"hf:{FIXTURES / 'hf/deit'}"))
    refused(tmp_path, f"hf:{FIXTURES / 'hf/vit'}", "PEFT", options=base)


def test_labels(tmp_path):
    folder = edited(tmp_path, "hf/vit", "config.json", lambda told: told.pop("id2label"))
    refused(tmp_path, f"hf:{folder}", "expected labels for 5 classes", "--labels")
    file = tmp_path / "labels.txt"
    file.write_text("a\nb\nc\nd\n")
    refused(tmp_path, f"hf:{folder}", "5 labels", "found 4", options=("--labels", str(file)))
    file.write_text("a\nb\nc c\nd\né\n")
    adopt(tmp_path / "labelled", "pets", f"hf:{folder}", "--labels", str(file))
    found = ModelStore(tmp_path / "labelled").resolve("pets").path.labels
    assert found == ("a", "b", "c c", "d", "é")


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("a\nb\nc\nd\ne", ("a", "b", "c", "d", "e")),
        ("\ufeffa\r\nb\r\nc\r\nd\r\ne\r\n", ("a", "b", "c", "d", "e")),
        (" a\nb\u2028\nc\x0b\nd\x85x\ne\tf\n", (" a", "b\u2028", "c\x0b", "d\x85x", "e\tf")),
        ("", "found 0"),
        ("a\n\nc\nd\ne", "as label 2, found ''"),
    ],
)
def test_labels_of_a_file_are_its_lines_to_the_letter_instead_of_its_own(tmp_path, text, labels):
    place = f"hf:{FIXTURES / 'hf/vit'}"
    file = tmp_path / "labels.txt"
    file.write_bytes(text.encode())
    if isinstance(labels, str):
        refused(tmp_path, place, labels, "--labels", options=("--labels", str(file)))
        return
    told = adopt(tmp_path / "store", "pets", place, "--labels", str(file))
    assert ModelStore(tmp_path / "store").resolve("pets").path.labels == labels
    assert not {"\u2028", "\x0b", "\x85"} & set(told)


def test_the_way_back_to_the_version_before_is_a_command(tmp_path):
    folder = edited(tmp_path, "hf/vit", "config.json", lambda told: told.update(image_size=32))
    store = tmp_path / "a store"
    adopt(store, "pets", f"hf:{folder}")
    (tmp_path / "labels.txt").write_text("a\nb\nc\nd\ne")
    options = ("--labels", str(tmp_path / "labels.txt"))
    told = adopt(store, "pets", f"hf:{folder}", *options)
    (line,) = (line for line in told.splitlines() if "munet store rollback" in line)
    words = shlex.split(line.partition(": munet ")[2])
    assert CliRunner().invoke(munet.app, words).exit_code == 0
    assert ModelStore(store).live()["pets"][0] == 1
    (line,) = (line for line in told.splitlines() if "munet serve" in line)
    assert shlex.split(line)[-1] == str(store)


@pytest.mark.parametrize("kept", [0, 7, 100, 5000, 33000])
def test_a_file_that_is_cut_off_is_refused(tmp_path, kept):
    folder = tmp_path / "cut"
    shutil.copytree(FIXTURES / "hf" / "vit", folder)
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:kept])
    refused(tmp_path, f"hf:{folder}", str(file), "cut off")


ARRAYS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "vit.layernorm.bias": lambda a: a.pop("vit.layernorm.bias"),
    "vit.extra": lambda a: a.update({"vit.extra": np.ones(3, np.float32)}),
    "of shape": lambda a: a.update({"vit.layernorm.bias": np.ones(3, np.float32)}),
    "finite": lambda a: a["vit.layernorm.bias"].__setitem__(0, np.nan),
    "floats": lambda a: a.update({"vit.layernorm.bias": np.ones(16, np.int8)}),
    "head": lambda a: a.pop("classifier.weight"),
    "blocks": lambda a: [a.pop(key) for key in list(a) if ".layer.1." in key],
    "position_embeddings": lambda a: a.update(
        {"vit.embeddings.position_embeddings": np.ones((1, 19, 16), np.float32)}
    ),
}


@pytest.mark.parametrize("expected", ARRAYS)
def test_arrays_that_do_not_fit_are_refused(tmp_path, expected):
    folder = tmp_path / "arrays"
    shutil.copytree(FIXTURES / "hf" / "vit", folder)
    arrays = load_file(folder / "model.safetensors")
    ARRAYS[expected](arrays)
    save_file(arrays, folder / "model.safetensors", {"format": "pt"})
    refused(tmp_path, f"hf:{folder}", expected)


def test_places_and_names(tmp_path):
    refused(tmp_path, "here", "hf:DIR", "timm:FILE", "augreg:FILE")
    refused(tmp_path, f"hf:{tmp_path / 'none'}", "found nothing")
    refused(tmp_path, f"timm:{tmp_path / 'none.safetensors'}", "found none")
    refused(tmp_path, f"augreg:{tmp_path / 'none.npz'}", "found no file")
    refused(tmp_path, f"augreg:{FIXTURES / 'picture.png'}", "something else (no ZIP archive)")
    refused(tmp_path, f"hf:{FIXTURES / 'timm/vit'}", "--from timm:")
    refused(tmp_path, f"timm:{FIXTURES / 'hf/vit'}", "--from hf:")
    with pytest.raises(StoreError):
        adopt(tmp_path / "store", "a//b", f"hf:{FIXTURES / 'hf/vit'}")
    folder = tmp_path / "pickled"
    shutil.copytree(FIXTURES / "hf/vit", folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    refused(tmp_path, f"hf:{folder}", "pickle", "safe_serialization")
    (folder / "pytorch_model.bin").rename(folder / "model.safetensors")
    (folder / "preprocessor_config.json").unlink()
    refused(tmp_path, f"hf:{folder}", "preprocessor_config.json", "save_pretrained")


# ---- the input's contract


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_a_contract_is_pillows_resize_and_a_crop_and_survives_its_json(data):
    from PIL import Image

    size = data.draw(st.integers(1, 24))
    edge = st.integers(size, 40)
    contract = Contract(
        size, data.draw(st.sampled_from(sorted(FILTERS))), data.draw(edge | st.tuples(edge, edge)),
        (0.5, 0.1, 0.0), (0.5, 1.0, 0.2), data.draw(st.sampled_from(ROUNDINGS)),
    )  # fmt: skip
    assert contract_of(contract.to_json()) == contract
    h, w = data.draw(st.integers(1, 60)), data.draw(st.integers(1, 60))
    image = np.random.default_rng(h * 61 + w).integers(0, 256, (h, w, 3), np.uint8)
    rows, columns = contract.resized(h, w)
    assert min(rows, columns) >= size
    whole = np.asarray(Image.fromarray(image).resize((columns, rows), FILTERS[contract.filter]))
    half = (lambda x: x // 2) if contract.rounding == "down" else lambda x: round(x / 2)
    top, left = half(rows - size), half(columns - size)
    assert (contract.cut(image) == whole[top : top + size, left : left + size]).all()
    grey = contract.scaled(contract.cut(image[..., :1]))
    assert (grey == contract.scaled(contract.cut(image[..., :1].repeat(3, -1)))).all()
    smaller = contract.at(max(1, size // 2))
    assert contract_of(smaller.to_json()) == smaller
