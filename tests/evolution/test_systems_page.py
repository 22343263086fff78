"""SYSTEMS.md and EXPERIMENTS.md say what the code does: their tables are read and compared."""

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

import evolution
from evolution.agents.kinds import CLASSES
from evolution.experiments import search_space
from evolution.experiments.experiment import Experiment
from evolution.experiments.named import EXPERIMENTS
from evolution.experiments.weights import B_16, L_16, TI_16
from evolution.methods import FITTED, MU2NET, MU2NET_PLUS, MU3NET, MU4NET, MUNET, Method

FOLDER = Path(evolution.__file__).parent
ROOTS = {
    "Ti/16, 3 blocks": TI_16,
    "B/16": B_16,
    "L/16": L_16,
    "random Ti/16, 0 blocks": "random:Ti/16",
}
SPACES = {
    "muNet": search_space.MUNET,
    "v1": search_space.MU2NET_V1,
    "v2": search_space.MU2NET_V2,
    "plus": search_space.MU2NET_PLUS,
}


def tables(page: str) -> list[list[dict[str, str]]]:
    """The tables of a page, each a list of rows by column; the first column is called ''."""
    found = []
    for block in re.findall(r"(?:^\|.*\n)+", (FOLDER / page).read_text("utf-8"), re.MULTILINE):
        rows = [[c.strip().strip("`") for c in line.split("|")[1:-1]] for line in block.split("\n")]
        head, _, *rest = rows[:-1]
        found.append([dict(zip(head, row, strict=True)) for row in rest])
    return found


def table(page: str, *columns: str) -> list[dict[str, str]]:
    """The one table that has these columns."""
    (found,) = [rows for rows in tables(page) if set(columns) <= set(rows[0])]
    return found


def number(cell: str) -> float:
    return float(cell.replace(",", "") or 0)


def test_every_difference_of_the_systems_is_listed():
    rows = {row["field"]: row for row in table("SYSTEMS.md", "field", "munet")}
    assert set(rows) == {field.name for field in fields(Method)} - {"name"}
    for method in (MUNET, MU2NET, MU2NET_PLUS, MU3NET, MU4NET, FITTED):
        for name, row in rows.items():
            value: Any = getattr(method, name)
            told = {True: "yes", False: "no"}[value] if isinstance(value, bool) else value
            told = ", ".join(told) if isinstance(told, tuple) else str(told)
            assert row[method.name] == told, (method.name, name)


SIZES = {row[""]: row for row in table("EXPERIMENTS.md", "batch", "root")}
VALUES = {row[""]: row for row in table("EXPERIMENTS.md", "warm-up")}


def test_every_published_experiment_is_listed():
    published = {
        e
        for e in EXPERIMENTS
        if not re.search("vtab|chars5|compare|demo|stream|^munet-cmaterdb", e)
    }
    assert set(SIZES) == set(VALUES) == published


@pytest.mark.parametrize("name", SIZES)
def test_the_sizes_of_an_experiment(name):
    row, e = SIZES[name], EXPERIMENTS[name]
    assert ROOTS[row["root"]] == e.root
    told = [number(row[column]) for column in list(row)[2:]]
    assert told == [
        e.batch_size, e.train_examples_per_round, e.rounds_per_child, e.validation_examples,
        e.passes, e.samples_per_task, e.max_population or 0, e.children_per_generation,
    ]  # fmt: skip


@pytest.mark.parametrize("name", VALUES)
def test_the_defaults_and_the_score_of_an_experiment(name):
    row, e = VALUES[name], EXPERIMENTS[name]
    keys = {"image": "ds_image_size", "_mu_": "_mu_", "warm-up": "opt_lr_warmup_ratio"}
    assert all(number(row[column]) == e.defaults[key] for column, key in keys.items())
    assert blocks(row["blocks"]) == blocks_of(e)
    assert (row["adapters"] == "gained") == e.mutate_adapters
    told = [number(row[column]) for column in ("s", "P", "F")]
    assert told == [e.score.factor, e.score.reference_params, e.score.reference_flops]
    free = {"num_layers", "ds_image_size", "adapter_dim"}  # by experiment, in "plus"
    space = SPACES[row["ranges"]]
    assert {k: v for k, v in space.items() if k not in free} == {
        k: v for k, v in e.ranges.items() if k not in free
    }


def blocks(cell: str) -> list[int]:
    """`0..3` as [0, 1, 2, 3], `24` as [24]."""
    first, _, last = cell.partition("..")
    return list(range(int(first), int(last or first) + 1))


def blocks_of(experiment: Experiment) -> list[int]:
    return list(experiment.ranges.get("num_layers", [experiment.defaults["num_layers"]]))


def test_the_classes_of_agents():
    for row in table("EXPERIMENTS.md", "class", "published as"):
        names, originals = (re.findall(r"[\w-]+", row[c]) for c in ("class", "published as"))
        if row["published as"].startswith("the same"):
            originals = ["VitT3", "VitB", "Vit"]
        assert [CLASSES[name].original for name in names] == originals
        if row["sizes and ranges"] in EXPERIMENTS:
            same, e = EXPERIMENTS[row["sizes and ranges"]], CLASSES[names[0]].experiment
            assert (e.defaults, e.ranges, e.score) == (same.defaults, same.ranges, same.score)


@pytest.mark.parametrize("name", ["vit4-ti3", "vit4-b", "vit4-l"])
def test_the_classes_of_the_later_system(name):
    told = {row[""]: row[name] for row in table("EXPERIMENTS.md", "vit4-ti3")}
    e = CLASSES[name].experiment
    assert (int(told["batch"]), int(told["image"])) == (e.batch_size, e.defaults["ds_image_size"])
    assert blocks(told["blocks"]) == blocks_of(e)
    sizes = re.findall(r"\d+", told["image sizes"])
    assert [int(sizes[0]), int(sizes[-1])] == [
        *e.ranges["ds_image_size"][:1],
        *e.ranges["ds_image_size"][-1:],
    ]
