"""Small tasks: which classes and pictures of a data set they have; the sets that are drawn."""

import io
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

import demo
from evolution.data.drawn_sets import DRAWN, EACH, DrawnSet, _record
from evolution.data.small_tasks import DEMO, HELD_OUT, STREAM, WORKED_ON, SmallTask
from evolution.data.splits import SplitRule
from evolution.data.tasks import Split, load
from evolution.experiments import benchmarks
from evolution.experiments.benchmarks import STREAM as NAMES
from evolution.experiments.named import EXPERIMENTS
from tests.data import DATA

WHOLE = SplitRule("train", "test", "test")


def test_each_split_has_its_number_of_pictures_of_each_class():
    task = load("stream/digits-telugu", (DATA,))
    assert task.labels == tuple("0123456789")
    for split, count in ((task.train, 10), (task.validation, 10), (task.test, 40)):
        assert isinstance(split, Split)
        assert np.bincount(split.labels).tolist() == [count] * 10
    whole = load("cmaterdb/telugu", (DATA,), {"cmaterdb/*": WHOLE}).train
    assert isinstance(whole, Split)
    of_class = whole.images[whole.labels == 7]
    for split, first in ((task.train, 0), (task.validation, 10), (task.test, 20)):
        assert isinstance(split, Split)
        mine = split.images[split.labels == 7]
        assert (mine == of_class[first : first + len(mine)]).all()


def test_classes_are_the_first_whose_names_begin_so():
    task = SmallTask("set", "train", ("b_",), most=2)
    assert task.chosen(["a_0", "b_0", "a_1", "b_1", "b_2"]) == [1, 3]


def test_a_split_takes_turns_and_a_small_class_gives_what_it_has():
    task = SmallTask("set", "train", pictures=(1, 1, 2))
    labels = np.array([5, 5, 9, 5, 9, 5])
    found = task.rows(labels, [5, 9])
    assert found == {"train": [0, 2], "validation": [1, 4], "test": [3, 5]}


def test_the_stream_is_the_same_with_and_without_earlier_paths():
    assert tuple(STREAM) == NAMES and len(NAMES) >= 20
    alone = EXPERIMENTS["fitted-stream-alone"].tasks
    assert alone == tuple(f"private:{name}" for name in EXPERIMENTS["fitted-stream"].tasks)


def test_a_tenth_is_a_part_of_the_whole_and_tests_on_the_same_pictures():
    labels = np.arange(600) % 3
    whole, tenth = (
        SmallTask("set", "train", pictures=(100, 50, 20), one_in=n).rows(labels, [0, 1, 2])
        for n in (1, 10)
    )
    assert [len(tenth[split]) for split in ("train", "validation", "test")] == [30, 15, 60]
    assert tenth["test"] == whole["test"]
    assert set(tenth["train"]) < set(whole["train"])
    assert not set(tenth["train"]) & set(tenth["validation"])


def test_the_comparison_has_each_task_once_and_what_is_small_comes_first():
    """Else a task of few pictures could start from a path that has seen all of them."""
    assert set(benchmarks.COMPARE_FULL) == set(WORKED_ON) and len(WORKED_ON) == 16
    assert set(benchmarks.COMPARE) == set(HELD_OUT)
    cut: list[bool] = []
    for tasks in (benchmarks.COMPARE_FULL, benchmarks.COMPARE):
        cut = [name.endswith("-tenth") for name in tasks]
        assert cut == sorted(cut, reverse=True)
    names = [name.removesuffix("-tenth") for name in benchmarks.COMPARE]
    assert len(names) == len(set(names)) == 8 and 2 * sum(cut) == len(cut)
    for name, task in (WORKED_ON | HELD_OUT).items():
        assert (task.one_in == 10) == name.endswith("-tenth")


def test_no_picture_that_decides_was_there_when_the_rule_was_worked_out():
    worked_on, held_out = (
        {split.images[row].tobytes() for split in splits(name) for row in range(len(split))}
        for name in ("compare/bangla", "compare/bangla-later")
    )
    assert len(held_out) > 2400
    assert len(worked_on & held_out) <= 3, "CMATERdb has these twice"


def splits(name: str) -> Iterator[Split]:
    """Those of a task of the tests' data."""
    task = load(name, (DATA,))
    for split in (task.train, task.validation, task.test):
        assert isinstance(split, Split)
        yield split


@pytest.mark.parametrize("name", DRAWN)
def test_drawn_sets_are_tasks_and_the_same_each_time(name: str):
    drawn = DrawnSet(name)
    rows = [*range(20), len(drawn) - 1]
    records = drawn.__getitems__(rows)
    _record.cache_clear()
    assert drawn.__getitems__(rows) == records and len(set(records)) == len(records)
    examples = [drawn.parse(record) for record in records]
    assert [example["label"] for example in examples] == drawn.labels[rows].tolist()
    assert np.bincount(drawn.labels).tolist() == [EACH] * len(drawn.names)
    image = Image.open(io.BytesIO(examples[0]["image"]))
    assert (image.size, image.mode) == ((32, 32), "RGB")


def test_a_drawn_task_has_the_classes_of_its_set():
    task = load("compare/shapes-tenth", ())
    assert task.labels == DrawnSet("drawn/shapes").names
    assert (len(task.train), len(task.validation), len(task.test)) == (100, 50, 1000)


def test_the_tasks_of_the_demo_need_no_data():
    assert (*EXPERIMENTS["demo"].tasks, demo.TASKS[-1]) == demo.TASKS == tuple(DEMO)
