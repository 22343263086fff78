"""Loss and learning rate of every step: recorded without changing a number, thinned by means."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from evolution.training import programs
from evolution.training.curves import MOST_POINTS, Curve
from evolution.training.programs import learning_rate
from evolution.training.trainer import Trainer
from tests.evolution.systems import toy_task
from tests.evolution.training.children import (
    ARCH,
    AUGMENTED,
    EXPERIMENT,
    THREE_STEPS,
    batches,
    flat,
    hyperparameters,
    path,
)
from vit.forward import forward


def unrecorded(loss, state, masks, hp, first_step, steps, most):
    """`programs.descend` without a record."""
    params, unravel = ravel_pytree(state.params)
    momentum, unravel_momentum = ravel_pytree(state.momentum)
    mask, _ = ravel_pytree(
        {
            name: jax.tree.map(lambda p, name=name: jnp.full(p.shape, masks[name]), tree)
            for name, tree in state.params.items()
        }
    )

    def step(i, carry):
        params, momentum, sound = carry
        value, tree = jax.value_and_grad(loss)(unravel(params), i)
        grads, _ = ravel_pytree(tree)
        rate = learning_rate(first_step + i, hp)
        (params,), (momentum,) = programs._sgd((params,), (momentum,), (grads,), (mask,), rate, hp)
        return params, momentum, sound & jnp.isfinite(value)

    begin = (params, momentum, jnp.asarray(True))
    params, momentum, sound = jax.lax.fori_loop(0, steps, step, begin)
    none = jnp.zeros(most)
    state = programs.TrainState(unravel(params), unravel_momentum(momentum))
    return state, programs.Descent(sound, none, none)


def test_recording_changes_no_bit_of_a_training(monkeypatch):
    def rounds():
        programs.train_steps.clear_cache()
        child = path(ARCH, {"encoderblock_0", "head"}, AUGMENTED)
        return list(Trainer(EXPERIMENT, toy_task("toy/a")).train(child, ARCH, batches()))

    recorded = rounds()
    monkeypatch.setattr(programs, "descend", unrecorded)
    bare = rounds()
    programs.train_steps.clear_cache()
    for one, other in zip(recorded, bare, strict=True):
        assert one.curve.losses.all() and not other.curve.losses.any()
        assert np.array_equal(flat(one.state), flat(other.state))
        assert one.quality == other.quality


def test_a_round_tells_the_loss_and_the_rate_of_each_of_its_steps():
    child, task = path(ARCH, ARCH.component_names), toy_task("toy/a")
    trainer = Trainer(EXPERIMENT, task)
    (long,) = (r.curve for r in trainer.train(child, ARCH, batches(8, 8)))
    two = [r.curve for r in trainer.train(child, ARCH, batches(8, 4))]
    assert long.losses.shape == (8,)
    np.testing.assert_array_equal(Curve.joined(two), long)
    rates = [float(learning_rate(jnp.int32(i), hyperparameters(8, 2))) for i in range(8)]
    np.testing.assert_allclose(long.rates, rates, rtol=1e-6)
    rows = next(batches(8, 8).drawn()).order[0]
    images, labels = task.train.evaluation_inputs(rows, ARCH.image_size)
    params = {c.name: c.params for c in child.components}
    logits = jax.jit(forward, static_argnums=0)(ARCH, params, jnp.asarray(images))
    assert long.losses[0] == pytest.approx(float(task.objective.loss(logits, labels)), rel=1e-4)


def test_streamed_chunks_tell_every_step_once(monkeypatch):
    child = path(ARCH, {"encoderblock_0", "head"}, AUGMENTED)
    resident = list(Trainer(EXPERIMENT, toy_task("toy/a")).train(child, ARCH, batches()))
    monkeypatch.setattr("evolution.training.batches.RESIDENT_BYTES", 0)
    monkeypatch.setattr("evolution.training.batches.CHUNK_BYTES", THREE_STEPS)  # one is left over
    streamed = list(Trainer(EXPERIMENT, toy_task("toy/a")).train(child, ARCH, batches()))
    for one, other in zip(resident, streamed, strict=True):
        np.testing.assert_allclose(one.curve.losses, other.curve.losses, rtol=1e-4)
        np.testing.assert_array_equal(one.curve.rates, other.curve.rates)


@pytest.mark.parametrize("steps", [0, 1, 99, 100, 101, 250, 12_345])
def test_a_record_has_a_bounded_number_of_points_each_the_mean_of_its_stretch(steps):
    losses = np.random.default_rng(steps).random(steps, np.float32)
    record = Curve(losses, np.arange(steps, dtype=np.float32)).record()
    every = record["every"]
    assert record["steps"] == steps and len(record["loss"]) == -(-steps // every) <= MOST_POINTS
    assert every == 1 or -(-steps // (every - 1)) > MOST_POINTS  # no coarser than needed
    for i, (loss, rate) in enumerate(zip(record["loss"], record["learning_rate"], strict=True)):
        stretch = slice(i * every, (i + 1) * every)
        assert loss == pytest.approx(losses[stretch].mean(), rel=1e-5)
        assert rate == pytest.approx(np.arange(steps)[stretch].mean(), rel=1e-5)


def test_a_loss_that_is_no_number_is_none_in_the_record():
    losses = np.float32([1, np.nan, np.inf])
    assert Curve(losses, np.ones(3, np.float32)).record()["loss"] == [1.0, None, None]
