"""The names that are near to one that is not known."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.tasks import near_names
from service.tasks.near_names import LONGEST, NearNames


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


def test_a_search_converts_the_name_that_is_looked_for_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A request may name many tasks that there are not, each of them long."""
    converted: list[int] = []
    few = near_names._few

    def counted(names: Sequence[str]) -> near_names.Bits:
        converted.extend(map(len, names))
        return few(names)

    monkeypatch.setattr(near_names, "_few", counted)
    names, near = sorted(f"{i % 7}/{i:x}" for i in range(20_000)), NearNames()
    list(near.of("a", names))
    assert len(converted) == 20_001
    for i in range(4):
        list(near.of(f"{i}{'x' * 800}", names))
    assert converted[20_001:] == [LONGEST] * 4
    list(near.of("a", [*names, "new"]))
    assert len(converted) == 20_007  # the new one, and the one that is looked for
