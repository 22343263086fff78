"""Named experiments: method, tasks, sizes and search space.

Names are METHOD-BENCHMARK. Methods: munet, mu2net, mu2net-plus. Benchmarks of the papers: cmaterdb,
chars, vdd, vit, vtab-full, vtab-1k (EXPERIMENTS.md, Task lists). Sizes and defaults are those of
the published configurations (EXPERIMENTS.md, Runs) on one device. The root is the published AugReg
file of the size, downloaded on first use, unless --root names another.
    Command:  python -m evolution run mu2net-cmaterdb --store STORE --seed 0
chars5
    Compares methods and baselines on 2 cores, from the shipped root: the five data sets of Chars
    that are small downloads.
    Command:  python -m evolution run mu2net-chars5 --store STORE --seed 0
demo
    What `make demo` runs: two CMATERdb tasks, and then the third, from the shipped Ti/8 root.
    Command:  python -m evolution run demo --store STORE
              python -m evolution resume demo --store STORE --task cmaterdb/telugu
    Expected: test accuracy .93 to .99; under a minute a task on 2 cores once compiled.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from evolution.experiments import benchmarks, search_space
from evolution.experiments.saved_settings import recorded_defaults, recorded_fields, require_known
from evolution.experiments.search_space import DEFAULTS, NO_AUGMENTATION
from evolution.experiments.settings import (
    DEFAULTS_PREFIX,
    HYPERPARAMETERS,
    LISTS,
    SIZES,
    SettingError,
    check,
    parsed,
)
from evolution.methods import MU2NET, MU2NET_PLUS, MUNET, Method
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
    passes_per_round: int = 1  # over the capped training set: small sets are validated less often
    budget_s: int | None = None  # wall time of a task iteration; then the best is published

    def __post_init__(self) -> None:
        """Raises SettingError for a size out of its range."""
        for size in SIZES:
            check(size, getattr(self, size))

    @property
    def scorer(self) -> Score:
        """The score, with the method's way of accounting."""
        return replace(self.score, root_counts=self.method.root_counts)

    def steps_per_round(self, train_examples: int) -> int:
        """Training steps between two validations."""
        examples = min(train_examples, self.train_examples_per_round) * self.passes_per_round
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

    @classmethod
    def from_json(cls, json: Mapping[str, Any]) -> Experiment:
        """Inverse of `to_json`; also reads what earlier versions saved.

        A hyperparameter that was added later is that of `FORMER`, another setting the default of
        its field. Raises SettingError, naming what is unknown to this version, missing or damaged.
        """
        found = recorded_fields(cls, json, "experiment")
        method = recorded_fields(Method, found["method"], "method")
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


def with_settings(
    experiment: Experiment, settings: Sequence[str], allowed: Sequence[str] = tuple(SIZES)
) -> Experiment:
    """The experiment with settings such as `batch_size=64` or `defaults.opt_lr=0.02`.

    Values are JSON. Defaults and tasks can be set if all sizes may be. Raises SettingError.
    """
    keys = list(allowed)
    if len(keys) == len(SIZES):
        keys += [f"{DEFAULTS_PREFIX}{key}" for key in experiment.defaults] + list(LISTS)
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


_AUGREG = "augreg:https://storage.googleapis.com/vit_models/augreg/"
TI_16 = f"{_AUGREG}Ti_16-i21k-300ep-lr_0.001-aug_light1-wd_0.1-do_0.0-sd_0.0.npz"
B_16 = f"{_AUGREG}B_16-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.0-sd_0.0.npz"
L_16 = f"{_AUGREG}L_16-i21k-300ep-lr_0.001-aug_medium2-wd_0.03-do_0.0-sd_0.1.npz"

_BLOCKS_0_TO_3 = {"num_layers": (0, 1, 2, 3)}
_LARGE = {**DEFAULTS, "num_layers": 24, "opt_lr_warmup_ratio": 0.05, "ds_image_size": 384}


def _blocks_from(least: int, most: int) -> dict[str, Sequence[int]]:
    return {"num_layers": tuple(range(least, most + 1))}


# ---- muNet. Its paper tunes the number of blocks; MUNET's other ranges are "auto-tune".

MUNET_CHARS = Experiment(
    name="munet-chars",
    method=MUNET,
    tasks=benchmarks.CHARS,
    passes=2,
    samples_per_task=64,
    root=TI_16,
    batch_size=512,
    train_examples_per_round=51_200,
    rounds_per_child=5,
    validation_examples=5_120,
    defaults=DEFAULTS,
    ranges={**search_space.MUNET, **_blocks_from(1, 3)},
    score=Score(),
    mutate_adapters=True,
)
MUNET_VDD = replace(
    MUNET_CHARS,
    name="munet-vdd",
    tasks=benchmarks.VDD,
    root=B_16,
    batch_size=256,
    rounds_per_child=30,
    validation_examples=2_560,
    defaults={**DEFAULTS, "num_layers": 12, "ds_image_size": 80},
    ranges={**search_space.MUNET, **_blocks_from(1, 12)},
    score=Score(reference_params=85_652_738),
)
MUNET_VIT = replace(
    MUNET_CHARS,
    name="munet-vit",
    tasks=benchmarks.VIT,
    passes=32,
    samples_per_task=16,
    root=L_16,
    batch_size=32,
    train_examples_per_round=128_000,
    rounds_per_child=2,
    validation_examples=9_984,
    defaults=_LARGE,
    ranges=search_space.MUNET,
    score=Score(reference_params=303_303_682),
)

# ---- μ2Net

MU2NET_CHARS = replace(
    MUNET_CHARS,
    name="mu2net-chars",
    method=MU2NET,
    ranges={**search_space.MU2NET_V1, **_blocks_from(1, 3)},
)
MU2NET_VDD = replace(
    MUNET_VDD,
    name="mu2net-vdd",
    method=MU2NET,
    validation_examples=5_120,
    ranges={**search_space.MU2NET_V1, **_blocks_from(1, 12)},
)
# A random root without blocks at 32 px, which sees four patches of an image.
MU2NET_CMATERDB = replace(
    MU2NET_CHARS,
    name="mu2net-cmaterdb",
    tasks=benchmarks.CMATERDB,
    samples_per_task=32,
    root="random:Ti/16",
    rounds_per_child=4,
    defaults={**DEFAULTS, "_mu_": 0.2, "num_layers": 0},
    ranges={**search_space.MU2NET_V2, **_BLOCKS_0_TO_3},
    mutate_adapters=False,
)
MU2NET_VIT = replace(
    MUNET_VIT,
    name="mu2net-vit",
    method=MU2NET,
    passes=1,
    samples_per_task=128,
    batch_size=64,
    train_examples_per_round=128_116,
    rounds_per_child=4,
    validation_examples=10_000,
    defaults={**_LARGE, "_mu_": 0.2, "adapter_dim": 16},
    ranges=search_space.MU2NET_V2,
    mutate_adapters=False,
)

# ---- μ2Net+: no augmentation by default, smaller cycles, costs in the score of the large one

_IMAGE_SIZES = {"ds_image_size": tuple(range(16, 113, 16))}
_ADAPTER_SIZES = {"adapter_dim": (8, 16, 32, 64, 128)}

PLUS_CHARS = replace(
    MU2NET_CHARS,
    name="mu2net-plus-chars",
    method=MU2NET_PLUS,
    passes=5,
    samples_per_task=32,
    rounds_per_child=4,
    defaults={**DEFAULTS, **NO_AUGMENTATION},
    ranges={
        **search_space.MU2NET_PLUS, **_IMAGE_SIZES, **_ADAPTER_SIZES, **_blocks_from(0, 3),
    },
    score=Score(reference_flops=15e6),
)  # fmt: skip
PLUS_VDD = replace(
    PLUS_CHARS,
    name="mu2net-plus-vdd",
    tasks=benchmarks.VDD,
    passes=10,
    root=B_16,
    batch_size=128,
    defaults={**DEFAULTS, **NO_AUGMENTATION, "num_layers": 12, "ds_image_size": 80},
    ranges={**PLUS_CHARS.ranges, **_blocks_from(0, 12)},
    score=Score(reference_params=85_652_738, reference_flops=100e9),
)
PLUS_CMATERDB = replace(
    PLUS_CHARS,
    name="mu2net-plus-cmaterdb",
    tasks=benchmarks.CMATERDB,
    passes=8,
    samples_per_task=16,
    root="random:Ti/16",
    rounds_per_child=2,
    defaults={**DEFAULTS, **NO_AUGMENTATION, "_mu_": 0.2, "num_layers": 0},
    ranges={
        **search_space.MU2NET_PLUS, **_BLOCKS_0_TO_3, "ds_image_size": (32, 48),
    },
    score=Score(0.99, reference_params=1e6, reference_flops=1e6),
    max_population=7,
)  # fmt: skip
PLUS_VIT = replace(
    PLUS_CHARS,
    name="mu2net-plus-vit",
    tasks=benchmarks.VIT,
    passes=24,
    samples_per_task=16,
    root=L_16,
    batch_size=16,
    train_examples_per_round=100_000,
    rounds_per_child=8,
    validation_examples=10_000,
    defaults={**_LARGE, **NO_AUGMENTATION, "_mu_": 0.2},
    ranges={**search_space.MU2NET_PLUS, **_blocks_from(0, 24), "ds_image_size": (224, 384)},
    score=Score(0.99, reference_params=2.2e9, reference_flops=3.8e12),
    mutate_adapters=False,
    max_population=16,
)


def _vtab(experiment: Experiment) -> tuple[Experiment, Experiment]:
    name = experiment.name.removesuffix("-vit")
    return (
        replace(experiment, name=f"{name}-vtab-full", tasks=benchmarks.VTAB_FULL),
        replace(experiment, name=f"{name}-vtab-1k", tasks=benchmarks.VTAB_1K),
    )


# ---- For 2 cores


def _one_shape(ranges: search_space.Ranges) -> search_space.Ranges:
    """Without the ranges (except depth) whose values need compiled programs of their own."""
    return {k: v for k, v in ranges.items() if k not in ("ds_image_size", "adapter_dim")}


MU2NET_CHARS5 = replace(
    MU2NET_CHARS,
    name="mu2net-chars5",
    tasks=("mnist", "omniglot", *benchmarks.CHARS[5:]),
    passes=1,
    samples_per_task=8,  # muNet first tries each of up to 5 seeds
    root="shipped",
    batch_size=128,
    train_examples_per_round=1_024,
    rounds_per_child=3,
    validation_examples=1_024,
    defaults={**DEFAULTS, **NO_AUGMENTATION, "opt_lr": 0.05},
    ranges=_one_shape(MU2NET_CHARS.ranges),
)
CHARS5 = (
    replace(
        MU2NET_CHARS5, name="munet-chars5", method=MUNET, ranges=_one_shape(MUNET_CHARS.ranges)
    ),
    MU2NET_CHARS5,
    replace(
        MU2NET_CHARS5,
        name="mu2net-plus-chars5",
        method=MU2NET_PLUS,
        ranges=_one_shape(PLUS_CHARS.ranges),
        score=Score(),
    ),
)
# The characters fill their images. If mirrored, or cut to less than half, they become others.
_CHARACTERS = {"opt_lr": 0.05, "ds_area_range_min": 0.7, "ds_flip_left_right": False}
DEMO = replace(
    MU2NET_CHARS5,
    name="demo",
    tasks=benchmarks.CMATERDB[:2],
    passes=1,
    samples_per_task=4,
    train_examples_per_round=2_000,
    validation_examples=5_120,
    defaults={**DEFAULTS, **_CHARACTERS, "_mu_": 0.2},
    ranges={
        "_mu_": (0.1, 0.15, 0.2, 0.25, 0.3),
        "opt_lr": (0.02, 0.05, 0.1, 0.2),
        "opt_lr_warmup_ratio": (0.02, 0.05, 0.1, 0.2),
        "opt_momentum": (0.8, 0.85, 0.9, 0.95),
        "opt_nesterov": (True, False),
        "ds_area_range_min": (0.5, 0.6, 0.7, 0.8),
        "ds_aspect_ratio_range_min": (0.65, 0.75, 0.85),
    },
    # A copied block lowers the score by up to 0.6 % if many tasks share the original.
    score=Score(factor=0.98),
    mutate_adapters=False,
)

EXPERIMENTS: Mapping[str, Experiment] = {
    e.name: e
    for e in (
        MUNET_CHARS, MUNET_VDD, MUNET_VIT, *_vtab(MUNET_VIT),
        replace(MUNET_CHARS, name="munet-cmaterdb", tasks=benchmarks.CMATERDB),
        MU2NET_CMATERDB, MU2NET_CHARS, MU2NET_VDD, MU2NET_VIT, *_vtab(MU2NET_VIT),
        PLUS_CMATERDB, PLUS_CHARS, PLUS_VDD, PLUS_VIT, *_vtab(PLUS_VIT),
        *CHARS5, DEMO,
    )
}  # fmt: skip
