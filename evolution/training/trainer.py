"""The training of children on a task's data, and their evaluation.

The output of a frozen prefix for unchanging inputs (validation always; training without
augmentation) is computed once. It is computed in the same way if it is not kept for the next child,
so results do not depend on what ran before.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from evolution.data.tasks import Task
from evolution.experiments.experiment import Experiment
from evolution.population import ROOT, Component, Path
from evolution.training.batches import (
    AnySplit,
    Batches,
    Resident,
    Streamed,
    augments,
    may_stay,
    padded,
    power_of_two,
    require_examples,
    resident_images,
)
from evolution.training.calibration import calibration
from evolution.training.curves import Curve
from evolution.training.evaluation import (
    Evaluation,
    Work,
    feature_bytes,
    params_of,
    prefix_key,
    seen,
)
from evolution.training.heads import Fitted, fitted_head
from evolution.training.objectives import Judged, gain
from evolution.training.programs import (
    Descent,
    Hyperparameters,
    TrainState,
    boundary,
    compute_dtype,
    prefix_flops,
    train_steps,
    training_flops,
)
from vit import Architecture, shapes
from vit.components import Tree

# A frozen prefix runs separately if that saves this many operations: the programs that start above
# it must be compiled too.
WORTHWHILE_FLOPS = 1e9

# Steps of a call while progress is shown: enough that the call itself costs little.
WATCHED_STEPS = 8

# Called with the steps done, all steps and the mean loss of the last few, for the present child;
# returns whether training continues.
Watch = Callable[[int, int, float], bool]

Descents = list[tuple[Descent, int]]  # training calls, with the steps of each

MOST_FITTED = 20_000  # training examples that a head is fitted to
NO_ADAPTER = -1  # id of an absent adapter


@dataclass(frozen=True, slots=True)
class Round:
    """The result of one round of training."""

    quality: float  # of the answers to the validation examples
    state: TrainState
    finite: bool  # whether training is sound: losses, answers and weights (training.descend)
    curve: Curve  # of its steps
    device_s: float  # seconds from the first call of a compiled program to the last result
    # Floating-point operations of the trainer since its round before, also those of choosing a body
    # and of validating; None where they are not counted.
    flops: float | None = None
    # By how many standard errors the losses of the validation examples are smaller than those of
    # the owner's best path (objectives.gain); infinite if there is none.
    gain: float = math.inf

    @classmethod
    def of(
        cls,
        quality: float,
        finite: bool,
        state: TrainState,
        descents: Sequence[tuple[Descent, int]],
        started: float,
    ) -> Round:
        """From the training calls, with the steps of each, and the answers after them.

        `started` is the time of the first call, by time.monotonic.
        """
        sound = finite and all(bool(descent.sound) for descent, _ in descents)
        curve = Curve.of(descents)
        return cls(quality, state, sound, curve, time.monotonic() - started)


class Trainer:
    """Trains and evaluates paths of one task."""

    def __init__(
        self,
        experiment: Experiment,
        task: Task,
        validation_count: int | None = None,
        watch: Watch | None = None,
    ) -> None:
        """Moves the training set to the device if it is small enough. Raises TaskError.

        `validation_count` replaces the experiment's number of validation examples.
        """
        require_examples(task)
        self._experiment = experiment
        self._watch = watch
        self._task = task
        wanted = experiment.validation_count(len(task.validation))
        self.validation_count = wanted if validation_count is None else validation_count
        self._work = Work()
        self._validation = self._evaluation(task.validation, self.validation_count)
        self._resident, self._features = resident_images(task.train), None
        self._heads: dict[int, Fitted] = {}  # by path, of those whose body was not trained
        self._losses: tuple[int, NDArray[np.float32]] | None = None  # a path's, by its number

    def batches(self, seed: int, key: tuple[int, ...]) -> Batches:
        """Batches for the children of one generation."""
        return Batches.of(self._experiment, self._task, seed, key)

    def validation_quality(self, path: Path, arch: Architecture) -> float:
        """The quality of the path's answers to the validation examples."""
        return self._task.objective.quality(self._judged(path, arch, self._validation))

    def _evaluation(self, split: AnySplit, count: int) -> Evaluation:
        return Evaluation(split, count, self._work)

    def tested(self, path: Path, arch: Architecture) -> dict[str, Any]:
        """`test_quality`, of the path's answers to the whole test split, and `calibration`.

        Its operations are not those of a search, and do not count.
        """
        task, before = self._task, self._work.taken()
        test = self._judged(path, arch, self._evaluation(task.test, len(task.test)))
        validation = self._judged(path, arch, self._validation)
        self._work.flops = before
        return {
            "test_quality": task.objective.quality(test),
            "calibration": calibration(task.activation, validation, test),
        }

    def _judged(self, path: Path, arch: Architecture, examples: Evaluation) -> list[Judged]:
        if self._experiment.mutate_adapters:
            path, arch = _with_all_adapters(path, arch)
        return examples.judged(arch, path, 0, jax.device_put(params_of(path.components)))[0]

    def losses(self, path: Path, arch: Architecture) -> NDArray[np.float32]:
        """The loss of each validation example [n] with a path whose training is over."""
        if self._losses is None or self._losses[0] != path.id:
            judged = self._judged(path, arch, self._validation)
            self._losses = path.id, self._task.objective.each_loss(judged)
        return self._losses[1]

    def train(
        self,
        child: Path,
        arch: Architecture,
        batches: Batches,
        against: NDArray[np.float32] | None = None,
    ) -> Iterator[Round]:
        """Trains one child, round by round. Does not change its components.

        `against`: the losses of the validation examples [n] with the path to beat, for the gain.

        If the method fits heads and only the head is trainable, there is one round of no steps.
        If more is trainable, a last round of no steps has the mean of the weights before and after.
        Showing progress does not change any bit of the result. If `watch` returns False, training
        ends with a shorter round.
        """
        if self._experiment.mutate_adapters:
            child, arch = _with_all_adapters(child, arch)
        prefix = boundary(arch, _trainable(child))
        frozen = jax.device_put(params_of(child.components[:prefix]))
        shared = self._validation.count * (self._experiment.rounds_per_child - 1)
        evaluated = prefix if _worthwhile(child, arch, prefix, shared) else 0
        objective = self._task.objective
        for state, descents, since in self._states(child, arch, prefix, frozen, batches):
            params = {**frozen, **state.params}
            judged, finite = self._validation.judged(arch, child, evaluated, params)
            done = Round.of(objective.quality(judged), finite, state, descents, since)
            gained = math.inf if against is None else gain(against, objective.each_loss(judged))
            yield replace(done, flops=self._work.taken(), gain=gained)

    def _states(
        self,
        child: Path,
        arch: Architecture,
        prefix: int,
        frozen: dict[str, Tree],
        batches: Batches,
    ) -> Iterator[tuple[TrainState, Descents, float]]:
        """What each round ends with: the state, its training calls, and when it began."""
        method, trainable = self._experiment.method, _trainable(child)
        above = child.components[prefix:]
        momentum = {c.name: _trace(c, method.inherits_momentum) for c in above}
        state = jax.device_put(TrainState(params_of(above), momentum))
        if method.fits_heads and trainable == {"head"}:
            started = time.monotonic()
            fitted = self._heads.get(child.id) or self._fitted(arch, {**frozen, **state.params})
            yield _with_head(state, fitted), [], started
            return
        if method.fits_heads and child.parent is not None and child.parent.task != child.task:
            state = self._fitted_to(state, arch, frozen)  # there is no head to start from
        before = state.params
        traced = Hyperparameters.of(
            child.hyperparameters, batches.steps, batches.rounds, method.warmup_start
        )
        masks = {c.name: c.name in trainable for c in above}
        dtype = compute_dtype(self._experiment.bfloat16)
        source = self._source(child, arch, prefix, traced, batches.steps)
        each = _step_flops(arch, prefix, source.augmentation)
        for drawn in batches.drawn():
            started = time.monotonic()
            descents: Descents = []
            goes_on = True
            for first, inputs, labels, order, draws in self._calls(source.chunks(drawn)):
                state, descent = train_steps(
                    self._task.objective, arch, prefix, source.augmentation, dtype, frozen, state,
                    masks, traced, inputs, labels, padded(order), padded(draws), first, len(order),
                    self._task.contract,
                )  # fmt: skip
                descents.append((descent, len(order)))
                self._work.add(order.size, each)
                goes_on = self._goes_on(first + len(order), batches.steps, descents[-1])
                if not goes_on:
                    break
            if method.fits_heads:
                state = self._fitted_to(state, arch, frozen)
            yield state, descents, started
            if not goes_on:
                break
        if method.fits_heads:
            started = time.monotonic()
            mean = jax.tree.map(lambda a, b: (a + b) / 2, before, state.params)
            yield self._fitted_to(state._replace(params=mean), arch, frozen), [], started

    def _fitted_to(
        self, state: TrainState, arch: Architecture, frozen: Mapping[str, Tree]
    ) -> TrainState:
        """With a head that is fitted to the body."""
        return _with_head(state, self._fitted(arch, {**frozen, **state.params}))

    def fitted_loss(self, path: Path, arch: Architecture) -> float:
        """The loss of the validation examples with a fitted head on the path's body.

        `arch` has the task's classes.
        """
        if self._experiment.mutate_adapters:
            path, arch = _with_all_adapters(path, arch)
        found = self._fitted(arch, jax.device_put(params_of(path.components)))
        self._heads[path.id] = found
        return found.loss

    def _fitted(self, arch: Architecture, params: Mapping[str, Tree]) -> Fitted:
        task = self._task
        train = seen(task.train, min(MOST_FITTED, len(task.train)), arch, params)
        validation = seen(task.validation, self.validation_count, arch, params)
        body = prefix_flops(arch, len(arch.component_names) - 1)
        self._work.add(len(train.labels) + len(validation.labels), body)
        found = fitted_head(task.activation, arch.num_classes, train, validation)
        self._work.flops += found.flops
        return found

    def _calls(self, chunks: Iterator[tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
        """The chunks of a round; in short pieces if progress is shown."""
        if self._watch is None:
            yield from chunks
            return
        for first, inputs, labels, order, draws in chunks:
            for at in range(0, len(order), WATCHED_STEPS):
                part = slice(at, at + WATCHED_STEPS)
                yield first + at, inputs, labels, order[part], draws[part]

    def _goes_on(self, done: int, steps: int, descent: tuple[Descent, int]) -> bool:
        if self._watch is None:
            return True
        losses = np.asarray(descent[0].losses)[: descent[1]]  # waits for them
        return self._watch(done, steps, float(losses.mean()))

    def _source(
        self, child: Path, arch: Architecture, prefix: int, hp: Hyperparameters, steps: int
    ) -> Resident | Streamed:
        split, batch_size = self._task.train, self._experiment.batch_size
        saved = steps * batch_size - len(split)
        # If images were resized to one canvas, evaluation sees other pixels than training.
        as_evaluated = self._resident is not None and getattr(split, "originals", None) is None
        plain = as_evaluated and not augments(hp.strengths)
        if plain and _worthwhile(child, arch, prefix, saved):
            features = self._training_features(child, arch, prefix)
            if features is not None:
                return features
        augmentation = "bytes" if self._experiment.method.augments_bytes else "scaled"
        if self._resident is not None:
            return Resident(*self._resident, augmentation)
        return Streamed(split, batch_size, augmentation)

    def _training_features(self, child: Path, arch: Architecture, prefix: int) -> Resident | None:
        """The frozen prefix's output for the training images, if it is small enough to keep."""
        split = self._task.train
        if not may_stay(feature_bytes(arch, prefix) * power_of_two(len(split))):
            return None
        key = prefix_key(child, arch, prefix)
        if self._features is None or self._features[0] != key:
            self._features = None  # frees the former before the next takes its place
            data = self._evaluation(split, len(split))
            chunks = list(data.inputs(arch, child, prefix))
            inputs = jnp.concatenate([c.inputs[: c.count] for c in chunks])
            labels = jnp.concatenate([c.labels[: c.count] for c in chunks])
            missing = power_of_two(len(labels)) - len(labels)
            inputs = jnp.pad(inputs, [(0, missing)] + [(0, 0)] * (inputs.ndim - 1))
            labels = jnp.pad(labels, [(0, missing)] + [(0, 0)] * (labels.ndim - 1))
            self._features = (key, Resident(inputs, labels, "none"))
        return self._features[1]


def _step_flops(arch: Architecture, prefix: int, augmentation: str) -> float:
    """Floating-point operations of a step for one image, whose prefix is run only if it changes."""
    below = 0.0 if augmentation == "none" else prefix_flops(arch, prefix)
    return below + training_flops(arch, prefix)


def _trainable(child: Path) -> frozenset[str]:
    return frozenset(c.name for c in child.trainable)


def _worthwhile(path: Path, arch: Architecture, prefix: int, passes: int) -> bool:
    """Whether to run a prefix once, instead of in each of `passes` further passes of an image."""
    each = 2 * arch.tokens * sum(component.num_params for component in path.components[:prefix])
    return each * passes > WORTHWHILE_FLOPS


def _with_all_adapters(child: Path, arch: Architecture) -> tuple[Path, Architecture]:
    """The same function with an adapter before every block; added adapters add zero.

    So all sets of adapters share one program. An adapter costs about 3 % of its block.
    """
    arch = replace(arch, adapters=tuple(range(arch.num_layers)))
    known = {component.name: component for component in child.components}
    components = tuple(
        known.get(name) or Component(NO_ADAPTER, name, _zeros(shapes(arch, name)), 0, locks={ROOT})
        for name in arch.component_names
    )
    return replace(child, components=components), arch


def _zeros(tree: Any) -> Tree:
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), tree)


def _with_head(state: TrainState, fitted: Fitted) -> TrainState:
    params = {**state.params, "head": jax.device_put(fitted.head)}
    return TrainState(params, state.momentum)


def _trace(component: Component, inherits: bool) -> Tree:
    if inherits and component.momentum is not None:
        return component.momentum
    return jax.tree.map(lambda p: np.zeros(p.shape, ml_dtypes.bfloat16), component.params)
