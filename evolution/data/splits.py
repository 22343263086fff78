"""Which parts of a TensorFlow data set train, select and test (EXPERIMENTS.md, Splits).

A rule names TFDS split expressions. Data sets that are not in the table follow the default rule.
VTAB's tasks have splits of their own (evolution/data/vtab.py).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from vit.decode import TENSORFLOW, VIEWER, Decoding


@dataclass(frozen=True, slots=True)
class Label:
    """The feature that has an example's class, and its conversion."""

    feature: str = "label"
    convert: Callable[[Any], int] = int  # the feature's value -> class
    classes: tuple[str, ...] = ()  # their names; empty: those of the feature


CLASS_LABEL = Label()


@dataclass(frozen=True, slots=True)
class SplitRule:
    """The three splits of a task, as TFDS split expressions."""

    train: str
    validation: str
    test: str
    label: Label = CLASS_LABEL
    validation_dataset: str | None = None  # the data set that validates, if it is another
    pixel_scale: int = 1  # vit.decode.Decoding
    caution: str = ""  # a warning about results


SplitRules = Mapping[str, SplitRule]  # TFDS name, or a pattern of names -> rule; the first holds

_HALF_OF_VALIDATION = SplitRule("train", "validation[:50%]", "validation[50%:]")  # test: no labels
_OF_TEST = SplitRule("test[10%:]", "test[5%:10%]", "test[:5%]")  # the data set has nothing else

# muNet's table (arXiv 2205.10937).
MUNET_SPLITS: SplitRules = {
    # Selected on photographs that others collected later, in the same way, as new test sets.
    "imagenet2012": SplitRule("train", "test", "validation", validation_dataset="imagenet_v2"),
    "cifar10": SplitRule("train", "test", "test", validation_dataset="cifar10_1/v6"),
    "cifar100": SplitRule("train[:98%]", "train[98%:]", "test"),
    "visual_domain_decathlon/*": _HALF_OF_VALIDATION,
    "i_naturalist2017": _HALF_OF_VALIDATION,
    "i_naturalist2018": _HALF_OF_VALIDATION,
    "places365_small": _HALF_OF_VALIDATION,
    # `test` has other characters than `train`. small1 and small2 are subsets of `train`, byte for
    # byte, so the reported accuracy is that on training images.
    "omniglot": SplitRule(
        "train",
        "small1",
        "small2",
        caution="validation and test images are copies of training images",
    ),
    "controlled_noisy_web_labels/*": SplitRule("train_00", "validation[:50%]", "validation[50%:]"),
    "cycle_gan/*": SplitRule(
        "trainA[10%:]+trainB[10%:]", "trainA[:10%]+trainB[:10%]", "testA+testB"
    ),
    "imagenet_a": _OF_TEST,
    "imagenet_r": _OF_TEST,
    "imagenet_sketch": _OF_TEST,
    "siscore/*": _OF_TEST,
    "pet_finder": SplitRule("train[10%:]", "train[5%:10%]", "train[:5%]"),
    # Stored as 0 and 1. The published code took them for bytes, so its images were almost black.
    # Here they are black and white, as a client would send them.
    "binary_alpha_digits": SplitRule("train[10%:]", "train[5%:10%]", "train[:5%]", pixel_scale=255),
    "quickdraw_bitmap": SplitRule("train[20000:]", "train[10000:20000]", "train[:10000]"),
    "stanford_online_products": SplitRule(
        "train", "test[:10000]", "test[10000:]", Label("super_class_id")
    ),
}

# The table from μ2Net on: small data sets select on more (arXiv 2205.12755).
MU2NET_SPLITS: SplitRules = {
    "cmaterdb/*": SplitRule("train[20%:]", "train[:20%]", "test"),
    **MUNET_SPLITS,
}

# TFDS versions that the published system was trained on, by builder; `*`: any.
VERSIONS: Mapping[str, str] = {
    "beans": "0.1.0",
    "binary_alpha_digits": "1.0.0",
    "caltech101": "3.*.*",
    "caltech_birds2010": "0.1.1",
    "caltech_birds2011": "0.1.1",
    "cars196": "2.1.0",
    "cassava": "0.1.0",
    "cats_vs_dogs": "4.0.0",
    "cifar10": "3.0.2",
    "cifar100": "3.0.2",
    "cifar10_1": "1.1.0",
    "citrus_leaves": "0.1.2",
    "clevr": "3.*.*",
    "cmaterdb": "1.0.0",
    "colorectal_histology": "2.0.0",
    "controlled_noisy_web_labels": "1.0.0",
    "curated_breast_imaging_ddsm": "3.0.0",
    "cycle_gan": "2.0.0",
    "deep_weeds": "3.0.0",
    "diabetic_retinopathy_detection": "3.*.*",
    "dmlab": "2.0.1",
    "domainnet": "1.0.0",
    "dsprites": "2.*.*",
    "dtd": "3.*.*",
    "emnist": "3.0.0",
    "eurosat": "2.*.*",
    "food101": "2.0.0",
    "horses_or_humans": "3.0.0",
    "i_naturalist2017": "0.1.0",
    "i_naturalist2018": "1.0.0",
    "imagenet2012": "5.1.0",
    "imagenet_a": "0.1.0",
    "imagenet_lt": "1.0.0",
    "imagenet_r": "0.2.0",
    "imagenet_sketch": "1.0.0",
    "imagenet_v2": "3.0.0",
    "imagenette": "1.0.0",
    "imagewang": "2.0.0",
    "kitti": "3.2.0",
    "kmnist": "3.0.1",
    "malaria": "1.0.0",
    "mnist": "3.0.1",
    "omniglot": "3.0.0",
    "oxford_flowers102": "2.*.*",
    "oxford_iiit_pet": "3.*.*",
    "patch_camelyon": "2.*.*",
    "pet_finder": "1.0.0",
    "places365_small": "2.1.0",
    "plant_village": "1.0.2",
    "plantae_k": "0.1.0",
    "quickdraw_bitmap": "3.0.0",
    "resisc45": "3.*.*",
    "rock_paper_scissors": "3.0.0",
    "siscore": "1.0.0",
    "smallnorb": "2.*.*",
    "stanford_dogs": "0.2.0",
    "stanford_online_products": "1.0.0",
    "stl10": "1.0.0",
    "sun397": "4.*.*",
    "svhn_cropped": "3.*.*",
    "tf_flowers": "3.0.1",
    "uc_merced": "2.0.0",
    "visual_domain_decathlon": "1.2.0",
}


# Builders of TFDS that write their files themselves, from arrays of 1 or 3 channels: upright and
# opaque, so that all rules decode them to the same pixels.
WRITTEN_BY_TFDS = frozenset({
    "binary_alpha_digits", "cifar10", "cifar100", "cifar10_1", "cmaterdb", "dsprites", "emnist",
    "kmnist", "mnist", "patch_camelyon", "quickdraw_bitmap", "smallnorb", "stl10", "svhn_cropped",
})  # fmt: skip


def decoding_rules(builder: str) -> Decoding:
    """The rules by which the files of a TFDS builder are decoded, in training and in serving.

    TensorFlow's, as in the published systems. A viewer's if the pixels are the same: these rules
    suit the pictures that people send.
    """
    return VIEWER if builder in WRITTEN_BY_TFDS else TENSORFLOW


def split_rule(name: str, rules: SplitRules, available: Collection[str]) -> SplitRule:
    """The rule of a TFDS data set that has the splits `available`."""
    for pattern, rule in rules.items():
        if fnmatchcase(name, pattern):
            return rule
    return default_rule(available)


def default_rule(available: Collection[str]) -> SplitRule:
    """Each of test and validation that is missing takes the next 5 % of train, test first."""
    taken, chosen = 0, {}
    for wanted in ("test", "validation"):
        chosen[wanted] = wanted
        if wanted not in available:
            chosen[wanted] = f"train[{taken}%:{taken + 5}%]"
            taken += 5
    return SplitRule(f"train[{taken}%:]" if taken else "train", **chosen)


def published_version(name: str) -> str | None:
    """The version of a TFDS data set that the published systems used; None if that is not known."""
    return VERSIONS.get(name.split("/")[0])
