"""What the document of a task says: its versions, which of them is live, the aliases and
their roll-outs.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from model_store.blobs import Digest, parse_digest
from model_store.errors import InvalidName, Unstorable
from model_store.names import LIVE
from model_store.rollouts import MAX_ROLLOUTS, MAX_WHY, Offer, Rollout, require_share

ALIAS_PATTERN = r"(?!v[0-9]+$|live$)[a-z][a-z0-9_-]{0,31}"
ALIAS = re.compile(ALIAS_PATTERN)
MAX_VERSION = 10**9


def require_alias(name: str) -> str:
    """`name` if it may be an alias; else InvalidName."""
    if not ALIAS.fullmatch(name):
        raise InvalidName(
            f"alias {name!r}: expected up to 32 lower case letters, digits, `_` and `-`, beginning"
            " with a letter, other than `live` and v<N>"
        )
    return name


@dataclass(frozen=True, slots=True)
class Version:
    """A published version, as its task's document has it."""

    manifest: Digest
    created: str  # RFC 3339, UTC, by the clock of who published it


@dataclass(frozen=True, slots=True)
class Versions:
    """The value of a task's document. A number is never used twice."""

    versions: Mapping[int, Version] = field(default_factory=dict[int, Version])  # ascending
    next: int = 1  # the number of the next version
    live: int | None = None
    chosen: int = 0  # the number of the next version, when `live` was set last
    aliases: Mapping[str, int] = field(default_factory=dict[str, int])
    rollouts: Mapping[str, Rollout] = field(default_factory=dict[str, Rollout])  # by alias
    min_probability: float = 0.0  # below which gateways abstain from an answer; 0: from none

    @property
    def shown(self) -> tuple[object, ...]:
        """What a watcher sees of the task."""
        return self.served, self.offers, self.min_probability

    def add(self, version: Version, *, live: bool) -> "Versions":
        """With one version more, which is live from now on or not."""
        number = self.next
        found = replace(self, versions={**self.versions, number: version}, next=number + 1)
        return found.serving(number) if live else found

    def serving(self, number: int) -> "Versions":
        """With this version live; nothing changes if it is already."""
        return self if self.live == number else replace(self, live=number, chosen=self.next)

    @property
    def served(self) -> tuple[int, Digest] | None:
        """Number and manifest of the live version."""
        return None if self.live is None else (self.live, self.versions[self.live].manifest)

    @property
    def offers(self) -> tuple[Offer, ...]:
        """The roll-outs under way, by alias."""
        if not self.rollouts or self.live is None:
            return ()
        return tuple(
            Offer(alias, number, self.versions[number].manifest, rollout)
            for alias, rollout in sorted(self.rollouts.items())
            if not rollout.ended and (number := self.aliases[alias]) != self.live
        )

    def named(self, alias: str, number: int, rollout: Rollout | None) -> "Versions":
        """With an alias that names a version, and its roll-out, or none. Raises Unstorable."""
        rollouts = {name: one for name, one in self.rollouts.items() if name != alias}
        if rollout is not None:
            rollouts[alias] = replace(rollout, base=self.live)
        under_way = [name for name, one in rollouts.items() if not one.ended]
        weighted = [name for name in under_way if rollouts[name].weight]
        if len(under_way) > MAX_ROLLOUTS or len(weighted) > 1:
            most = "one with a weight" if len(weighted) > 1 else str(MAX_ROLLOUTS)
            others = sorted(set(weighted if len(weighted) > 1 else under_way) - {alias})
            raise Unstorable(
                f"roll-outs of a task: expected at most {most}, found {', '.join(others)} too; end"
                " it first: `munet store promote TASK ALIAS`, or `munet store unalias TASK ALIAS`"
            )
        return replace(self, aliases={**self.aliases, alias: number}, rollouts=rollouts)

    def unnamed(self, alias: str) -> "Versions":
        """Without an alias and its roll-out."""
        return replace(
            self,
            aliases={name: n for name, n in self.aliases.items() if name != alias},
            rollouts={name: one for name, one in self.rollouts.items() if name != alias},
        )

    def ended(self, alias: str, began: str, why: str) -> "Versions":
        """With this roll-out ended; nothing changes if it is over, or another one began."""
        found = self.rollouts.get(alias)
        if found is None or found.ended or found.began != began:
            return self
        return replace(self, rollouts={**self.rollouts, alias: replace(found, ended=why[:MAX_WHY])})

    def without(self, numbers: Iterable[int]) -> "Versions":
        """Without these versions and what names them."""
        gone = set(numbers)
        aliases = {name: n for name, n in self.aliases.items() if n not in gone}
        return replace(
            self,
            versions={n: v for n, v in self.versions.items() if n not in gone},
            live=None if self.live in gone else self.live,
            aliases=aliases,
            rollouts={name: one for name, one in self.rollouts.items() if name in aliases},
            min_probability=self.min_probability if self.versions.keys() - gone else 0.0,
        )

    def names_of(self, number: int) -> list[str]:
        """`live` and the aliases that name a version."""
        return ([LIVE] if self.live == number else []) + self.aliases_of(number)

    def aliases_of(self, number: int) -> list[str]:
        """The aliases that name a version, sorted."""
        return sorted(name for name, n in self.aliases.items() if n == number)

    def to_json(self) -> dict[str, Any]:
        """As it is stored; without what is not set as programs write it that know nothing of it."""
        rollouts = {name: one.to_json() for name, one in self.rollouts.items()}
        return {
            **({"min_probability": self.min_probability} if self.min_probability else {}),
            **({"rollouts": rollouts} if rollouts else {}),
            "aliases": dict(self.aliases),
            "chosen": self.chosen,
            "live": self.live,
            "next": self.next,
            "versions": {str(n): [v.manifest, v.created] for n, v in self.versions.items()},
        }

    @classmethod
    def from_json(cls, value: Any) -> "Versions":
        """Raises ValueError, TypeError, KeyError or InvalidName."""
        if value is None:
            return cls()
        versions = {
            _number(int(text)): Version(parse_digest(manifest), str(created))
            for text, (manifest, created) in value["versions"].items()
        }
        live, aliases = value["live"], value["aliases"]
        ascending = dict(sorted(versions.items()))
        rollouts = {
            name: Rollout.from_json(one) for name, one in dict(value.get("rollouts", {})).items()
        }
        chosen = int(value["chosen"])
        least = value.get("min_probability", 0.0)
        require_share("min_probability", least)
        number = _number(value["next"])
        found = cls(ascending, number, live, chosen, dict(aliases), rollouts, float(least))
        named = [*found.aliases.values(), *([] if live is None else [live])]
        if not all(type(n) is int and n in versions for n in named):
            raise ValueError("live or an alias names a version that is not there")
        if any(not ALIAS.fullmatch(name) for name in found.aliases):
            raise ValueError("an alias has another name than an alias may have")
        if not rollouts.keys() <= found.aliases.keys():
            raise ValueError("a roll-out is of an alias that is not there")
        if max(versions, default=0) >= found.next:
            raise ValueError("the next version has the number of one that is there")
        return found


def _number(value: Any) -> int:
    if type(value) is not int or not 0 < value <= MAX_VERSION:
        raise ValueError("a version has a number that none may have")
    return value
