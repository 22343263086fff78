"""Numbers, figures and pages of runs: made by hand, made up, and of a real small search."""

import csv
import re
import xml.etree.ElementTree as ElementTree
from itertools import pairwise

import numpy as np
import pytest

from evolution import state
from evolution.population import ROOT, Component, Path, Population, Score, accounted_params
from evolution.reports import (
    comparison_page,
    figures,
    hyperparameters,
    measures,
    run_page,
    system_figures,
    system_snapshots,
)
from evolution.reports.measures import run_of
from evolution.reports.stored_runs import analyse, load
from evolution.state import StateError
from model_store import ModelStore, TaskPath
from tests.evolution.made_up_run import MadeUpRun

SVG = "{http://www.w3.org/2000/svg}"


def component(number, name, size, *locks):
    return Component(number, name, {}, size, locks=set(locks))


def row(number, task, parent, parent_task, components, quality, **others):
    return {
        "id": number, "task": task, "parent": parent, "parent_task": parent_task,
        "components": components, "quality": quality, **others,
    }  # fmt: skip


def by_hand():
    """The root; task a from it; b from a's second path, whose first was discarded.

    The embedding stays the root's in a and becomes b's own in b; a's block is shared with b.
    """
    embedding = component(0, "embedding", 100, ROOT, "a")
    block = component(1, "encoderblock_0", 1000, ROOT)
    head = component(2, "head", 10, ROOT)
    block_a, head_a = component(3, "encoderblock_0", 1000, "a", "b"), component(5, "head", 20, "a")
    embedding_b, head_b = component(6, "embedding", 100, "b"), component(7, "head", 30, "b")
    root = Path(0, ROOT, None, (embedding, block, head), {"lr": 0.1}, 0)
    a = Path(2, "a", root, (embedding, block_a, head_a), {"lr": 0.2}, 2, quality=0.6)
    b = Path(4, "b", a, (embedding_b, block_a, head_b), {"lr": 0.2}, 3, quality=0.8, private=True)
    a.metrics = {"test_quality": 0.5, "flops": 7.0}
    population = Population(Score(), paths={ROOT: [root], "a": [a], "b": [b]})
    names = ("embedding", "encoderblock_0", "head")
    history = [
        row(1, "a", 0, ROOT, dict(zip(names, (0, 3, 4), strict=True)), 0.5, seconds=2, ended=12,
            hyperparameters={"lr": 0.1}),
        row(2, "a", 1, "a", dict(zip(names, (0, 3, 5), strict=True)), 0.6, seconds=3, ended=20,
            hyperparameters={"lr": 0.2}, improved=True),
        row(3, "b", 0, ROOT, None, None),
        row(4, "b", 2, "a", dict(zip(names, (6, 3, 7), strict=True)), 0.8, seconds=1, ended=30,
            hyperparameters={"lr": 0.2}, flops=9.0, trainable_params=130),
    ]  # fmt: skip
    return run_of("hand", "experiment", 3, history, population)


def test_the_leaderboard_counts_each_kind_of_parameters():
    a, b = measures.standings(by_hand())
    assert (a.total_params, a.accounted_params, a.own_params) == (1120, 100 + 500 + 20, 20)
    assert (b.total_params, b.accounted_params, b.own_params) == (1130, 100 + 500 + 30, 130)
    assert (a.validation, a.test, a.flops, a.parent, a.sampled) == (0.6, 0.5, 7.0, ROOT, 2)
    assert (b.validation, b.test, b.flops, b.parent, b.sampled) == (0.8, None, 9.0, "a", 2)
    assert (a.private, b.private) == (False, True)


def test_where_the_root_counts_as_a_user_its_components_cost_less():
    run = by_hand()
    paths = {task: [path] for task, path in run.retained.items()}
    counted = run_of("r", "e", 0, [], Population(Score(root_counts=True), paths=paths))
    assert measures.standings(counted)[0].accounted_params == 50 + 500 + 20


def test_the_summary_adds_up():
    found = measures.summary(by_hand())
    assert (found.tasks, found.sampled, found.improved) == (2, 4, 1)
    assert found.accounted_params == 620 + 630
    assert found.params_per_task == 625
    assert found.stored_params == 100 + 1000 + 20 + 100 + 30
    assert found.separate_params == 1120 + 1130
    assert found.validation == pytest.approx(0.7)
    assert found.test == 0.5  # of the one that has it
    assert (found.wall_s, found.elapsed_s, found.trainable_params) == (6, 20, 130)


def test_sharing_and_first_owners_go_by_component():
    run = by_hand()
    assert measures.shared_components(run).tolist() == [[3, 1], [1, 3]]
    assert measures.first_owners(run) == {
        0: ROOT, 1: ROOT, 2: ROOT, 3: "a", 4: "a", 5: "a", 6: "b", 7: "b",
    }  # fmt: skip


def test_ancestors_lead_back_to_the_root_through_discarded_paths():
    run = by_hand()
    assert measures.chain(run, run.retained["b"]) == [0, 1, 2, 4]
    assert measures.ancestors(run, run.retained["b"]) == [ROOT, "a", "a"]
    tasks, counts = measures.knowledge_flow([run, run])
    assert tasks == ("a", "b")
    assert counts.tolist() == [[2, 0], [4, 0]]
    assert measures.component_lineage(run, run.retained["b"]) == {
        "embedding": ["b"], "encoderblock_0": ["a"], "head": ["a", "b"],
    }  # fmt: skip


def test_a_circle_in_imported_parents_ends():
    run = by_hand()
    run.rows[1]["parent"] = 4
    assert measures.chain(run, run.retained["b"]) == [1, 2, 4]


def test_without_history_the_retained_parents_are_the_chain():
    run = by_hand()
    paths = {ROOT: [run.root], **{task: [path] for task, path in run.retained.items()}}
    bare = run_of("bare", "e", 0, [], Population(Score(), paths=paths))
    assert measures.ancestors(bare, bare.retained["b"]) == [ROOT, "a"]
    assert measures.first_owners(bare)[3] == "a"


def test_convergence_keeps_the_best_and_leaves_out_what_is_unknown():
    run = by_hand()
    assert measures.best_so_far(run, "a") == [0.5, 0.6]
    assert np.array_equal(measures.best_so_far(run, "b"), [np.nan, 0.8], equal_nan=True)
    assert measures.mean_best_so_far(run) == pytest.approx([0.5, 0.6, 0.6, 0.7])


def test_replicas_of_other_lengths_stay_at_their_last_value():
    centre, deviation = measures.mean_of_curves([[0.0, 1.0, 1.0], [0.5], [np.nan, 0.25]])
    assert centre == pytest.approx([0.25, 1.75 / 3, 1.75 / 3])
    assert deviation[0] == pytest.approx(np.std([0, 0.5], ddof=1))
    assert measures.mean_of_curves([[0.3]])[1].tolist() == [0]


def test_hyperparameters_are_followed_and_counted():
    run = by_hand()
    history = hyperparameters.histories(run, run.retained["b"])
    assert history == {"lr": [(0, 0.1), (1, 0.1), (2, 0.2), (4, 0.2)]}
    found = hyperparameters.distributions([run])["lr"]
    assert (found.values, found.retained) == ((0.1, 0.2), (0.0, 1.0))
    assert found.sampled == pytest.approx((1 / 3, 2 / 3))


def test_a_hyperparameter_may_mix_nothing_numbers_and_words():
    rows = [
        row(i, "a", None, None, None, 0.5, hyperparameters={"x": value, "y": 1})
        for i, value in enumerate((None, 0.9, True, "late", 0.9))
    ]
    found = hyperparameters.distributions([run_of("r", "e", 0, rows, Population(Score()))])
    assert list(found) == ["x"]  # what never varies is left out
    assert found["x"].values == (None, 0.9, "True", "late")
    assert found["x"].sampled == (0.2, 0.4, 0.2, 0.2)


def test_replicas_are_runs_of_one_experiment():
    runs = [made_up(2, 3, seed=seed) for seed in range(3)]
    assert {group: len(found) for group, found in comparison_page.groups_of(runs).items()} == {
        "made up": 3
    }
    tests = [np.mean(list(run.test.values())) for run in runs]
    found = comparison_page.aggregate(runs, lambda summary: summary.test)
    assert found.mean == pytest.approx(np.mean(tests))
    assert found.deviation == pytest.approx(np.std(tests, ddof=1))
    assert comparison_page.aggregate(runs[:1], lambda summary: summary.test).deviation is None


# ---- figures


def test_the_network_stands_on_the_embedding_and_ends_with_the_head():
    tasks, names, nodes = system_figures.layout(system_snapshots.final(made_up(5, 8)))
    assert names[:3] == ["embedding", "cls", "posembed_input"]
    assert names[-1] == "head"
    assert "encoder_norm" not in names
    blocks = [name for name in names if name.startswith(("encoderblock", "residual"))]
    assert blocks == sorted(blocks, key=lambda name: (name[-1], name.startswith("encoder")))
    assert len(tasks) == 5
    assert {task for node in nodes.values() for task in node.users} == set(range(5))


def test_boxes_of_a_level_stand_beside_each_other_around_their_users():
    nodes = [
        system_figures.Node(i, 0, users, 0.0) for i, users in enumerate(([0, 3], [1, 2], [1], [5]))
    ]
    system_figures._place_level(nodes)
    for left, right in pairwise(nodes):
        assert left.x + left.width / 2 < right.x - right.width / 2
    assert nodes[-1].x == pytest.approx(5, abs=0.6)
    assert [node.component for node in nodes] == [2, 0, 1, 3]
    assert nodes[1].lane(0) < nodes[1].x < nodes[1].lane(3)


def test_component_names_are_written_as_the_papers_do():
    assert system_figures.label_of("encoderblock_3") == "Transformer layer 3"
    assert system_figures.label_of("residual_adapter_0") == "Residual adapter 0"
    assert system_figures.label_of("posembed_input") == "Position embedding"
    assert system_figures.label_of("multipath_router") == "multipath_router"


def test_colours_follow_the_order_and_private_tasks_are_lighter():
    plain = figures.task_colours(["a", "b", "c"])
    lighter = figures.task_colours(["a", "b", "c"], frozenset("b"))
    assert len(set(plain.values())) == 3
    assert (plain["a"], plain["c"]) == (lighter["a"], lighter["c"])
    pairs = [(int(plain["b"][i : i + 2], 16), int(lighter["b"][i : i + 2], 16)) for i in (1, 3, 5)]
    assert all(light >= min(dark + 100, 255) for dark, light in pairs)


# ---- pages


def made_up(tasks, children, layers=3, seed=0):
    made = MadeUpRun(tasks, children, layers, seed)
    return run_of(f"made-up-{seed}", "made up", seed, made.history, made.population)


def written(run, directory):
    with figures.style():
        return run_page.write(run, directory)


def parsed(page):
    """The page as XML, having checked it and every figure next to it; nothing is fetched."""
    text = page.read_text()
    assert not re.findall(r'(?:src|href)="(?:https?:)?//', text)
    assert "<script" not in text
    for link in re.findall(r'<a href="([^"#]+)"', text):
        assert (page.parent / link).exists()
    for file in page.parent.glob("*.svg"):
        assert len(list(ElementTree.parse(file).iter())) < 10_000
    tree = ElementTree.fromstring(text.replace("<!DOCTYPE html>", ""))
    ids = [element.get("id") for element in tree.iter() if element.get("id")]
    assert len(ids) == len(set(ids))
    return tree


def headings(tree):
    return [element.text for element in tree.iter("h2")]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The page of four tasks."""
    return written(made_up(4, 8), tmp_path_factory.mktemp("page"))


def test_the_page_has_every_section_and_its_numbers_as_files(page):
    tree = parsed(page)
    assert headings(tree) == [*run_page._SECTIONS, "Data"]
    assert [link.text for link in tree.find(".//nav").iter("a")] == headings(tree)
    assert len(list(tree.iter("figure"))) == 17
    for figure in tree.iter("figure"):
        assert figure.find(f".//{SVG}svg") is not None
        assert figure.find("figcaption").text.strip().endswith(".")
    rows = list(csv.DictReader((page.parent / "leaderboard.csv").open()))
    assert [row["task"] for row in rows] == [f"made_up/task_{i:02d}" for i in range(4)]
    assert len(list(csv.DictReader((page.parent / "sampled_paths.csv").open()))) == 32


def test_text_of_figures_takes_the_colour_of_the_page_but_not_in_the_file(page):
    assert figures.INK not in page.read_text().split("</style>", 1)[1]
    assert figures.INK in (page.parent / "convergence.svg").read_text()


def test_names_that_mean_something_in_html_are_only_names(tmp_path):
    run = by_hand()
    for path in run.retained.values():
        path.task = f"<b>&{path.task}"
    population = Population(Score(), paths={path.task: [path] for path in run.retained.values()})
    tree = parsed(written(run_of('<i>"&', "<e>", 0, [], population), tmp_path))
    assert tree.find(".//h1").text == 'Run <i>"&'
    assert "<b>&a" in [cell.text for cell in tree.iter("td")]


def test_one_path_of_one_task_has_a_page(tmp_path):
    parsed(written(made_up(1, 1), tmp_path))


def test_a_run_of_nothing_but_its_root_has_a_page(tmp_path):
    tree = parsed(written(made_up(0, 0), tmp_path))
    assert headings(tree) == [*run_page._SECTIONS, "Data"]


def test_unknown_values_leave_gaps(tmp_path):
    """As an import knows them: paths and parents, and hardly anything else."""
    made = MadeUpRun(3, 5)
    kept = {"id", "task", "parent", "parent_task"}
    history = [{k: v if k in kept else None for k, v in row.items()} for row in made.history]
    for path in made.population:
        path.metrics, path.quality, path.hyperparameters = {}, None, {}
    tree = parsed(written(run_of("old", "e", 0, history, made.population), tmp_path))
    assert "–" in [cell.text for cell in tree.iter("td")]  # noqa: RUF001


@pytest.mark.slow
def test_sixty_tasks_of_a_hundred_children_fit_on_a_page(tmp_path):
    parsed(written(made_up(60, 100, layers=1), tmp_path))
    assert (tmp_path / "index.html").stat().st_size < 8e6


@pytest.fixture
def store(tmp_path):
    """Holds two runs of one experiment."""
    store = ModelStore(tmp_path / "store", create=True)
    MadeUpRun(2, 2, layers=1, seed=0).save(store, "first", 0)
    MadeUpRun(2, 2, layers=1, seed=1).save(store, "other/second", 1)
    return store


def test_a_run_is_analysed_from_its_store_alone(store, tmp_path):
    tree = parsed(analyse(store, tmp_path / "out", ["first"]).page)
    assert tree.find(".//h1").text == "Run first"
    _, population = state.load(store, "first")
    rows = list(csv.DictReader((tmp_path / "out/leaderboard.csv").open()))
    for row in rows:
        (path,) = population.paths[row["task"]]
        assert float(row["validation"]) == path.quality
        assert float(row["test"]) == path.metrics["test_quality"]
        assert float(row["accounted"]) == accounted_params(path)
        assert float(row["FLOPs"]) == path.metrics["flops"]
    assert len(rows) == 2


def test_a_test_accuracy_that_only_the_published_version_holds_is_found(store):
    document = store.load_agent("first")
    paths = {path["task"]: path for path in document["paths"] if path["task"] != ROOT}
    for path in paths.values():
        del path["metrics"]["test_quality"]
    digests = {c["name"]: c["digest"] for c in document["components"]}
    task, *_ = paths
    for accuracy in (0.25, 0.75, 0.5):  # the second is the one that is retained
        spec = TaskPath(
            task, ("x",), {}, digests, {}, {}, {"test": {"accuracy": accuracy}}, {}, {}
        )  # fmt: skip
        published = store.publish(spec)
        if accuracy == 0.75:
            paths[task]["published"] = published.digest
    store.save_agent("imported", document, digests.values())
    assert list(load(store, "imported").test.values()) == [0.75, None]


def test_several_runs_are_compared_and_have_pages_of_their_own(store, tmp_path):
    tree = parsed(analyse(store, tmp_path / "out").page)
    assert tree.find(".//h1").text == "Comparison of runs"
    rows = list(csv.DictReader((tmp_path / "out/runs.csv").open()))
    assert [row["run"] for row in rows] == ["first", "other/second"]
    (group,) = csv.DictReader((tmp_path / "out/experiments.csv").open())
    tests = [float(row["test"]) for row in rows]
    assert group["replicas"] == "2"
    assert float(group["test"]) == pytest.approx(np.mean(tests))
    assert float(group["test, deviation"]) == pytest.approx(np.std(tests, ddof=1))
    for directory in ("01-first", "02-other_second"):
        parsed(tmp_path / "out" / directory / "index.html")


def test_a_store_without_that_run_is_refused(tmp_path):
    store = ModelStore(tmp_path / "empty", create=True)
    with pytest.raises(StateError, match="expected at least one run"):
        analyse(store, tmp_path / "out")
    with pytest.raises(StateError, match="no run called 'x'"):
        analyse(store, tmp_path / "out", ["x"])
