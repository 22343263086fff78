"""How the shipped root is trained: what it sees, what it predicts, and stopping in between."""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from typer.testing import CliRunner

from evolution.__main__ import app
from evolution.roots.descriptors import Scale, describe, fit, principal
from evolution.roots.drawn import draw_pictures
from evolution.roots.loading import SHIPPED_ARCHITECTURE, fitted, random_root
from evolution.roots.sources import RootTraining, Sources, Stage
from evolution.roots.training import encode_root, features, train_root
from evolution.roots.views import character_views, picture_views
from vit.forward import fold

RNG = np.random.default_rng(0)
STAGE = Stage(
    steps=3, satellite=2, drawn=2, characters=4, character_weight=1.0, learning_rate=1e-3,
    sizes=(32,), size_shares=(1.0,), warmup=1,
)  # fmt: skip
TINY_ARCH = replace(SHIPPED_ARCHITECTURE, width=16, heads=1, mlp_dim=16, num_layers=1)
TINY = RootTraining(stages=(STAGE, replace(STAGE, learning_rate=1e-2)), descriptors=3)
FORM = Scale(picture=32, patch=6, stride=2, centroids=20, contrast=True)
COLOUR = Scale(picture=16, patch=4, stride=2, centroids=20, contrast=False)


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    return draw_pictures(1, 24, 64)


def test_drawn_pictures_depend_on_the_seed_alone(pictures: np.ndarray) -> None:
    assert pictures.shape == (24, 64, 64, 3) and pictures.dtype == np.uint8
    assert np.array_equal(pictures[:5], draw_pictures(1, 5, 64))
    assert not np.array_equal(pictures[:5], draw_pictures(2, 5, 64))
    assert len({picture.tobytes() for picture in pictures}) == 24


def test_views_of_pictures_stay_in_range_and_differ(pictures: np.ndarray) -> None:
    for shown in np.split(pictures, 6):
        one, other = (np.asarray(picture_views(jax.random.key(k), shown, 32)) for k in (0, 1))
        assert one.shape == (4, 32, 32, 3) and np.abs(one).max() <= 1
        assert (np.abs(one - other).mean((1, 2, 3)) > 0).all()


def test_a_view_of_one_colour_keeps_about_its_colour() -> None:
    plain = np.full((4, 64, 64, 3), (200, 100, 30), np.uint8)
    views = [picture_views(jax.random.key(k), plain, 32) for k in (0, 1)]
    seen = np.concatenate(views).mean((1, 2))
    assert np.abs(seen - (np.array([200, 100, 30]) / 127.5 - 1)).max() < 0.5
    assert (np.argsort(seen, axis=1) == [2, 1, 0]).all()


def test_a_key_stands_for_the_same_views_in_every_version(pictures: np.ndarray) -> None:
    """So that a root can be trained again. A view is told by its brightness along a diagonal."""
    page = np.full((4, 64, 64, 1), 255, np.uint8)
    page[:, 16:48, 26:38] = 0
    page[:, 16:24, 26:50] = 0
    ramp = np.linspace(0, 1, 32)
    for views, images, expected in (
        (picture_views, pictures[:4], [-0.0102, -0.0847, 0.0494, -0.0547]),
        (character_views, page, [-0.207, -0.2236, -0.052, -0.2253]),
    ):
        seen = np.asarray(views(jax.random.key(0), images, 32)).mean(-1)
        found = np.einsum("nij,i,j->n", seen, ramp, ramp) / ramp.size**2
        assert found == pytest.approx(expected, abs=1e-4)


def test_characters_can_be_told_from_their_paper() -> None:
    page = np.full((4, 64, 64, 1), 255, np.uint8)
    page[:, 16:48, 26:38] = 0  # a wide upright stroke
    seen = np.concatenate([character_views(jax.random.key(k), page, 32) for k in range(16)])
    assert seen.shape == (64, 32, 32, 3) and np.abs(seen).max() <= 1 + 1e-6
    stroke, corner = seen[:, 16, 16], seen[:, 0, 0]
    assert (np.abs(stroke - corner).sum(1) > 0.9).all()
    dark = (stroke < corner).all(1)
    assert dark.any() and not dark.all()  # black on white, and white on black


def test_a_descriptor_tells_how_much_nearer_than_usual_patches_are_to_each_centroid(
    pictures: np.ndarray,
) -> None:
    codebook = fit(pictures, COLOUR, 0)
    found = describe(pictures[:2], (codebook,), (COLOUR,))
    blocks = pictures[:2].reshape(2, 16, 4, 16, 4, 3).mean((2, 4)) / 127.5 - 1  # about its resizing
    patches = np.stack([
        blocks[:, i : i + 4, j : j + 4].transpose(0, 3, 1, 2).reshape(2, -1)
        for i in range(0, 13, 2) for j in range(0, 13, 2)
    ], axis=1)  # fmt: skip
    points = (patches - codebook.mean) @ codebook.whiten
    distance = np.linalg.norm(points[:, :, None] - codebook.centroids, axis=-1)
    nearer = np.maximum(distance.mean(-1, keepdims=True) - distance, 0)
    expected = np.sqrt(nearer.mean(1))
    assert np.abs(found - expected).max() < 0.1 * expected.max()


def test_descriptors_of_form_ignore_contrast_and_those_of_colour_do_not(
    pictures: np.ndarray,
) -> None:
    codebooks = tuple(fit(pictures, scale, 0) for scale in (FORM, COLOUR))
    stripes = np.where(np.arange(64) % 8 < 4, 255, 0).astype(np.uint8)
    strong = np.broadcast_to(stripes[None, :, None], (64, 64, 3))
    weak = strong // 2 + 20
    described = describe(np.stack([strong, weak]), codebooks, (FORM, COLOUR))
    assert described.shape == (2, 40)

    def changed(part: slice) -> float:
        one, other = described[:, part]
        return float(np.linalg.norm(one - other) / np.linalg.norm(one))

    assert changed(slice(20)) < 0.01 < 0.1 < changed(slice(20, 40))


def test_principal_components_are_uncorrelated_and_the_strongest_come_first() -> None:
    mixed = (RNG.normal(size=(500, 4)) * [5, 3, 2, 1]) @ RNG.normal(size=(4, 6))
    found = principal(mixed.astype(np.float32), 3)
    assert found.std() == pytest.approx(1, abs=1e-3)
    covariance = np.cov(found.T)
    assert np.abs(covariance - np.diag(np.diag(covariance))).max() < 1e-3
    assert (np.diff(np.diag(covariance)) < 0).all()


def test_training_sees_what_the_root_sees_at_another_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("evolution.roots.training.ARCHITECTURE", TINY_ARCH)
    size = 32
    components = random_root(TINY_ARCH)
    images = jnp.asarray(RNG.uniform(-1, 1, (2, size, size, 3)), jnp.float32)
    arch, at_size = fitted(TINY_ARCH, components, size, 1)
    served = fold(arch, arch.component_names[:-1], at_size, images)
    assert np.allclose(features(components, images), served, atol=1e-5)


def sources(pictures: np.ndarray) -> Sources:
    return Sources(
        pictures[:16],
        pictures[16:],
        RNG.normal(size=(24, 3)).astype(np.float32),
        RNG.integers(0, 2, (10, 64, 64, 1), dtype=np.uint8) * 255,
        np.arange(10, dtype=np.int32) % 5,
    )


def test_stopped_and_started_again_it_ends_with_the_same_root(
    pictures: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evolution.roots.training.SAVED_EVERY", 2)
    monkeypatch.setattr("evolution.roots.training.ARCHITECTURE", TINY_ARCH)
    data = sources(pictures)
    whole = list(train_root(data, TINY, tmp_path / "whole.npz"))
    assert [done.step for done in whole] == [1, 2, 3, 4, 5, 6]
    # The first stops at the end of a stage; of the others, what came after a save is repeated, also
    # where all steps were done.
    for number, (stopped_after, saved) in enumerate([(3, 3), (5, 4), (6, 4)]):
        state_file = tmp_path / f"{number}.npz"
        next(done for done in train_root(data, TINY, state_file) if done.step == stopped_after)
        again = list(train_root(data, TINY, state_file))
        assert [done.step for done in again] == list(range(saved + 1, 7))
        for one, other in zip(again, whole[saved:], strict=True):
            assert np.array_equal(one.losses, other.losses)
        assert encode_root(again[-1].components) == encode_root(whole[-1].components)


def test_without_its_data_sets_nothing_is_begun(tmp_path: Path) -> None:
    command = ["root", "--data-dir", str(tmp_path / "none"), "--out", str(tmp_path / "out")]
    ended = CliRunner().invoke(app, command)
    assert ended.exit_code == 1 and "munet experiments prepare eurosat" in ended.output
    assert list(tmp_path.iterdir()) == []
