"""The tasks of the stream: which classes and pictures of a data set they have."""

import numpy as np

from evolution.data.splits import SplitRule
from evolution.data.stream import STREAM, StreamTask
from evolution.data.tasks import SHIPPED, Split, load
from evolution.experiments.benchmarks import STREAM as NAMES
from evolution.experiments.named import EXPERIMENTS

WHOLE = SplitRule("train", "test", "test")


def test_each_split_has_its_number_of_pictures_of_each_class():
    task = load("stream/digits-telugu", (SHIPPED,))
    assert task.labels == tuple("0123456789")
    for split, count in ((task.train, 10), (task.validation, 10), (task.test, 40)):
        assert isinstance(split, Split)
        assert np.bincount(split.labels).tolist() == [count] * 10
    whole = load("cmaterdb/telugu", (SHIPPED,), {"cmaterdb/*": WHOLE}).train
    assert isinstance(whole, Split)
    of_class = whole.images[whole.labels == 7]
    for split, first in ((task.train, 0), (task.validation, 10), (task.test, 20)):
        assert isinstance(split, Split)
        mine = split.images[split.labels == 7]
        assert (mine == of_class[first : first + len(mine)]).all()


def test_classes_are_the_first_whose_names_begin_so():
    task = StreamTask("set", "train", ("b_",), most=2)
    assert task.chosen(["a_0", "b_0", "a_1", "b_1", "b_2"]) == [1, 3]


def test_a_split_takes_turns_and_a_small_class_gives_what_it_has():
    task = StreamTask("set", "train", pictures=(1, 1, 2))
    labels = np.array([5, 5, 9, 5, 9, 5])
    found = task.rows(labels, [5, 9])
    assert found == {"train": [0, 2], "validation": [1, 4], "test": [3, 5]}


def test_the_stream_is_the_same_with_and_without_earlier_paths():
    assert tuple(STREAM) == NAMES and len(NAMES) >= 20
    alone = EXPERIMENTS["fitted-stream-alone"].tasks
    assert alone == tuple(f"private:{name}" for name in EXPERIMENTS["fitted-stream"].tasks)
