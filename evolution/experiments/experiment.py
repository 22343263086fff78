"""An experiment: method, tasks, sizes and search space. With a seed, it determines a run."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from evolution.experiments.saved_settings import (
    recorded_defaults,
    recorded_fields,
    recorded_method,
    require_known,
)
from evolution.experiments.settings import (
    DEFAULTS_PREFIX,
    FLAGS,
    HYPERPARAMETERS,
    LISTS,
    SIZES,
    SettingError,
    check,
    parsed,
)
from evolution.methods import Method
from evolution.population import Score

# Sizes that may change when a run is resumed.
RESUMABLE = (
    "samples_per_task", "batch_size", "train_examples_per_round", "rounds_per_child",
    "validation_examples", "max_population", "budget_s",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Experiment:
    """Everything that, with a seed, determines a run.

    A new field needs a default: what a run did before the field existed.
    """

    name: str
    method: Method
    tasks: tuple[str, ...]  # TFDS names; `private:` before one that no other task may start from
    passes: int  # over the task list
    samples_per_task: int  # children per task iteration
    root: str  # what `evolution.roots.loading.load_root` takes
    batch_size: int
    train_examples_per_round: int  # cap
    rounds_per_child: int  # each ends with a validation
    validation_examples: int  # cap
    defaults: Mapping[str, Any]
    ranges: Mapping[str, Sequence[Any]]
    score: Score
    mutate_adapters: bool = False  # whether children gain residual adapters
    max_population: int | None = None  # most candidates of the present task
    children_per_generation: int = 1  # sampled before the first is trained; share their batches
    replicas: int = 1  # children of a baseline, of which the best is kept; share their batches
    passes_per_round: int = 1  # over the capped training set: small sets are validated less often
    budget_s: int | None = None  # wall time of a task iteration; then the best is published
    shuffled: bool = False  # the seed draws the order of the tasks
    full_rounds: bool = False  # a smaller training set is repeated up to the cap
    bfloat16: bool = True  # activations in training have that type on an accelerator; else float32

    def __post_init__(self) -> None:
        """Raises SettingError for a size out of its range."""
        for name in (*SIZES, *FLAGS):
            check(name, getattr(self, name))

    @property
    def scorer(self) -> Score:
        """The score, with the method's way of accounting."""
        return replace(self.score, root_counts=self.method.root_counts)

    def steps_per_round(self, train_examples: int) -> int:
        """Training steps between two validations."""
        cap = self.train_examples_per_round
        examples = (cap if self.full_rounds else min(train_examples, cap)) * self.passes_per_round
        return math.ceil(examples / self.batch_size)

    def validation_count(self, available: int) -> int:
        """How many validation examples are used, in whole batches (SYSTEMS.md, Length)."""
        cap = self.validation_examples
        if cap <= available:
            return cap // self.batch_size * self.batch_size or cap
        batches = math.ceil(available / self.batch_size)
        return available // batches * batches

    def to_json(self) -> dict[str, Any]:
        """The experiment as a saved run keeps it; later changes here do not affect the run."""
        return asdict(self)

    def require_patches(self, patch_size: int) -> None:
        """Raises SettingError if an image may be smaller than a patch of the root."""
        sizes = {self.defaults.get("ds_image_size", patch_size)}
        smallest = min(sizes | set(self.ranges.get("ds_image_size", ())))
        if smallest < patch_size:
            raise SettingError(
                f"ds_image_size: the experiment has images of {smallest} pixels, expected "
                f"{patch_size} or more, as the root's patches have; choose another root or size"
            )

    def require_defaults_in_ranges(self) -> None:
        """Raises SettingError for a default that is not among the values of its range."""
        for key, value in outside(self.defaults, self.ranges).items():
            raise SettingError(
                f"{DEFAULTS_PREFIX}{key}: expected one of {told_values(self.ranges[key])}, the "
                f"range of {self.name}, found {json.dumps(value)}"
            )

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> Experiment:
        """Inverse of `to_json`; also reads what earlier versions saved.

        A hyperparameter that was added later is that of `FORMER`, another setting the default of
        its field. Raises SettingError, naming what is unknown to this version, missing or damaged.
        """
        found = recorded_fields(cls, saved, "experiment")
        method = recorded_fields(Method, recorded_method(found["method"]), "method")
        try:
            method = Method(**{**method, "forced_copies": tuple(method["forced_copies"])})
            defaults = recorded_defaults(found["defaults"])
            require_known(found["ranges"], HYPERPARAMETERS, "ranges")
            if isinstance(found["tasks"], str):
                raise TypeError("tasks: expected a list, found text")
            score = Score(**recorded_fields(Score, found["score"], "score"))
            changed = {"method": method, "tasks": tuple(found["tasks"]), "score": score}
            return cls(**{**found, **changed, "defaults": defaults})
        except TypeError as error:
            raise SettingError(f"the saved experiment is damaged: {error}") from None


def outside(
    hyperparameters: Mapping[str, Any], ranges: Mapping[str, Sequence[Any]]
) -> dict[str, Any]:
    """The hyperparameters whose value is not in their range; learned rates have that of `_mu_`."""
    known = {key: ranges.get(key.partition("|")[0]) for key in hyperparameters}
    return {
        key: value
        for key, value in hyperparameters.items()
        if (choices := known[key]) is not None and value not in choices
    }


def told_values(choices: Sequence[Any]) -> str:
    """The values of a range, for messages."""
    return ", ".join(json.dumps(choice) for choice in choices)


def with_settings(
    experiment: Experiment, settings: Sequence[str], allowed: Sequence[str] = tuple(SIZES)
) -> Experiment:
    """The experiment with settings such as `batch_size=64` or `defaults.opt_lr=0.02`.

    Values are JSON. Defaults and tasks can be set if all sizes may be. Raises SettingError.
    """
    keys = list(allowed)
    if len(keys) == len(SIZES):
        keys += [f"{DEFAULTS_PREFIX}{key}" for key in experiment.defaults] + [*FLAGS, *LISTS]
    for setting in settings:
        key, value = parsed(setting, keys)
        name = key.removeprefix(DEFAULTS_PREFIX)
        value = tuple(value) if key in LISTS else value
        change = (
            {name: value} if name == key else {"defaults": {**experiment.defaults, name: value}}
        )
        experiment = replace(experiment, **change)
    adapters, blocks = experiment.defaults.get("adapters"), experiment.defaults.get("num_layers")
    if settings and adapters and adapters[-1] >= blocks:
        raise SettingError(
            f"defaults.adapters: expected blocks below num_layers, {blocks}, found {adapters}"
        )
    return experiment
