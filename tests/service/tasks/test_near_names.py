"""The names that are near to one that is not known."""

from __future__ import annotations

import itertools
import time

from hypothesis import given
from hypothesis import strategies as st

from service.tasks.near_names import NearNames


@given(
    st.lists(st.text("ab-/0é", min_size=1, max_size=8), unique=True), st.text("ab-/0é"), st.data()
)
def test_what_is_left_out_of_the_near_names_moves_no_other(
    names: list[str], name: str, data: st.DataObject
) -> None:
    left = [one for one in names if data.draw(st.booleans())]
    found = list(NearNames().of(name, names))
    assert list(NearNames().of(name, left)) == [one for one in found if one in left]
    assert not name or name not in names or found[0] == name


def test_near_names_follow_the_names() -> None:
    near = NearNames()
    assert list(near.of("apple", ["apples", "pears"])) == ["apples"]
    assert list(near.of("apple", ["apes", "apples", "pears"])) == ["apples", "apes"]
    assert list(near.of("apple", [])) == []
    assert list(near.of("x" * 100_000, ["x" * 200, "y"])) == ["x" * 200]


def test_a_search_costs_a_small_part_of_taking_the_names_in() -> None:
    """A request may name many tasks that there are not, each of them long."""
    names, near = sorted(f"{i % 7}/{i:x}" * 4 for i in range(20_000)), NearNames()

    def seconds(name: str) -> float:
        began = time.thread_time()
        list(itertools.islice(near.of(name, names), 3))
        return time.thread_time() - began

    taking_in_s = seconds("")
    assert min(seconds(f"{i}{'x' * 800}") for i in range(4)) < taking_in_s / 4  # some fortieth
