"""VTAB's splits and label conversions."""

import numpy as np
import pytest

from evolution.data.vtab import (
    VTAB_TASKS,
    bin_index,
    clevr_closest_object_distance,
    clevr_count_all,
    clevr_count_cylinders,
    is_thousand,
    kitti_closest_object_distance,
    kitti_closest_vehicle_distance,
    kitti_count_vehicles,
    vtab_task,
)

COUNTS = {
    "caltech101": {"train": 3059, "test": 6085},
    "clevr/count_all": {"train": 70000, "validation": 15000, "test": 15000},
    "dsprites/label_orientation": {"train": 737280},
    "eurosat": {"train": 27000},
    "kitti/count_vehicles": {"train": 6347, "validation": 423, "test": 711},
    "oxford_iiit_pet": {"train": 3680, "test": 3669},
    "smallnorb/label_azimuth": {"train": 24300, "test": 24300},
    "svhn_cropped": {"train": 73257, "test": 26032, "extra": 531131},
}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("caltech101", ("train[0:2753]", "train[2753:3059]", "test")),
        ("caltech101/1k", ("train[0:800]", "train[2753:2953]", "test")),
        ("clevr/count_all", ("train[0:63000]", "train[63000:70000]", "validation")),
        ("clevr/count_all/1k", ("train[0:800]", "train[63000:63200]", "validation")),
        (
            "dsprites/label_orientation",
            ("train[0:589824]", "train[589824:663552]", "train[663552:737280]"),
        ),
        ("eurosat", ("train[0:16200]", "train[16200:21600]", "train[21600:27000]")),
        ("eurosat/1k", ("train[0:800]", "train[16200:16400]", "train[21600:27000]")),
        ("kitti/count_vehicles", ("train", "validation", "test")),
        ("kitti/count_vehicles/1k", ("train[0:800]", "validation[0:200]", "test")),
        ("oxford_iiit_pet", ("train[0:2944]", "train[2944:3680]", "test")),
        ("smallnorb/label_azimuth", ("train", "test[0:12150]", "test[12150:24300]")),
        ("smallnorb/label_azimuth/1k", ("train[0:800]", "test[0:200]", "test[12150:24300]")),
        ("svhn_cropped", ("train[0:65931]", "train[65931:73257]", "test")),
    ],
)
def test_splits(name, expected):
    rule = vtab_task(name).rule(COUNTS[name.removesuffix("/1k")], is_thousand(name))
    assert (rule.train, rule.validation, rule.test) == expected


def test_whole_cifar_is_not_of_vtab_but_its_thousand_is():
    assert vtab_task("cifar10") is None and vtab_task("cifar100") is None
    rule = vtab_task("cifar100/1k").rule({"train": 50000, "test": 10000}, True)
    assert (rule.train, rule.validation, rule.test) == (
        "train[0:800]", "train[45000:45200]", "test",
    )  # fmt: skip
    assert vtab_task("mnist") is None and vtab_task("mnist/1k") is None


@pytest.mark.parametrize(
    ("value", "index"), [(-101, -1), (-100, -1), (-99, 0), (5.6, 0), (5.61, 1), (23.4, 3), (99, 4)]
)
def test_bins_are_closed_above(value, index):
    assert bin_index(value, (-100, 5.6, 8.4, 13.4, 23.4)) == index


def test_clevr():
    objects = {
        "size": [0, 1, 1, 0],
        "shape": np.array([2, 0, 2, 1]),
        "pixel_coords": np.array([[1, 2, 9.6], [3, 4, 8.5], [5, 6, 12], [0, 0, 8.7]], np.float32),
    }
    assert clevr_count_all(objects) == 1  # 4 objects; the fewest are 3
    assert clevr_count_cylinders(objects) == 2
    assert clevr_closest_object_distance(objects) == 1  # 8 to 8.5
    for distance, index in ((7.9, 0), (8.0, 0), (8.1, 1), (9.75, 4), (10.0, 4), (10.5, 5)):
        objects["pixel_coords"] = np.array([[0, 0, distance]], np.float32)
        assert clevr_closest_object_distance(objects) == index


def test_kitti():
    car, truck, pedestrian = 0, 2, 3
    objects = {
        "type": np.array([pedestrian, truck, car]),
        "location": np.array([[0, 0, 4.0], [1, 0, 20.5], [0, 1, 30.0]], np.float32),
    }
    assert kitti_closest_object_distance(objects) == 0
    assert kitti_closest_vehicle_distance(objects) == 2  # farther than 20 m
    assert kitti_count_vehicles(objects) == 2
    objects["type"] = np.array([car] * 5)
    assert kitti_count_vehicles(objects) == 3  # or more
    objects["type"] = np.array([pedestrian] * 3)
    assert kitti_closest_vehicle_distance(objects) == 3 and kitti_count_vehicles(objects) == 0


def test_kitti_without_objects():
    nothing = {"type": np.zeros(0, np.int64), "location": np.zeros((0, 3), np.float32)}
    assert kitti_closest_object_distance(nothing) == 4
    assert kitti_closest_vehicle_distance(nothing) == 3
    assert kitti_count_vehicles(nothing) == 0


def test_classes_have_names():
    def names(task):
        return VTAB_TASKS[task].label.classes

    assert names("clevr/count_all") == (*"3456789", "10")
    assert len(names("clevr/count_cylinders")) == 11
    assert names("clevr/closest_object_distance") == (
        "up to 8", "8 to 8.5", "8.5 to 9", "9 to 9.5", "9.5 to 10", "above 10",
    )  # fmt: skip
    assert names("kitti/closest_object_distance") == (
        "up to 5.6 m", "5.6 to 8.4 m", "8.4 to 13.4 m", "13.4 to 23.4 m", "above 23.4 m",
    )  # fmt: skip
    assert names("kitti/closest_vehicle_distance") == (
        "up to 8 m", "8 to 20 m", "20 to 999 m", "no vehicle",
    )  # fmt: skip
    assert names("kitti/count_vehicles") == ("0", "1", "2", "3 or more")


def test_dsprites_is_made_black_and_white():
    assert VTAB_TASKS["dsprites/label_x_position"].rule({"train": 100}, False).pixel_scale == 255
    assert VTAB_TASKS["smallnorb/label_category"].pixel_scale == 1
