"""Components: the published names, shapes, counts and initial values; position embeddings."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import zoom

from tests.vit.golden.networks import shapes as published_shapes
from vit import Architecture, components, kind_of, shapes
from vit.components import apply, init, position_embedding_for


def tiny(num_layers: int, num_classes: int = 10, **fields: Any) -> Architecture:
    """Ti/16 at 32 pixels."""
    sizes = {"patch_size": 16, "image_size": 32, **fields}
    return Architecture.named("Ti", num_layers=num_layers, num_classes=num_classes, **sizes)


def flat(tree: Any) -> dict[str, Any]:
    """Leaf path -> leaf."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {"/".join(key.key for key in path): leaf for path, leaf in leaves}


def expected_shapes(arch: Architecture, name: str) -> dict[str, tuple[int, ...]]:
    """Leaf path -> shape, from the published table."""
    return published_shapes(name, arch.to_json(), arch.adapter_dim)


def test_parameter_trees_are_the_published_ones() -> None:
    arch = tiny(1, adapters=(0,))
    for name in arch.component_names:
        leaves = flat(init(arch, name))
        assert all(isinstance(leaf, np.ndarray) for leaf in leaves.values())
        assert {leaf.dtype for leaf in leaves.values()} == {np.dtype(np.float32)}
        assert {path: leaf.shape for path, leaf in leaves.items()} == expected_shapes(arch, name)


@pytest.mark.parametrize("size", ["Ti", "S", "B", "L"])
def test_shapes_of_named_sizes_are_the_published_ones(size: str) -> None:
    arch = Architecture.named(
        size, patch_size=8, image_size=40, num_layers=2, num_classes=3, adapters=(1,), adapter_dim=7
    )
    for name in arch.component_names:
        leaves = flat(shapes(arch, name))
        assert {leaf.dtype for leaf in leaves.values()} == {np.dtype(np.float32)}
        assert {path: leaf.shape for path, leaf in leaves.items()} == expected_shapes(arch, name)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"input_norm": True, "prefix_tokens": 6, "pooling": "token_and_mean"},
        {"prefix_tokens": 0, "pooling": "mean", "norm_after_pooling": True},
        {"prefix_tokens": 2, "pooling": "two_tokens", "patch_size": 8},
    ],
)
def test_shapes_are_those_of_what_is_made(fields: dict[str, Any]) -> None:
    arch = tiny(1, adapters=(0,), adapter_dim=5, **fields)
    for name in arch.component_names:
        initialised = partial(components._init_kind, arch, kind_of(name))
        traced = jax.eval_shape(initialised, jax.random.key(0))["params"]
        traced = traced["cls"] if name == "cls" else traced  # as `init` gives them
        made = jax.tree.map(lambda array: (array.shape, array.dtype), traced)
        told = jax.tree.map(lambda array: (array.shape, array.dtype), shapes(arch, name))
        assert made == told


def test_a_component_of_no_kind_has_no_shapes() -> None:
    with pytest.raises(ValueError, match="unknown component 'tail'"):
        shapes(tiny(1), "tail")


def test_names_in_the_order_of_the_forward_pass() -> None:
    assert tiny(3, adapters=(0, 2)).component_names == (
        "embedding",
        "cls",
        "posembed_input",
        "residual_adapter_0",
        "encoderblock_0",
        "encoderblock_1",
        "residual_adapter_2",
        "encoderblock_2",
        "encoder_norm",
        "head",
    )
    assert tiny(0).component_names == (
        "embedding",
        "cls",
        "posembed_input",
        "encoder_norm",
        "head",
    )


@pytest.mark.parametrize(
    ("size", "image_size", "num_layers", "num_classes", "expected"),
    [
        ("Ti", 32, 0, 1, 149_377),
        ("Ti", 32, 1, 10, 595_978),
        ("Ti", 32, 2, 10, 1_040_842),
        ("Ti", 32, 3, 10, 1_485_706),
        # The totals that scale the score: heads of two classes, and these image sizes.
        ("Ti", 32, 3, 2, 1_484_162),
        ("B", 32, 12, 2, 85_652_738),
        ("L", 224, 24, 2, 303_303_682),
    ],
)
def test_published_totals(
    size: str, image_size: int, num_layers: int, num_classes: int, expected: int
) -> None:
    arch = Architecture.named(
        size,
        patch_size=16,
        image_size=image_size,
        num_layers=num_layers,
        num_classes=num_classes,
    )
    leaves = jax.tree.leaves([shapes(arch, name) for name in arch.component_names])
    assert sum(leaf.size for leaf in leaves) == expected


@pytest.mark.parametrize("name", ["posembed_input", "residual_adapter_0", "head"])
def test_init_depends_on_the_name_alone(name: str) -> None:
    arch = tiny(1, adapters=(0,))
    deeper = tiny(12, adapters=(0, 7))
    assert jax.tree.all(jax.tree.map(np.array_equal, init(arch, name), init(arch, name)))
    assert jax.tree.all(jax.tree.map(np.array_equal, init(arch, name), init(deeper, name)))


def test_init_is_the_same_in_every_process_and_release() -> None:
    first = init(tiny(0), "posembed_input")["pos_embedding"][0, 0, :3]
    np.testing.assert_allclose(first, [-0.04458683, 0.0028453, 0.02605376], rtol=1e-5)


def test_init_tells_blocks_apart() -> None:
    arch = tiny(12, adapters=(0, 7))
    first, second = (init(arch, f"residual_adapter_{i}")["Dense_0"]["kernel"] for i in (0, 7))
    assert first.std() > 0 and not np.array_equal(first, second)


def test_initial_values_are_the_published_distributions() -> None:
    arch = tiny(1, adapters=(0,))
    tree = {name: init(arch, name) for name in arch.component_names}
    block, adapter = tree["encoderblock_0"], tree["residual_adapter_0"]
    attention, mlp = block["MultiHeadDotProductAttention_0"], block["MlpBlock_0"]
    zeros = [tree["cls"], tree["head"], tree["embedding"]["bias"], adapter["Dense_1"]]
    zeros += [adapter["Dense_0"]["bias"], *(part["bias"] for part in attention.values())]
    zeros += [norm["bias"] for norm in (tree["encoder_norm"], block["LayerNorm_0"])]
    assert not any(leaf.any() for leaf in jax.tree.leaves(zeros))
    for norm in (tree["encoder_norm"], *(block[f"LayerNorm_{i}"] for i in range(2))):
        assert (norm["scale"] == 1).all()
    for kernel, fans in [
        *((part["kernel"], 192 + 192) for part in attention.values()),
        *((mlp[f"Dense_{i}"]["kernel"], 192 + 768) for i in range(2)),
    ]:  # Xavier: uniform up to sqrt(6 / (fan in + fan out))
        assert np.abs(kernel).max() == pytest.approx(math.sqrt(6 / fans), rel=1e-3)
        assert kernel.std() == pytest.approx(math.sqrt(2 / fans), rel=0.02)
    for kernel, fan_in in [(tree["embedding"]["kernel"], 768), (adapter["Dense_0"]["kernel"], 192)]:
        assert kernel.std() == pytest.approx(math.sqrt(1 / fan_in), rel=0.05)  # LeCun
    assert tree["posembed_input"]["pos_embedding"].std() == pytest.approx(0.02, rel=0.1)
    assert mlp["Dense_0"]["bias"].std() == pytest.approx(1e-6, rel=0.1)


@pytest.mark.parametrize("name", ["decoder", "", "encoderblock_x", "posembed"])
def test_unknown_component_is_named(name: str) -> None:
    for attempt in (
        lambda: init(tiny(1), name),
        lambda: apply(tiny(1), name, {}, jnp.zeros((1, 5, 192))),
    ):
        with pytest.raises(ValueError, match=rf"unknown component '{name}': expected .*embedding"):
            attempt()


def test_kind_drops_the_number() -> None:
    kinds = {kind_of(name) for name in tiny(12, adapters=(3, 11)).component_names}
    assert kinds == {
        "embedding",
        "cls",
        "posembed_input",
        "encoderblock",
        "residual_adapter",
        "encoder_norm",
        "head",
    }


def posembed(grid: np.ndarray, cls: float) -> dict[str, np.ndarray]:
    """Position embeddings of width 1 from a grid of numbers."""
    return {
        "pos_embedding": np.concatenate([[cls], grid.ravel()]).astype(np.float32)[None, :, None]
    }


def of_grid(side: int) -> Architecture:
    """A network of width 1 that sees side x side patches."""
    return Architecture(
        width=1, heads=1, mlp_dim=1, patch_size=2, image_size=2 * side, num_layers=0, num_classes=1
    )


def test_position_embeddings_resampled_by_hand() -> None:
    stored = posembed(np.array([[0, 2], [4, 6]]), cls=9)
    resampled = position_embedding_for(of_grid(3), stored)["pos_embedding"]
    assert resampled.shape == (1, 10, 1) and resampled.dtype == np.float32
    np.testing.assert_array_equal(resampled.ravel(), [9, 0, 1, 2, 2, 3, 4, 4, 5, 6])


@pytest.mark.parametrize(("stored_side", "side"), [(14, 2), (14, 24), (2, 5), (5, 4)])
def test_position_embeddings_keep_their_corners(stored_side: int, side: int) -> None:
    grid = np.random.default_rng(0).normal(size=(stored_side, stored_side))
    resampled = position_embedding_for(of_grid(side), posembed(grid, cls=9))[
        "pos_embedding"
    ].ravel()
    ours = resampled[1:].reshape(side, side)
    assert resampled[0] == 9
    corners = np.ix_([0, -1], [0, -1])
    np.testing.assert_allclose(ours[corners], grid[corners], atol=1e-6)
    expected = np.asarray(zoom(grid, side / stored_side, order=1))
    np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_position_embeddings_of_the_same_grid_are_left_alone() -> None:
    stored = posembed(np.arange(9).reshape(3, 3), cls=9)
    resampled = position_embedding_for(of_grid(3), stored)
    np.testing.assert_array_equal(resampled["pos_embedding"], stored["pos_embedding"])


def test_position_embeddings_of_no_square_grid_are_refused() -> None:
    with pytest.raises(ValueError, match=r"square grid expected, found \(1, 7, 1\)"):
        position_embedding_for(of_grid(3), posembed(np.arange(6).reshape(2, 3), cls=9))


@pytest.mark.parametrize(
    ("name", "formula"),
    [
        ("gelu_tanh", lambda x: x / 2 * (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3)))),
        ("gelu", lambda x: x / 2 * (1 + np.vectorize(math.erf)(x / 2**0.5))),
        ("quick_gelu", lambda x: x / (1 + np.exp(-1.702 * x))),
        ("relu", lambda x: np.maximum(x, 0)),
        ("silu", lambda x: x / (1 + np.exp(-x))),
    ],
)
def test_activations_are_those_of_their_formulas(name, formula):
    x = np.linspace(-4, 4, 33, dtype=np.float32)
    assert np.abs(components._ACTIVATIONS[name](x) - formula(x)).max() < 1e-6
