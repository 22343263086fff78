"""Law: an export is the task: transformers' own class computes the same from it, and its components
come back bit for bit. What the class cannot compute is refused by name."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

import munet
from evolution.adopting import hugging_face
from evolution.adopting.export import write
from evolution.adopting.export_errors import ExportError
from evolution.adopting.export_pixels import picture
from model_store import ModelStore, digest_of, encode
from tests.evolution.adopting.exported import (
    ADAPTED,
    KINDS,
    TINY,
    compiled,
    logits_of,
    logits_of_hugging_face,
    publish,
    random_params,
)
from tests.evolution.adopting.networks import FIXTURES, agrees
from vit import Architecture, preprocess
from vit.config import ACTIVATIONS
from vit.contract import Contract
from vit.decode import TENSORFLOW, VIEWER
from vit.preprocess import CONTRACT


@pytest.mark.parametrize("arch", [TINY, ADAPTED], ids=["plain", "adapters"])
def test_transformers_class_gives_the_same_logits(
    store: ModelStore, tmp_path: Path, arch: Architecture
) -> None:
    published = publish(store, arch)
    write(store, published, tmp_path / "out")
    size = arch.image_size
    images = np.random.default_rng(1).uniform(-1, 1, (3, size, size, 3)).astype(np.float32)
    found = logits_of_hugging_face(tmp_path / "out", images)
    expected = logits_of(store, published, images)
    assert expected.std() > 0.1
    np.testing.assert_allclose(found, expected, atol=1e-4, rtol=0)


architectures = st.builds(
    lambda heads, dim, patch, grid, rest, mlp, layers, classes, activation, epsilon: Architecture(
        width=heads * dim, heads=heads, mlp_dim=mlp, patch_size=patch,
        image_size=patch * grid + min(rest, patch - 1), num_layers=layers, num_classes=classes,
        activation=activation, norm_epsilon=epsilon,
    ),
    st.integers(1, 4), st.integers(1, 5), st.integers(1, 16), st.integers(1, 5), st.integers(0, 15),
    st.integers(1, 30), st.integers(1, 4), st.integers(1, 12), st.sampled_from(ACTIVATIONS),
    st.sampled_from([1e-6, 1e-12, 1e-5]),
)  # fmt: skip


DECODINGS = (
    VIEWER, TENSORFLOW, replace(TENSORFLOW, pixel_scale=3), replace(VIEWER, reduced=True),
)  # fmt: skip


@given(architectures, st.data())
@settings(
    max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_components_come_back_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory, arch: Architecture, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("round")
    store = ModelStore(str(folder / "store"), create=True)
    params = random_params(arch, data.draw(st.integers(0, 9)))
    decoding = data.draw(st.sampled_from(DECODINGS))
    published = publish(store, arch, params, decoding=decoding)
    write(store, published, folder / "out")
    back = hugging_face.read(folder / "out", None)
    found = {name: digest_of(encode(tree)) for name, tree in back.components.items()}
    assert found == dict(published.path.components)
    assert back.architecture == arch
    assert back.labels == published.path.labels
    assert (back.target, back.decoding) == (arch.image_size, decoding)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_export_and_adopt_by_command_give_the_same_task(
    store: ModelStore, tmp_path: Path, activation: str
) -> None:
    extra: dict[str, Any] = {} if activation == "softmax" else {"activation": activation}
    extra["temperature"] = 1.75
    published = publish(store, labels=("a|b", "Straße", "line\nbreak"), extra=extra)
    place, other = f"hf:{tmp_path / 'out'}", str(tmp_path / "other")
    for arguments in (
        ["export", "flowers", "--to", place, "--store", store.url],
        ["adopt", "again", "--from", place, "--store", other],
    ):
        done = CliRunner().invoke(munet.app, arguments)
        assert done.exit_code == 0, done.output
    again = ModelStore(other).resolve("again").path
    path = published.path
    assert again.components == path.components
    assert (again.labels, again.input, again.architecture) == (
        path.labels, path.input, path.architecture,
    )  # fmt: skip
    assert again.extra.get("activation", "softmax") == activation
    assert again.extra["temperature"] == 1.75
    assert "divides the logits by 1.75" in " ".join(
        (tmp_path / "out/README.md").read_text().split()
    )


CLASSES = ("vit", "ijepa", "deit", "deit-distilled", "dinov2", "dinov2-registers")


@pytest.mark.parametrize("name", CLASSES)
def test_what_was_adopted_goes_back_to_its_class(
    store: ModelStore, tmp_path: Path, name: str
) -> None:
    """Under the library's own keys, with the fields that its configuration has."""
    theirs, out = FIXTURES / "hf" / name, tmp_path / "out"
    model = hugging_face.read(theirs, None)
    assert isinstance(model.target, Contract)
    published = publish(
        store, model.architecture, dict(model.components), decoding=model.decoding,
        labels=model.labels, input={**model.target.to_json(), **model.decoding.to_json()},
    )  # fmt: skip
    write(store, published, out)
    again = hugging_face.read(out, None)
    agrees(again, theirs)  # the logits that transformers gave
    assert again.architecture == model.architecture
    expected = {key: array.shape for key, array in load_file(theirs / "model.safetensors").items()}
    found = {key: array.shape for key, array in load_file(out / "model.safetensors").items()}
    assert found.keys() == expected.keys() - {key for key in expected if "pooler" in key}
    others = [key for key in found if not key.endswith("position_embeddings")]  # of another size
    assert [found[key] for key in others] == [expected[key] for key in others]
    ours, config = (json.loads((f / "config.json").read_text()) for f in (out, theirs))
    assert ours.keys() - config.keys() <= {"problem_type"}
    same = ours.keys() & config.keys() - {"image_size", "hidden_act"}
    assert {key: ours[key] for key in same} == {key: config[key] for key in same}


@pytest.mark.parametrize("kind", KINDS)
def test_each_class_gives_the_same_logits(store: ModelStore, tmp_path: Path, kind: str) -> None:
    """Positions of registers and adapters too, which its class has not."""
    arch = KINDS[kind]
    published = publish(store, arch)
    write(store, published, tmp_path / "out")
    back = hugging_face.read(tmp_path / "out", None)
    side = arch.image_size
    images = np.random.default_rng(1).uniform(-1, 1, (3, side, side, 3)).astype(np.float32)
    found = np.asarray(compiled(back.architecture, back.components, jnp.asarray(images)))
    expected = logits_of(store, published, images)
    assert expected.std() > 0.01
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)


def test_labels_and_the_input_contract_are_told(store: ModelStore, tmp_path: Path) -> None:
    labels = ("a|b", "Straße", "line\nbreak")
    published = publish(store, labels=labels)
    write(store, published, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert tuple(config["id2label"][str(number)] for number in range(3)) == labels
    assert [config["label2id"][label] for label in labels] == [0, 1, 2]
    record = json.loads((tmp_path / "out" / "munet.json").read_text())
    assert record["path"] == published.path.to_json()
    assert record["manifest"] == published.digest
    assert json.loads((tmp_path / "out" / "preprocessor_config.json").read_text())["size"] == {
        "height": 14,
        "width": 14,
    }


@pytest.mark.parametrize("side", [5, 14])
def test_what_the_card_says_of_smaller_pictures_is_true(side: int) -> None:
    pixels = picture(side, 3)
    averaged = Image.fromarray(pixels).resize((14, 14), Image.Resampling.BILINEAR)
    ours = (preprocess(pixels, 14) + 1) * 127.5
    assert np.abs(ours - np.asarray(averaged, np.float32)).max() <= (1.01 if side < 14 else 1e-4)


def _integers(store: ModelStore) -> Any:
    params = random_params(TINY, 0)
    return {"params": {**params, "head": jax.tree.map(np.int32, params["head"])}}


REFUSED: dict[str, tuple[Any, str]] = {
    "several paths": (
        lambda store: {"architecture": {"kind": "multipath", "num_paths": 2}},
        "takes one path; found a multipath of several",
    ),
    "no architecture": (lambda store: {"architecture": {"width": 3}}, "takes an architecture"),
    "other labels": (lambda store: {"labels": ("one",)}, "takes 3 labels; found 1"),
    "an adapter wider than the MLP": (
        lambda store: {"arch": replace(ADAPTED, adapter_dim=41)},
        "adapters of at most 40, the width of a block's MLP; found adapters of 41",
    ),
    "whole numbers": (_integers, "takes head/bias in at most 32 bits of floats; found int32"),
    "other arrays": (
        lambda store: {"params": random_params(replace(TINY, mlp_dim=25), 0)},
        r"MlpBlock_0/Dense_0/bias as \(24,\); found \(25,\)",
    ),
    "another activation": (
        lambda store: {"activation": "tanh"},
        "takes a known activation and temperature; found activation: expected one of",
    ),
    "a mean next to a token": (
        lambda store: {"arch": replace(TINY, pooling="mean")},
        "takes pooling token with .*found pooling mean, prefix_tokens 1",
    ),
    "a norm behind the mean": (
        lambda store: {
            "arch": replace(TINY, pooling="mean", prefix_tokens=0, norm_after_pooling=True)
        },
        "found pooling mean, prefix_tokens 0, norm_after_pooling True",
    ),
    "further tokens": (lambda store: {"arch": replace(TINY, prefix_tokens=5)}, "prefix_tokens 5"),
    "a first norm": (lambda store: {"arch": replace(TINY, input_norm=True)}, "input_norm True"),
    "no whole ratio": (
        lambda store: {"arch": replace(TINY, pooling="token_and_mean", mlp_dim=25)},
        "a multiple of the width.*mlp_dim 25",
    ),
    "adapters next to another GELU": (
        lambda store: {"arch": replace(ADAPTED, activation="gelu")},
        "takes activation gelu_tanh with adapters; found gelu",
    ),
    "adapters next to another epsilon": (
        lambda store: {"arch": replace(ADAPTED, norm_epsilon=1e-12)},
        "takes norm_epsilon 1e-06 with adapters; found 1e-12",
    ),
    "another size": (
        lambda store: {"input": {"size": 15, **CONTRACT}},
        "takes input with size 14; found 15",
    ),
    "unknown rules": (
        lambda store: {"input": {"size": 14, **CONTRACT, "decoding": "mine"}},
        "takes a known input; found decoding: expected one of",
    ),
    "another resize": (
        lambda store: {"input": {"size": 14, "resize": "nearest", "channels": 3}},
        "takes input with resize 'bilinear'; found 'nearest'",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_class_cannot_compute_is_refused_by_name(
    store: ModelStore, tmp_path: Path, name: str
) -> None:
    changes, message = REFUSED[name]
    fields = changes(store)
    if "activation" in fields:
        fields = {"extra": fields}
    published = publish(store, **fields)
    with pytest.raises(ExportError, match=message) as refused:
        write(store, published, tmp_path / "out")
    assert "munet store export --oci" in str(refused.value)
    assert not (tmp_path / "out").exists()


CONTRACTS = (
    Contract(14, "bicubic", (14, 14), (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)),
    Contract(14, "bilinear", 16, (0.48145466, 0.4578275, 0.40821073), (0.25, 0.26, 0.27)),
    Contract(14, "lanczos", (18, 16), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
)


@pytest.mark.parametrize("contract", CONTRACTS, ids=lambda contract: contract.filter)
def test_an_adopted_input_is_said_exactly(
    store: ModelStore, tmp_path: Path, contract: Contract
) -> None:
    told = {**contract.to_json(), **VIEWER.to_json()}
    write(store, publish(store, input=told), tmp_path / "out")
    back = hugging_face.read(tmp_path / "out", None)
    assert (back.target, back.decoding) == (contract, VIEWER)
    (tmp_path / "out" / "munet.json").unlink()  # by preprocessor_config.json alone
    assert hugging_face.read(tmp_path / "out", None).target == contract


def test_a_folder_that_was_trained_further_speaks_for_itself(
    store: ModelStore, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    write(store, publish(store), out)
    assert hugging_face.read(out, None).target == 14
    changed = {key: array + 1 for key, array in load_file(out / "model.safetensors").items()}
    save_file(changed, out / "model.safetensors")
    half = (0.5, 0.5, 0.5)
    assert hugging_face.read(out, None).target == Contract(14, "bilinear", (14, 14), half, half)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_becomes_float32_without_loss(
    store: ModelStore, tmp_path: Path, dtype: Any
) -> None:
    params = random_params(TINY, 0)
    halves = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
    write(store, publish(store, params=halves), tmp_path / "out")
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert {array.dtype for array in found.values()} == {np.dtype(np.float32)}
    bias = found["classifier.bias"]
    np.testing.assert_array_equal(bias, halves["head"]["bias"].astype(np.float32))
