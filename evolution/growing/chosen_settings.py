"""The experiment of `munet evolve`: the settings it chooses, and why.

"Measured" refers to evolution/README.md, "Growing".
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from evolution.experiments.experiment import Experiment
from evolution.experiments.search_space import DEFAULTS, NO_AUGMENTATION
from evolution.growing.machine_speed import Machine
from evolution.methods import FITTED
from evolution.population import Score
from vit import Architecture

ROOT = "shipped"  # of an empty store: it needs no download
# Sides of an image in patches, for a system without an image size: the largest whose children fit
# into the time. Measured with the shipped root, 200 steps of fine-tuning: 6 patches instead of 4
# cost 2.2 times as much and gain about 2 % of accuracy; 8 cost 4 times as much.
PATCHES = (8, 6, 4)
PATCHES_ACCELERATED = (16, 12, 8)
# A deep root on a slow machine is halved, but not below this. In a linear probe of EuroSAT, half of
# a published ViT-S/14 did not do worse than all of it (.826 with 6 blocks, .794 with 12).
FEWEST_BLOCKS = 3
RANDOM_BLOCKS = 3  # of a random root, which has none of its own
# Steps of a child: PASSES over the data, between two bounds. A small set is memorised after some
# tens of passes. A large set is not seen once by a child, and children continue from their parents.
PASSES, LEAST_STEPS, MOST_STEPS = 40, 200, 2_000
SHORTEST_STEPS = 40  # of a child, where the budget allows no more
FEWEST_CHILDREN = 4  # that a budget is planned for, so that there is a choice
MOST_CHILDREN = 32
START_S = 15.0  # of a run: measured with two programs to compile on 2 cores; adapters need one more
CHILDREN = 8  # where neither a number nor a budget is given
ROUNDS = 2  # of a child: each fits a head and validates it
VALIDATION_EXAMPLES = 10_000
POPULATION = 4  # paths of a task that may be parents; each holds its own parameters in memory

_DEFAULTS = {
    **DEFAULTS,
    **NO_AUGMENTATION,
    "_mu_": 0.5,
    "opt_lr": 0.05,
    "ds_area_range_min": 0.3,
    "ds_aspect_ratio_range_min": 0.75,
    "ds_flip_left_right": True,
}
_RANGES = {
    "_mu_": (0.1, 0.2, 0.3, 0.4, 0.5, 0.6),
    "opt_lr": (0.005, 0.01, 0.02, 0.05, 0.1, 0.2),
    "opt_lr_warmup_ratio": (0.02, 0.05, 0.1, 0.2),
    "opt_momentum": (0.8, 0.85, 0.9, 0.95),
    "ds_area_range_min": (0.2, 0.3, 0.5, 0.7, 1.0),
    "ds_flip_left_right": (True, False),
    "ds_brightness_delta": (0.0, 0.05, 0.1, 0.2),
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """How much to do: a time, a number of children, or both."""

    seconds: float | None
    children: int | None


@dataclass(frozen=True, slots=True)
class Costs:
    """An estimate of the training time here."""

    step_s: float
    start_s: float  # once: compiling

    def child_s(self, steps: int) -> float:
        """The time of a child, with its validations."""
        return self.step_s * steps * 1.1 + 0.5


def shape(root: Architecture, stored: bool, machine: Machine, wanted: Wanted) -> tuple[int, int]:
    """The side of the images and the number of the root's blocks that the machine can afford.

    A system in the store keeps its blocks and its size. But if its images are larger than the
    choice here, as those of an adopted network, smaller ones are used.
    """
    choices = PATCHES_ACCELERATED if machine.accelerator else PATCHES
    blocks = root.num_layers or RANDOM_BLOCKS
    if stored and root.grid <= choices[0]:
        return root.image_size, blocks
    if wanted.seconds is None:
        return choices[1] * root.patch_size, blocks
    steps = (wanted.children or FEWEST_CHILDREN) * LEAST_STEPS
    affordable = (wanted.seconds - START_S) * machine.flops / steps
    batch = batch_size(0, machine)

    def fits(patches: int) -> bool:
        return _step_flops(root, blocks, patches, batch) <= affordable

    patches = next(filter(fits, choices), choices[-1])
    while not stored and blocks // 2 >= FEWEST_BLOCKS and not fits(patches):
        blocks //= 2
    return patches * root.patch_size, blocks


def _step_flops(root: Architecture, blocks: int, patches: int, batch: int) -> float:
    """Operations of a step, about: two for each weight of a block and token, three times."""
    weights = blocks * root.width * (4 * root.width + 2 * root.mlp_dim)
    return 3 * batch * 2 * weights * (patches**2 + 1)


def batch_size(examples: int, machine: Machine) -> int:
    """Pictures in a step: more of a large set, and enough to keep an accelerator busy."""
    least = 128 if machine.accelerator else 32
    wanted = 32 if examples < 2_000 else 64 if examples < 20_000 else 128
    return max(least, wanted)


def experiment_of(task: str, root: str, arch: Architecture, params: int) -> Experiment:
    """The experiment for a task from a root of `root_params` parameters, without its sizes."""
    return Experiment(
        name="evolve",
        method=FITTED,
        tasks=(task,),
        passes=1,
        samples_per_task=CHILDREN,
        root=root,
        batch_size=32,
        train_examples_per_round=1_000,
        rounds_per_child=ROUNDS,
        validation_examples=VALIDATION_EXAMPLES,
        defaults={
            **_DEFAULTS, "num_layers": arch.num_layers, "ds_image_size": arch.image_size,
        },
        ranges=_RANGES,
        score=Score(0.99, reference_params=float(params)),
        max_population=POPULATION,
    )  # fmt: skip


def sized(
    experiment: Experiment, examples: int, flops: float, machine: Machine, wanted: Wanted
) -> tuple[Experiment, Costs]:
    """With sizes for these numbers of training examples and operations an image."""
    batch = batch_size(examples, machine)
    # A backward pass is two forward passes.
    cost = Costs(3 * flops * batch / machine.flops, START_S)
    steps, children = _length(examples, batch, cost, wanted)
    a_round = max(1, steps // ROUNDS)
    passes = max(1, a_round * batch // examples)
    return replace(
        experiment,
        samples_per_task=children,
        batch_size=batch,
        train_examples_per_round=min(examples, a_round * batch),
        passes_per_round=passes,
    ), cost


def _length(examples: int, batch: int, cost: Costs, wanted: Wanted) -> tuple[int, int]:
    """Steps of a child, and how many children."""
    steps = min(max(PASSES * examples // batch, LEAST_STEPS), MOST_STEPS)
    if wanted.seconds is None:
        return steps, wanted.children or CHILDREN
    left = max(0.0, wanted.seconds - cost.start_s)
    fewest = wanted.children or FEWEST_CHILDREN
    if fewest * cost.child_s(steps) > left:
        steps = max(SHORTEST_STEPS, int((left / fewest - 0.5) / (cost.step_s * 1.1)))
    fit = max(1, int(left / cost.child_s(steps)))
    return steps, wanted.children or min(fit, MOST_CHILDREN)
