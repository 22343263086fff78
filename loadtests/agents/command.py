"""`munet loadtest agents`: measures a store and simulates many agents on it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from rich.console import Console
from rich.table import Table

from evolution.state import StateError
from loadtests.agents.measuring import measure
from loadtests.agents.observed import observed
from loadtests.agents.simulation import Cost, Costs, Result, Work, simulate
from loadtests.errors import LoadTestError
from model_store import ModelStore, StoreError

AGENTS = (1, 2, 10, 30, 100, 300, 1000)
SHARE = 0.1  # of the agents' time in the store; above, the store is the limit


def show(
    store: str,
    children: str,
    agents: Sequence[str],
    counts: Sequence[int],
    cycles: float,
    per_task: int,
    console: Console,
) -> None:
    """Measures `store`, a new place, and prints what a given number of agents would do on it.

    `children` is the store of the agents whose children are the model. Raises LoadTestError.
    """
    try:
        work, child = observed(ModelStore(children), agents)
        costs = measure(store, child)
    except (StateError, StoreError, ValueError) as error:
        raise LoadTestError(str(error)) from error
    for line in (*_measured(work, costs), ""):
        console.print(line, soft_wrap=True, markup=False)
    results = [simulate(count, costs, work, cycles, per_task) for count in sorted(counts or AGENTS)]
    console.print(_table(results))
    console.print(_limit(results), soft_wrap=True, markup=False)


def _measured(work: Work, costs: Costs) -> Iterator[str]:
    median, longest = np.percentile(work.child_seconds, [50, 100])
    yield (
        f"{len(work.child_seconds)} children: {median:.2f} s (median), {longest:.2f} s at most;"
        f" {work.generations} generations of {work.children} a cycle,"
        f" {work.foreign:.0%} with another task's parent, {work.kept:.0%} kept;"
        f" {work.published:.0%} of the cycles publish"
    )
    for name in Costs.__dataclass_fields__:
        cost = getattr(costs, name)
        if isinstance(cost, Cost):
            yield (
                f"{name.replace('_', ' '):12}{1000 * cost.seconds:9.3f} ms alone,"
                f" {1000 * cost.work:9.3f} ms of the store"
            )


def _table(results: Sequence[Result]) -> Table:
    """`in store` is a share of the agents' time, `load` of the store's capacity; retries are those
    of each publication.
    """
    table = Table()
    columns = ("agents", "children/s", "ideal", "in store", "load", "retries", "start s")
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    for result in results:
        table.add_row(
            f"{result.agents:,}",
            f"{result.rate:,.2f}",
            f"{result.ideal_rate:,.2f}",
            f"{result.store_share:.1%}",
            f"{result.load:.1%}",
            f"{result.retries:.2f}",
            f"{np.median(result.looks):,.2f}" if result.looks else "-",
        )
    return table


def _limit(results: Sequence[Result]) -> str:
    """The numbers of agents between which the store becomes the limit, as a sentence."""
    above = [result.agents for result in results if result.store_share > SHARE]
    below = [result.agents for result in results if result.store_share <= SHARE]
    if not above:
        return f"the store is no limit up to {max(below):,} agents (less than {SHARE:.0%} of time)"
    return (
        f"the store becomes the limit ({SHARE:.0%} of the agents' time) between"
        f" {max((n for n in below if n < min(above)), default=0):,} and {min(above):,} agents"
    )
