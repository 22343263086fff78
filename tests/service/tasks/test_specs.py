"""Path specs of multipath versions: what does not fit is refused by name, nothing being read."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_store import Malformed, ModelStore, TaskPath
from service.tasks import specs
from service.tasks.specs import UnservablePath
from tests.service.systems import TINY, multipath, publish

Change = Callable[[dict[str, Any]], Any]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """As JSON, to be changed."""
    store = ModelStore(tmp_path_factory.mktemp("store"), create=True)
    small = replace(TINY, image_size=8)
    parts = [publish(store, "main"), publish(store, "small", small)]
    return multipath(store, "two", parts).to_json()


def changed(good: dict[str, Any], change: Change) -> TaskPath:
    document = copy.deepcopy(good)
    change(document)
    return TaskPath.from_json(document)


def without(document: dict[str, Any], name: str) -> None:
    document["components"] = [one for one in document["components"] if one["name"] != name]


def test_a_good_one_tells_its_networks(good: dict[str, Any]) -> None:
    spec = specs.read(TaskPath.from_json(good))
    assert [network.prefix for network in spec.networks] == ["path_0/", "path_1/"]
    assert [network.outputs for network in spec.networks] == [3, 32]
    assert list(spec.mixer) == ["multipath_router", "head_adapter_path_1"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: without(d, "path_1/encoderblock_0"), r"components \('path_1/encoderblock_0',\)"),
        (lambda d: without(d, "multipath_router"), r"components \('multipath_router',\)"),
        (lambda d: without(d, "head_adapter_path_1"), r"components \('head_adapter_path_1',\)"),
        (lambda d: d["components"].append({**d["components"][0], "name": "x"}), r"found \('x',\)"),
        (lambda d: d["subpaths"].pop(), "sub-paths 2 or 3, found 1"),
        (lambda d: d["subpaths"].extend(2 * d["subpaths"]), "sub-paths 2 or 3, found 6"),
        (lambda d: d["subpaths"].reverse(), "path_0"),
        (lambda d: d["subpaths"][0].update(answers="features"), "path_0 logits, found 'features'"),
        (lambda d: d["subpaths"][1].update(answers="logits"), "components of path_1"),
        (lambda d: d["subpaths"][1].update(answers=["features"]), "logits or features"),
        (lambda d: d["subpaths"][1].update(connector=None), "connector of path_1"),
        (lambda d: d["subpaths"][1].update(connector="multipath_router"), "connector of path_1"),
        (lambda d: d["subpaths"][0].update(connector="head_adapter_path_1"), "connector of path_0"),
        (lambda d: d["subpaths"][1].pop("components"), "components of path_1"),
        (lambda d: d["subpaths"][1].update(components=[1]), "components of path_1"),
        (lambda d: d["subpaths"][1].pop("architecture"), "not an architecture"),
        (lambda d: d["subpaths"][1].update(architecture={}), "not an architecture"),
        (lambda d: d["subpaths"][1]["architecture"].update(num_layers=10**12), "10{12} blocks"),
        (lambda d: d["subpaths"][1]["architecture"].update(num_layers="2"), "not an architecture"),
        (
            lambda d: d["subpaths"][1]["architecture"].update(image_size=10**6),
            "at most 4096 pixels",
        ),
        (lambda d: d["subpaths"][1].update(input={"size": 16}), "input of path_1"),
        (lambda d: d["labels"].append("more"), "num_classes 4, found 3"),
        (lambda d: d["architecture"].update(num_classes=True), "num_classes"),
        (lambda d: d["architecture"].update(num_paths=3), "num_paths 2, found 3"),
        (lambda d: d["subpaths"][0]["architecture"].update(num_classes=4), "main path 3, found 4"),
        (lambda d: d.update(input={"size": 16}), "input"),
        (lambda d: d["input"].update(sizes=[16]), "input"),
        (lambda d: d.update(activation="tanh"), "softmax, sigmoid, found 'tanh'; update"),
        (lambda d: d.update(activation=None), "softmax, sigmoid, found None"),
        (lambda d: d.update(activation=["sigmoid"] * 10**5), "softmax, sigmoid"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(
    good: dict[str, Any], change: Change, message: str
) -> None:
    with pytest.raises(UnservablePath, match=message):
        specs.read(changed(good, change))


def places(value: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where a document has a value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    found: list[tuple[Any, ...]] = []
    for key, one in inner:
        found.append((*place, key))
        if isinstance(one, dict | list):
            found += places(one, (*place, key))
    return found


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**18), 10**18) | st.floats(-1e9, 1e9) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_whatever_stands_anywhere_it_is_read_or_refused_in_few_words(
    good: dict[str, Any], data: st.DataObject
) -> None:
    fields = {name: good[name] for name in ("architecture", "input", "subpaths")}
    document = copy.deepcopy(fields)
    *outer, last = data.draw(st.sampled_from(places(document)))
    inner: Any = document
    for key in outer:
        inner = inner[key]
    inner[last] = data.draw(JSON)
    try:
        path = TaskPath.from_json({**good, **document})
    except Malformed:  # no store takes it
        return
    assert all(type(size) is int for size in specs.input_sizes(path))
    try:
        specs.read(path)
    except UnservablePath as error:
        assert len(str(error)) < 1000
