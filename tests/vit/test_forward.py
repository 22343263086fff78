"""The forward pass: equal to Hugging Face's, unchanged by fresh adapters, compiled once a shape."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.vit.golden.networks import NETWORKS, NUM_CLASSES, flat_weights, images, nested
from vit import Architecture
from vit.components import init
from vit.forward import fold, forward

HUGGING_FACE = np.load(Path(__file__).parent / "golden" / "hf_vit.npz")


compiled = jax.jit(forward, static_argnums=0)


def network(name: str) -> tuple[Architecture, dict[str, Any]]:
    """A seeded network: architecture and parameters."""
    sizes, token_scale = NETWORKS[name]
    fields = {**sizes, "num_classes": NUM_CLASSES}
    weights = flat_weights(fields, token_scale)
    return Architecture.from_json(fields), {
        name: nested(leaves) for name, leaves in weights.items()
    }


@pytest.mark.parametrize("name", NETWORKS)
def test_logits_equal_hugging_face(name: str) -> None:
    arch, params = network(name)
    logits = compiled(arch, params, images(arch.image_size))
    np.testing.assert_allclose(logits, HUGGING_FACE[name], atol=1e-4, rtol=0)


def test_goldens_are_worth_comparing_with() -> None:
    for name in NETWORKS:
        golden = HUGGING_FACE[name]
        assert golden.shape == (4, NUM_CLASSES)
        assert golden.std() > 1
        depends_on_image = golden.std(axis=0).max() > 0.01
        assert depends_on_image == (not name.startswith("depth0"))


def test_named_size_is_the_recorded_one() -> None:
    arch = Architecture.named(
        "Ti", patch_size=16, image_size=32, num_layers=12, num_classes=NUM_CLASSES
    )
    assert arch == network("Ti16_size32")[0]


def test_a_fresh_adapter_changes_nothing_and_one_that_learned_does() -> None:
    plain, params = network("depth1_patch8_size24")
    adapted = Architecture.from_json({**plain.to_json(), "adapters": [0]})
    adapter = init(adapted, "residual_adapter_0")
    x = images(plain.image_size)
    before = np.asarray(compiled(plain, params, x))
    fresh = compiled(adapted, {**params, "residual_adapter_0": adapter}, x)
    np.testing.assert_allclose(fresh, before, atol=1e-6, rtol=0)

    # Not a constant: the block's layer norm would take that away.
    adapter["Dense_1"]["bias"] = np.arange(adapted.width, dtype=np.float32)
    learned = compiled(adapted, {**params, "residual_adapter_0": adapter}, x)
    assert np.abs(np.asarray(learned) - before).max() > 0.1


def test_a_fresh_head_answers_zero() -> None:
    arch, params = network("depth1_patch8_size24")
    params["head"] = init(arch, "head")
    assert not np.asarray(compiled(arch, params, images(arch.image_size))).any()


def test_prefix_and_suffix_make_the_path() -> None:
    arch, params = network("depth0_patch16_size32")
    x = jnp.asarray(images(arch.image_size))
    whole = np.asarray(forward(arch, params, x))
    names = arch.component_names
    for cut in range(len(names) + 1):
        parts = fold(arch, names[cut:], params, fold(arch, names[:cut], params, x))
        np.testing.assert_array_equal(parts, whole)


def test_compiled_once_for_each_architecture_and_batch_shape() -> None:
    traces = []

    def counted(arch: Architecture, params: Any, x: jax.Array) -> jax.Array:
        traces.append((arch, x.shape))
        return forward(arch, params, x)

    counting = jax.jit(counted, static_argnums=0)
    for name in ("depth0_patch16_size32", "depth1_patch16_size24"):
        arch, params = network(name)
        other = jax.tree.map(lambda leaf: leaf + 1, params)
        for count in (1, 3, 1, 3):
            same_arch = Architecture.from_json(arch.to_json())  # equal, not identical
            counting(same_arch, params, images(arch.image_size, count))
            counting(arch, other, images(arch.image_size, count))
    assert len(traces) == len(set(traces)) == 4
