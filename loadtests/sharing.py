"""One request for several tasks next to as many requests for one task each, with the same image.

The tasks continue from a shared prefix: all but the last blocks and the head are the same
components. A round sends one image all three ways, in turn; images differ between rounds.
"""

from __future__ import annotations

import http.client
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.table import Table

from loadtests import traffic
from loadtests.errors import GatewayError
from loadtests.gateways import Gateway
from loadtests.systems import System, backbone, last_blocks_and_head

TARGET = 0.45  # of the time of separate requests
WARM_UP = 3  # rounds
SHARED = "munet_rows_shared_total"


@dataclass(frozen=True, slots=True)
class Setup:
    """What is measured."""

    tasks: int = 8
    own_blocks: int = 3
    size: str = "Ti/16"
    image_sizes: Sequence[int] = (64, 224)
    rounds: int = 30


@dataclass(frozen=True, slots=True)
class Sharing:
    """Medians over the rounds, for one size of images."""

    image_size: int
    together_ms: float  # one request
    one_by_one_ms: float  # on one connection
    at_once_ms: float  # each on a connection of its own, until the last is answered
    of_one_by_one: float  # median of the rounds' ratios
    of_at_once: float
    row_stages_shared: float  # by one request for all


@dataclass(slots=True)
class Result:
    """The numbers of one run."""

    sizes: list[Sharing] = field(default_factory=list)


def measure(setup: Setup, say: Callable[[str], None]) -> Result:
    """Makes a store in a temporary folder for each size, and starts a gateway on it."""
    return Result([_measure(setup, image_size, say) for image_size in setup.image_sizes])


def _measure(setup: Setup, image_size: int, say: Callable[[str], None]) -> Sharing:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        arch = backbone(setup.size, image_size=image_size)
        system = System(str(root / "store"), arch, last_blocks_and_head(arch, setup.own_blocks))
        names = [f"task/{number}" for number in range(setup.tasks)]
        for number, name in enumerate(names):
            say(f"publishing {name}")
            system.publish(name, number + 1)
        with Gateway(str(root / "store"), root / "home", MUNET_PRELOAD="*") as gateway:
            return _compare(setup, image_size, gateway, names, say)


def _compare(
    setup: Setup,
    image_size: int,
    gateway: Gateway,
    names: Sequence[str],
    say: Callable[[str], None],
) -> Sharing:
    pictures = traffic.pictures(image_size)
    alone = [f"/classify/{name}" for name in names]
    all_of_them = "/classify?" + "&".join(f"task={name}" for name in names)
    seconds: list[tuple[float, float, float]] = []
    shared = 0.0
    clients = [http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=60) for _ in names]
    with ThreadPoolExecutor(len(names)) as pool:
        for number in range(WARM_UP + setup.rounds):
            say(f"{image_size} pixels: round {number - WARM_UP + 1} of {setup.rounds}")
            picture = pictures[number % len(pictures)]

            def post(client: http.client.HTTPConnection, path: str, body: bytes = picture) -> None:
                _post(client, path, body)

            before = traffic.value(traffic.samples(gateway), SHARED)
            together_s = _timed(lambda: post(clients[0], all_of_them))
            shared = traffic.value(traffic.samples(gateway), SHARED) - before
            one_by_one_s = _timed(lambda: [post(clients[0], path) for path in alone])
            at_once_s = _timed(lambda: list(pool.map(post, clients, alone)))
            seconds.append((together_s, one_by_one_s, at_once_s))
    return _summary(image_size, seconds[WARM_UP:], shared)


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _post(client: http.client.HTTPConnection, path: str, body: bytes) -> None:
    client.request("POST", path, body, {"content-type": "application/octet-stream"})
    answer = client.getresponse()
    content = answer.read()
    if answer.status != 200 or b'"problem"' in content:
        raise GatewayError(
            f"asking {path}: expected predictions, found {answer.status} {content[:500]!r}"
        )


def _summary(
    image_size: int, seconds: Sequence[tuple[float, float, float]], shared: float
) -> Sharing:
    together, one_by_one, at_once = zip(*seconds, strict=True)
    return Sharing(
        image_size,
        together_ms=statistics.median(together) * 1e3,
        one_by_one_ms=statistics.median(one_by_one) * 1e3,
        at_once_ms=statistics.median(at_once) * 1e3,
        of_one_by_one=statistics.median(a / b for a, b, _ in seconds),
        of_at_once=statistics.median(a / c for a, _, c in seconds),
        row_stages_shared=shared,
    )


def render(setup: Setup, result: Result) -> Table:
    """One line for each size of images."""
    table = Table(
        title=f"{setup.tasks} tasks that share all of {setup.size} but {setup.own_blocks} blocks "
        "and the head: one request next to separate ones"
    )
    for name in ("pixels", "together", "one by one", "at once", "shared"):
        table.add_column(name, justify="right")
    for found in result.sizes:
        met = "within" if found.of_one_by_one <= TARGET else "above"
        table.add_row(
            str(found.image_size),
            f"{found.together_ms:.1f} ms",
            f"{found.one_by_one_ms:.1f} ms: {found.of_one_by_one:.0%}, {met} {TARGET:.0%}",
            f"{found.at_once_ms:.1f} ms: {found.of_at_once:.0%}",
            f"{found.row_stages_shared:.0f} row-stages",
        )
    return table


def json_line(setup: Setup, result: Result) -> str:
    """The run as one line of JSON."""
    return traffic.json_line(asdict(setup), asdict(result))
