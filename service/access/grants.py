"""What one request may do."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import translate

from service.access.rates import Bucket
from service.errors import Forbidden, RateExceeded, Unauthenticated

ANONYMOUS = "anonymous"
SHOWN_CHARACTERS = 100  # of a task name that a client sent
LONGEST = 201  # characters of a name that are compared: the names of tasks are shorter
WILDCARDS = frozenset("*?[")


class _Names:
    """Names and patterns of tasks; to compare one name with all of them is cheap."""

    def __init__(self, patterns: Sequence[str]) -> None:
        wild = [one for one in patterns if WILDCARDS & set(one)]
        self.exact = frozenset(patterns) - frozenset(wild)
        self._wild = re.compile("|".join(map(translate, wild))) if wild else None

    def __contains__(self, name: str) -> bool:
        name = name[:LONGEST]
        return name in self.exact or (self._wild is not None and bool(self._wild.match(name)))


@dataclass(frozen=True, slots=True)
class Grants:
    """What one request may do."""

    name: str  # of the entry in the file
    classify: Sequence[str] = ()  # patterns
    read: bool = False
    admin: bool = False
    bucket: Bucket | None = field(default=None, repr=False, compare=False)  # if it has a rate
    _tasks: _Names = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_tasks", _Names(self.classify))

    def spend(self) -> None:
        """Counts one request. Raises RateExceeded."""
        bucket = self.bucket
        wait_s = 0.0 if bucket is None else bucket.take()
        if bucket is not None and wait_s > 0:
            raise RateExceeded(
                f"{self.name} may make {bucket.rate:g} requests a second and {bucket.burst} at "
                f"once; the next may come in {wait_s:.3f} s",
                retry_after_s=wait_s,
            )

    def classifies(self, task: str) -> bool:
        """Whether a task of this name may be asked to classify."""
        return task in self._tasks

    def require_classify(self, task: str) -> None:
        """Raises Unauthenticated or Forbidden, for tasks that exist and for others."""
        if not self.classifies(task):
            raise self._refusal(f"classify with task {task[:SHOWN_CHARACTERS]!r}")

    def require_read(self) -> None:
        """Raises Unauthenticated or Forbidden."""
        if not self.read:
            raise self._refusal("read what tasks there are")

    def require_admin(self) -> None:
        """Raises Unauthenticated or Forbidden."""
        if not self.admin:
            raise self._refusal("make admin calls")

    def sees(self, task: str, private: bool | None) -> bool:
        """Whether this request is told that a task exists.

        If `private` is not known (None), only those who run the gateway are told: admins, or
        without tokens the users of its machine.
        """
        if private is None and (self.admin or self is LOCAL):
            return True
        return private is False or task in self._tasks.exact

    def _refusal(self, what: str) -> Unauthenticated | Forbidden:
        if self.name == ANONYMOUS:
            return Unauthenticated(f"a token is needed to {what}: Authorization: Bearer …")
        return Forbidden(f"{self.name} may not {what}; its entry in MUNET_TOKENS says what it may")


NOTHING = Grants(ANONYMOUS)  # what a request without a token may do, if no entry says
LOCAL = Grants("a request without tokens set up", classify=("*",), read=True)
