"""What a shadow costs the engine: `munet loadtest shadows`.

A version is asked alone and with a shadow, by turns, in this process and on one core; the figures
are medians of processor time over the rounds, as parts of the version alone.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence

import numpy as np
from rich.table import Table

from loadtests.systems import System, backbone, last_blocks_and_head
from service.compute.engine import Engine
from service.compute.paths import Row, Shadow, ShadowAnswer
from service.compute.shadows import Shadows
from service.images import Decoded, named
from service.metrics.instruments import Metrics
from service.tasks.eviction import Budget, Recency
from service.tasks.residency import Residency
from vit import Architecture
from vit.contract import Target

NETWORK, PIXELS, BLOCKS = "Ti/16", 224, 12
OWN_BLOCKS = (0, 1, 6, 12)  # of the shadow, with a head of its own


def ratios(arch: Architecture, blocks: int, rounds: int) -> tuple[float, float]:
    """Processor time with a shadow, and until the version itself has answered; 1 is without."""
    with tempfile.TemporaryDirectory() as folder:
        system = System(f"{folder}/store", arch, last_blocks_and_head(arch, blocks))
        for task, seed in (("live", 1), ("shadow", 2)):
            system.publish(task, seed)
        metrics = Metrics()
        engine = Engine(metrics, max_rows=2, compilation_cache=folder, threads=1)
        budget = Budget(2**40, Recency(metrics))
        residency = Residency(system.store, engine.place, metrics, budget)
        live, shadow = (residency.load(system.store.resolve(t)) for t in ("live", "shadow"))
        for path in (live, shadow):
            engine.warm(path)
        engine.join(live, shadow)
        engine.programs.wait()
        pixels = np.random.default_rng(0).standard_normal((PIXELS, PIXELS, 3), np.float32)
        noted: list[ShadowAnswer] = []
        images: dict[Target, Decoded] = {arch.image_size: named(pixels)}
        plain = [Row(live, images)]
        copied = [Row(live, images, (Shadow(shadow, noted.append),))]
        shadows = Shadows(engine)

        def begin() -> Callable[[Callable[[], bool]], None]:
            return shadows.run(copied)[1]

        alone, first, both = [], [], []
        for turn in range(rounds + 1):
            started = time.process_time()
            engine.run(plain)
            ran = time.process_time()
            rest = begin()
            answered = time.process_time()
            rest(lambda: True)
            if turn:  # the first makes caches warm
                alone.append(ran - started)
                first.append(answered - ran)
                both.append(time.process_time() - ran)
        assert all(one.outcome == "answered" for one in noted)
        residency.close()
        engine.close()
    return _ratio(both, alone), _ratio(first, alone)


def _ratio(some: Sequence[float], others: Sequence[float]) -> float:
    return statistics.median(some) / statistics.median(others)


def measure(rounds: int) -> Table:
    """The figures of a shadow with each of OWN_BLOCKS."""
    arch = backbone(NETWORK, image_size=PIXELS, layers=BLOCKS)
    table = Table(
        *("the shadow's own", "with the shadow", "until the live version's answer"),
        title=f"Processor time, to the live version's alone: {NETWORK} at {PIXELS} px, one row",
    )
    for blocks in OWN_BLOCKS:
        whole, first = ratios(arch, blocks, rounds)
        own = f"{blocks} of {BLOCKS} blocks, head" if blocks else "head"
        table.add_row(own, f"{whole:.2f}", f"{first:.2f}")
    return table
