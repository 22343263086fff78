"""A gateway in a container: it evicts before the kernel kills, or is refused at the start."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from model_store import ModelStore
from tests.cgroups import limited
from tests.service.servers import ROOT, START_S, Server
from tests.service.systems import encoded, image, publish
from tests.service.waiting import PATIENCE_S
from vit import Architecture

MIB = 2**20
# 25 MB a task, and 21 MB of many small components; none of it shared.
LARGE = Architecture(
    width=512, heads=8, mlp_dim=2048, patch_size=8, image_size=16, num_layers=2, num_classes=3
)
DEEP = Architecture(
    width=192, heads=3, mlp_dim=768, patch_size=8, image_size=16, num_layers=12, num_classes=3
)
TASKS = 60
LOAD_S = float(os.environ.get("LIMITED_LOAD_S", "120"))
RATE = 8.0  # requests a second


def published(root: Path, arch: Architecture, tasks: int) -> str:
    store = ModelStore(root, create=True)
    blocks = [name for name in arch.component_names if name.startswith("encoderblock_")]
    for number in range(tasks):
        publish(store, f"t{number}", arch, own=dict.fromkeys(blocks, number))
    return store.url


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> str:
    return published(tmp_path_factory.mktemp("store"), LARGE, TASKS)


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> str:
    return published(tmp_path_factory.mktemp("store"), DEEP, TASKS // 2)


def cold_load(server: Server, tasks: int, seconds: float) -> Counter[int | str]:
    """Random tasks at a steady rate, with small and large pictures; answers by status."""
    pictures = [encoded(image(1, size), "JPEG") for size in ((16, 16), (800, 600), (1600, 1200))]
    rng = random.Random(1)
    found = Counter[int | str]()
    lock = threading.Lock()

    def ask(task: str, body: bytes) -> None:
        try:
            status: int | str = server.classify(task, body).status
        except OSError as error:
            status = type(error).__name__
        with lock:
            found[status] += 1

    with ThreadPoolExecutor(64) as clients:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            clients.submit(ask, f"t{rng.randrange(tasks)}", rng.choice(pictures))
            time.sleep(rng.expovariate(RATE))
    return found


def evictions(server: Server) -> float:
    name = "munet_evictions_total "
    (line,) = [text for text in server.metrics().splitlines() if text.startswith(name)]
    return float(line.removeprefix(name))


@pytest.mark.slow
@pytest.mark.parametrize("mib", [1024, 2048])
def test_random_cold_load_is_answered_without_a_kill(
    mib: int, large: str, compilations: str, tmp_path: Path
) -> None:
    variables = {"MUNET_STORE": large, "MUNET_COMPILATION_CACHE": compilations}
    with limited(mib * MIB) as group:
        with Server(".", tmp_path, prefix=group.prefix, **variables) as server:
            found = cold_load(server, TASKS, LOAD_S)
            assert evictions(server) > 0
        assert group.kills == 0
    assert found.keys() == {200}, found


@pytest.mark.slow
@pytest.mark.parametrize("mib", [256, 384, 512])
def test_in_little_memory_it_serves_or_says_at_the_start_what_it_needs(
    mib: int, deep: str, compilations: str, tmp_path: Path
) -> None:
    variables = {"MUNET_STORE": deep, "MUNET_COMPILATION_CACHE": compilations}
    with limited(mib * MIB) as group:
        server = Server(".", tmp_path, prefix=group.prefix, **variables)
        deadline = time.monotonic() + START_S
        while server.process.poll() is None and not reachable(server):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        if server.process.poll() is None:
            with server:
                found = cold_load(server, TASKS // 2, LOAD_S / 4)
                largest = server.classify("t1", encoded(image(1, (4032, 3024)), "JPEG"))
            assert group.kills == 0
            assert found.keys() == {200} and largest.status == 200, (found, largest)
            return
        assert server.process.wait() == 2
        needed(server.log.read_text())


def needed(log: str) -> int:
    """How many MiB a refusal asks for."""
    error = log[log.index("error: starting the gateway") :].strip().splitlines()
    assert len(error) == 5 and max(map(len, error)) <= 100, error
    found = re.fullmatch(r".* at least (\d+) MiB of memory:", error[0])
    assert found is not None, error
    return int(found[1])


@pytest.mark.parametrize("mib", [64, 128])
def test_in_far_too_little_memory_it_says_so_before_the_kernel_ends_it(
    mib: int, tmp_path: Path
) -> None:
    command = [sys.executable, str(ROOT / "munet.py"), "serve", "--store", str(tmp_path / "none")]
    with limited(mib * MIB) as group:
        found = subprocess.run([*group.prefix, *command], capture_output=True, timeout=PATIENCE_S)
        assert group.kills == 0
    assert found.returncode == 2
    assert 350 < needed(found.stderr.decode()) < 1000 + 200 * (os.cpu_count() or 1)


@pytest.mark.slow
def test_what_the_first_refusal_asks_for_is_enough(
    deep: str, compilations: str, tmp_path: Path
) -> None:
    variables = {"MUNET_STORE": deep, "MUNET_COMPILATION_CACHE": compilations}
    variables["MUNET_BACKEND"] = "openvino"
    with limited(128 * MIB) as group:
        server = Server(".", tmp_path, prefix=group.prefix, **variables)
        assert server.process.wait(START_S) == 2
        assert group.kills == 0
    with limited(needed(server.log.read_text()) * MIB) as group:
        with Server(".", tmp_path, prefix=group.prefix, **variables) as server:
            assert server.classify("t1", encoded(image(1, (16, 16)), "JPEG")).status == 200
        assert group.kills == 0


def reachable(server: Server) -> bool:
    try:
        return server.ask("GET", "/readyz").status == 200
    except OSError:
        return False
