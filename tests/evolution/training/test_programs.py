"""The compiled programs: the optimiser's numbers, learning rates, counts."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from evolution.training import programs
from evolution.training.programs import epochs, forward_flops
from tests.evolution.training.children import hyperparameters
from vit import Architecture


def reference_sgd(params, momentum, grads, rate, hp):
    """The published update, leaf by leaf in plain NumPy (evolution/SYSTEMS.md, Optimiser)."""
    norm = np.sqrt(sum((g.astype(np.float64) ** 2).sum() for g in grads))
    m = np.float32(ml_dtypes.bfloat16(hp["opt_momentum"]))
    out = []
    for p, t, g in zip(params, momentum, grads, strict=True):
        g = g * np.float32(min(1.0, 1.0 / norm))
        u = g + m * t.astype(np.float32)
        step = g + np.float32(hp["opt_momentum"]) * u if hp["opt_nesterov"] else u
        out.append((p - np.float32(rate) * step, u.astype(ml_dtypes.bfloat16)))
    return out


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("scale", [0.1, 30.0], ids=["unclipped", "clipped"])
def test_the_optimiser_is_the_published_one(nesterov, scale):
    rng = np.random.default_rng(1)
    p, g = rng.normal(size=100).astype(np.float32), (scale / 10 * rng.normal(size=100)).astype("f4")
    t = rng.normal(size=100).astype(ml_dtypes.bfloat16)
    values = {"opt_momentum": 0.9, "opt_nesterov": nesterov}
    got = programs._sgd(
        (jnp.asarray(p),), (jnp.asarray(t),), (jnp.asarray(g),), (jnp.ones(100, bool),),
        jnp.float32(0.05), hyperparameters(**values),
    )  # fmt: skip
    ((want_p, want_t),) = reference_sgd([p], [t], [g], 0.05, values)
    np.testing.assert_allclose(got[0][0], want_p, rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(np.asarray(got[1][0]), want_t)


@pytest.mark.parametrize("scale", [0.1, 30.0], ids=["unclipped", "clipped"])
def test_large_arrays_are_updated_as_small_ones_are(scale, monkeypatch):
    rng = np.random.default_rng(1)
    shapes = {"body": {"bias": (3,), "kernel": (4, 8)}, "frozen": {"kernel": (4, 8)}}

    def drawn(kind: str) -> dict:
        values = {n: {k: rng.normal(size=s) for k, s in t.items()} for n, t in shapes.items()}
        return {n: {k: jnp.asarray(v, kind) for k, v in t.items()} for n, t in values.items()}

    slopes, start = drawn("float32"), programs.TrainState(drawn("float32"), drawn("bfloat16"))

    def loss(params: dict, i: jnp.ndarray) -> jnp.ndarray:
        products = jax.tree.map(lambda p, g: (p * g).sum(), params, slopes)
        return scale * sum(jax.tree.leaves(products))

    def after(large: int) -> programs.TrainState:
        monkeypatch.setattr(programs, "LARGE_ARRAY", large)
        masks = {"body": True, "frozen": False}
        hp = hyperparameters(steps=2, opt_momentum=0.9)
        return programs.descend(loss, start, masks, hp, jnp.int32(0), jnp.int32(2), 2)[0]

    together, apart = after(1000), after(32)
    for one, other in zip(jax.tree.leaves(together), jax.tree.leaves(apart), strict=True):
        np.testing.assert_allclose(one.astype("f4"), other.astype("f4"), rtol=1e-6, atol=1e-7)
    for part in (0, 1):  # parameters, momentum
        assert not (apart[part]["body"]["kernel"] == start[part]["body"]["kernel"]).any()
        assert (apart[part]["frozen"]["kernel"] == start[part]["frozen"]["kernel"]).all()


def test_momentum_coefficient_is_rounded_to_bfloat16():
    ones = jnp.ones(1, jnp.float32)
    hp = hyperparameters(opt_momentum=0.9)
    _, (trace,) = programs._sgd(
        (ones,), (ones.astype(jnp.bfloat16),), (0 * ones,), (ones > 0,), jnp.float32(0), hp
    )
    assert float(trace[0]) == 0.8984375


def test_gradient_clipping_sees_only_what_is_trained():
    p = jnp.zeros(2, jnp.float32)
    grads = jnp.asarray([0.5, 1000.0], jnp.float32)
    mask = jnp.asarray([True, False])
    (new,), _ = programs._sgd(
        (p,), (p.astype(jnp.bfloat16),), (grads,), (mask,), jnp.float32(1), hyperparameters()
    )
    assert new.tolist() == [-0.5, 0.0]


def test_learning_rate_rises_from_a_hundredth_and_falls_to_nothing():
    hp = hyperparameters(steps=100, rounds=4, opt_lr=1.0, opt_lr_warmup_ratio=0.1)
    rate = [float(programs.learning_rate(jnp.int32(i), hp)) for i in range(101)]
    assert rate[0] == pytest.approx(0.01)
    assert rate[5] == pytest.approx(0.01 + 0.99 / 2)
    assert rate[10] == pytest.approx(1.0)
    assert rate[55] == pytest.approx(0.5)
    assert max(rate) == pytest.approx(1.0) and rate[99] < 0.001


def test_learning_rate_without_warm_up_starts_at_the_peak():
    hp = hyperparameters(steps=10, opt_lr=1.0, opt_lr_warmup_ratio=0.01)
    assert float(programs.learning_rate(jnp.int32(0), hp)) == pytest.approx(1.0)


def test_later_systems_rise_from_a_thousandth():
    hp = hyperparameters(100, opt_lr=1.0, opt_lr_warmup_ratio=0.1, warmup_start=0.001)
    assert float(programs.learning_rate(jnp.int32(0), hp)) == pytest.approx(0.001)


def test_plain_sgd_where_momentum_is_none():
    hp = hyperparameters(opt_momentum=None)
    ones = jnp.ones(1, jnp.float32)
    (new,), _ = programs._sgd(
        (ones,), (ones.astype(jnp.bfloat16),), (ones,), (ones > 0,), jnp.float32(0.5), hp
    )
    assert new.tolist() == [0.5]


def test_constant_and_restarting_schedules():
    constant = hyperparameters(steps=40, rounds=4, opt_lr=1.0, opt_lr_schedule="constant")
    assert {float(programs.learning_rate(jnp.int32(i), constant)) for i in range(40)} == {0.5}
    restarts = hyperparameters(steps=40, rounds=4, opt_lr=1.0, opt_lr_schedule="restarts")
    rate = [float(programs.learning_rate(jnp.int32(i), restarts)) for i in range(40)]
    assert rate[:10] == rate[10:20] == rate[30:40] and rate[9] < 0.1


def test_an_unknown_schedule_is_named():
    with pytest.raises(ValueError, match="'line'"):
        hyperparameters(opt_lr_schedule="line")


def test_every_epoch_sees_every_example_once():
    stream = epochs(np.random.default_rng(3), 10, 4, 10).ravel()
    assert [sorted(stream[i : i + 10]) for i in (0, 10, 20, 30)] == [list(range(10))] * 4
    assert stream[:10].tolist() != stream[10:20].tolist()


@pytest.mark.parametrize(
    ("size", "image", "blocks", "published"), [("Ti", 32, 3, 15e6), ("L", 384, 24, 0.38e12)]
)
def test_compute_cost_is_of_the_published_order(size, image, blocks, published):
    """The reference of the small scale, an estimate for the large (evolution/SYSTEMS.md, Score)."""
    arch = Architecture.named(
        size, patch_size=16, image_size=image, num_layers=blocks, num_classes=10
    )
    assert 0.6 * published < forward_flops(arch) < 1.1 * published


def test_compute_cost_grows_with_depth_and_image_size():
    def flops(image: int, blocks: int) -> float:
        return forward_flops(
            Architecture.named(
                "Ti", patch_size=16, image_size=image, num_layers=blocks, num_classes=10
            )
        )

    assert flops(32, 0) < flops(32, 1) < flops(32, 3) < flops(64, 3)
