"""The five systems, and one of ours, as rows of one table of choices (SYSTEMS.md, Differences).

Each rule in which two systems differ is a field here. The engine asks for these fields only, never
for a method's name. Sizes and search spaces belong to the experiments.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """One system's choices."""

    name: str

    # Whom a child starts from (mutation.sample_parent).
    parent_decay: float  # a path that has k children of the task is accepted with decay ** k
    sweeps_seeds: bool  # a task's first children come from each seed in turn, not mutated
    walks_seeds: bool  # decay also accepts seeds, before one is drawn uniformly
    from_root_only: bool  # every child starts from the root: a baseline, not a search
    counts_drawn: bool = True  # a parent that was drawn uniformly counts the child too

    # What a child changes.
    # A path's mutation rate is its own; otherwise the experiment's, unless that has a range.
    inherits_rate: bool = False
    learned_rates: bool  # each kind of mutation has its own rate, which mutates too
    data_follows_best: bool  # data hyperparameters stay at their defaults until a path exists
    # Children draw for data hyperparameters too; the generation's values then replace them.
    draws_data: bool = False
    # Each child draws its hyperparameters from all values of their ranges; the first has the
    # defaults.
    draws_ranges: bool = False
    forced_copies: tuple[str, ...]  # components that every mutated child copies, without a draw
    trains_resampled: bool  # position embeddings of a new image size are always trained
    # What random new components depend on: "name" alone, the number of the "child", or a "draw".
    fresh_components: str = "name"

    # How a child is trained and kept.
    # Heads are fitted to what the body sees (training/heads.py), after each round of training. A
    # task's first child is the body, of the root and all public paths, that suits it best, frozen.
    # The second trains adapters, the third a copy of everything. Of each child the mean of the
    # weights before and after its training is tried too.
    fits_heads: bool = False
    # A child is the best if its losses on the validation examples are smaller than those of its
    # owner's best path. If it has more parameters of its own, they must be so by more than this
    # many standard errors of the paired difference. 0: its score only has to reach that of its
    # parent, if that solves the same task.
    margin: float = 0.0
    inherits_momentum: bool  # copies start from their original's momentum, not from zero
    newest_wins: bool  # a score equal to the best so far replaces it
    beats_own_only: bool = False  # a parent of the same task but another owner sets no bar
    warmup_start: float  # the first learning rate, as a share of the peak
    augments_bytes: bool  # colour and JPEG quality act on 0..255, not on the scaled image

    # What a path costs.
    root_counts: bool  # the root counts as a user of a component

    # Which examples it learns from.
    splits: str  # the table of split rules (evolution.data.tasks)

    @property
    def succeeds(self) -> bool:
        """Whether each path that is kept is better than all kept before it."""
        return self.margin > 0


MUNET = Method(
    name="munet",
    parent_decay=0.5,
    sweeps_seeds=True,
    walks_seeds=False,
    from_root_only=False,
    inherits_rate=False,
    learned_rates=False,
    data_follows_best=False,
    forced_copies=("encoder_norm",),
    trains_resampled=False,
    fresh_components="child",
    inherits_momentum=False,
    newest_wins=False,
    warmup_start=0.01,
    augments_bytes=False,
    root_counts=False,
    splits="munet",
)

MU2NET = Method(
    name="mu2net",
    parent_decay=0.5,
    sweeps_seeds=False,
    walks_seeds=True,
    from_root_only=False,
    inherits_rate=True,
    learned_rates=False,
    data_follows_best=False,
    forced_copies=("encoder_norm",),
    trains_resampled=True,
    fresh_components="name",
    inherits_momentum=True,
    newest_wins=True,
    warmup_start=0.01,
    augments_bytes=False,
    root_counts=False,
    splits="mu2net",
)

# The paper has no published code of its own. Its rules are taken from the single-path agent whose
# notebook is said to hold it: the fallback parent is uniform (SYSTEMS.md, Open questions).
MU2NET_PLUS = Method(
    name="mu2net-plus",
    parent_decay=0.5,
    sweeps_seeds=False,
    walks_seeds=False,
    from_root_only=False,
    inherits_rate=True,
    learned_rates=True,
    data_follows_best=True,
    forced_copies=("encoder_norm",),
    trains_resampled=True,
    fresh_components="draw",
    inherits_momentum=True,
    newest_wins=True,
    warmup_start=0.001,
    augments_bytes=True,
    root_counts=True,
    splits="mu2net",
)

# The agents' notebook holds μ2Net+; only the way it runs differs (SYSTEMS.md, Agents).
MU3NET = replace(MU2NET_PLUS, name="mu3net")

# Single-path agents of the later notebook (SYSTEMS.md, Agents).
MU4NET = replace(
    MU3NET,
    name="mu4net",
    counts_drawn=False,
    draws_data=True,
    inherits_momentum=False,
    newest_wins=False,
    beats_own_only=True,
)

# Ours: heads in closed form, and bodies that change only where validation shows more than noise.
FITTED = replace(MU2NET_PLUS, name="fitted", fits_heads=True, margin=2.0, newest_wins=False)
