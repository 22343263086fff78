"""How fast children of an experiment train here, against what the machine could do.

It uses generated images and a random root of the experiment's size, so it needs no data and no
weights. Two references are measured in the same run: the machine's matrix multiplication, and a
bare compiled training step of the same network on inputs that are on the device. The training speed
is that of the second half of a child's steps. A child's time has its evaluation too, which is a
larger part here than in an experiment: rows are evaluated by 128, and the child is short.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np
from jax import Array

from evolution.data.tasks import Split, Task
from evolution.events import ChildTrained
from evolution.experiments.experiment import Experiment
from evolution.roots.loading import load_root, random_root
from evolution.run import Run
from evolution.training.programs import compiled_programs, compute_dtype, forward_flops
from evolution.training.trainer import WATCHED_STEPS
from model_store import ModelStore
from vit import Architecture
from vit.components import Tree
from vit.forward import forward

COMPILING = "/jax/core/compile/backend_compile_duration"
MATRIX = 2048  # side of the matrices whose product is the machine's peak
CHILDREN = 4
STEPS = 2 * WATCHED_STEPS  # of a child, in two calls; the second is timed
CLASSES = 10


@dataclass(frozen=True, slots=True)
class Report:
    """The measurements: medians over children without the first, which compiles."""

    programs: int  # compiled for training and evaluation
    compile_s: float
    child_s: float  # of a child with every component trainable, until it is saved
    outside: float  # share of that which is not spent in compiled programs
    steps_per_s: float
    images_per_s: float
    flops: float  # of training, per second; a backward pass is two forward passes
    peak_flops: float  # per second
    bare: float  # our images per second / those of a bare compiled step

    def lines(self) -> list[str]:
        """For people."""
        return [
            f"compiling            {self.compile_s:.1f} s for {self.programs} programs",
            f"a child              {self.child_s:.2f} s, {self.outside:.1%} of it outside "
            "compiled programs",
            f"training             {self.steps_per_s:.2f} steps/s, {self.images_per_s:,.0f} "
            f"images/s, {self.bare:.0%} of a bare compiled step",
            f"achieved             {self.flops / 1e9:,.0f} GFLOP/s, "
            f"{self.flops / self.peak_flops:.0%} of matrix multiplication's "
            f"{self.peak_flops / 1e9:,.0f}",
        ]


def bench(experiment: Experiment, size: str) -> Report:
    """Trains children on generated images; `size` names the network, such as Ti/16."""
    experiment = _everything_trainable(experiment)
    defaults = experiment.defaults
    root = load_root(f"random:{size}", defaults["ds_image_size"], defaults["num_layers"])
    arch = replace(root[0], num_classes=CLASSES)
    examples = experiment.train_examples_per_round
    task = _made_up_task(arch.image_size, examples, experiment.batch_size)
    before = compiled_programs()
    marks: list[float] = []  # when each call of WATCHED_STEPS steps ended
    with tempfile.TemporaryDirectory() as directory, _compile_seconds() as compiling:
        store = ModelStore(directory, create=True)
        search = Run.start(experiment, root, store, 0, lambda _: lambda _: task)
        search.on_steps = lambda *_: marks.append(time.monotonic())
        children = list(_timed(e for e in search.run() if isinstance(e, ChildTrained)))
    wall = statistics.median(seconds for seconds, _ in children[1:])
    in_programs = statistics.median(event.outcome.device_s for _, event in children[1:])
    calls = zip(marks[2::2], marks[3::2], strict=True)
    step_s = statistics.median(end - start for start, end in calls) / WATCHED_STEPS
    bare_s, peak = _yardsticks(arch, experiment)
    return Report(
        programs=compiled_programs() - before,
        compile_s=sum(compiling),
        child_s=wall,
        outside=1 - in_programs / wall,
        steps_per_s=1 / step_s,
        images_per_s=experiment.batch_size / step_s,
        flops=3 * forward_flops(arch) * experiment.batch_size / step_s,
        peak_flops=peak,
        bare=bare_s / step_s,
    )


def _everything_trainable(experiment: Experiment) -> Experiment:
    """Short children of one shape, which copy every component and augment as the defaults say."""
    return replace(
        experiment,
        tasks=("bench",),
        passes=1,
        samples_per_task=CHILDREN,
        children_per_generation=1,
        train_examples_per_round=STEPS * experiment.batch_size,
        validation_examples=experiment.batch_size,
        rounds_per_child=1,
        method=replace(
            experiment.method, sweeps_seeds=False, learned_rates=False, fits_heads=False, margin=0.0
        ),
        defaults={**experiment.defaults, "_mu_": 1.0},
        ranges={},
        mutate_adapters=False,
    )


def _made_up_task(size: int, examples: int, evaluated: int) -> Task:
    rng = np.random.default_rng(0)

    def split(name: str, examples: int) -> Split:
        images = rng.integers(0, 256, (examples, size, size, 3), dtype=np.uint8)
        return Split(name, images, rng.integers(CLASSES, size=examples).astype(np.int32))

    labels = tuple(str(i) for i in range(CLASSES))
    train = split("train", examples)
    validation, test = (split(name, evaluated) for name in ("validation", "test"))
    return Task("bench", False, labels, train, validation, test)


def _timed(events: Iterator[ChildTrained]) -> Iterator[tuple[float, ChildTrained]]:
    started = time.monotonic()
    for event in events:
        yield time.monotonic() - started, event
        started = time.monotonic()


@contextmanager
def _compile_seconds() -> Iterator[list[float]]:
    seconds: list[float] = []

    def note(event: str, duration_secs: float, **_: Any) -> None:
        if event == COMPILING:
            seconds.append(duration_secs)

    jax.monitoring.register_event_duration_secs_listener(note)
    yield seconds
    jax.monitoring.unregister_event_duration_listener(note)


def _yardsticks(arch: Architecture, experiment: Experiment) -> tuple[float, float]:
    """Seconds of a bare training step, and the machine's floating-point operations per second."""
    batch, dtype = experiment.batch_size, compute_dtype(experiment.bfloat16)
    rng = np.random.default_rng(0)
    shape = (batch, arch.image_size, arch.image_size, 3)
    images = jnp.asarray(rng.uniform(-1, 1, shape), dtype)
    labels = jnp.asarray(rng.integers(CLASSES, size=batch))
    params = jax.device_put(random_root(arch))
    square = jnp.ones((MATRIX, MATRIX), dtype)

    @jax.jit
    def bare(params: dict[str, Tree]) -> dict[str, Tree]:
        def loss(params: dict[str, Tree]) -> Array:
            params = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
            scores = jax.nn.log_softmax(forward(arch, params, images).astype(jnp.float32))
            return -jnp.take_along_axis(scores, labels[:, None], axis=1).mean()

        return jax.tree.map(lambda p, g: p - 0.01 * g, params, jax.grad(loss)(params))

    product = jax.jit(lambda a: a @ a)
    steps, products = [], []
    for _ in range(10):  # in turn, so that both see the same machine
        steps.append(_seconds(lambda: bare(params)))
        products.append(_seconds(lambda: product(square)))
    return statistics.median(steps[1:]), 2 * MATRIX**3 / min(products)


def _seconds(call: Callable[[], Any]) -> float:
    started = time.monotonic()
    jax.block_until_ready(call())
    return time.monotonic() - started
