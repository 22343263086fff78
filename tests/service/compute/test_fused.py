"""Fused programs answer the same bit for bit, are not needed, and take bounded memory."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.compute.backends import Compiled
from service.compute.programs import FUSED, MOST_FUSED, SIDE_BY_SIDE
from service.tasks.eviction import NoRoom
from tests.service.compute.engines import BOUND, System, distance, row
from tests.service.systems import TINY, publish
from tests.service.waiting import eventually


@pytest.fixture(scope="module")
def fused(tmp_path_factory: pytest.TempPathFactory, compilations: str) -> Iterator[System]:
    """A system with fused programs: runs of blocks, whole paths of one row, blocks side by side."""
    made = System(tmp_path_factory.mktemp("fused"), compilations, "openvino")
    made.load(publish(made.store, "first", replace(TINY, num_layers=2 * FUSED + 2)))
    programs = len(made.engine.programs.buckets) + 1 + 2  # the last block is of another kind
    eventually(lambda: made.fused == programs)
    yield made
    made.engine.close()


def test_fused_programs_answer_the_same_bit_for_bit(
    fused: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However paths part and meet, in each number of rows."""
    deep = replace(TINY, num_layers=2 * FUSED + 2)
    owns = ({}, {"head": 1}, {f"encoderblock_{FUSED + 1}": 1}, {"encoderblock_0": 2, "head": 2})
    paths = [
        fused.load(publish(fused.store, f"deep/{i}", deep, own=own)) for i, own in enumerate(owns)
    ]
    batches = [[row(path, 1)] for path in paths]
    batches += [[row(paths[i % 4], i * (seed % 2)) for i in range(seed)] for seed in range(2, 9)]
    stages, run = [], fused.engine.programs.run
    monkeypatch.setattr(
        fused.engine.programs,
        "run",
        lambda chain, *a, **n: (stages.append(len(chain)), run(chain, *a, **n))[1],
    )
    together = [fused.engine.run(rows) for rows in batches]
    assert {1, FUSED, 2 * FUSED + 4} == set(stages)
    monkeypatch.setattr(fused.engine.programs, "chains", lambda *_: ())
    stages.clear()
    for rows, answers in zip(batches, together, strict=True):
        for answer, alone in zip(answers, fused.engine.run(rows), strict=True):
            assert np.array_equal(answer, alone)
    assert set(stages) == {1}


def test_side_by_side_rows_are_answered_as_alone_bit_for_bit(
    fused: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many are left over, and in any order."""
    deep = replace(TINY, num_layers=2 * FUSED + 2)
    last = f"encoderblock_{deep.num_layers - 1}"
    owns = [{last: i, f"encoderblock_{FUSED + 1}": i // 5} for i in range(2 * SIDE_BY_SIDE + 1)]
    paths = [
        fused.load(publish(fused.store, f"own/{i}", deep, own=own)) for i, own in enumerate(owns)
    ]
    calls, run = [], fused.engine.programs.run
    monkeypatch.setattr(
        fused.engine.programs,
        "run",
        lambda chain, rows, *, stacked: (
            calls.append((chain[0].stackable, rows, stacked)),
            run(chain, rows, stacked=stacked),
        )[1],
    )
    for count in range(1, len(paths) + 1):
        rows = [row(path, i) for i, path in enumerate(paths[-count:])]
        calls.clear()
        answers = fused.engine.run(rows)
        aside = [rows for stackable, rows, stacked in calls if stacked and not stackable]
        assert aside == [SIDE_BY_SIDE] * (count // SIDE_BY_SIDE)
        with monkeypatch.context() as single:
            single.setattr(fused.engine.programs, "side_by_side", lambda _: False)
            assert all(map(np.array_equal, answers, fused.engine.run(rows)))


def test_a_program_that_cannot_be_fused_is_not_needed(
    tmp_path: Path, compilations: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = System(tmp_path, compilations, "openvino")
    compile_ = system.engine.programs._backend.compile
    tried = threading.Event()

    def refused(chain: Any, rows: int, *, stacked: bool, spare: Any) -> Compiled:
        if len(chain) > 1 or (stacked and not chain[0].stackable):
            tried.set()
            raise RuntimeError("no memory")
        return compile_(chain, rows, stacked=stacked, spare=spare)

    monkeypatch.setattr(system.engine.programs._backend, "compile", refused)
    mine = row(system.load(publish(system.store, "a")), 1)
    assert tried.wait(60)
    assert distance(system.engine.run([mine]), [system.expected(mine)]) < BOUND
    system.engine.close()


def test_fused_programs_take_no_more_memory_with_every_new_depth(fused: System) -> None:
    for depth in range(1, 40):
        fused.load(publish(fused.store, f"depth/{depth}", replace(TINY, num_layers=depth)))
    assert fused.engine.programs.fused_stages <= MOST_FUSED


class Little:
    """Memory in which single programs have room, and fused ones none."""

    room = True

    def require_room(self, size: int) -> None:
        assert size > 0
        if not self.room:
            raise NoRoom("nothing is left")

    def has_spare(self, size: int) -> bool:
        assert size > 0
        return False


def test_fused_programs_take_no_memory_that_others_need(tmp_path: Path, compilations: str) -> None:
    system = System(tmp_path, compilations, "openvino")
    system.engine.programs.memory = Little()
    mine = row(system.load(publish(system.store, "a")), 1)
    assert distance(system.engine.run([mine]), [system.expected(mine)]) < BOUND
    eventually(lambda: system.engine.programs.fused_stages == 0)
    system.engine.close()


def test_programs_without_room_are_made_when_there_is_some(
    tmp_path: Path, compilations: str
) -> None:
    system, memory = System(tmp_path, compilations, "openvino"), Little()
    system.engine.programs.memory = memory
    memory.room = False
    published = publish(system.store, "a")
    with pytest.raises(NoRoom):
        system.load(published)
    memory.room = True
    mine = row(system.load(published), 1)
    assert distance(system.engine.run([mine]), [system.expected(mine)]) < BOUND
    system.engine.close()
