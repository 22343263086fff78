"""What is sent, where to and when: options, popularity, open-loop arrival times and images.

What is drawn is a function of its arguments and a seeded generator: same seed, same workload.
"""

from __future__ import annotations

import io
import ipaddress
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast, get_args
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from loadtests.errors import OptionError

Kind = Literal["identical", "distinct", "uniform", "zipf"]

MAX_SECONDS = 3600.0
MAX_REQUESTS = 1_000_000  # expected in one run: each leaves an outcome in memory
SYNTHETIC_IMAGES = 256  # enough that equal images rarely meet in one batch by chance
SYNTHETIC_SIDE = 32  # pixels
CONTENT_TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg"}


@dataclass(frozen=True, slots=True)
class Popularity:
    """How requests fall on tasks; the rank of a task is its place in the list of tasks."""

    kind: Kind
    exponent: float = 0.0  # zipf only: the share of the task of rank k is as k ** -exponent

    @classmethod
    def parse(cls, text: str) -> Popularity:
        """`identical`, `distinct`, `uniform` or `zipf:EXPONENT`; OptionError for anything else."""
        kind, colon, number = text.partition(":")
        if kind not in get_args(Kind) or bool(colon) != (kind == "zipf"):
            raise OptionError(
                f"reading popularity: expected identical, distinct, uniform or zipf:EXPONENT "
                f"(as in zipf:1.1), found {text!r}"
            )
        if kind != "zipf":
            return cls(cast(Kind, kind))
        try:
            exponent = float(number)
        except ValueError:
            exponent = -1.0
        if not 0.0 < exponent < float("inf"):
            raise OptionError(
                f"reading popularity: zipf needs a number above 0, as in zipf:1.1, found {text!r}"
            )
        return cls("zipf", exponent)

    def __str__(self) -> str:
        """The text that `parse` reads back."""
        return f"zipf:{self.exponent:g}" if self.kind == "zipf" else self.kind


@dataclass(frozen=True, slots=True)
class Load:
    """One run as asked for. Raises OptionError for values out of range and for other machines."""

    url: str  # of a gateway on a loopback address
    rate: float  # requests per second on average
    seconds: float  # over which requests are sent
    popularity: Popularity
    tasks: tuple[str, ...] = ()  # in order of popularity; empty: all that the gateway lists
    images: Path | None = None  # a folder; None: synthetic ones
    seed: int = 0
    deadline_ms: float = 1000.0  # an answer that takes longer does not count as goodput
    timeout_s: float = 30.0  # a request is given up this long after it was sent
    max_in_flight: int = 500  # half of the usual limit of 1,024 open files

    def __post_init__(self) -> None:
        """Checks everything that can be known before the gateway is asked."""
        _require_loopback(self.url)
        for name in ("rate", "seconds", "deadline_ms", "timeout_s", "max_in_flight"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise OptionError(f"checking options: expected {name} above 0, found {value}")
        if self.seed < 0:
            raise OptionError(f"checking options: expected seed of 0 or more, found {self.seed}")
        if self.seconds > MAX_SECONDS or self.rate * self.seconds > MAX_REQUESTS:
            raise OptionError(
                f"checking options: expected at most {MAX_SECONDS:g} s and {MAX_REQUESTS} "
                f"requests, found {self.seconds:g} s and {self.rate * self.seconds:.0f}; "
                f"split the run"
            )


def _require_loopback(url: str) -> None:
    # Other machines are nobody's to put load on, and the network would be measured with them.
    if not _is_loopback(url):
        raise OptionError(
            f"checking url: expected http://HOST:PORT with a loopback host (localhost, 127.0.0.0/8 "
            f"or ::1), found {url!r}; run the load test on the gateway's own machine"
        )


def _is_loopback(url: str) -> bool:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port  # reading the port checks its range
        local = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
    plain = not (parts.query or parts.fragment or "@" in parts.netloc)
    return local and plain and parts.scheme == "http"


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request of the schedule."""

    time_s: float  # after the start of the run
    task: str
    image: int  # index into the run's images


@dataclass(frozen=True, slots=True)
class Picture:
    """One encoded image, ready to be posted."""

    data: bytes
    content_type: str


def probabilities(popularity: Popularity, count: int) -> np.ndarray:
    """Probability of each of `count` tasks, most popular first: float64 [count], summing to one.

    For `distinct` these are long-run shares, since tasks then take turns instead of being drawn.
    """
    match popularity.kind:
        case "identical":
            weights = np.zeros(count)
            weights[0] = 1.0
        case "distinct" | "uniform":
            weights = np.ones(count)
        case "zipf":
            weights = np.arange(1, count + 1, dtype=np.float64) ** -popularity.exponent
    return weights / weights.sum()


def schedule(
    rng: np.random.Generator, load: Load, tasks: tuple[str, ...], images: int
) -> list[Arrival]:
    """A Poisson process of `load.rate` over [0, load.seconds), ascending in time.

    Tasks fall by `load.popularity`, images evenly. May be empty where rate * seconds is small.
    """
    # A Poisson process on an interval is a Poisson count of uniform times: the horizon is exact.
    count = int(rng.poisson(load.rate * load.seconds))
    times = np.sort(rng.uniform(0.0, load.seconds, count))
    if load.popularity.kind == "distinct":
        ranks = np.arange(count) % len(tasks)
    else:
        ranks = rng.choice(len(tasks), size=count, p=probabilities(load.popularity, len(tasks)))
    chosen = rng.integers(images, size=count)
    rows = zip(times.tolist(), ranks.tolist(), chosen.tolist(), strict=True)
    return [Arrival(time_s, tasks[rank], image) for time_s, rank, image in rows]


def pictures(folder: Path | None, rng: np.random.Generator) -> list[Picture]:
    """The images to choose from: the files below `folder`, or synthetic ones where it is None.

    Raises OptionError where the folder holds none.
    """
    if folder is None:
        shape = (SYNTHETIC_IMAGES, SYNTHETIC_SIDE, SYNTHETIC_SIDE, 3)
        return [_png(pixels) for pixels in rng.integers(256, size=shape, dtype=np.uint8)]
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in CONTENT_TYPES)
    if not files:
        raise OptionError(f"reading images: expected .png or .jpg files below {folder}, found none")
    return [Picture(path.read_bytes(), CONTENT_TYPES[path.suffix.lower()]) for path in files]


def _png(pixels: np.ndarray) -> Picture:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return Picture(file.getvalue(), CONTENT_TYPES[".png"])
