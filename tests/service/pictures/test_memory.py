"""What decoding takes is known before it begins, and bounded by the pixels at every aspect."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest

from service.compute.decode_memory import DecodeMemory
from service.errors import TooLarge
from tests.service.waiting import PATIENCE_S, eventually

TOP = Path(__file__).parents[3]
# What the gateway's README states: for each pixel, in a band more, and for a line of blocks.
PIXEL_BYTES, LINE_BYTES, OUTPUT_BYTES, FIXED_BYTES, FILE_COPIES = 32, 1024, 100, 2**20, 3
BAND_PIXELS, BAND_BYTES = 2**18, 64
SIZE = 64


def test_the_peak_of_decoding_is_at_most_what_was_reckoned() -> None:
    """Measured in another process, as the peak of its memory; every format, mode and aspect."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.service.pictures.peaks"],
        cwd=TOP, capture_output=True, text=True, timeout=PATIENCE_S * 10, check=True,
    )  # fmt: skip
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) > 100
    for one in found:
        assert one["peak"] <= one["needed"] + one["perhaps"], one
        bound = PIXEL_BYTES * one["pixels"] + LINE_BYTES * (one["width"] + one["height"])
        bound += BAND_BYTES * min(one["pixels"], BAND_PIXELS)
        bound += OUTPUT_BYTES * SIZE**2 + FIXED_BYTES + FILE_COPIES * one["file"]
        assert one["needed"] <= bound, one


def test_what_would_never_fit_is_refused_with_the_limit() -> None:
    memory = DecodeMemory(1000)
    text = r"takes 1001 bytes .*may take 1000.*MUNET_DECODE_MEMORY"
    with pytest.raises(TooLarge, match=text), memory.holding(1001):
        raise AssertionError
    with memory.holding(1000):
        pass
    with memory.holding(10, perhaps=2000):  # alone
        pass


def test_who_does_not_fit_waits_and_nobody_passes_it() -> None:
    """Else small pictures would keep a large one waiting for as long as they come."""
    memory = DecodeMemory(100)
    order: list[str] = []
    release = {name: threading.Event() for name in ("first", "large", "small")}

    def decode(name: str, size: int) -> None:
        with memory.holding(size):
            order.append(name)
            assert release[name].wait(PATIENCE_S)

    threads = [threading.Thread(target=decode, args=one) for one in [("first", 60), ("large", 70)]]
    threads.append(threading.Thread(target=decode, args=("small", 10)))
    for number, thread in enumerate(threads):
        thread.start()
        eventually(lambda n=number: len(order) + len(memory._waiting) == n + 1)
    assert order == ["first"]
    release["first"].set()
    eventually(lambda: len(order) == 3)
    assert order == ["first", "large", "small"]
    for event in release.values():
        event.set()
    for thread in threads:
        thread.join(PATIENCE_S)
    with memory.holding(100):
        pass


def test_all_together_never_take_more_than_there_is() -> None:
    memory, lock, held = DecodeMemory(100), threading.Lock(), Counter[str]()

    def decode(size: int) -> None:
        for _ in range(200):
            with memory.holding(size, perhaps=size // 2):
                with lock:
                    held["now"] += size
                    held["most"] = max(held["most"], held["now"])
                with lock:
                    held["now"] -= size

    threads = [threading.Thread(target=decode, args=(size,)) for size in (10, 30, 50, 70, 100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert not held["now"] and held["most"] <= 100
