"""Training: the optimiser's numbers, what freezing means, how few programs there are."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from evolution import training
from evolution.augment import DRAWS
from evolution.experiments import DEFAULTS
from evolution.roots import random_root
from evolution.training import Hyperparameters, TrainingSet, epochs, evaluation_data, training_data
from tests.evolution.systems import toy_task
from vit import Architecture

ARCH = Architecture(
    width=16, heads=2, mlp_dim=32, patch_size=4, image_size=8, num_layers=1, num_classes=3
)
ALL = frozenset(ARCH.component_names)


def hyperparameters(steps: int = 8, rounds: int = 2, **changes) -> Hyperparameters:
    values = {**DEFAULTS, "opt_lr": 0.1, "ds_crop": False, "ds_flip_left_right": False, **changes}
    return Hyperparameters.of(values, steps, rounds)


def toy_data(steps: int = 8, per_round: int = 4, batch: int = 16) -> TrainingSet:
    task = toy_task("toy/a")
    return TrainingSet(
        train=training_data(task.train.images, task.train.labels),
        validation=evaluation_data(task.validation.images, task.validation.labels, 8),
        order=epochs(np.random.default_rng(0), 64, batch, steps),
        steps_per_round=per_round,
        draws=np.random.default_rng(1).random((steps, batch, DRAWS), np.float32),
    )


def last(rounds):
    return list(rounds)[-1]


def flat(tree):
    return np.concatenate([np.asarray(leaf, np.float32).ravel() for leaf in jax.tree.leaves(tree)])


def test_a_child_learns_the_toy_task():
    params = random_root(ARCH)
    data = toy_data(steps=240, per_round=120, batch=16)
    accuracy, _ = last(training.train(ARCH, params, {}, ALL, hyperparameters(240), data))
    assert accuracy > 0.9


@pytest.mark.parametrize(
    "trainable",
    [
        {"head"},
        {"encoderblock_0", "head"},
        {"cls", "head"},
        {"embedding", "encoder_norm", "head"},
    ],
)
def test_only_trainable_components_change_and_others_not_by_one_bit(trainable):
    params = random_root(ARCH)
    # A head of zeros would pass no gradient down.
    params["head"] = jax.tree.map(lambda x: np.full_like(x, 0.1), params["head"])
    params["head"]["kernel"] = np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32)
    rounds = training.train(ARCH, params, {}, frozenset(trainable), hyperparameters(), toy_data())
    _, state = last(rounds)
    for name, before in params.items():
        after = state.params.get(name, before)
        changed = not np.array_equal(flat(before), flat(after))
        assert changed == (name in trainable), name


def test_two_rounds_are_the_same_as_one_long_one():
    params = random_root(ARCH)
    two = last(training.train(ARCH, params, {}, ALL, hyperparameters(8, 1), toy_data(8, 4)))
    one = last(training.train(ARCH, params, {}, ALL, hyperparameters(8, 1), toy_data(8, 8)))
    assert np.array_equal(flat(two[1].params), flat(one[1].params))


def reference_sgd(params, momentum, grads, rate, hp):
    """The published update, leaf by leaf in plain NumPy (spec/mu2net.md §8)."""
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
    got = training._sgd(
        jnp.asarray(p), jnp.asarray(t), jnp.asarray(g), jnp.ones(100, bool), jnp.float32(0.05),
        hyperparameters(**values),
    )  # fmt: skip
    ((want_p, want_t),) = reference_sgd([p], [t], [g], 0.05, values)
    np.testing.assert_allclose(got[0], want_p, rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(np.asarray(got[1]), want_t)


def test_momentum_coefficient_is_rounded_to_bfloat16():
    ones = jnp.ones(1, jnp.float32)
    hp = hyperparameters(opt_momentum=0.9)
    _, trace = training._sgd(
        ones, ones.astype(jnp.bfloat16), 0 * ones, ones > 0, jnp.float32(0), hp
    )
    assert float(trace[0]) == 0.8984375


def test_gradient_clipping_sees_only_what_is_trained():
    p = jnp.zeros(2, jnp.float32)
    grads = jnp.asarray([0.5, 1000.0], jnp.float32)
    mask = jnp.asarray([True, False])
    new, _ = training._sgd(
        p, p.astype(jnp.bfloat16), grads, mask, jnp.float32(1), hyperparameters()
    )
    assert new.tolist() == [-0.5, 0.0]


def test_learning_rate_rises_from_a_hundredth_and_falls_to_nothing():
    hp = hyperparameters(steps=100, rounds=4, opt_lr=1.0, opt_lr_warmup_ratio=0.1)
    rate = [float(training.learning_rate(jnp.int32(i), hp)) for i in range(101)]
    assert rate[0] == pytest.approx(0.01)
    assert rate[5] == pytest.approx(0.01 + 0.99 / 2)
    assert rate[10] == pytest.approx(1.0)
    assert rate[55] == pytest.approx(0.5)
    assert max(rate) == pytest.approx(1.0) and rate[99] < 0.001


def test_learning_rate_without_warm_up_starts_at_the_peak():
    hp = hyperparameters(steps=10, opt_lr=1.0, opt_lr_warmup_ratio=0.01)
    assert float(training.learning_rate(jnp.int32(0), hp)) == pytest.approx(1.0)


def test_constant_and_restarting_schedules():
    constant = hyperparameters(steps=40, rounds=4, opt_lr=1.0, opt_lr_schedule="constant")
    assert {float(training.learning_rate(jnp.int32(i), constant)) for i in range(40)} == {0.5}
    restarts = hyperparameters(steps=40, rounds=4, opt_lr=1.0, opt_lr_schedule="restarts")
    rate = [float(training.learning_rate(jnp.int32(i), restarts)) for i in range(40)]
    assert rate[:10] == rate[10:20] == rate[30:40] and rate[9] < 0.1


def test_an_unknown_schedule_is_named():
    with pytest.raises(ValueError, match="'linear'"):
        hyperparameters(opt_lr_schedule="linear")


def test_inherited_momentum_changes_the_first_step():
    params = random_root(ARCH)
    trace = jax.tree.map(lambda p: np.ones(p.shape, ml_dtypes.bfloat16), params["head"])
    data, hp = toy_data(1, 1), hyperparameters(1, 1, opt_lr_warmup_ratio=0.01)
    fresh = last(training.train(ARCH, params, {}, ALL, hp, data))[1]
    inherited = last(training.train(ARCH, params, {"head": trace}, ALL, hp, data))[1]
    moved = flat(fresh.params["head"]) - flat(inherited.params["head"])
    np.testing.assert_allclose(moved, 0.1 * 0.8984375, rtol=1e-4)


def test_every_epoch_sees_every_example_once():
    stream = epochs(np.random.default_rng(3), 10, 4, 10).ravel()
    assert [sorted(stream[i : i + 10]) for i in (0, 10, 20, 30)] == [list(range(10))] * 4
    assert stream[:10].tolist() != stream[10:20].tolist()


def test_accuracy_counts_real_images_only():
    """300 of 1,024 padded rows are real; zero logits answer class 0 everywhere."""
    labels = np.repeat(np.int32([0, 1, 2]), 100)
    data = evaluation_data(np.zeros((300, 8, 8, 1), np.uint8), labels, 8)
    assert training.accuracy(ARCH, random_root(ARCH), data) == 1 / 3


def test_programs_depend_on_shape_and_frozen_depth_only():
    """depth + 2 training programs and one evaluation serve every child of one architecture."""
    arch = Architecture(
        width=16, heads=2, mlp_dim=32, patch_size=4, image_size=8, num_layers=2, num_classes=4
    )
    rng = np.random.default_rng(0)
    params = random_root(arch)
    compiled = []

    def on_event(event: str, _seconds: float, **_: object) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(event)

    toy_data(4, 4)  # what only moves data compiles here
    jax.monitoring.register_event_duration_secs_listener(on_event)
    for i in range(24):
        chosen = {str(n) for n in rng.choice(arch.component_names, 2)} | {"encoder_norm", "head"}
        hp = hyperparameters(
            opt_lr=float(rng.choice([0.01, 0.1])), opt_nesterov=bool(i % 2),
            ds_crop=bool(i % 3), ds_hue_delta=0.1 * (i % 2), opt_lr_warmup_ratio=0.05 * (i % 4 + 1),
        )  # fmt: skip
        last(training.train(arch, params, {}, frozenset(chosen), hp, toy_data(4 * (i % 3 + 1), 4)))
    assert 0 < len(compiled) <= arch.num_layers + 2 + 1
