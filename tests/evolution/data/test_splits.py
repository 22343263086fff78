"""Which splits a task has, by the tables and by the default rule."""

import pytest

from evolution.data.splits import (
    MU2NET_SPLITS,
    MUNET_SPLITS,
    VERSIONS,
    published_version,
    split_rule,
)
from evolution.data.vtab import vtab_task
from evolution.experiments.benchmarks import (
    CHARS,
    CMATERDB,
    VDD,
    VIT,
    VTAB_1K,
    VTAB_FULL,
)
from model_store.names import require_name
from tests.evolution.data.published_tasks import ALL_124, CATALOG_76, MU2NET_69


def splits(name, available=("train", "test"), rules=MU2NET_SPLITS):
    """The three split expressions of a data set."""
    rule = split_rule(name, rules, available)
    return rule.train, rule.validation, rule.test


@pytest.mark.parametrize(
    ("available", "expected"),
    [
        (("train", "validation", "test"), ("train", "validation", "test")),
        (("train", "test"), ("train[5%:]", "train[0%:5%]", "test")),
        (("train", "validation"), ("train[5%:]", "validation", "train[0%:5%]")),
        (("train",), ("train[10%:]", "train[5%:10%]", "train[0%:5%]")),
        (("train", "unlabelled"), ("train[10%:]", "train[5%:10%]", "train[0%:5%]")),
    ],
)
def test_what_is_missing_is_taken_from_the_start_of_train_test_first(available, expected):
    assert splits("mnist", available) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("imagenet2012", ("train", "test", "validation")),
        ("cifar10", ("train", "test", "test")),
        ("cifar100", ("train[:98%]", "train[98%:]", "test")),
        ("visual_domain_decathlon/dtd", ("train", "validation[:50%]", "validation[50%:]")),
        ("i_naturalist2018", ("train", "validation[:50%]", "validation[50%:]")),
        ("places365_small", ("train", "validation[:50%]", "validation[50%:]")),
        ("omniglot", ("train", "small1", "small2")),
        ("cmaterdb/bangla", ("train[20%:]", "train[:20%]", "test")),
        (
            "controlled_noisy_web_labels/mini_imagenet_red",
            ("train_00", "validation[:50%]", "validation[50%:]"),
        ),
        (
            "cycle_gan/maps",
            ("trainA[10%:]+trainB[10%:]", "trainA[:10%]+trainB[:10%]", "testA+testB"),
        ),
        ("imagenet_a", ("test[10%:]", "test[5%:10%]", "test[:5%]")),
        ("siscore/size", ("test[10%:]", "test[5%:10%]", "test[:5%]")),
        ("pet_finder", ("train[10%:]", "train[5%:10%]", "train[:5%]")),
        ("quickdraw_bitmap", ("train[20000:]", "train[10000:20000]", "train[:10000]")),
        ("stanford_online_products", ("train", "test[:10000]", "test[10000:]")),
    ],
)
def test_published_exceptions(name, expected):
    assert splits(name) == expected


def test_munet_differs_in_cmaterdb_alone():
    assert splits("cmaterdb/telugu", rules=MUNET_SPLITS) == ("train[5%:]", "train[0%:5%]", "test")
    for name in {*MU2NET_69, *ALL_124} - {task for task in CHARS if task.startswith("cmaterdb/")}:
        assert splits(name) == splits(name, rules=MUNET_SPLITS)


def test_other_data_sets_validate_and_other_features_label():
    def rule(name):
        return split_rule(name, MU2NET_SPLITS, ("train", "test"))

    assert rule("imagenet2012").validation_dataset == "imagenet_v2"
    assert rule("cifar10").validation_dataset == "cifar10_1/v6"  # 2,000 images; v4 has 2,021
    assert rule("cifar100").validation_dataset is None
    assert rule("stanford_online_products").label.feature == "super_class_id"
    assert rule("mnist").label.feature == "label"
    assert "copies" in rule("omniglot").caution


def test_benchmarks_have_the_published_numbers_of_tasks():
    sizes = [len(tasks) for tasks in (CMATERDB, CHARS, VDD, VIT, VTAB_FULL, VTAB_1K, CATALOG_76)]
    assert sizes == [3, 8, 10, 3, 23, 25, 76]
    assert len(set(MU2NET_69)) == 69 and len(set(ALL_124)) == 124
    assert MU2NET_69[:3] == VIT and MU2NET_69[-25:] == VTAB_1K


def test_every_task_has_a_valid_name_and_a_published_version():
    for name in {*MU2NET_69, *ALL_124, *(task.removeprefix("private:") for task in CMATERDB)}:
        require_name("task", name)
        vtab = vtab_task(name)
        assert published_version(vtab.dataset if vtab else name), name
    assert {vtab_task(name) is not None for name in VTAB_FULL + VTAB_1K} == {True}
    assert {vtab_task(name) for name in (*VIT, *VDD, *CHARS, *CATALOG_76)} == {None}


def test_data_sets_of_rules_and_versions_are_those_of_the_lists():
    used = {(vtab_task(name).dataset if vtab_task(name) else name).split("/")[0]
            for name in {*MU2NET_69, *ALL_124}} | {"imagenet_v2", "cifar10_1"}  # fmt: skip
    assert set(VERSIONS) == used
    assert {pattern.split("/")[0] for pattern in MU2NET_SPLITS} <= used
