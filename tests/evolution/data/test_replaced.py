"""A set that is another one when training goes on: what a path was trained on stays told."""

from dataclasses import replace

import numpy as np
import pytest

from evolution.data.adding import Request, add
from evolution.data.tasks import TaskError, load
from evolution.population import Path
from evolution.publication import require_its_classes
from evolution.roots.loading import random_root
from evolution.run import Run
from model_store import ModelStore, TaskPath
from tests.evolution.data.drawn import class_folders
from tests.evolution.systems import ROOT, tiny
from vit.activation import SIGMOID


def source(_):
    """The tasks of one's own sets."""
    return lambda entry: load(entry, (), canvas=8)


def replaced(place, folder):
    """The set `photos` is that of another folder now."""
    place.remove("photos")
    add(Request("photos", str(folder)), place)


def test_other_classes_under_a_published_name_are_refused(place, tmp_path):
    store = ModelStore(tmp_path / "store", create=True)
    head = {"head": store.put({"bias": np.zeros(2, np.float32)})}
    store.publish(TaskPath("photos", ("a\nb", "c"), {}, head, {}, {}, {}, {}, {}))
    published = store.resolve("photos").digest
    path = Path(1, "photos", None, (), {}, 0, published=published)
    add(Request("photos", str(class_folders(tmp_path / "a", 6, ("disc", "cross")))), place)
    task = load("photos", ())
    require_its_classes(store, replace(task, labels=("a\nb", "c")), [path])
    require_its_classes(store, task, [replace(path, published=None)])
    several = replace(task, labels=("a\nb", "c"), activation=SIGMOID)
    with pytest.raises(TaskError, match=r"for softmax, as its version 1 has, found .* sigmoid"):
        require_its_classes(store, several, [path])
    with pytest.raises(TaskError, match="expected the 2 classes of its version 1") as error:
        require_its_classes(store, task, [path])
    assert len(str(error.value).splitlines()) == 2
    assert "a name of their own" in str(error.value)


@pytest.mark.parametrize("lineage", [{}, {"model": "5"}])
@pytest.mark.parametrize("labels", [("0", "1"), ("1", "0"), ("0", "1", "2"), ("0",), ("x", "y")])
def test_only_numbers_that_an_import_gave_stand_for_other_names(labels, lineage, place, tmp_path):
    store = ModelStore(tmp_path / "store", create=True)
    head = {"head": store.put({"bias": np.zeros(len(labels), np.float32)})}
    store.publish(TaskPath("photos", labels, {}, head, {}, {}, {}, {}, lineage))
    path = Path(1, "photos", None, (), {}, 0, published=store.resolve("photos").digest)
    add(Request("photos", str(class_folders(tmp_path / "a", 6, ("disc", "cross")))), place)
    task = load("photos", ())
    require_its_classes(store, replace(task, labels=labels), [path])
    if lineage and labels == ("0", "1"):
        require_its_classes(store, task, [path])
    else:
        with pytest.raises(TaskError, match="its data set was replaced"):
            require_its_classes(store, task, [path])


@pytest.mark.slow
def test_a_run_goes_on_with_other_pictures_and_is_refused_other_classes(place, tmp_path):
    kinds = ("disc", "cross")
    first = class_folders(tmp_path / "a", 10, kinds)
    more = class_folders(tmp_path / "b", 14, kinds)
    others = class_folders(tmp_path / "c", 10, kinds, names=("round", "crossed"))
    add(Request("photos", str(first)), place)
    store = ModelStore(tmp_path / "store", create=True)
    experiment = tiny(tasks=("photos",), passes=1, samples_per_task=1, rounds_per_child=1)
    list(Run.start(experiment, (ROOT, random_root(ROOT)), store, 0, source).run())
    [told] = [store.resolve("photos", n).path for n in store.versions("photos")]
    replaced(place, others)
    with pytest.raises(
        TaskError, match=r"(?s)2 classes of its version 1 \(cross, disc\).*replaced"
    ):
        list(Run.resume(store, "demo", source, ("photos",)).run())
    replaced(place, more)
    list(Run.resume(store, "demo", source, ("photos",), ["samples_per_task=2"]).run())
    assert store.resolve("photos", 1).path == told, "what it says is of the pictures then"
    now = load("photos", ()).data
    assert now and now["fingerprint"] != told.extra["data"]["fingerprint"]


def test_files_that_lack_pictures_are_told_before_training(place, tmp_path):
    folder = class_folders(tmp_path / "a", 10)
    add(Request("photos", str(folder)), place)
    files = place.root / "photos/data"
    (files / "test-00000-of-00001.parquet").rename(files / "train-00000-of-00001.parquet")
    (files / "test-00000-of-00001.parquet").write_bytes(
        (files / "validation-00000-of-00001.parquet").read_bytes()
    )
    with pytest.raises(TaskError, match=r"expected 18 train pictures, found 6: its files"):
        load("photos", ())
