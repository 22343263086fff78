"""Roll-outs: how much of a task's traffic an alias gets, besides the live version.

A roll-out belongs to one alias of one task. With a weight, its version answers that share of the
requests that name no version; as a shadow, it silently gets a copy of the others. It ends when its
rules are broken, when the alias is moved or promoted, or when the alias goes (FORMAT.md,
"Roll-outs").
"""

import hashlib
from dataclasses import dataclass, field
from typing import Any

from model_store.blobs import Digest

MAX_ROLLOUTS = 4  # of a task
MAX_WHY = 300  # characters
KEY_BYTES = 65536  # of an image that decide who answers it


@dataclass(frozen=True, slots=True)
class Rules:
    """When a roll-out ends by itself; shares are from 0 to 1."""

    requests: int = 100  # at least, before any share counts
    errors: float = 0.05  # at most, of requests that its version could not answer
    non_finite: float = 0.0  # at most, of answers that are not finite
    agreement: float = 0.0  # at least, of a shadow's answers that are the live version's

    def __post_init__(self) -> None:
        """Raises ValueError."""
        if type(self.requests) is not int or not 0 < self.requests <= 10**9:
            raise ValueError(f"rule `requests`: expected 1 to 10^9, found {self.requests!r}")
        for name in ("errors", "non_finite", "agreement"):
            require_share(f"rule `{name}`", getattr(self, name))

    def to_json(self) -> dict[str, Any]:
        """As it is stored."""
        return {
            "agreement": self.agreement,
            "errors": self.errors,
            "non_finite": self.non_finite,
            "requests": self.requests,
        }

    @classmethod
    def from_json(cls, value: Any) -> "Rules":
        """Raises ValueError, TypeError or KeyError."""
        shares = {name: value[name] for name in ("errors", "non_finite", "agreement")}
        return cls(value["requests"], **shares)


@dataclass(frozen=True, slots=True)
class Rollout:
    """What an alias gets besides being a name."""

    weight: float = 0.0  # share of the requests that its version answers
    shadow: bool = False  # whether it gets a copy of the requests that it does not answer
    rules: Rules = field(default_factory=Rules)
    began: str = ""  # RFC 3339, UTC; another one each time it is set
    base: int | None = None  # the live version when it began
    ended: str = ""  # why, where it has ended: it gets nothing any more

    def __post_init__(self) -> None:
        """Raises ValueError."""
        require_share("weight", self.weight)
        if type(self.shadow) is not bool or not (self.weight or self.shadow):
            raise ValueError("a roll-out has a weight above 0, or is a shadow")
        if self.base is not None and type(self.base) is not int:
            raise ValueError("a roll-out began with a live version that is no number")

    def to_json(self) -> dict[str, Any]:
        """As it is stored."""
        return {
            "base": self.base,
            "began": self.began,
            "ended": self.ended,
            "rules": self.rules.to_json(),
            "shadow": self.shadow,
            "weight": self.weight,
        }

    @classmethod
    def from_json(cls, value: Any) -> "Rollout":
        """Raises ValueError, TypeError or KeyError."""
        began, ended = str(value["began"]), str(value["ended"])
        rules = Rules.from_json(value["rules"])
        return cls(value["weight"], value["shadow"], rules, began, value["base"], ended)


@dataclass(frozen=True, slots=True)
class Offer:
    """A roll-out that has not ended, of a version that is not live."""

    alias: str
    version: int
    digest: Digest  # of its manifest
    rollout: Rollout

    def takes(self, task: str, key: bytes) -> bool:
        """Whether its version answers the requests of this key. Every program decides alike."""
        return draw(task, self.version, key) < self.rollout.weight


def draw(task: str, version: int, key: bytes) -> float:
    """Where a key falls, from 0 to 1, evenly: SHA-256 of task, version and key."""
    data = b"%s\n%d\n%s" % (task.encode(), version, key)
    return int.from_bytes(hashlib.sha256(data).digest()[:8]) / 2**64


def image_key(image: bytes | memoryview) -> bytes:
    """The key of a request that brings none: its image decides, so that an equal one goes alike."""
    return b"%d\n%s" % (len(image), bytes(image[:KEY_BYTES]))


def require_share(what: str, share: object) -> None:
    """Raises ValueError unless it is a number from 0 to 1."""
    if type(share) not in (int, float) or not 0 <= share <= 1:  # pyright: ignore[reportOperatorIssue]
        raise ValueError(f"{what}: expected a number from 0 to 1, found {share!r}")
