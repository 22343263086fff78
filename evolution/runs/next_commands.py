"""The commands that continue what a store holds, as a person types them."""

from __future__ import annotations

import shlex

GROWN = "evolve/"  # the names of the runs of `munet evolve` begin so: evolve/TASK/NUMBER
BASELINE = "finetune-all"  # the baseline of one is evolve/TASK/NUMBER/finetune-all


def grown_by(run: str) -> str | None:
    """The name that a command of `munet evolve` holds while it trains a run.

    A search and its baseline have one name, as one waits while the other trains. None for other
    runs.
    """
    if not run.startswith(GROWN):
        return None
    return f"{run.removesuffix(f'/{BASELINE}')}/command"


def resume(run: str, store: str, task: str | None = None) -> str:
    """Continues a run; with `task`, adds that task after all others."""
    further = "" if task is None else f" --task {task}"
    return f"munet experiments resume {shlex.quote(run)} --store {shlex.quote(store)}{further}"


def evolve(task: str, store: str) -> str:
    """Continues the last run of `munet evolve` for a task, or starts a new one."""
    return f"munet evolve {shlex.quote(task)} --store {shlex.quote(store)}"


def rollback(task: str, version: int, store: str) -> str:
    """Serves another version of a task."""
    return f"munet store rollback {shlex.quote(task)} {version} --store {shlex.quote(store)}"


def remove_run(run: str, store: str) -> str:
    """Removes a run's own state."""
    return f"munet runs rm {shlex.quote(run)} --store {shlex.quote(store)}"


def agents(agent: str, entry: str, cycles: int, store: str) -> str:
    """Continues an agent, CLASS/TASK, until it has finished `cycles` cycles in its life.

    `entry` is its task, as a task list names it.
    """
    named = shlex.quote(f"{agent.split('/')[0]}:{entry}")
    return (
        f"munet experiments agents --store {shlex.quote(store)} --agent {named} --cycles {cycles}"
    )


def extend(run: str, store: str) -> str:
    """Grows the system of a run that has no experiment of its own."""
    return f"munet experiments run EXPERIMENT --continue-from {shlex.quote(f'{store}#{run}')}"
