"""Published weights: equal logits to the code of those who publish them, and no silent mistakes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from tests.vit.golden.networks import images
from vit import Architecture
from vit.components import position_embedding_for
from vit.forward import forward
from vit.pretrained import PretrainedError, read_augreg, read_hf

GOLDEN = Path(__file__).parent / "golden" / "pretrained"
NUMBERINGS = ("augreg_pre_linen", "augreg_linen")
QUERY = "Transformer/encoderblock_1/MultiHeadDotProductAttention_1/query/kernel"
DENSE = "Transformer/encoderblock_1/MlpBlock_3/Dense_0/kernel"
Arrays = dict[str, NDArray[Any]]
compiled = jax.jit(forward, static_argnums=0)


def golden(name: str) -> Arrays:
    """All arrays of an .npz next to the golden scripts."""
    with np.load(GOLDEN / f"{name}.npz") as file:
        return dict(file)


def logits(arch: Architecture, params: dict[str, Any], head: Any) -> NDArray[np.float32]:
    """The answers of our forward with the file's own head, which readers drop."""
    arch = replace(arch, num_classes=head["bias"].size)
    return np.asarray(compiled(arch, {**params, "head": head}, images(arch.image_size)))


def augreg_head() -> dict[str, Any]:
    arrays = golden("augreg_linen")
    return {leaf: arrays[f"head/{leaf}"] for leaf in ("kernel", "bias")}


@pytest.mark.parametrize("name", NUMBERINGS)
@pytest.mark.parametrize("size", [12, 20])
def test_augreg_logits_equal_the_original_code(name: str, size: int) -> None:
    arch, params = read_augreg(GOLDEN / f"{name}.npz")
    assert (arch.heads, arch.image_size, arch.num_layers, arch.num_classes) == (2, 12, 2, 1)
    assert list(params) == list(arch.component_names[:-1])
    arch = replace(arch, image_size=size)
    params["posembed_input"] = position_embedding_for(arch, params["posembed_input"])
    found = logits(arch, params, augreg_head())
    np.testing.assert_allclose(found, golden("augreg_logits")[str(size)], atol=1e-5, rtol=0)


@pytest.mark.parametrize(("numbers", "tolerance"), [("converted", 1e-5), ("published", 1e-3)])
def test_timm_and_hugging_face_logits_equal_theirs(numbers: str, tolerance: float) -> None:
    """1e-3: their exact GELU and epsilon; with the numbers of our forward pass, equal."""
    arch, params = read_hf(GOLDEN / "timm")
    found = logits(arch, params, augreg_head())
    expected = golden("timm_logits")[numbers]
    np.testing.assert_allclose(found, expected, atol=tolerance, rtol=0)

    stored = load_file(GOLDEN / "hf" / "model.safetensors")
    head = {"kernel": stored["classifier.weight"].T, "bias": stored["classifier.bias"]}
    found = logits(*read_hf(GOLDEN / "hf"), head)
    expected = golden("hf_logits")[f"hf_{numbers}"]
    np.testing.assert_allclose(found, expected, atol=tolerance, rtol=0)


def test_shards_without_prefix_and_with_a_pooler_are_read() -> None:
    assert len(list((GOLDEN / "hf_sharded").glob("*.safetensors"))) == 3
    arch, params = read_hf(GOLDEN / "hf_sharded")
    identity = {"kernel": np.eye(16, dtype=np.float32), "bias": np.zeros(16, np.float32)}
    expected = golden("hf_logits")["hf_sharded_converted"]
    np.testing.assert_allclose(logits(arch, params, identity), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16, np.float64])
def test_other_floats_become_float32(tmp_path: Path, dtype: Any) -> None:
    stored = {key: array.astype(dtype) for key, array in golden("augreg_pre_linen").items()}
    np.savez(tmp_path / "root.npz", **stored)  # pyright: ignore[reportArgumentType]
    _, params = read_augreg(tmp_path / "root.npz")
    query = params["encoderblock_1"]["MultiHeadDotProductAttention_0"]["query"]["kernel"]
    assert query.dtype == np.float32
    np.testing.assert_array_equal(query, stored[QUERY].astype(np.float32))

    shutil.copytree(GOLDEN / "timm", tmp_path / "timm")
    file = tmp_path / "timm" / "model.safetensors"
    save_file({key: array.astype(dtype) for key, array in load_file(file).items()}, file)
    _, params = read_hf(tmp_path / "timm")
    again = params["encoderblock_1"]["MultiHeadDotProductAttention_0"]["query"]["kernel"]
    np.testing.assert_array_equal(again, query)


BROKEN: dict[str, tuple[Callable[[Arrays], object], str]] = {
    "missing": (lambda a: a.pop(QUERY), f"found no {QUERY}:"),
    "a block less in the middle": (
        lambda a: [a.pop(key) for key in list(a) if "encoderblock_0/" in key],
        "found no Transformer/encoderblock_0/LayerNorm_0/bias, .* and 6 more",
    ),
    "unknown": (
        lambda a: a.update({"Transformer/encoderblock_0/Gate_0/kernel": np.ones(3)}),
        "found also Transformer/encoderblock_0/Gate_0/kernel:",
    ),
    "a hybrid": (lambda a: a.update({"conv_root/kernel": np.ones(3)}), "found also conv_root/ker"),
    "of another width": (
        lambda a: a.update({QUERY: np.ones((32, 2, 8), np.float32)}),
        QUERY + r": expected shape \(16, 2, 8\) .* found \(32, 2, 8\)",
    ),
    "transposed": (
        lambda a: a.update({DENSE: a[DENSE].T}),
        DENSE + r": expected shape \(16, 24\) .* found \(24, 16\)",
    ),
    "of another rank": (
        lambda a: a.update({"embedding/kernel": np.ones((48, 16), np.float32)}),
        r"embedding/kernel: expected 4 dimensions, found shape \(48, 16\)",
    ),
    "without a square grid": (
        lambda a: a.update({"Transformer/posembed_input/pos_embedding": np.ones((1, 9, 16))}),
        r"pos_embedding: expected one position .* square grid .* found shape \(1, 9, 16\)",
    ),
    "of whole numbers": (
        lambda a: a.update({QUERY: np.ones((16, 2, 8), np.int32)}),
        f"{QUERY}: expected floats, found int32",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_not_our_network_is_refused_by_file_key_and_shape(
    tmp_path: Path, name: str
) -> None:
    arrays = golden("augreg_pre_linen")
    breaks, message = BROKEN[name]
    breaks(arrays)
    np.savez(tmp_path / "broken.npz", **arrays)  # pyright: ignore[reportArgumentType]
    with pytest.raises(PretrainedError, match=f"broken.npz: .*{message}"):
        read_augreg(tmp_path / "broken.npz")


def test_files_cut_short_or_of_another_kind_are_refused(tmp_path: Path) -> None:
    whole = (GOLDEN / "augreg_linen.npz").read_bytes()
    np.save(tmp_path / "one.npy", np.ones(3))
    array = (tmp_path / "one.npy").read_bytes()
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
    file = tmp_path / "root.npz"
    with pytest.raises(PretrainedError, match=r"root\.npz: .*found no file"):
        read_augreg(file)
    for content in (
        b"",
        b"<html>",
        array,
        flipped,
        *(whole[:n] for n in range(1, len(whole), 999)),
    ):
        file.write_bytes(content)
        with pytest.raises(PretrainedError, match=r"root\.npz"):
            read_augreg(file)


def test_a_safetensors_file_cut_short_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PretrainedError, match=r"model\.safetensors: .*found no such file"):
        read_hf(tmp_path)
    whole = (GOLDEN / "hf" / "model.safetensors").read_bytes()
    for length in range(0, len(whole), 999):
        (tmp_path / "model.safetensors").write_bytes(whole[:length])
        with pytest.raises(PretrainedError, match=r"model\.safetensors"):
            read_hf(tmp_path)


def test_a_shard_that_lacks_is_named(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN / "hf_sharded", tmp_path, dirs_exist_ok=True)
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(PretrainedError, match=r"00002-of-00003\.safetensors: .*no such file"):
        read_hf(tmp_path)


def write_timm(folder: Path, width: int, config: dict[str, Any] | None) -> Architecture:
    """A timm directory of zeros, one block: the architecture it is read as."""
    sizes = {
        "patch_embed.proj.weight": (width, 3, 4, 4),
        "patch_embed.proj.bias": (width,),
        "cls_token": (1, 1, width),
        "pos_embed": (1, 5, width),
        "norm.weight": (width,),
        "norm.bias": (width,),
        "blocks.0.attn.qkv.weight": (3 * width, width),
        "blocks.0.attn.qkv.bias": (3 * width,),
        "blocks.0.attn.proj.weight": (width, width),
        "blocks.0.attn.proj.bias": (width,),
        "blocks.0.mlp.fc1.weight": (8, width),
        "blocks.0.mlp.fc1.bias": (8,),
        "blocks.0.mlp.fc2.weight": (width, 8),
        "blocks.0.mlp.fc2.bias": (width,),
        **{f"blocks.0.norm{n}.{leaf}": (width,) for n in (1, 2) for leaf in ("weight", "bias")},
    }
    tensors = {key: np.zeros(shape, np.float32) for key, shape in sizes.items()}
    save_file(tensors, folder / "model.safetensors")
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return read_hf(folder)[0]


def test_heads_are_those_of_the_configuration_else_of_64(tmp_path: Path) -> None:
    assert write_timm(tmp_path, 192, None).heads == 3
    assert write_timm(tmp_path, 192, {"architecture": "vit_tiny_patch16_224"}).heads == 3
    assert write_timm(tmp_path, 192, {"model_args": {"num_heads": 6}}).heads == 6
    assert write_timm(tmp_path, 192, {"num_attention_heads": 12}).heads == 12
    with pytest.raises(PretrainedError, match="width 192 is not a multiple of heads 5"):
        write_timm(tmp_path, 192, {"num_attention_heads": 5})


def test_heads_that_cannot_be_known_are_asked_for(tmp_path: Path) -> None:
    with pytest.raises(PretrainedError, match=r"config\.json: expected num_attention_heads"):
        write_timm(tmp_path, 1280, {})  # a ViT-H has heads of 80


def test_another_activation_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PretrainedError, match=r"config\.json: .*found 'quick_gelu'"):
        write_timm(tmp_path, 64, {"hidden_act": "quick_gelu"})


@pytest.mark.parametrize("content", ["{", "[]", b"\xff"])
def test_a_configuration_that_is_no_json_object_is_refused(tmp_path: Path, content: Any) -> None:
    raw = content if isinstance(content, bytes) else content.encode()
    (tmp_path / "config.json").write_bytes(raw)
    with pytest.raises(PretrainedError, match=r"config\.json: expected"):
        read_hf(tmp_path)
