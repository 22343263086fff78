"""What each task added to a run, in its order, and paired differences between groups of runs."""

from dataclasses import replace

from evolution.population import ROOT, Component, Path, Population, Score
from evolution.reports import task_order
from evolution.reports.measures import run_of
from evolution.reports.task_order import Addition


def run(seed: int, **tests: float):
    """Tasks in the order given; each has a block of its own from its second child, but the last."""
    block = Component(0, "encoderblock_0", {}, 1000, locks={ROOT})
    root = Path(0, ROOT, None, (block,), {}, 0)
    population, history = Population(Score(), paths={ROOT: [root]}), []
    for i, (task, test) in enumerate(tests.items(), 1):
        head = Component(10 * i, "head", {}, 10, locks={task})
        own = Component(10 * i + 1, "encoderblock_0", {}, 1000, locks={task})
        first, second = 10 * i, 10 * i + 1
        rows = [(first, 0, ROOT, block, 0), (second, first, task, own, 7)]
        rows = rows[:1] if i == len(tests) else rows
        for number, parent, parent_task, body, steps in rows:
            history.append({
                "id": number, "task": task, "parent": parent, "parent_task": parent_task,
                "components": {body.name: body.id, "head": head.id}, "quality": test,
                "training": {"steps": steps},
            })  # fmt: skip
        body = rows[-1][3]
        path = Path(rows[-1][0], task, root, (body, head), {}, 1, quality=test)
        path.metrics["test_quality"] = test
        population.paths[task] = [path]
    return run_of(f"run-{seed}", "e", seed, history, population, {"batch_size": 32})


def test_a_task_adds_what_no_earlier_path_had():
    assert task_order.additions(run(0, a=0.5, b=0.7)) == [
        Addition("a", 0.5, params=1010, images=7 * 32),
        Addition("b", 0.7, params=10, images=0),
    ]
    unknown = replace(run(0, a=0.5), settings={})
    assert task_order.additions(unknown)[0].images is None


def test_a_part_of_the_order_has_its_tasks_alone():
    whole = run(0, **dict.fromkeys("fedcba", 0.5))
    assert [list(task_order.in_part(whole, part).test) for part in range(3)] == [
        ["f", "e"], ["d", "c"], ["b", "a"],
    ]  # fmt: skip
