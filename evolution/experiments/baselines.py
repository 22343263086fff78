"""The papers' baselines: an experiment's tasks, root and training budget, without the search.

All children of a task, its replicas, start from the root and see the same batches. Each trains as
long as one child of each generation of a search together, and the best by validation is kept
(SYSTEMS.md, Baselines).

    finetune-all    every component is copied and trained
    random-search   the same as often as a search has children, each as long as a child; all but the
                    first draw their hyperparameters from the experiment's ranges
    linear-probe    a head in closed form on the root, which stays as it is
    freeze:N        blocks 0 .. N-1 and all below them stay those of the root
    adapters:R      trains an adapter of inner width R before each block, norm and head
    size-scale:X    not a baseline: the search with size in its score, factor X / 100
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from evolution.experiments.experiment import Experiment
from evolution.experiments.search_space import SHAPE
from evolution.experiments.settings import SettingError
from evolution.methods import FITTED


def _trained(experiment: Experiment) -> int:
    """How many children of a task a search trains: the first one's head may only be fitted."""
    children = experiment.passes * experiment.samples_per_task
    return max(1, children - experiment.method.fits_heads)


def _trained_from_root(
    experiment: Experiment, rate: float, forced: tuple[str, ...], **defaults: Any
) -> Experiment:
    generations = max(1, _trained(experiment) // experiment.children_per_generation)
    return replace(
        experiment,
        method=replace(
            experiment.method,
            sweeps_seeds=False,
            from_root_only=True,
            learned_rates=False,
            fits_heads=False,
            margin=0.0,
            forced_copies=("encoder_norm", *forced),
        ),
        passes=1,
        samples_per_task=experiment.replicas,
        children_per_generation=experiment.replicas,
        rounds_per_child=experiment.rounds_per_child * generations,
        defaults={**experiment.defaults, "_mu_": rate, **defaults},
        ranges={},
        mutate_adapters=False,
    )


def _finetune_all(experiment: Experiment, _: int) -> Experiment:
    return _trained_from_root(experiment, 1.0, ())


def _random_search(experiment: Experiment, _: int) -> Experiment:
    changed = _finetune_all(experiment, 0)
    return replace(
        changed,
        method=replace(changed.method, draws_ranges=True),
        samples_per_task=_trained(experiment),
        children_per_generation=experiment.children_per_generation,
        rounds_per_child=experiment.rounds_per_child,
        ranges={k: v for k, v in experiment.ranges.items() if k not in ("_mu_", *SHAPE)},
    )


def _linear_probe(experiment: Experiment, _: int) -> Experiment:
    method = replace(FITTED, from_root_only=True, splits=experiment.method.splits)
    return replace(
        experiment, method=method, passes=1, samples_per_task=1, children_per_generation=1
    )


def _freeze(experiment: Experiment, blocks: int) -> Experiment:
    trained = range(blocks, experiment.defaults["num_layers"])
    return _trained_from_root(experiment, 0.0, tuple(f"encoderblock_{i}" for i in trained))


def _adapters(experiment: Experiment, width: int) -> Experiment:
    every = list(range(experiment.defaults["num_layers"]))
    return _trained_from_root(experiment, 0.0, (), adapters=every, adapter_dim=width)


def _size_scale(experiment: Experiment, percent: int) -> Experiment:
    depth = experiment.defaults["num_layers"]
    return replace(
        experiment,
        score=replace(experiment.score, factor=percent / 100),
        ranges={"num_layers": tuple(range(1, depth + 1)), **experiment.ranges},
    )


NO_NUMBER = range(1)
# Name -> how it changes an experiment, and the numbers it takes.
BASELINES: Mapping[str, tuple[Callable[[Experiment, int], Experiment], range]] = {
    "finetune-all": (_finetune_all, NO_NUMBER),
    "random-search": (_random_search, NO_NUMBER),
    "linear-probe": (_linear_probe, NO_NUMBER),
    "freeze": (_freeze, range(100)),
    "adapters": (_adapters, range(1, 10_000)),
    "size-scale": (_size_scale, range(1, 101)),
}


def baseline(spec: str, experiment: Experiment) -> Experiment:
    """The experiment turned into a baseline, such as `freeze:2`; raises SettingError."""
    name, _, number = spec.partition(":")
    change, numbers = BASELINES.get(name, (None, range(0)))
    if change is None or bool(number) == (numbers == NO_NUMBER):
        raise SettingError(
            f"unknown baseline {spec!r}: expected one of finetune-all, random-search, "
            "linear-probe, freeze:N, adapters:R, size-scale:X"
        )
    if number and (not number.isdecimal() or int(number) not in numbers):
        raise SettingError(
            f"baseline {spec!r}: expected a whole number from {numbers[0]} to {numbers[-1]} "
            "after the colon"
        )
    changed, label = change(experiment, int(number or 0)), spec.replace(":", "-")
    return replace(
        changed, name=f"{experiment.name}/{label}", method=replace(changed.method, name=label)
    )
