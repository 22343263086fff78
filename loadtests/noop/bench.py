"""Runs the benchmark of the gateway's own cost: each server with a no-op, one after the other.

All servers are up at once, on a core of their own, and the client is on another one; each round
asks every server at every number of connections, so that a busy moment of the machine meets all.
"""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from loadtests.errors import OptionError
from loadtests.gateways import Gateway, Server
from loadtests.noop.client import Answers, header, load, milliseconds
from loadtests.noop.report import Cost, Outside, Report
from loadtests.noop.variants import PEERS_PYTHON, TASK, Variant, variants
from loadtests.systems import System, adapters_and_head, backbone

CONNECTIONS = (1, 16, 64)
IMAGE_SIDE = 40  # pixels of noise: a PNG file of 5 KB
NETWORK, NETWORK_SIDE = "Ti/16", 64
WARM_UP_S = 0.3
Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Setup:
    """How long to measure. Raises OptionError."""

    rounds: int = 5
    seconds: float = 1.0  # of each server at each number of connections, in each round

    def __post_init__(self) -> None:
        """One round at least, and a load that ends."""
        if not (self.rounds > 0 and 0 < self.seconds <= 60):
            raise OptionError(
                f"checking options: expected rounds above 0 and 0 to 60 seconds, found "
                f"{self.rounds} and {self.seconds:g}"
            )


def measure(setup: Setup, progress: Progress = lambda what: None) -> Report:
    """Runs everything. Raises LoadTestError."""
    image = _image()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        store = str(place / "store")
        arch = backbone(NETWORK, image_size=NETWORK_SIDE)
        System(store, arch, adapters_and_head(arch)).publish(TASK, seed=1)
        progress("one request at a time through the real engine")
        outside = _outside(store, place, image, setup)
        progress("starting the servers")
        chosen = [one for one in variants(image) if _is_installed(one)]
        missing = [one.name for one in variants(image) if not _is_installed(one)]
        with ExitStack() as running:
            with _on_core(-1):
                servers = {
                    one: running.enter_context(
                        Server(
                            one.command,
                            place / one.name,
                            one.ready,
                            MUNET_STORE=store,
                            MUNET_PRELOAD="*",
                        )
                    )
                    for one in chosen
                }
            with _on_core(0):
                costs = tuple(_costs(servers, setup, progress))
    return Report(setup.rounds, setup.seconds, len(image), costs, tuple(missing), outside)


def _image() -> bytes:
    shape = (IMAGE_SIDE, IMAGE_SIDE, 3)
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8)).save(
        file, "PNG"
    )
    return file.getvalue()


def _is_installed(variant: Variant) -> bool:
    return variant.command[0] != str(PEERS_PYTHON) or PEERS_PYTHON.exists()


def _costs(servers: Mapping[Variant, Server], setup: Setup, progress: Progress) -> Iterator[Cost]:
    """Of every server at every number of connections, in turn."""
    for variant, server in servers.items():
        load(server.port, variant.request, connections=1, seconds=WARM_UP_S)
    for turn in range(setup.rounds):
        progress(f"round {turn + 1} of {setup.rounds}")
        for connections in CONNECTIONS:
            for variant, server in servers.items():
                before_s = server.cpu_s()
                answers = load(
                    server.port, variant.request, connections=connections, seconds=setup.seconds
                )
                yield _cost(variant.name, connections, answers, server.cpu_s() - before_s)


def _cost(name: str, connections: int, answers: Answers, cpu_s: float) -> Cost:
    p50_s, p99_s = np.percentile(answers.latencies_s, (50, 99)).tolist()
    cpu_us = cpu_s / len(answers.latencies_s) * 1e6
    return Cost(name, connections, answers.rate, p50_s * 1e3, p99_s * 1e3, cpu_us)


def _outside(store: str, place: Path, image: bytes, setup: Setup) -> Outside:
    """What of a request's time is neither decoding nor computing, with nothing replaced."""
    request = variants(image)[1].request
    with Gateway(store, place / "real", MUNET_PRELOAD="*") as gateway:
        load(gateway.port, request, connections=1, seconds=WARM_UP_S)
        answers = load(gateway.port, request, connections=1, seconds=setup.rounds * setup.seconds)
    stages = [milliseconds(header(head, "server-timing")) for head in answers.heads]
    work = [found["decode"] + found["execute"] for found in stages]
    seen = [latency_s * 1e3 for latency_s in answers.latencies_s]
    totals = [found["total"] for found in stages]
    median = np.median
    return Outside(
        requests=len(work),
        latency_ms=float(median(seen)),
        decode_ms=float(median([found["decode"] for found in stages])),
        execute_ms=float(median([found["execute"] for found in stages])),
        client_ms=float(median(np.subtract(seen, work))),
        server_ms=float(median(np.subtract(totals, work))),
    )


@contextmanager
def _on_core(number: int) -> Iterator[None]:
    """This process, and what it starts meanwhile, on one of its cores."""
    all_cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {sorted(all_cores)[number]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, all_cores)
