"""The gateway's configuration: environment variables with the prefix MUNET_, read here only."""

from __future__ import annotations

import difflib
import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NewType
from urllib.parse import unquote, urlsplit

from model_store import InvalidName
from model_store.files.limits import SIZE, Machine, parse_size
from model_store.files.opening import OBJECT_SCHEMES
from model_store.names import require_name
from service.errors import SettingsError

PREFIX = "MUNET_"
# Of the store, of `munet data`, of deploy/compose.yaml, and from one of our processes to another.
OTHERS = (
    *("CACHE", "CACHE_BYTES", "STORE_LATE_S", "DATA", "IMAGE", "STORE_DIR"),
    *("GREETING", "MAIN_PID", "WORKERS_FOLDER"),
)
# Those of them that the store checks: name -> what it expects.
_OF_STORE = {"CACHE_BYTES": SIZE, "STORE_LATE_S": "seconds, 0 or more"}
# What Kubernetes gives every pod for a service whose name begins with munet.
_LINK = re.compile(
    r"\w+_SERVICE_HOST=.*|\w+_SERVICE_PORT(_\w+)?=.*|\w+_PORT(_[0-9]+_\w+)?=(tcp|udp|sctp)://.*"
    r"|\w+_PORT_[0-9]+_(TCP|UDP|SCTP)_(PROTO|PORT|ADDR)=.*"
)
LONGEST_DEADLINE_MS = 10_000
BACKENDS = ("auto", "jax", "openvino")
_MANY = 2**20
_BYTES = (1, 2**50)
RANGES: Mapping[str, tuple[float, float]] = {
    "poll_s": (0.01, 3600),
    "max_body_bytes": _BYTES,
    "upload_memory": _BYTES,
    "memory_budget": _BYTES,
    "max_pixels": (1, 2**30),
    "max_request_pixels": (1, 2**40),
    "decode_memory": (2**23, 2**50),  # less would refuse the smallest image
    "max_batch_rows": (1, 1024),  # a program is compiled for each power of two
    "queue_per_task": (1, _MANY),
    "queue_total": (1, _MANY),
    "deadline_ms": (1, LONGEST_DEADLINE_MS),
    "decode_threads": (1, 256),
    "load_threads": (1, 256),
    "compute_threads": (1, 1024),
    "workers": (1, 256),
    "drain_s": (0.001, 15),  # a worker ends 30 s after SIGTERM at last: answers need the rest
    "tracing_rate": (0, 1),
    "samples": (0, 1),
    "samples_below": (0, 1),
    "samples_bytes": (2**25, 2**50),  # less has no room for the largest file
    "grpc_port": (1, 65535),
    "health_port": (1, 65535),
}
# (what must not be larger, than what)
AT_MOST = (
    ("max_body_bytes", "upload_memory"),
    ("max_pixels", "max_request_pixels"),
    ("max_batch_rows", "queue_per_task"),
    ("max_batch_rows", "queue_total"),
)
THREAD_MEMORY = 512 * 2**20  # bytes of the machine's memory for each compute thread, by default
IMAGES_AT_LIMIT = 4  # as large as may be, in one request
Bytes = NewType("Bytes", int)
Share = NewType("Share", float)
_WHOLE = re.compile(r"[0-9]{1,18}")
_NUMBER = re.compile(r"([0-9]{1,18}\.?[0-9]{0,18}|\.[0-9]{1,18})([eE][+-]?[0-9]{1,3})?")


def _compute_threads(workers: int) -> int:
    """One for each core, as far as memory has room for their programs."""
    machine = Machine()
    room = machine.memory().bytes // workers // THREAD_MEMORY
    return max(1, min(machine.cores() // workers, room))


def _cache_folder() -> str:
    try:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:  # a user without a home
        base = os.devnull  # where nothing can be made
    return str(Path(base) / "munet" / "compilations")


@dataclass(frozen=True, slots=True)
class Settings:
    """Each field is the variable MUNET_<FIELD IN CAPITALS>; only the store has no default."""

    store: str  # directory or URL of the model store
    poll_s: float = 0.5  # how often the store's refs are looked at
    max_body_bytes: Bytes = Bytes(10 * 2**20)
    upload_memory: Bytes = Bytes(0)  # of all bodies being received or decoded; 0: see memory.py
    max_pixels: int = 4096 * 4096  # of the decoded image, read from its header
    max_request_pixels: int = 0  # of all images of a request; 0: four times those of one
    decode_memory: Bytes = Bytes(0)  # of all images being decoded; 0: see memory.py
    max_batch_rows: int = 32  # power of two
    queue_per_task: int = 256  # rows waiting
    queue_total: int = 1024  # rows waiting; also requests being received and decoded
    deadline_ms: int = LONGEST_DEADLINE_MS  # of a request that names none; none may be longer
    decode_threads: int = 2
    load_threads: int = 2  # loads that compute at once; more may wait for the store
    drain_s: float = 2.0  # after SIGTERM: unready before the listener closes
    trusted_keys: str = ""  # PEM file or folder of public keys: only what they signed is served
    tokens: str = ""  # TOML file of who may do what; without one, only this machine may ask
    cors_origins: str = ""  # of web pages that may ask, separated by commas; * is all
    preload: str = ""  # tasks to load at start: names separated by commas, or *
    memory_budget: Bytes = Bytes(0)  # for components, such as 2GiB; 0: see memory.py
    pin: str = ""  # tasks never evicted: names or patterns such as a/*, separated by commas
    task_metrics: bool = True  # false folds the label `task` to `all`
    access_log: bool = False  # a JSON line for each request on standard output
    tracing: str = ""  # where spans go: http://collector:4318/v1/traces (OTLP over HTTP)
    tracing_rate: float = 1.0  # of the requests that no sampled trace names
    samples: Share = Share(0.0)  # of the pictures, that are kept with their answers
    samples_below: Share = Share(0.0)  # pictures whose answers are less probable are kept too
    samples_to: str = ""  # folder or URL where they are kept
    samples_bytes: Bytes = Bytes(2**30)  # of all that is kept there; the oldest go first
    samples_tasks: str = ""  # names or patterns; "" is all; a private task only by its exact name
    grpc_port: int = 0  # of the Open Inference Protocol over gRPC; 0 is none
    health_port: int = 0  # of /livez and /readyz, which answer there under every load; 0 is none
    workers: int = 1  # processes; each has components and batches of its own, and these limits
    backend: str = "auto"  # what computes: jax, openvino, or the faster one where it is a CPU
    compute_threads: int = 0  # of OpenVINO, a batch each; 0: all cores, as memory allows
    compilation_cache: str = ""  # compiled programs kept over restarts; "" is the user's cache

    def __post_init__(self) -> None:
        """Raises SettingsError where a value makes no sense."""
        self._fill_in()
        for field in fields(self):
            value = getattr(self, field.name)
            least, most = RANGES.get(field.name, (None, None))
            if value != field.default and least is not None and not least <= value <= most:
                raise _unusable(field.name, _EXPECTED[field.type](field.name), value)
        if self.max_batch_rows & (self.max_batch_rows - 1):
            raise _unusable("max_batch_rows", "a power of two", self.max_batch_rows)
        if self.backend not in BACKENDS:
            raise _unusable("backend", f"one of {', '.join(BACKENDS)}", self.backend)
        if self.tracing and not _is_http(self.tracing):
            raise _unusable("tracing", "an http:// or https:// URL", self.tracing)
        if self.keeps_samples:
            self._require_place_of_samples()
        if self.preload_tasks != ("*",):
            _require_tasks("preload", self.preload_tasks)

    def _fill_in(self) -> None:
        """Defaults that depend on the machine, or on other settings."""
        workers = max(1, self.workers)
        for name, default in (
            ("max_request_pixels", IMAGES_AT_LIMIT * self.max_pixels),
            ("compute_threads", _compute_threads(workers)),
            ("compilation_cache", _cache_folder()),
        ):
            if not getattr(self, name):
                object.__setattr__(self, name, default)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Settings:
        """Reads every MUNET_ variable; raises SettingsError naming variable, wanted and found."""
        own = _own(environment)
        given: dict[str, Any] = {}
        for field in fields(cls):
            text = own.pop(field.name.upper(), "")
            if text != "":
                given[field.name] = _parse(field.name, str(field.type), text)
        if unknown := [name for name in own if name not in OTHERS]:
            known = [field.name.upper() for field in fields(cls)]
            raise _no_setting(unknown[0], [*known, *OTHERS])
        _require_usable(own)
        if "store" not in given:
            raise SettingsError(
                f"starting the gateway: {PREFIX}STORE is not set; set it to the directory of a "
                "model store, for example MUNET_STORE=./store"
            )
        settings = cls(**given)
        for name, other in AT_MOST:
            value, most = getattr(settings, name), getattr(settings, other)
            if value > most > 0:  # 0: not known yet
                raise _unusable(name, f"at most {PREFIX}{other.upper()}, which is {most}", value)
        return settings

    def _require_place_of_samples(self) -> None:
        """Raises SettingsError unless it is one, and not in the store."""
        place, store = self.samples_to, self.store
        scheme = _scheme(place)
        bucket = scheme in OBJECT_SCHEMES and urlsplit(place).netloc
        if not place or (scheme and not bucket):
            raise _unusable("samples_to", "a folder, or s3://…, gs://… or az://…", place)
        if scheme:
            inside = f"{place.rstrip('/')}/".startswith(f"{store.rstrip('/')}/")
        else:
            folder = unquote(urlsplit(store).path) if _scheme(store) == "file" else store
            inside = Path(place).resolve().is_relative_to(Path(folder).resolve())
        if inside:
            raise _unusable("samples_to", f"a place outside the store {store}", place)

    @property
    def keeps_samples(self) -> bool:
        """Whether some pictures are kept with their answers."""
        return self.samples > 0 or self.samples_below > 0

    @property
    def preload_tasks(self) -> tuple[str, ...]:
        """Names of the tasks to load at start; ("*",) means all."""
        return _names(self.preload)

    @property
    def pinned_tasks(self) -> tuple[str, ...]:
        """Names, or patterns of names, of the tasks that are never evicted."""
        return _names(self.pin)

    @property
    def sampled_tasks(self) -> tuple[str, ...]:
        """Names, or patterns of names, of the tasks whose answers may be kept; () is all."""
        return _names(self.samples_tasks)


def _scheme(place: str) -> str:
    """That of a URL; "" for a folder."""
    return place.partition("://")[0] if "://" in place else ""


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _own(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables with our prefix, without it; a prefix in small letters is a misspelt one."""
    return {
        name[len(PREFIX) :]: value
        for name, value in environment.items()
        if name.upper().startswith(PREFIX) and not _LINK.fullmatch(f"{name}={value}")
    }


def _no_setting(name: str, known: list[str]) -> SettingsError:
    near = difflib.get_close_matches(name.upper(), known, n=1)
    hint = f"did you mean {PREFIX}{near[0]}?" if near else "service/README.md lists all."
    return SettingsError(
        f"starting the gateway: {PREFIX}{name[:100]} is no setting; {hint} Correct or unset it"
    )


def _require_usable(own: Mapping[str, str]) -> None:
    """Raises SettingsError for a variable of the store that it would refuse."""
    for name, expected in _OF_STORE.items():
        try:
            if own.get(name):
                parse_size(own[name]) if name == "CACHE_BYTES" else _number(own[name])
        except ValueError:
            raise _unusable(name, expected, own[name]) from None


def _is_http(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _require_tasks(setting: str, names: tuple[str, ...]) -> None:
    try:
        for name in names:
            require_name("task", name)
    except InvalidName:
        found = ", ".join(names)
        raise _unusable(setting, "names of tasks separated by commas, or *", found) from None


def _flag(text: str) -> bool:
    return {"1": True, "true": True, "0": False, "false": False}[text.strip().lower()]


def _whole(text: str) -> int:
    if not _WHOLE.fullmatch(text.strip()):
        raise ValueError(text)
    return int(text)


def _number(text: str) -> float:
    if not _NUMBER.fullmatch(text.strip()) or math.isinf(float(text)):
        raise ValueError(text)
    return float(text)


def _share(text: str) -> float:
    text = text.strip()
    return _number(text.removesuffix("%")) / (100 if text.endswith("%") else 1)


def _within(name: str) -> str:
    least, most = RANGES[name]
    return f"from {least} to {most}"


_PARSERS: Mapping[str, Callable[[str], Any]] = {
    "str": str,
    "int": _whole,
    "float": _number,
    "bool": _flag,
    "Bytes": parse_size,
    "Share": _share,
}
_EXPECTED: Mapping[Any, Callable[[str], str]] = {
    "str": lambda name: "text",
    "int": lambda name: f"a whole number {_within(name)}",
    "float": lambda name: f"a number {_within(name)}",
    "bool": lambda name: "0 or 1",
    "Bytes": lambda name: f"{SIZE}, {_within(name)}",
    "Share": lambda name: f"a share {_within(name)}, such as 1% or 0.01",
}


def _parse(name: str, kind: str, text: str) -> Any:
    try:
        return _PARSERS[kind](text)
    except (ValueError, KeyError):
        raise _unusable(name, _EXPECTED[kind](name), text) from None


def _unusable(name: str, expected: str, found: object) -> SettingsError:
    shown = repr(found)
    shown = shown if len(shown) <= 200 else f"{shown[:200]}…"
    return SettingsError(
        f"starting the gateway: {PREFIX}{name.upper()} must be {expected}, found {shown}"
    )
