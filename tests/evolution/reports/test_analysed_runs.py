"""What an analysis makes of settings, times, points of a run, continued runs and its folder."""

import csv
import xml.etree.ElementTree as ElementTree
from itertools import pairwise

import numpy as np
import pytest

from evolution.population import ROOT, Component, Population, Score
from evolution.reports import (
    comparison_page,
    figures,
    html_page,
    hyperparameters,
    measures,
    run_page,
    system_figures,
    system_snapshots,
)
from evolution.reports.folder import replacing
from evolution.reports.measures import run_of
from evolution.reports.stored_runs import analyse, load
from model_store import ModelStore
from tests.evolution.made_up_run import MadeUpRun


def row(number, task, iteration, generation, **others):
    return {
        "id": number, "task": task, "parent": None, "parent_task": None, "components": None,
        "iteration": iteration, "generation": generation, **others,
    }  # fmt: skip


def of_rows(*rows, settings=None):
    return run_of("r", "e", 0, rows, Population(Score()), settings)


def made_up(tasks=2, children=4):
    made = MadeUpRun(tasks, children, layers=1)
    return run_of("made-up", "made up", 0, made.history, made.population)


def page_of(run, directory):
    with figures.style():
        page = run_page.write(run, directory)
    return ElementTree.fromstring(page.read_text().replace("<!DOCTYPE html>", ""))


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The page of two tasks with four children each."""
    return page_of(made_up(), tmp_path_factory.mktemp("page"))


# ---- groups


def test_runs_of_other_settings_are_no_replicas(tmp_path):
    store = ModelStore(tmp_path / "store", create=True)
    for name, seed, settings in (
        ("a", 0, []),
        ("b", 1, []),
        ("c", 0, ["batch_size=64", "defaults.opt_lr=0.02"]),
        ("d", 0, None),
    ):
        MadeUpRun(1, 2, layers=1, seed=seed).save(store, name, seed, settings)
    groups = comparison_page.groups_of([load(store, name) for name in "abcd"])
    assert {label: [run.name for run in runs] for label, runs in groups.items()} == {
        "made up (batch_size=128, defaults.opt_lr=0.05)": ["a", "b"],
        "made up (batch_size=64, defaults.opt_lr=0.02)": ["c"],
        "made up (settings unknown)": ["d"],
    }
    with figures.style():
        page = comparison_page.write(
            [load(store, name) for name in "abc"], {name: name for name in "abc"}, tmp_path
        )
    assert "made up (batch_size=64, defaults.opt_lr=0.02)" in page.read_text()
    rows = list(csv.DictReader((tmp_path / "settings.csv").open()))
    assert [row["value"] for row in rows if row["setting"] == "batch_size"] == ["128", "64"]


def test_labels_of_long_values_are_short_and_differ():
    ends = "x" * 100
    runs = [of_rows(settings={"root": f"{i}{ends}"}) for i in range(3)]
    labels = list(comparison_page.groups_of(runs))
    assert len(labels) == 3
    assert all(len(label) < 60 for label in labels)


def test_a_continued_run_is_no_replica_of_a_new_one():
    former = [row(1, "a", 0, 0), row(2, "a", 0, 1), row(3, "b", 1, 0), row(4, "b", 1, 0)]
    continued = [*former, row(5, "c", 0, 0), row(6, "c", 0, 1)]
    runs = [of_rows(*rows, settings={"root": "x"}) for rows in (former, former, continued)]
    assert [measures.inherited(run) for run in runs] == [0, 0, 4]
    assert {label: len(found) for label, found in comparison_page.groups_of(runs).items()} == {
        "e (earlier paths=0)": 2,
        "e (earlier paths=4)": 1,
    }


# ---- times


def test_wall_time_device_time_and_generations_are_told_apart():
    """The last two rows are of a run that continued the first; older rows know less."""
    found = measures.summary(
        of_rows(
            row(1, "a", 0, 0, seconds=4.0, device_s=None, ended=104.0),
            row(2, "a", 0, 0, seconds=4.0, ended=110.0),
            row(3, "a", 0, 0, seconds=2.0, device_s=1.0, ended=120.0),
            row(4, "b", 0, 0, seconds=6.0, device_s=2.0, ended=206.0),
        )
    )
    assert (found.wall_s, found.device_s) == (16, 3)
    assert (found.child_s, found.child_device_s) == (4, 1.5)
    assert found.generation_s == (20 + 6) / 2


def test_the_generations_of_a_continued_run_are_not_mixed_with_former_ones():
    rows = [row(i, "a", 0, g, seconds=1.0, ended=10.0 * i) for i, g in enumerate((0, 1, 0, 1))]
    run = of_rows(*rows)
    assert [[r["id"] for r in g] for g in measures.generations(run)] == [[0], [1], [2], [3]]
    assert measures.summary(run).generation_s == 1


def test_the_page_shows_wall_time_beside_device_time(page):
    cells = [cell.text for cell in page.iter("td")]
    shown = dict(pairwise(cells))
    assert shown["wall time, summed over paths"] == "16.0 s"
    assert shown["time in compiled programs, summed over paths"] == "12.0 s"
    assert shown["mean time of a path in compiled programs"] == "1.5 s"


# ---- points of a run


def test_a_snapshot_holds_the_best_paths_of_its_time():
    run = of_rows(
        row(1, "a", 0, 0, components={"head": 1}, quality=0.5, new_best=True),
        row(2, "a", 0, 1, components={"head": 2}, quality=0.4, new_best=False),
        row(3, "b", 1, 0, components={"head": 3}, quality=0.3, new_best=True),
        row(4, "a", 0, 0, components={"head": 4}, quality=0.45, new_best=True),
    )
    heads = [
        {
            task: route.components["head"]
            for task, route in system_snapshots.after(run, n).routes.items()
        }
        for n in (1, 2, 3, 4)
    ]
    assert heads == [{"a": 1}, {"a": 1}, {"a": 1, "b": 3}, {"a": 4, "b": 3}]
    assert [system_snapshots.after(run, n).active for n in (1, 3, 4)] == ["a", "b", "a"]


def test_where_an_import_tells_no_best_path_quality_does():
    rows = [
        row(i, "a", None, None, components={"head": i}, quality=q) for i, q in enumerate((0.5, 0.4))
    ]
    assert system_snapshots.after(of_rows(*rows), 2).routes["a"].components == {"head": 0}


def test_the_last_snapshot_is_the_system_as_it_stands():
    run = made_up(3, 6)
    assert system_snapshots.after(run, len(run.rows)) == system_snapshots.final(run)


def test_the_active_task_stands_out():
    run = made_up(3, 6)
    colours = figures.task_colours(run.tasks)
    with figures.style():
        figure = system_figures.network(
            system_snapshots.after(run, 8), measures.first_owners(run), colours
        )
        weights = {text.get_text(): text.get_weight() for text in figure.axes[0].texts}
    assert (weights[run.tasks[0]], weights[run.tasks[1]]) == ("normal", "bold")
    assert run.tasks[2] not in weights


def test_the_network_is_shown_at_each_quarter_and_first_at_the_end(page):
    (views,) = [div for div in page.iter("div") if div.get("class") == "views"]
    assert [label.text for label in views.iter("label")] == ["25 %", "50 %", "75 %", "100 %"]
    assert [button.get("checked") for button in views.iter("input")] == [None] * 3 + ["checked"]
    assert len(list(views.iter("figure"))) == 4
    for i in range(1, 5):
        assert f"input:nth-of-type({i}):checked ~ figure:nth-of-type({i})" in html_page._CSS


@pytest.mark.parametrize(("tasks", "numbered"), [(25, True), (26, False)])
def test_matrices_of_up_to_25_tasks_show_their_numbers(tasks, numbered):
    names = [f"t{i}" for i in range(tasks)]
    with figures.style():
        figure = figures.heat_map(names, names, np.ones((tasks, tasks), int), ("", ""), "d")
    assert len(figure.axes[0].texts) == (tasks**2 if numbered else 0)


# ---- sampled paths


def test_the_newest_sampled_paths_are_listed_in_a_closed_table(tmp_path):
    run = made_up(2, 200)
    tree = page_of(run, tmp_path)
    (details,) = tree.iter("details")
    assert details.get("open") is None
    lines = [[cell.text for cell in line] for line in details.find(".//tbody")]
    assert len(lines) == run_page.MAX_LISTED
    newest = list(run.rows.values())[-1]
    assert lines[0][:4] == [
        str(newest["id"]), newest["task"], "1", f"{newest['quality']:.4f}",
    ]  # fmt: skip
    assert (tmp_path / "sampled_values.svg").exists()


def test_whole_numbers_have_a_bar_each():
    with figures.style():
        figure = figures.histograms({"layers": [1, 1, 3], "quality": [0.25, 0.75, 0.5]})
    layers, quality = figure.axes
    assert [bar.get_height() for bar in layers.patches] == [2, 0, 1]
    assert len(quality.patches) == 30


# ---- a root with components that its architecture does not use


def with_spare_parts():
    """Its root holds a deeper layer, which the path of its second task takes, and two spares."""
    made = MadeUpRun(2, 1, layers=1)
    (root,) = made.population.paths[ROOT]
    names = ("encoderblock_1", "encoderblock_7", "posembed_source")
    spare = [Component(1000 + i, name, {}, 10, locks={ROOT}) for i, name in enumerate(names)]
    root.components += tuple(spare)
    second = list(made.population)[-1]
    at = [c.name for c in second.components].index("encoderblock_0") + 1
    second.components = (*second.components[:at], spare[0], *second.components[at:])
    made.history[-1]["components"] = {c.name: c.id for c in second.components}
    return run_of("spare", "e", 0, made.history, made.population), second


def test_components_of_the_root_that_no_task_uses_are_not_shown(tmp_path):
    run, _ = with_spare_parts()
    text = ElementTree.tostring(page_of(run, tmp_path), encoding="unicode")
    assert "Transformer layer 1" in text
    for name in ("Transformer layer 7", "encoderblock_7", "posembed_source"):
        assert name not in text
        assert all(name not in file.read_text() for file in tmp_path.glob("*.*"))


def test_a_layer_that_a_deeper_child_takes_from_the_root_was_trained_by_nobody():
    run, second = with_spare_parts()
    assert measures.component_lineage(run, second)["encoderblock_1"] == []
    assert hyperparameters.histories(run, second)


# ---- the folder


@pytest.fixture
def store(tmp_path):
    store = ModelStore(tmp_path / "store", create=True)
    for seed, name in enumerate(("a", "b")):
        MadeUpRun(1, 1, layers=1, seed=seed).save(store, name, seed)
    return store


def test_a_new_analysis_leaves_nothing_of_an_earlier_one(store, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    analyse(store, out)
    assert (out / "02-b/index.html").exists()
    assert analyse(store, out, ["a"]).page == out / "index.html"
    assert not (out / "02-b").exists()
    assert "Run a" in (out / "index.html").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "store"]


def test_a_folder_that_is_no_analysis_is_refused_and_kept(store, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "index.html").write_text("mine")
    with pytest.raises(FileExistsError, match=r"no analysis wrote \(index.html\)"):
        analyse(store, out)
    assert (out / "index.html").read_text() == "mine"
    with pytest.raises(FileExistsError, match="expected a folder, found a file"):
        analyse(store, out / "index.html")


def test_files_that_were_added_to_an_analysis_are_not_deleted(store, tmp_path):
    out = tmp_path / "out"
    analyse(store, out, ["a"])
    (out / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"\(notes.txt\)"):
        analyse(store, out, ["a"])
    assert (out / "notes.txt").read_text() == "mine"


def test_an_analysis_that_fails_leaves_the_earlier_one(tmp_path):
    with replacing(tmp_path / "out") as new:
        (new / "index.html").write_text("earlier")
    with pytest.raises(ValueError, match="broken"), replacing(tmp_path / "out") as new:
        (new / "index.html").write_text("half")
        raise ValueError("broken")
    assert (tmp_path / "out/index.html").read_text() == "earlier"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_axes_name_whole_values_and_counts():
    """No power of ten or offset next to an axis, and no half of a path on one."""
    points = {"a": (3_000_000.0, 0.7), "b": (3_000_400.0, 0.70001)}
    with figures.style():
        drawn = [
            figures.trade_off([("FLOPs", points)], {"a": "#000", "b": "#111"}, "accuracy"),
            figures.histograms({"opt_lr": [0.1, 0.2], "num_layers": [1, 2]}),
        ]
        for figure in drawn:
            figure.draw_without_rendering()
    for axes in (axes for figure in drawn for axes in figure.axes):
        assert not axes.xaxis.get_offset_text().get_text()
        assert not axes.yaxis.get_offset_text().get_text()
    for axes in drawn[1].axes:
        assert all(tick == int(tick) for tick in axes.get_yticks())
