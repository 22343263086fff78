"""Which replica serves which task: families together, replicas even, and hardly anything moves."""

from __future__ import annotations

import random
import subprocess
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from model_store import Digest
from model_store.cli.placement import app
from model_store.upkeep.placement import Member, Placement, place
from tests.model_store.registries import program
from tests.model_store.samples import arrays, new_store, path
from tests.service.servers import ROOT

TINY = Digest("zeros")  # such as a fresh cls token: equal in all networks


def family(
    name: str, tasks: int, *, shared: int = 1000, own: int = 100, since: int = 0
) -> list[Member]:
    """Tasks of one backbone, each with bytes of its own, published one after the other."""
    return [
        Member(
            f"{name}/{number}",
            f"2026-{since + number:06}",
            {TINY: 1, Digest(f"{name} body"): shared, Digest(f"{name} head {number}"): own},
        )
        for number in range(tasks)
    ]  # fmt: skip


def homes(found: Placement) -> dict[str, set[int]]:
    """Family -> where its tasks are."""
    where: defaultdict[str, set[int]] = defaultdict(set)
    for task, number in found.tasks.items():
        where[task.split("/")[0]].add(number)
    return where


def moved(before: Placement, after: Placement) -> int:
    return sum(after.tasks[task] != number for task, number in before.tasks.items())


def test_families_that_share_nothing_lie_on_one_replica_each() -> None:
    found = place([*family("a", 5), *family("b", 7), *family("c", 6)], 3)
    assert sorted(map(len, homes(found).values())) == [1, 1, 1]
    assert len(set(found.tasks.values())) == 3


def test_one_family_is_spread_over_all_replicas() -> None:
    found = place(family("a", 300), 3)
    for size in found.bytes:
        assert size <= 1 + 1000 + 1.1 * 100 * 100 + 100


def test_a_large_family_has_several_replicas_and_a_small_one_lies_beside_others() -> None:
    found = place([*family("large", 200), *family("small", 3), *family("other", 90)], 3)
    assert [len(homes(found)[name]) for name in ("large", "other", "small")] == [2, 1, 1]
    assert not homes(found)["large"] & homes(found)["other"]


def test_tasks_that_share_nothing_are_balanced_by_bytes() -> None:
    members = [
        replace(family(f"f{number}", 1, own=size)[0], task=f"f{number}")
        for number, size in enumerate([4000, 3000, 3000, 2000, 2000, 1000, 900, 800, 100])
    ]
    found = place(members, 3)
    assert max(found.bytes) < 1.25 * sum(found.bytes) / 3


def test_a_component_of_hardly_any_bytes_joins_nobody() -> None:
    members = [*family("a", 4, shared=150), *family("b", 4, shared=150)]
    assert [len(where) for where in homes(place(members, 2)).values()] == [1, 1]
    joined = [replace(one, components={**one.components, TINY: 50}) for one in members]
    assert [len(where) for where in homes(place(joined, 2)).values()] == [2, 2]


systems = st.lists(
    st.tuples(st.integers(1, 30), st.integers(0, 5000), st.integers(0, 500), st.integers(0, 50)),
    max_size=8,
)


def members_of(drawn: Sequence[tuple[int, int, int, int]]) -> list[Member]:
    return [
        one
        for number, (tasks, shared, own, since) in enumerate(drawn)
        for one in family(f"f{number}", tasks, shared=shared, own=own, since=since)
    ]


@given(systems, st.integers(1, 12), st.randoms(use_true_random=False))
def test_the_same_store_has_the_same_placement(
    drawn: Sequence[tuple[int, int, int, int]], replicas: int, order: random.Random
) -> None:
    members = members_of(drawn)
    found = place(members, replicas)
    order.shuffle(members)
    again = place(members, replicas)
    assert (again.tasks, again.bytes) == (found.tasks, found.bytes)
    assert found.tasks.keys() == {one.task for one in members}
    assert len(found.bytes) == replicas


@given(systems, st.integers(2, 6))
def test_no_replica_has_much_more_than_its_part_of_a_family(
    drawn: Sequence[tuple[int, int, int, int]], replicas: int
) -> None:
    found = place(members_of(drawn), replicas)
    for number, (tasks, shared, own, _) in enumerate(drawn):
        # Else these tasks are families, or their one byte of TINY joins them with others.
        if tasks > 1 and 100 * shared >= shared + own + 1 > 100:
            where = [found.tasks[f"f{number}/{task}"] for task in range(tasks)]
            parts = max(1, len(set(where)))
            most = max(where.count(home) for home in where) * own
            # What was given may be more replicas than tasks chose.
            assert most <= 1.1 * tasks * own / parts + own


SYSTEMS: Mapping[str, list[Member]] = {
    "one family": family("a", 300),
    "three equal families": [*family("a", 40), *family("b", 40), *family("c", 40)],
    "a large and a small family": [*family("a", 200), *family("b", 20)],
    "many families": [one for n in range(40) for one in family(f"f{n}", 3, since=10 * n)],
    "families of one task": [one for n in range(60) for one in family(f"f{n}", 1, since=n)],
}


@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.parametrize("replicas", [2, 3, 7])
def test_hardly_any_task_moves_when_one_is_added(name: str, replicas: int) -> None:
    members = SYSTEMS[name]
    before = place(members, replicas)
    names = sorted({one.task.split("/")[0] for one in members})
    for into in {names[0], names[-1]}:  # joins a family
        (last,) = family(into, 501, since=10_000)[500:]
        after = place([*members, last], replicas)
        assert moved(before, after) <= 0.03 * len(members)
        assert after.tasks[last.task] in homes(before)[into]
    after = place([*members, *family("new", 1, since=20_000)], replicas)  # is a family
    assert moved(before, after) <= 0.03 * len(members)


def test_on_average_one_task_of_fifty_moves_at_most() -> None:
    drawn = random.Random(0)
    shares: list[float] = []
    for _ in range(100):
        shape = [
            (drawn.randint(10, 100), drawn.randint(100, 5000), drawn.randint(10, 500), 10 * number)
            for number in range(drawn.choice([1, 2, 3, 5, 10]))
        ]
        members, replicas = members_of(shape), drawn.choice([2, 3, 4, 6, 12])
        number = drawn.randrange(len(shape))
        (last,) = family(
            f"f{number}", 501, shared=shape[number][1], own=shape[number][2], since=10_000
        )[500:]
        before, after = place(members, replicas), place([*members, last], replicas)
        shares.append(moved(before, after) / len(members))
    assert sum(shares) / len(shares) <= 0.02
    assert sorted(shares)[len(shares) // 2] == 0.0


def test_with_a_replica_more_a_family_s_tasks_move_to_it_alone() -> None:
    before, after = place(family("a", 300), 3), place(family("a", 300), 4)
    assert {
        after.tasks[task] for task in before.tasks if after.tasks[task] != before.tasks[task]
    } == {3}
    assert moved(before, after) < 100


def test_the_command_writes_a_map_that_haproxy_takes(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    backbones = {name: store.put(arrays(seed, 64)) for seed, name in enumerate(("a", "b"), 1)}
    for number, name in enumerate(("a", "b") * 3):
        components = {"embedding": backbones[name], "head": store.put(arrays(10 + number))}
        store.publish(path(f"{name}/{number}", components))
    command = ["--store", store.url, "--replicas", "2"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    lines = [line.split() for line in done.stdout.splitlines() if not line.startswith("#")]
    assert [task for task, _ in lines] == sorted(store.tasks())
    placed = {task.split("/")[0]: home for task, home in lines}
    assert all(home == placed[task.split("/")[0]] for task, home in lines)
    assert set(placed.values()) == {"replica1", "replica2"}
    store.publish(path("a/0", {"embedding": backbones["a"], "head": store.put(arrays(99))}))
    assert CliRunner().invoke(app, command).stdout == done.stdout, "a new version moves nothing"

    shipped = (ROOT / "deploy/haproxy/haproxy.cfg").read_text()
    (tmp_path / "haproxy.cfg").write_text(shipped)
    (tmp_path / "tasks.map").write_text(done.stdout)
    check = [program("haproxy", "haproxy"), "-c", "-dW", "-f", str(tmp_path / "haproxy.cfg")]
    checked = subprocess.run(check, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
