"""The numbers of a run as tables and as a line of JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

from rich.console import Group
from rich.table import Table

from loadtests import traffic
from loadtests.replicas.measure import Result, Setup


def render(setup: Setup, result: Result) -> Group:
    """What was measured, and what was simulated from it."""
    title = f"{setup.replicas} gateways on one store of {setup.tasks} tasks, behind HAProxy"
    table = Table("", "", title=title, show_header=False)
    for row in (*_memory(result), *_speed(result), *_killed(result)):
        table.add_row(*row)
    return Group(table, _simulated(result))


def _memory(result: Result) -> Iterator[tuple[str, str]]:
    memory = result.memory
    yield "memory of a gateway on an empty store", _mb(memory.empty)
    yield "on this store, all programs, no components", _mb(memory.ready)
    yield "components: shared, own of all tasks", f"{_mb(memory.shared)}, {_mb(memory.own)}"
    yield "memory of one gateway with all tasks", _mb(memory.alone)
    goal, floor = (memory.part + gateway for gateway in (memory.empty, memory.ready))
    yield "goal: empty + shared + a part of the rest", _mb(goal)
    yield "floor: programs + shared + a part of the rest", _mb(floor)
    for number, (size, tasks) in enumerate(zip(memory.replicas, memory.tasks, strict=True), 1):
        yield (
            f"replica {number}, {tasks} tasks; to goal; to floor",
            f"{_mb(size)}; {size / goal:.2f}; {size / floor:.2f}",
        )


def _speed(result: Result) -> Iterator[tuple[str, str]]:
    yield "throughput of one gateway", f"{result.alone:.0f}/s"
    yield "throughput of all replicas", f"{result.together:.0f}/s"
    yield "ratio; requests that failed", f"{result.together / result.alone:.2f}; {result.failed}"
    yield "requests that met a warm task", f"{result.warm:.2%}"
    yield "processor time of HAProxy for a request", f"{result.proxy_ms:.3f} ms"


def _killed(result: Result) -> Iterator[tuple[str, str]]:
    killed, requests = result.killed, result.killed.requests
    failures = ", ".join(f"{status or 'no answer'}: {n}" for status, n in requests.failures.items())
    yield "one replica killed: requests asked", str(requests.asked)
    yield "failed at the first try; all failures", f"{requests.failed}; {failures or 'none'}"
    yield "most tries for an answer; never answered", f"{requests.tries}; {requests.unanswered}"
    yield "longest request, with its tries", f"{requests.longest_s:.2f} s"
    yield "tasks of the killed replica", str(killed.cold)
    yield "loads at the others; requests that waited", f"{killed.loads}; {killed.misses}"


def _simulated(result: Result) -> Table:
    rates = ", ".join(f"{rate:.0f}/s with {count}" for count, rate in result.rates.items())
    table = Table(
        *("popularity", "clients each", "replicas", "per s", "of linear", "busiest", "away"),
        title="Simulated, each replica on a machine of its own",
        caption=f"from one gateway's {rates} in flight",
    )
    for cell in result.simulated:
        table.add_row(
            *(cell.popularity, str(cell.clients), str(cell.replicas), f"{cell.rate:.0f}"),
            *(f"{cell.of_linear:.2f}", f"{cell.busiest:.2f}", f"{cell.away:.1%}"),
            end_section=cell.replicas == result.simulated[-1].replicas,
        )
    return table


def _mb(size: float) -> str:
    return f"{size / 1e6:.1f} MB"


def json_line(setup: Setup, result: Result) -> str:
    """The run as one line of JSON."""
    return traffic.json_line(asdict(setup), asdict(result))
