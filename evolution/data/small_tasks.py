"""Small tasks: some classes of a data set, and few pictures of each.

STREAM's resemble one another, so that a system may gain from earlier ones when it learns a later
one (evolution/README.md, "Transfer"). WORKED_ON's and HELD_OUT's are of three kinds, so that
methods can be compared ("Methods compared"). DEMO's are those of `make demo`. Of each class the
first pictures train, the next ones validate, and those after them test. Pictures are scaled once,
before training crops them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from evolution.data.rows import SPLITS

SIDE = 32  # pixels that all pictures are scaled to: larger ones take longer to crop


class _Encoded(Protocol):
    def __getitems__(self, keys: Sequence[int], /) -> Sequence[bytes]: ...


@dataclass(frozen=True, slots=True)
class SmallTask:
    """Some classes of a data set."""

    dataset: str  # TFDS name, or one of evolution.data.drawn_sets
    source: str  # TFDS split expression: where the pictures come from
    classes: Sequence[str] = ("",)  # their names, or beginnings of their names
    most: int = 40  # classes: the first ones
    pictures: tuple[int, int, int] = (10, 5, 5)  # of a class: training, validation, test
    one_in: int = 1  # of the pictures to train and validate on, only one of this number is taken

    def chosen(self, names: Sequence[str]) -> list[int]:
        """The classes of the data set, which has these names, that the task has."""
        starts = tuple(self.classes)
        return [i for i, name in enumerate(names) if name.startswith(starts)][: self.most]

    def rows(self, labels: NDArray[Any], classes: Sequence[int]) -> dict[str, list[int]]:
        """Rows of the source's pictures, given all their labels, for each split.

        Each split goes through the classes in turn.
        """
        of_class = [np.flatnonzero(labels == label).tolist() for label in classes]
        found, first = {}, 0
        for split, count in zip(SPLITS, self.pictures, strict=True):
            every = 1 if split == "test" else self.one_in
            parts = [rows[first : first + count : every] for rows in of_class]
            found[split] = [rows[i] for i in range(count) for rows in parts if i < len(rows)]
            first += count
        return found


@dataclass(frozen=True, slots=True)
class Chosen:
    """Some of the records of a split (evolution.data.images.Records)."""

    records: _Encoded
    rows: Sequence[int]

    def __len__(self) -> int:
        """The number of records that are chosen."""
        return len(self.rows)

    def __getitems__(self, keys: Sequence[int], /) -> Sequence[bytes]:
        """These records, encoded."""
        return self.records.__getitems__([self.rows[key] for key in keys])


_ALPHABETS = {
    "bengali": "Bengali",
    "gujarati": "Gujarati",
    "gurmukhi": "Gurmukhi",
    "hiragana": "Japanese_(hiragana)",
    "kannada": "Kannada",
    "katakana": "Japanese_(katakana)",
    "korean": "Korean",
    "malayalam": "Malayalam",
    "manipuri": "Manipuri",
    "oriya": "Oriya",
    "sanskrit": "Sanskrit",
    "tibetan": "Tibetan",
}
_DIGITS, _LAND = (10, 10, 40), (15, 15, 60)
STREAM: Mapping[str, SmallTask] = {
    **{
        f"stream/{name}": SmallTask("omniglot", "train+test", (f"{alphabet}_",))
        for name, alphabet in _ALPHABETS.items()
    },
    **{
        f"stream/digits-{script}": SmallTask(f"cmaterdb/{script}", "train", pictures=_DIGITS)
        for script in ("bangla", "devanagari", "telugu")
    },
    "stream/digits-mnist": SmallTask("mnist", "train[:5000]", pictures=_DIGITS),
    "stream/letters": SmallTask(
        "binary_alpha_digits", "train", tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ"), pictures=(10, 10, 19)
    ),
    "stream/land": SmallTask("eurosat", "train[:5000]", pictures=_LAND),
    "stream/plants": SmallTask(
        "eurosat",
        "train[:5000]",
        ("AnnualCrop", "Forest", "HerbaceousVegetation", "Pasture", "PermanentCrop"),
        pictures=_LAND,
    ),
    "stream/sites": SmallTask(
        "eurosat",
        "train[:5000]",
        ("Highway", "Industrial", "Residential", "River", "SeaLake"),
        pictures=_LAND,
    ),
}

_TENTH = 10
_TEN_CLASSES, _HUNDREDS = (100, 50, 100), (150, 50, 120)


def _with_tenths(tasks: Mapping[str, SmallTask]) -> dict[str, SmallTask]:
    """Each task whole, and with a tenth of the pictures to train and validate on."""
    whole = {f"compare/{name}": task for name, task in tasks.items()}
    return whole | {f"{name}-tenth": replace(task, one_in=_TENTH) for name, task in whole.items()}


# The rule of the method `fitted` was worked out on these, with their test accuracies in view.
WORKED_ON = _with_tenths(
    {
        **{
            script: SmallTask(f"cmaterdb/{script}", "train+test", pictures=_TEN_CLASSES)
            for script in ("bangla", "devanagari")
        },
        "mnist": SmallTask("mnist", "train[:5000]", pictures=_TEN_CLASSES),
        "letters": SmallTask("binary_alpha_digits", "train", pictures=(20, 8, 11)),
        **{
            name: replace(STREAM[f"stream/{name}"], pictures=_HUNDREDS)
            for name in ("plants", "sites")
        },
        **{
            name: SmallTask(f"drawn/{name}", "", pictures=_TEN_CLASSES)
            for name in ("shapes", "textures")
        },
    }
)
# These decide. But for `digits`, whose pictures `letters` has too, their pictures played no part in
# working it out.
HELD_OUT = {
    "compare/telugu-tenth": SmallTask(
        "cmaterdb/telugu", "train+test", pictures=_TEN_CLASSES, one_in=_TENTH
    ),
    "compare/fields-tenth": SmallTask(
        "eurosat",
        "train[10000:15000]",
        ("AnnualCrop", "PermanentCrop", "Highway", "River"),
        pictures=_HUNDREDS,
        one_in=_TENTH,
    ),
    "compare/land-tenth": SmallTask(
        "eurosat", "train[20000:25000]", pictures=_HUNDREDS, one_in=_TENTH
    ),
    "compare/marks-tenth": SmallTask("drawn/marks", "", pictures=_TEN_CLASSES, one_in=_TENTH),
    "compare/bangla-later": SmallTask(
        "cmaterdb/bangla", "train[2700:]+test", pictures=_TEN_CLASSES
    ),
    "compare/mnist-later": SmallTask("mnist", "train[30000:35000]", pictures=_TEN_CLASSES),
    "compare/digits": SmallTask(
        "binary_alpha_digits", "train", tuple("0123456789"), pictures=(15, 6, 18)
    ),
    "compare/covers": SmallTask(
        "eurosat",
        "train[15000:20000]",
        ("Forest", "Herbaceous", "Industrial", "Pasture", "Residential", "SeaLake"),
        pictures=_HUNDREDS,
    ),
}

DEMO: Mapping[str, SmallTask] = {
    f"drawn/{name}": SmallTask(f"drawn/{name}", "", pictures=(100, 50, 50))
    for name in ("shapes", "textures", "marks")
}
SMALL_TASKS: Mapping[str, SmallTask] = {**STREAM, **WORKED_ON, **HELD_OUT, **DEMO}
