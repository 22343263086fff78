"""The gateway's configuration: environment variables with the prefix MUNET_, read here only."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from service.errors import SettingsError

PREFIX = "MUNET_"
LONGEST_DEADLINE_MS = 10_000


def _cache_folder() -> str:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return str(Path(base) / "munet" / "compilations")


@dataclass(frozen=True, slots=True)
class Settings:
    """Each field is the variable MUNET_<FIELD IN CAPITALS>; only the store has no default."""

    store: str  # directory or URL of the model store
    poll_s: float = 0.5  # how often the store's refs are looked at
    max_body_bytes: int = 10 * 2**20
    max_pixels: int = 25_000_000  # of the decoded image, read from its header
    max_batch_rows: int = 32  # power of two
    queue_per_task: int = 256  # rows waiting
    queue_total: int = 1024  # rows waiting; also requests being received and decoded
    deadline_ms: int = LONGEST_DEADLINE_MS  # of a request that names none; none may be longer
    decode_threads: int = 2
    load_threads: int = 2  # tasks loading at once
    drain_s: float = 2.0  # SIGTERM: unready for so long before the listener closes
    trusted_keys: str = ""  # PEM file or folder of public keys: only what they signed is served
    preload: str = ""  # tasks to load at start: names separated by commas, or *
    task_metrics: bool = True  # false folds the label `task` to `all`
    compilation_cache: str = ""  # compiled programs kept over restarts; "" is the user's cache

    def __post_init__(self) -> None:
        """Raises SettingsError where a value makes no sense."""
        if self.max_batch_rows < 1 or self.max_batch_rows & (self.max_batch_rows - 1):
            raise _unusable("max_batch_rows", "a power of two", self.max_batch_rows)
        if self.deadline_ms > LONGEST_DEADLINE_MS:
            raise _unusable("deadline_ms", f"at most {LONGEST_DEADLINE_MS}", self.deadline_ms)
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, int | float) and not isinstance(value, bool) and value <= 0:
                raise _unusable(field.name, "a number above zero", value)
        if not self.compilation_cache:
            object.__setattr__(self, "compilation_cache", _cache_folder())

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Settings:
        """Reads every MUNET_ variable; raises SettingsError naming variable, wanted and found."""
        given: dict[str, Any] = {}
        for field in fields(cls):
            text = environment.get(PREFIX + field.name.upper())
            if text is not None and text != "":
                given[field.name] = _parse(field.name, str(field.type), text)
        if "store" not in given:
            raise SettingsError(
                f"starting the gateway: {PREFIX}STORE is not set; set it to the directory of a "
                "model store, for example MUNET_STORE=./store"
            )
        return cls(**given)

    @property
    def preload_tasks(self) -> tuple[str, ...]:
        """Names of the tasks to load at start; ("*",) means all."""
        return tuple(name.strip() for name in self.preload.split(",") if name.strip())


def _flag(text: str) -> bool:
    return {"1": True, "true": True, "0": False, "false": False}[text.lower()]


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


_PARSERS: Mapping[str, tuple[Callable[[str], Any], str]] = {
    "str": (str, "text"),
    "int": (int, "a whole number"),
    "float": (_finite, "a number, and finite"),
    "bool": (_flag, "0 or 1"),
}


def _parse(name: str, kind: str, text: str) -> Any:
    parser, expected = _PARSERS[kind]
    try:
        return parser(text)
    except (ValueError, KeyError):
        raise _unusable(name, expected, text) from None


def _unusable(name: str, expected: str, found: object) -> SettingsError:
    return SettingsError(
        f"starting the gateway: {PREFIX}{name.upper()} must be {expected}, found {found!r}"
    )
