"""The gateway's configuration: environment variables with the prefix MUNET_, read here only."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NewType

from service.errors import SettingsError

PREFIX = "MUNET_"
LONGEST_DEADLINE_MS = 10_000
MOST = {
    "deadline_ms": LONGEST_DEADLINE_MS,
    "drain_s": 15,  # a worker ends 30 s after SIGTERM at last: the last answers need the rest
    "tracing_rate": 1,
    "grpc_port": 65535,
}
MEMORY_SHARE = 0.6  # for components: the gateway itself needs the rest
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
Bytes = NewType("Bytes", int)
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?(?:([KMGT])(I?))?B?")


def _memory_share() -> Bytes:
    """Of the memory of this container, or else of this machine."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(OSError, ValueError):  # no such file, or "max"
        memory = min(memory, int(CGROUP_LIMIT.read_text()))
    return Bytes(int(memory * MEMORY_SHARE))


def _cache_folder() -> str:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return str(Path(base) / "munet" / "compilations")


@dataclass(frozen=True, slots=True)
class Settings:
    """Each field is the variable MUNET_<FIELD IN CAPITALS>; only the store has no default."""

    store: str  # directory or URL of the model store
    poll_s: float = 0.5  # how often the store's refs are looked at
    max_body_bytes: int = 10 * 2**20
    upload_memory: int = 512 * 2**20  # bytes of all bodies that are being received or decoded
    max_pixels: int = 4096 * 4096  # of the decoded image, read from its header
    max_batch_rows: int = 32  # power of two
    queue_per_task: int = 256  # rows waiting
    queue_total: int = 1024  # rows waiting; also requests being received and decoded
    deadline_ms: int = LONGEST_DEADLINE_MS  # of a request that names none; none may be longer
    decode_threads: int = 2
    load_threads: int = 2  # loads that compute at once; more may wait for the store
    drain_s: float = 2.0  # SIGTERM: unready for so long before the listener closes
    trusted_keys: str = ""  # PEM file or folder of public keys: only what they signed is served
    tokens: str = ""  # TOML file of who may do what; without one, only this machine may ask
    preload: str = ""  # tasks to load at start: names separated by commas, or *
    memory_budget: Bytes = Bytes(0)  # for components, such as 2GiB; 0: its part of 60 % of all
    pin: str = ""  # tasks never evicted: names or patterns such as a/*, separated by commas
    task_metrics: bool = True  # false folds the label `task` to `all`
    access_log: bool = False  # a JSON line for each request on standard output
    tracing: str = ""  # where spans go: http://collector:4318/v1/traces (OTLP over HTTP)
    tracing_rate: float = 1.0  # of the requests that no sampled trace names
    grpc_port: int = 0  # of the Open Inference Protocol over gRPC; 0 is none
    workers: int = 1  # processes; each has components and batches of its own, and these limits
    backend: str = "auto"  # what computes: jax, openvino, or the faster one where it is a CPU
    compute_threads: int = 0  # of OpenVINO for one batch; 0: this worker's cores but one
    compilation_cache: str = ""  # compiled programs kept over restarts; "" is the user's cache

    def __post_init__(self) -> None:
        """Raises SettingsError where a value makes no sense."""
        self._fill_in()
        if self.max_batch_rows < 1 or self.max_batch_rows & (self.max_batch_rows - 1):
            raise _unusable("max_batch_rows", "a power of two", self.max_batch_rows)
        if self.tracing and not self.tracing.startswith(("http://", "https://")):
            raise _unusable("tracing", "an http:// or https:// URL", self.tracing)
        for name, most in MOST.items():
            if getattr(self, name) > most:
                raise _unusable(name, f"at most {most}", getattr(self, name))
        for field in fields(self):
            value = getattr(self, field.name)
            if value == field.default:
                continue
            if isinstance(value, int | float) and not isinstance(value, bool) and value <= 0:
                raise _unusable(field.name, "a number above zero", value)

    def _fill_in(self) -> None:
        """Defaults that depend on the machine, or on other settings."""
        workers = max(1, self.workers)
        for name, default in (
            ("memory_budget", _memory_share() // workers),
            # Threads of one batch wait for each other: one that shares a core with the event loop
            # would slow all of them down just when there is most to do.
            ("compute_threads", max(1, len(os.sched_getaffinity(0)) // workers - 1)),
            ("compilation_cache", _cache_folder()),
        ):
            if not getattr(self, name):
                object.__setattr__(self, name, default)

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
        return _names(self.preload)

    @property
    def pinned_tasks(self) -> tuple[str, ...]:
        """Names, or patterns of names, of the tasks that are never evicted."""
        return _names(self.pin)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _flag(text: str) -> bool:
    return {"1": True, "true": True, "0": False, "false": False}[text.lower()]


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def _bytes(text: str) -> int:
    found = _SIZE.fullmatch(text.strip().upper())
    if found is None:
        raise ValueError(text)
    number, prefix, binary = found.groups()
    power = 0 if prefix is None else 1 + "KMGT".index(prefix)
    return int(float(number) * (1024 if binary else 1000) ** power)


_PARSERS: Mapping[str, tuple[Callable[[str], Any], str]] = {
    "str": (str, "text"),
    "int": (int, "a whole number"),
    "float": (_finite, "a number, and finite"),
    "bool": (_flag, "0 or 1"),
    "Bytes": (_bytes, "a number of bytes, such as 512MiB or 2GB"),
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
