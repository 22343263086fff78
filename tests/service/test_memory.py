"""How the gateway divides its memory, and what it does when that gets short."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from model_store import ModelStore
from model_store.files.limits import Limit, Machine
from service.errors import SettingsError
from service.images import File
from service.memory import Headroom, divided, ordinary_picture, own_memory
from service.metrics.instruments import Metrics
from service.settings import Bytes, Settings
from service.tasks.eviction import Budget, Recency
from tests.service.in_process import Gateway
from tests.service.systems import TINY, png, publish
from tests.service.waiting import eventually

MIB, GIB = 2**20, 2**30
PARTS = ("memory_budget", "upload_memory", "decode_memory")


def limit(size: int) -> Limit:
    return Limit(size, size, "/sys/fs/cgroup/memory.max")


@given(
    st.integers(MIB, 2**40),
    st.integers(0, 2 * GIB),
    st.integers(1, 8),
    st.integers(1, 8),
    st.dictionaries(st.sampled_from(PARTS), st.integers(16 * MIB, 4 * GIB)),
)
def test_all_parts_fit_into_the_limit_or_the_start_is_refused(
    size: int, base: int, workers: int, threads: int, given: dict[str, int]
) -> None:
    asked = {name: Bytes(given.get(name, 0)) for name in PARTS}
    wanted = replace(Settings("s", workers=workers, compute_threads=threads), **asked)
    try:
        found = divided(wanted, limit(size), base)
    except SettingsError as error:
        lines = f"error: {error}".splitlines()
        assert len(lines) <= 5 and max(map(len, lines)) <= 100
        for name in PARTS:
            assert f"MUNET_{name.upper()}" in str(error)
        return
    parts = {name: getattr(found, name) for name in PARTS}
    assert given.items() <= parts.items()
    programs = (80 + 32 * threads) * MIB
    assert (base + programs + sum(parts.values())) * workers <= size
    assert parts["upload_memory"] >= found.max_body_bytes
    if "decode_memory" not in given:
        assert parts["decode_memory"] >= ordinary_picture(found.max_pixels) > 80 * MIB
    assert parts["memory_budget"] >= (16 if "memory_budget" in given else 64) * MIB


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
@pytest.mark.parametrize("size", [(1, 1), (800, 600), (1600, 1200), (4032, 3024), (3024, 4032)])
def test_an_ordinary_picture_takes_no_more_than_is_kept_for_one(
    form: str, size: tuple[int, int]
) -> None:
    file = BytesIO()
    Image.new("RGB", size).save(file, form)
    taken = File(file.getvalue()).look(size[0] * size[1]).memory({384})[0]
    assert taken <= ordinary_picture(size[0] * size[1])
    assert ordinary_picture(2**30) == ordinary_picture(4032 * 3024)


def test_a_gateway_with_the_least_memory_has_room_for_an_ordinary_picture() -> None:
    """A byte less, and it is refused at the start, with the sum."""
    base = 200 * MIB + 1
    least = base + sum((80 + 64, 10, 64)) * MIB + ordinary_picture(4096**2)
    found = divided(Settings("s", compute_threads=2), limit(least), base)
    assert found.decode_memory == ordinary_picture(4096**2)
    with pytest.raises(SettingsError, match=f"at least {math.ceil(least / MIB)} MiB"):
        divided(Settings("s", compute_threads=2), limit(least - 1), base)
    smaller = Settings("s", compute_threads=2, max_pixels=2**20)
    assert divided(smaller, limit(least - 40 * MIB), base).decode_memory > 36 * MIB


def test_a_container_of_1_gib() -> None:
    found = divided(Settings("s", compute_threads=1), limit(GIB), 200 * MIB)
    assert {name: getattr(found, name) // MIB for name in PARTS} == {
        "upload_memory": 79,
        "decode_memory": 221,
        "memory_budget": 272,  # and 252 for programs
    }


def test_a_large_machine_has_most_of_its_memory_for_components() -> None:
    found = divided(Settings("s", compute_threads=7), limit(64 * GIB), 300 * MIB)
    assert found.upload_memory == 512 * MIB
    assert found.memory_budget > 46 * GIB


def test_what_is_too_little_is_said_with_the_sum() -> None:
    with pytest.raises(SettingsError) as refused:
        wanted = Settings("s", memory_budget=Bytes(900 * MIB), compute_threads=2)
        divided(wanted, limit(GIB), 300 * MIB)
    assert str(refused.value).splitlines() == [
        "starting the gateway: expected at least 1436 MiB of memory:",
        "  300 MiB for itself + 144 MiB for programs (MUNET_COMPUTE_THREADS is 2)",
        "  + 10 MiB MUNET_UPLOAD_MEMORY + 82 MiB MUNET_DECODE_MEMORY"
        " + 900 MiB MUNET_MEMORY_BUDGET,",
        "found 1024 MiB by /sys/fs/cgroup/memory.max;",
        "raise that limit, or lower these settings",
    ]


def test_workers_have_equal_parts() -> None:
    one = divided(Settings("s", compute_threads=1), limit(8 * GIB), 300 * MIB)
    four = divided(Settings("s", compute_threads=1, workers=4), limit(32 * GIB), 300 * MIB)
    assert four.memory_budget == one.memory_budget


def test_the_gateways_own_memory_is_measured() -> None:
    own, main = own_memory({})
    assert own > 10 * MIB and main == 0
    held = bytearray(os.urandom(1) * (64 * MIB))
    assert own_memory({})[0] - own > 32 * MIB
    del held
    assert own_memory({"MUNET_MAIN_PID": str(os.getppid())})[1] > 0


class Free(Machine):
    """A machine of which this many bytes are left."""

    bytes = 0

    def free(self) -> int:
        return self.bytes


def test_what_is_promised_to_others_is_not_left() -> None:
    machine = Free()
    headroom = Headroom(machine, 2, lambda: 30)
    machine.bytes = 100
    assert headroom.left() == 20
    assert headroom.fits(20) and not headroom.fits(21)


def test_components_go_where_memory_gets_short_and_come_back(
    tmp_path: Path, compilations: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the budget would hold them: something else on this machine needs the memory."""
    store = ModelStore(tmp_path, create=True)
    for number, task in enumerate("abc"):
        publish(store, task, TINY, own=dict.fromkeys(TINY.component_names, number + 1))
    gateway = Gateway(store, compilations, pin="a")
    try:
        answers = {task: gateway.classify(task, png(1)).json()["predictions"] for task in "abc"}
        assert gateway.metric('munet_tasks{state="ready"}') == 3
        left = Headroom.left
        monkeypatch.setattr(Headroom, "left", lambda _: -1)
        eventually(lambda: gateway.metric('munet_tasks{state="cold"}') == 2)
        assert gateway.classify("a", png(1)).json()["predictions"] == answers["a"]  # is pinned
        refused = gateway.classify("b", png(1))
        assert refused.status_code == 503 and refused.headers["retry-after"]
        monkeypatch.setattr(Headroom, "left", left)
        assert gateway.classify("b", png(1)).json()["predictions"] == answers["b"]
        assert gateway.metric("munet_memory_left_bytes") > 0
    finally:
        gateway.close()


def test_programs_leave_what_components_may_yet_take() -> None:
    for left, spare in ((399, False), (400, True)):
        budget = Budget(400, Recency(Metrics()), left.__ge__)
        assert budget.has_spare(100, taken=200) == spare  # next to 200, and 100 for loads
    large = Budget(2**40, Recency(Metrics()), (2 * GIB).__ge__)
    assert large.has_spare(GIB, taken=0) and not large.has_spare(GIB + 1, taken=0)
