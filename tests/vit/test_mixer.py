"""Multipath models: against a reading in NumPy and double precision; gradients as specified."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.evolution import numpy_vit
from tests.vit.golden.networks import flat_weights, images, nested
from vit import Architecture
from vit.mixer import (
    ROUTER,
    SubPath,
    connector_name,
    init_connector,
    init_router,
    mixer_names,
    subpath_component,
)
from vit.router import mix, multipath_forward, path_weights

CLASSES, ROWS = 5, 6
OUTPUTS = (CLASSES, 8, 4)  # of the main path and two others


def mixer(num_paths: int, seed: int = 0) -> dict[str, Any]:
    """A router and connectors of which every leaf is random."""
    rng = np.random.default_rng(seed)
    fresh = {ROUTER: init_router(CLASSES, num_paths, 0.8)}
    fresh |= {connector_name(i): init_connector(OUTPUTS[i], CLASSES) for i in range(1, num_paths)}
    return jax.tree.map(lambda p: rng.standard_normal(p.shape).astype(np.float32), fresh)


def answers(num_paths: int) -> list[NDArray[np.float32]]:
    rng = np.random.default_rng(1)
    return [rng.standard_normal((ROWS, n)).astype(np.float32) for n in OUTPUTS[:num_paths]]


def read(params: Any, given: list[Any]) -> tuple[Any, list[Any]]:
    """Weights [b, paths] and each path's logits [b, c], of the published formulas."""
    router = params[ROUTER]
    logits = [given[0]] + [
        numpy_vit.dense(x, params[connector_name(i)]["Dense_0"]) for i, x in enumerate(given[1:], 1)
    ]
    scores = numpy_vit.dense(numpy_vit.norm(given[0], router["LayerNorm_0"]), router["Dense_0"])
    return numpy_vit.softmax(scores), logits


def mixed(weights: Any, logits: list[Any]) -> Any:
    return sum(weights[:, i : i + 1] * z for i, z in enumerate(logits))


def double(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)


@pytest.mark.parametrize("num_paths", [2, 3])
@pytest.mark.parametrize("rate", [0.01, 1.0])
def test_mixes_as_the_published_formulas_whatever_the_router_rate(num_paths, rate):
    params, given = mixer(num_paths), answers(num_paths)
    expected = mixed(*read(double(params), double(given)))
    np.testing.assert_allclose(jax.jit(mix)(params, given, rate), expected, atol=2e-6)


@pytest.mark.parametrize("num_paths", [2, 3])
def test_a_fresh_mixture_is_the_main_path_with_its_initial_weight(num_paths):
    params = {ROUTER: init_router(CLASSES, num_paths, 0.8)}
    params |= {connector_name(i): init_connector(OUTPUTS[i], CLASSES) for i in range(1, num_paths)}
    given = answers(num_paths)
    weights = path_weights(params[ROUTER], jnp.asarray(given[0]))
    rest = 0.2 / (num_paths - 1)
    np.testing.assert_allclose(weights, [[0.8, *[rest] * (num_paths - 1)]] * ROWS, atol=1e-6)
    np.testing.assert_allclose(mix(params, given), 0.8 * given[0], atol=1e-6)
    assert tuple(params) == mixer_names(num_paths)


@pytest.mark.parametrize(("paths", "weight"), [(1, 0.8), (2, 0.0), (2, 1.0)])
def test_a_router_without_choice_is_refused(paths, weight):
    with pytest.raises(ValueError, match=f"a router of {paths} paths with {weight}"):
        init_router(CLASSES, paths, weight)


# ---- gradients


def differences(function: Any, params: Any) -> Any:
    """Its gradient by central differences, leaf by leaf, in double precision."""
    leaves, tree = jax.tree.flatten(double(params))
    found = []
    for number, leaf in enumerate(leaves):
        gradient = np.zeros_like(leaf)
        for at in np.ndindex(leaf.shape):
            moved = []
            for step in (1e-5, -1e-5):
                changed = [x.copy() for x in leaves]
                changed[number][at] += step
                moved.append(function(jax.tree.unflatten(tree, changed)))
            gradient[at] = (moved[0] - moved[1]) / 2e-5
        found.append(gradient)
    return jax.tree.unflatten(tree, found)


@pytest.mark.parametrize("num_paths", [2, 3])
@pytest.mark.parametrize("rate", [0.05, 1.0])
def test_gradients_are_those_of_finite_differences(num_paths, rate):
    """The router's of the mixture, times the rate; the connectors' as if each weight were 1."""
    params, given = mixer(num_paths), answers(num_paths)
    pull = np.random.default_rng(2).standard_normal((ROWS, CLASSES))  # any gradient from above

    found = jax.jit(jax.grad(lambda p: (mix(p, given, rate) * pull).sum()))(params)

    def mixture(p: Any) -> float:
        return float((mixed(*read(p, double(given))) * pull).sum())

    def each_as_if_alone(p: Any) -> float:
        return float((sum(read(p, double(given))[1]) * pull).sum())

    router = differences(lambda r: mixture({**double(params), ROUTER: r}), params[ROUTER])
    expected = differences(each_as_if_alone, params)
    expected[ROUTER] = jax.tree.map(lambda leaf: rate * leaf, router)
    for name in mixer_names(num_paths):
        for ours, theirs in zip(
            jax.tree.leaves(found[name]), jax.tree.leaves(expected[name]), strict=True
        ):
            assert np.abs(theirs).max() > 0
            np.testing.assert_allclose(ours, theirs, atol=1e-4)


# ---- whole models


def network(seed: int, size: int, classes: int, layers: int) -> tuple[Architecture, dict[str, Any]]:
    fields = dict(
        width=8, heads=2, mlp_dim=16, patch_size=4,
        image_size=size, num_layers=layers, num_classes=classes,
    )  # fmt: skip
    weights = flat_weights(fields, 1.0, seed)
    return Architecture.from_json(fields), {n: nested(leaves) for n, leaves in weights.items()}


def test_a_whole_model_answers_as_its_reading():
    """A main path, one at another image size without its head, one that keeps a head."""
    (main, *_), parts = zip(*(made := [network(0, 8, CLASSES, 1), network(1, 12, 3, 2),
                                        network(2, 8, 4, 0)]), strict=True)  # fmt: skip
    assert main.num_classes == CLASSES
    paths = [SubPath(arch, has_head=i != 1) for i, (arch, _) in enumerate(made)]
    assert tuple(path.outputs for path in paths) == OUTPUTS
    params = mixer(3)
    for i, path in enumerate(paths):
        params |= {subpath_component(i, name): parts[i][name] for name in path.component_names}
    assert "path_1/head" not in params and "path_2/head" in params

    sized = {size: images(size, ROWS) for size in (8, 12)}
    compiled = jax.jit(lambda params, images: multipath_forward(paths, params, images))
    found = compiled(params, sized)
    exact = double(sized)
    given = [
        numpy_vit.logits(double(parts[0]), exact[8]),
        numpy_vit.features(double(parts[1]), exact[12]),
        numpy_vit.logits(double(parts[2]), exact[8]),
    ]
    np.testing.assert_allclose(found, mixed(*read(double(params), given)), atol=1e-5)
