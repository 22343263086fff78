"""Tasks from the shipped data: splits, labels, errors."""

import numpy as np
import pytest

from evolution.tasks import SHIPPED, TaskError, TaskSource, load
from model_store import InvalidName


@pytest.mark.parametrize(
    ("name", "train", "validation", "test"),
    [
        ("cmaterdb/bangla", 4000, 1000, 1000),
        ("cmaterdb/devanagari", 2000, 500, 500),
        ("cmaterdb/telugu", 2000, 500, 500),
    ],
)
def test_the_shipped_tasks_have_the_published_splits(name, train, validation, test):
    task = load(name, (SHIPPED,))
    assert [len(s.labels) for s in (task.train, task.validation, task.test)] == [
        train, validation, test,
    ]  # fmt: skip
    assert task.train.images.shape[1:] == (32, 32, 3)
    assert task.labels == tuple("0123456789") and task.num_classes == 10
    assert set(np.unique(task.test.labels)) == set(range(10))


def test_a_private_task_is_marked_in_the_list_and_keeps_its_name():
    task = TaskSource((SHIPPED,))("private:cmaterdb/telugu")
    assert task.private and task.name == "cmaterdb/telugu"


def test_a_data_set_that_is_not_prepared_says_how_to_prepare_it(tmp_path):
    with pytest.raises(TaskError, match="python -m evolution prepare mnist"):
        load("mnist", (SHIPPED, tmp_path))


@pytest.mark.parametrize("name", ["nonsuch", "cmaterdb/tamil"])
def test_an_unknown_data_set_is_named(name, tmp_path):
    with pytest.raises(TaskError, match=f"no TensorFlow data set is called '{name}'"):
        load(name, (tmp_path,))


@pytest.mark.parametrize("name", ["Mnist?", "", "cmaterdb/telugu:1.0.0"])
def test_a_name_that_the_store_would_refuse_is_refused_before_training(name):
    with pytest.raises(InvalidName):
        load(name, (SHIPPED,))
