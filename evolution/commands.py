"""The commands that go on with what a store holds, as a person types them."""

from __future__ import annotations

import shlex

GROWN = "evolve/"  # the names of the runs of `munet evolve` begin so: evolve/TASK/NUMBER


def resume(run: str, store: str, task: str | None = None) -> str:
    """Goes on with a run; with `task`, grows it by one, after all others."""
    further = "" if task is None else f" --task {task}"
    return f"python -m evolution resume {shlex.quote(run)} --store {shlex.quote(store)}{further}"


def evolve(task: str, store: str) -> str:
    """Goes on with the last run of `munet evolve` for a task, or begins another one."""
    return f"munet evolve {shlex.quote(task)} --store {shlex.quote(store)}"


def agents(agent: str, entry: str, cycles: int, store: str) -> str:
    """Goes on with an agent, CLASS/TASK, until it has finished so many cycles in its life.

    `entry` is its task, as a task list names it.
    """
    named = shlex.quote(f"{agent.split('/')[0]}:{entry}")
    return (
        f"python -m evolution agents --store {shlex.quote(store)} --agent {named} --cycles {cycles}"
    )


def extend(run: str, store: str) -> str:
    """Grows the system of a run that has no experiment of its own."""
    return f"python -m evolution run EXPERIMENT --continue-from {shlex.quote(f'{store}#{run}')}"
