"""Training of children: what freezing means, that features change nothing, how few programs."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from evolution.data.tasks import Split, TaskError
from evolution.population import Path
from evolution.roots.loading import random_root
from evolution.training import evaluation, programs, trainer
from evolution.training.batches import Batches
from evolution.training.trainer import Trainer
from tests.evolution.systems import forget_programs, toy_task
from tests.evolution.training.children import (
    ARCH,
    AUGMENTED,
    EXPERIMENT,
    PLAIN,
    THREE_STEPS,
    batches,
    flat,
    path,
)
from vit import Architecture


def trained(child: Path, arch: Architecture = ARCH, drawn: Batches | None = None, task=None):
    """The child's last round."""
    return list(
        Trainer(EXPERIMENT, task or toy_task("toy/a")).train(child, arch, drawn or batches())
    )[-1]


def test_a_child_learns_the_toy_task():
    child = path(ARCH, ARCH.component_names)
    assert trained(child, drawn=batches(steps=240, per_round=16)).quality > 0.9


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
    child = path(ARCH, trainable, AUGMENTED)
    state = trained(child).state
    for component in child.components:
        after = state.params.get(component.name, component.params)
        changed = not np.array_equal(flat(component.params), flat(after))
        assert changed == (component.name in trainable), component.name


def test_two_rounds_are_the_same_as_one_long_one():
    child = path(ARCH, ARCH.component_names)
    two, one = (trained(child, drawn=batches(8, per_round)) for per_round in (4, 8))
    assert np.array_equal(flat(two.state.params), flat(one.state.params))


@pytest.fixture
def features(monkeypatch):
    """Frozen prefixes are run apart however little that saves."""
    monkeypatch.setattr(trainer, "WORTHWHILE_FLOPS", 0)


def test_training_on_features_is_training_on_images(monkeypatch):
    """What the frozen prefix makes of an image is the same, computed once or in every step."""
    child = path(ARCH, {"encoderblock_0", "head"})
    again = trained(child)
    monkeypatch.setattr(trainer, "WORTHWHILE_FLOPS", 0)
    kept = trained(child)
    np.testing.assert_allclose(flat(kept.state.params), flat(again.state.params), atol=2e-5)
    assert kept.quality == again.quality


def test_streamed_data_trains_the_same_child(monkeypatch):
    """In chunks of three steps, which do not divide a round."""
    child = path(ARCH, {"encoderblock_0", "encoder_norm", "head"}, AUGMENTED)
    resident = trained(child)
    monkeypatch.setattr("evolution.training.batches.RESIDENT_BYTES", 0)
    monkeypatch.setattr("evolution.training.batches.CHUNK_BYTES", THREE_STEPS)
    streamed = trained(child)
    np.testing.assert_allclose(
        flat(streamed.state.params), flat(resident.state.params), rtol=1e-5, atol=1e-6
    )
    assert streamed.quality == resident.quality


def test_features_of_one_child_do_not_leak_into_the_next(features):
    """Two children with different frozen components, one trainer: as with a trainer each."""
    shared = Trainer(EXPERIMENT, toy_task("toy/a"))
    for seed in (0, 1):
        params = random_root(ARCH)
        kernel = np.random.default_rng(seed).normal(size=params["embedding"]["kernel"].shape)
        params["embedding"]["kernel"] = kernel.astype(np.float32)
        child = path(ARCH, {"head"}, params=params)
        for component in child.components:
            component.id += 100 * seed
        alone = trained(child)
        together = list(shared.train(child, ARCH, batches()))[-1]
        assert np.array_equal(flat(alone.state.params), flat(together.state.params))
        assert alone.quality == together.quality


@pytest.mark.parametrize("layers", [1, 2])
def test_what_is_kept_takes_at_most_the_bytes_that_are_counted(layers):
    """Of one example, where it enters each component: pixels, tokens, or the class token alone."""
    arch = replace(ARCH, num_layers=layers)
    task = toy_task("toy/a")
    answers = evaluation.Evaluation(task.validation, 4, evaluation.Work())
    for prefix in range(len(arch.component_names)):
        chunk = next(iter(answers.inputs(arch, path(arch, {"head"}), prefix)))
        counted, found = evaluation.feature_bytes(arch, prefix), chunk.inputs[0].nbytes
        assert found <= counted
        if prefix == 0 or arch.component_names[prefix - 1].startswith("encoderblock"):
            assert found == counted


def test_children_that_share_a_frozen_prefix_compute_its_outputs_once(features, monkeypatch):
    """Those that validation reads, and those that training does."""
    computed = []
    run_prefix = evaluation.run_prefix

    def counted(arch, prefix, *rest):
        computed.append(prefix)
        return run_prefix(arch, prefix, *rest)

    monkeypatch.setattr(evaluation, "run_prefix", counted)
    shared = Trainer(EXPERIMENT, toy_task("toy/a"))
    list(shared.train(path(ARCH, {"head"}), ARCH, batches()))
    first = len(computed)
    list(shared.train(path(ARCH, {"head"}), ARCH, batches()))
    assert first and len(computed) == first
    other = path(ARCH, {"head"})
    other.components[0].id = 99
    list(shared.train(other, ARCH, batches()))
    assert len(computed) == 2 * first


def test_features_below_the_last_block_are_not_those_below_another(features):
    """Of the last block only the class token comes out; with a block above it, all tokens do."""
    deep = replace(ARCH, num_layers=2)
    params = random_root(deep)
    shallow = {name: tree for name, tree in params.items() if name != "encoderblock_1"}
    small = path(ARCH, {"encoder_norm", "head"}, params=shallow)
    large = path(deep, {"encoderblock_1", "encoder_norm", "head"}, params=params)
    for component in (*small.components, *large.components):
        component.id = list(params).index(component.name)  # shared, as a child shares
    alone = trained(large, deep)
    shared = Trainer(EXPERIMENT, toy_task("toy/a"))
    list(shared.train(small, ARCH, batches()))
    after = list(shared.train(large, deep, batches()))[-1]
    assert np.array_equal(flat(alone.state.params), flat(after.state.params))
    assert alone.quality == after.quality


@pytest.mark.parametrize("kind", ["train", "validation", "test"])
def test_a_split_without_examples_is_named(kind):
    empty = Split("nothing", np.zeros((0, 8, 8, 1), np.uint8), np.zeros(0, np.int32))
    with pytest.raises(TaskError, match="toy/a: split nothing holds no example"):
        Trainer(EXPERIMENT, replace(toy_task("toy/a"), **{kind: empty}))


def test_inherited_momentum_changes_the_first_step():
    hp = {**PLAIN, "opt_lr_warmup_ratio": 0.01}
    child = path(ARCH, ARCH.component_names, hp)
    fresh = trained(child, drawn=batches(1, 1)).state.params["head"]
    head = child.components[-1]
    head.trace = jax.tree.map(lambda p: np.ones(p.shape, ml_dtypes.bfloat16), head.params)
    inherited = trained(child, drawn=batches(1, 1)).state.params["head"]
    np.testing.assert_allclose(flat(fresh) - flat(inherited), 0.1 * 0.8984375, rtol=1e-4)


@pytest.mark.slow
def test_training_in_bfloat16_learns_the_same(monkeypatch):
    """As on an accelerator: masters and their steps stay float32."""
    child, drawn = path(ARCH, ARCH.component_names), batches(steps=120, per_round=60)
    exact = trained(child, drawn=drawn)
    monkeypatch.setattr(trainer, "compute_dtype", lambda bfloat16: jnp.bfloat16)
    rough = trained(child, drawn=drawn)
    assert abs(rough.quality - exact.quality) <= 0.1
    leaves = jax.tree.leaves(rough.state.params)
    assert all(leaf.dtype == jnp.float32 for leaf in leaves)
    assert not np.array_equal(flat(rough.state.params), flat(exact.state.params))


def test_a_loss_that_is_no_number_is_told():
    child = path(ARCH, ARCH.component_names, {**PLAIN, "opt_lr": 1e39})
    assert not trained(child).finite
    assert trained(path(ARCH, ARCH.component_names)).finite


@pytest.mark.parametrize("chunk_bytes", [64 << 20, 8 * 8 * 3 * 4 * 64])
def test_accuracy_counts_real_images_only(monkeypatch, chunk_bytes):
    """300 images in padded chunks; a head that answers class 0 everywhere is right in 100."""
    monkeypatch.setattr("evolution.training.batches.CHUNK_BYTES", chunk_bytes)
    labels = np.repeat(np.int32([0, 1, 2]), 100)
    split = Split("test", np.zeros((300, 8, 8, 1), np.uint8), labels)
    child = path(ARCH, {"head"})
    child.components[-1].params["kernel"][:] = 0
    task = replace(toy_task("toy/a"), test=split)
    assert Trainer(EXPERIMENT, task).tested(child, ARCH)["test_quality"] == 1 / 3


def test_programs_depend_on_shape_and_frozen_depth_only():
    """depth + 2 training programs and one evaluation serve every child of one architecture."""
    rng = np.random.default_rng(0)
    forget_programs()
    shared = Trainer(EXPERIMENT, toy_task("toy/a"))
    for i in range(8):
        chosen = {str(n) for n in rng.choice(ARCH.component_names, 2)} | {"encoder_norm", "head"}
        hp = {
            **PLAIN,
            "opt_lr": float(rng.choice([0.01, 0.1])),
            "opt_nesterov": bool(i % 2),
            "ds_crop": bool(i % 3),
            "ds_hue_delta": 0.1 * (i % 2),
            "opt_lr_warmup_ratio": 0.05 * (i % 4 + 1),
        }
        list(shared.train(path(ARCH, chosen, hp), ARCH, batches(4 * (i % 3 + 1), 4)))
    assert 0 < programs.compiled_programs() <= ARCH.num_layers + 2 + 1
