"""The systems as rows of one table of explicit choices.

Every rule in which two systems of the line differ is a field here, and the engine asks no other
question than these. This version holds μ2Net (arXiv 2205.12755).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Method:
    """One system's choices."""

    name: str
    parent_decay: float  # a path that has k children of the task is accepted with decay ** k
    forced_copies: tuple[str, ...]  # components every child copies, whatever the draw
    inherits_momentum: bool  # copies start from their original's momentum, not from zero
    ties_improve: bool  # a validation equal to the best so far replaces it


MU2NET = Method(
    name="mu2net",
    parent_decay=0.5,
    forced_copies=("encoder_norm",),
    inherits_momentum=True,
    ties_improve=True,
)
