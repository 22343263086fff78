"""Roots by name, the one that ships, and how its training images are drawn."""

import hashlib
import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from evolution.population import POSITION_SOURCE
from evolution.roots.loading import SHIPPED, RootError, load_root, random_root
from evolution.roots.training import encode_root
from tests.evolution.roots.serving import Served, serving
from tests.vit.golden.networks import images
from vit import Architecture, shapes
from vit.forward import forward
from vit.pretrained import read_augreg

PUBLISHED = Path(__file__).parents[2] / "vit" / "golden" / "pretrained"
AUGREG = PUBLISHED / "augreg_pre_linen.npz"
SHA256 = hashlib.sha256(AUGREG.read_bytes()).hexdigest()
compiled = jax.jit(forward, static_argnums=0)


def well_formed(arch: Architecture, components: dict[str, Any]) -> bool:
    """Whether the first components are the architecture's, in order, shape and type."""
    used = {name: components[name] for name in list(components)[: len(arch.component_names)]}
    found = jax.tree.map(lambda x: (x.shape, x.dtype), used)
    expected = {name: shapes(arch, name) for name in arch.component_names}
    return list(used) == list(expected) and found == jax.tree.map(
        lambda x: (x.shape, x.dtype), expected
    )


def equal(one: Any, two: Any) -> bool:
    """Whether two trees hold the same numbers."""
    return jax.tree.all(jax.tree.map(np.array_equal, one, two))


@pytest.mark.parametrize(
    ("spec", "image_size", "num_layers"),
    [
        ("random:Ti/8", 32, 3),
        ("random:Ti/8", 32, 0),
        ("shipped", 32, 3),
        ("shipped", 48, 2),
        (f"augreg:{AUGREG}", 12, 2),
        (f"augreg:{AUGREG}#sha256={SHA256}", 28, 1),
        (f"hf:{PUBLISHED / 'hf'}", 20, 2),
        (f"hf:{PUBLISHED / 'timm'}", 8, 0),
    ],
    ids=range(8),  # no paths of this machine in the names
)
def test_a_root_has_the_size_and_depth_asked_for(
    spec: str, image_size: int, num_layers: int
) -> None:
    arch, components = load_root(spec, image_size, num_layers)
    assert (arch.image_size, arch.num_layers, arch.num_classes) == (image_size, num_layers, 1)
    assert well_formed(arch, components)
    assert not np.asarray(components["head"]["kernel"]).any()


def test_a_random_root_is_a_fresh_network_of_the_named_size() -> None:
    arch, components = load_root("random:Ti/8", 32, 2)
    expected = Architecture.named("Ti", patch_size=8, image_size=32, num_layers=2, num_classes=1)
    assert arch == expected
    assert equal(components, random_root(expected))


def test_a_published_root_keeps_the_first_blocks_and_the_norm_of_its_file() -> None:
    arch, components = load_root(f"augreg:{AUGREG}", 12, 1)
    _, published = read_augreg(AUGREG)
    for name in set(arch.component_names) - {"head"}:
        assert equal(components[name], published[name])


@pytest.mark.parametrize(("num_layers", "further"), [(0, [0, 1]), (1, [1]), (2, [])])
def test_all_blocks_of_a_file_are_kept(num_layers: int, further: list[int]) -> None:
    published_arch, published = read_augreg(AUGREG)
    arch, components = load_root(f"augreg:{AUGREG}", published_arch.image_size, num_layers)
    assert arch.num_layers == num_layers
    names = [f"encoderblock_{i}" for i in further]
    assert list(components) == [*arch.component_names, *names]
    for name in names:
        assert equal(components[name], published[name])


def test_the_files_own_position_embeddings_stay_beside_resampled_ones() -> None:
    published_arch, published = read_augreg(AUGREG)
    other = published_arch.image_size + 2 * published_arch.patch_size
    arch, components = load_root(f"augreg:{AUGREG}", other, 1)
    assert list(components) == [*arch.component_names, "encoderblock_1", POSITION_SOURCE]
    assert equal(components[POSITION_SOURCE], published["posembed_input"])
    _, components = load_root(f"augreg:{AUGREG}", published_arch.image_size, 1)
    assert POSITION_SOURCE not in components


def test_a_published_root_answers_at_another_size_as_the_original_code_does() -> None:
    arch, components = load_root(f"augreg:{AUGREG}", 20, 2)
    with np.load(AUGREG) as file, np.load(PUBLISHED / "augreg_logits.npz") as recorded:
        components["head"] = {leaf: file[f"head/{leaf}"] for leaf in ("kernel", "bias")}
        found = compiled(replace(arch, num_classes=5), components, images(20))
        np.testing.assert_allclose(found, recorded["20"], atol=1e-5, rtol=0)


def test_the_norm_of_the_shipped_root_is_fresh() -> None:
    _, components = load_root("shipped", 32, 3)
    assert equal(components["encoder_norm"], {"bias": np.zeros(192), "scale": np.ones(192)})


def test_a_root_behind_a_url_is_downloaded_once_and_checked(tmp_path: Path) -> None:
    with serving(Served(content=AUGREG.read_bytes())) as served:
        spec = f"augreg:{served.url}#sha256={SHA256}"
        for _ in range(2):
            _, components = load_root(spec, 12, 2, tmp_path)
            assert equal(components, load_root(f"augreg:{AUGREG}", 12, 2)[1])
        assert len(served.asked) == 1
        wrong = spec.replace(SHA256, "0" * 64)
        with pytest.raises(RootError, match=f"expected sha256 0{{64}}, found {SHA256}"):
            load_root(wrong, 12, 2, tmp_path)


def test_a_damaged_download_is_deleted_and_fetched_again_unless_it_is_pinned(
    tmp_path: Path,
) -> None:
    with serving(Served(content=b"<html>Please log in</html>")) as served:
        digest = hashlib.sha256(served.content).hexdigest()
        with pytest.raises(RootError, match=r"found(?!.*deleted)"):
            load_root(f"augreg:{served.url}#sha256={digest}", 12, 2, tmp_path)
        with pytest.raises(RootError, match="deleted the download, it is fetched again"):
            load_root(f"augreg:{served.url}", 12, 2, tmp_path)
        assert len(served.asked) == 1
        served.content = AUGREG.read_bytes()
        load_root(f"augreg:{served.url}", 12, 2, tmp_path)


def test_downloads_are_kept_under_the_home_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("HOME", str(tmp_path))
    with serving(Served(content=AUGREG.read_bytes())) as served:
        load_root(f"augreg:{served.url}", 12, 2)
    [kept] = (tmp_path / ".cache" / "munet" / "roots").glob("*.npz")
    assert kept.read_bytes() == AUGREG.read_bytes()
    assert f"sha256={SHA256}" in caplog.text  # so that it can be pinned


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("", "expected a kind of random, shipped, augreg, hf, found ''"),
        ("vit:B/16", "expected a kind of"),
        ("random:XL/16", "unknown size 'XL'"),
        ("random:Ti", "expected SIZE/PATCH, as Ti/16, found 'Ti'"),
        ("random:Ti/0", "expected SIZE/PATCH"),
        ("random:Ti/64", "image_size 32 < patch_size 64"),
        ("shipped:x", "expected nothing after"),
        ("augreg:nowhere.npz", r"nowhere\.npz: .*found no file"),
        ("augreg:gs://vit_models/augreg/x.npz", "expected an http or https URL"),
        (f"augreg:{AUGREG}#sha256=12", "expected 64 hexadecimal digits"),
        (f"augreg:{AUGREG}#sha256={'0' * 64}", f"found {SHA256}"),
        (f"augreg:{AUGREG}", "expected 3 blocks or more, found 2"),
        ("hf:nowhere", r"nowhere/model\.safetensors: .*found no such file"),
    ],
    ids=range(13),
)
def test_a_root_that_is_not_or_does_not_fit_is_refused(spec: str, message: str) -> None:
    with pytest.raises(RootError, match=f"root '.*{message}"):
        load_root(spec, 32, 3)
    assert AUGREG.exists()  # a user's own file is never removed


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    shutil.copytree(PUBLISHED / "hf", tmp_path, dirs_exist_ok=True)
    (tmp_path / "model.safetensors").write_bytes(b"\0" * 100)
    with pytest.raises(RootError, match=r"model\.safetensors: expected a safetensors file"):
        load_root(f"hf:{tmp_path}", 12, 2)


def test_the_shipped_root_is_a_trained_network_of_its_architecture():
    arch, components = load_root("shipped", 64, 3)
    assert list(components) == list(arch.component_names)
    for name, tree in components.items():
        found = jax.tree.map(lambda x: (x.shape, x.dtype), tree)
        assert found == jax.tree.map(lambda x: (x.shape, x.dtype), shapes(arch, name))
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(tree))
    assert np.abs(components["cls"]).max() > 0  # zeros before training


def test_what_is_read_of_a_root_file_is_written_again_byte_for_byte():
    _, components = load_root("shipped", 64, 3)
    assert encode_root(components) == SHIPPED.read_bytes()
