"""Architecture: what exists, what does not, and its JSON."""

from __future__ import annotations

import json
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vit import Architecture

VALID: dict[str, Any] = dict(
    width=192,
    heads=3,
    mlp_dim=768,
    patch_size=16,
    image_size=32,
    num_layers=2,
    num_classes=10,
    adapters=(1,),
    adapter_dim=32,
)


@st.composite
def architectures(draw: st.DrawFn) -> Architecture:
    """Any architecture."""
    heads, patch, layers = (
        draw(st.integers(1, 16)),
        draw(st.integers(1, 32)),
        draw(st.integers(0, 8)),
    )
    adapters = draw(st.sets(st.integers(0, layers - 1))) if layers else set()
    return Architecture(
        width=heads * draw(st.integers(1, 64)),
        heads=heads,
        mlp_dim=draw(st.integers(1, 4096)),
        patch_size=patch,
        image_size=patch + draw(st.integers(0, 400)),
        num_layers=layers,
        num_classes=draw(st.integers(1, 2000)),
        adapters=tuple(sorted(adapters)),
        adapter_dim=draw(st.integers(1, 64)),
    )


@given(architectures())
def test_json_round_trip(arch: Architecture) -> None:
    read = Architecture.from_json(json.loads(json.dumps(arch.to_json())))
    assert read == arch and hash(read) == hash(arch)
    assert pickle.loads(pickle.dumps(arch)) == arch


@given(architectures())
def test_components_follow_depth_and_adapters(arch: Architecture) -> None:
    names = arch.component_names
    assert len(names) == len(set(names)) == 5 + arch.num_layers + len(arch.adapters)
    for i in arch.adapters:
        position = names.index(f"residual_adapter_{i}")
        assert names[position + 1] == f"encoderblock_{i}"
    assert arch.tokens == (arch.image_size // arch.patch_size) ** 2 + 1


def test_adapters_may_be_left_out_of_the_json() -> None:
    fields = {**VALID}
    del fields["adapters"], fields["adapter_dim"]
    assert Architecture.from_json(fields) == Architecture(**{**VALID, "adapters": ()})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": 5}, "width 192 is not a multiple of heads 5"),
        ({"patch_size": 33}, "image_size 32 < patch_size 33"),
        ({"adapters": (1, 0)}, r"ascending and distinct, found \(1, 0\)"),
        ({"adapters": (1, 1)}, r"ascending and distinct, found \(1, 1\)"),
        ({"adapters": (2,)}, r"adapters \(2,\) .* found 2"),
        ({"adapters": (-1,)}, r"adapters \(-1,\)"),
        ({"adapters": (0,), "num_layers": 0}, r"adapters \(0,\) .* found 0"),
        ({"heads": 0}, "heads .* at least 1, found 0"),
        ({"width": 0}, "width .* at least 1, found 0"),
        ({"patch_size": 0}, "patch_size .* at least 1, found 0"),
        ({"image_size": -1}, "image_size .* at least 1, found -1"),
        ({"num_classes": 0}, "num_classes .* at least 1, found 0"),
        ({"num_layers": -1, "adapters": ()}, "num_layers .* at least 0, found -1"),
        ({"adapter_dim": 0}, "adapter_dim .* at least 1, found 0"),
    ],
)
def test_impossible_architectures_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Architecture(**{**VALID, **change})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "missing .*'width'"),
        ({**VALID, "dropout": 0.1}, "'dropout'"),
        ({**VALID, "adapters": None}, "not an architecture"),
        ({**VALID, "width": "wide"}, "not an architecture"),
    ],
)
def test_json_that_is_no_architecture_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Architecture.from_json(fields)


def test_unknown_size_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="unknown size 'XL': expected one of Ti, S, B, L"):
        Architecture.named("XL", patch_size=16, image_size=32, num_layers=1, num_classes=2)


@pytest.mark.parametrize("size", ["Ti", "S", "B", "L"])
def test_heads_are_64_wide_and_the_mlp_four_times_the_width(size: str) -> None:
    arch = Architecture.named(size, patch_size=16, image_size=32, num_layers=1, num_classes=2)
    assert arch.width == 64 * arch.heads and arch.mlp_dim == 4 * arch.width
