"""What several paths share runs as one program, answers the same, and goes with its components."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from service.compute.backends import Known
from service.compute.paths import LoadedPath
from service.compute.trunks import Trunk
from tests.service.compute.engines import BOUND, System, distance, row
from tests.service.systems import TINY, publish
from tests.service.waiting import eventually

DEEP = replace(TINY, num_layers=4)


class Trunked(System):
    """Loads paths whose last block and head are their own, and says which trunks there are."""

    def path(self, name: str, own: int = 3) -> LoadedPath:
        """`own` is the first block that is the path's own."""
        seeds = {f"encoderblock_{i}": sum(name.encode()) for i in range(own, DEEP.num_layers)}
        return self.load(publish(self.store, name, DEEP, own=seeds))

    @property
    def trunks(self) -> list[Trunk]:
        """Those that are ready, the longest first."""
        found = [one for trunks in self.engine.trunks._by_first.values() for one in trunks]
        ready = [one for one in found if one.run is not None]
        return sorted(ready, key=lambda one: len(one.chain), reverse=True)


@pytest.fixture
def system(tmp_path: Path, compilations: str) -> Iterator[Trunked]:
    made = Trunked(tmp_path, compilations, "openvino")
    yield made
    made.engine.close()


def counted(trunk: Trunk) -> list[int]:
    """Rows of each call from now on."""
    calls, run = [], trunk.run
    assert run is not None

    def noted(x: object, run: Known = run) -> object:
        calls.append(len(x))  # type: ignore[arg-type]
        return run(x)

    trunk.run = noted
    return calls


def test_what_two_paths_share_runs_in_one_call_for_all_rows(system: Trunked) -> None:
    """In as many rows as there are, without padding; answers are those of the networks."""
    paths = [system.path("a")]
    assert system.trunks == [], "nothing is shared yet"
    paths.append(system.path("b"))
    (trunk,) = system.trunks
    assert len(trunk.chain) == 4  # the stem, and three of four blocks
    calls = counted(trunk)
    for count in (1, 2, 3, 4):
        rows = [row(paths[i % 2], i) for i in range(count)]
        assert distance(system.engine.run(rows), list(map(system.expected, rows))) < BOUND
    assert calls == [1, 2, 3, 4]


def test_more_rows_than_a_call_takes_run_in_calls_of_about_as_many(system: Trunked) -> None:
    paths = [system.path("a"), system.path("b")]
    (trunk,) = system.trunks
    trunk.rows = 3
    calls = counted(trunk)
    rows = [row(paths[i % 2], i) for i in range(7)]
    assert distance(system.engine.run(rows), list(map(system.expected, rows))) < BOUND
    assert calls == [3, 2, 2]


def test_a_rows_answer_depends_on_no_other_row_of_its_call(system: Trunked) -> None:
    """Bit for bit, within a number of rows."""
    mine, other = system.path("a"), system.path("b")
    first = system.engine.run([row(mine, 1), row(other, 2), row(other, 3)])[0]
    second = system.engine.run([row(mine, 1), row(mine, 4), row(other, 5)])[0]
    assert (first == second).all()


def test_the_longest_trunk_that_all_rows_take_is_run(system: Trunked) -> None:
    near, nearest, far = system.path("a"), system.path("b"), system.path("c", own=1)
    longer, shorter = system.trunks[:2]
    assert [len(one.chain) for one in (longer, shorter)] == [4, 2]
    long_calls, short_calls = counted(longer), counted(shorter)
    rows = [row(near, 1), row(nearest, 2)]
    assert distance(system.engine.run(rows), list(map(system.expected, rows))) < BOUND
    assert (long_calls, short_calls) == ([2], [])
    rows.append(row(far, 3))
    assert distance(system.engine.run(rows), list(map(system.expected, rows))) < BOUND
    assert (long_calls, short_calls) == ([2], [3])


def test_a_trunk_goes_with_its_components(system: Trunked) -> None:
    first, second = system.path("a"), system.path("b")
    (trunk,) = system.trunks
    del first
    assert trunk.run is not None
    del second
    assert trunk.run is None and system.trunks == []


def test_a_trunk_that_comes_when_its_components_have_gone_is_not_kept(system: Trunked) -> None:
    paths = [system.path("a"), system.path("b")]
    (trunk,) = system.trunks
    run = trunk.run
    assert run is not None
    paths.clear()
    trunk.take(run)
    assert trunk.run is None


def test_without_memory_for_a_trunk_the_next_load_asks_again(
    system: Trunked, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = False

    class Memory:
        def require_room(self, size: int) -> None:
            """There is."""

        def has_spare(self, size: int) -> bool:
            return left

    system.engine.programs.memory = Memory()
    paths = [system.path("a"), system.path("b")]
    assert system.trunks == []
    rows = [row(path, 1) for path in paths]
    assert distance(system.engine.run(rows), list(map(system.expected, rows))) < BOUND
    left = True
    paths.append(system.path("c"))
    eventually(lambda: len(system.trunks) == 1)
