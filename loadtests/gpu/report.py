"""All measurements in the order of their weight, as one JSON and one table."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax

from loadtests.gpu.engine import engine_throughput, equality
from loadtests.gpu.gateway import NotMeasured, over_http
from loadtests.gpu.grouped import grouped_throughput
from loadtests.gpu.plans import GOAL, Plan, Told, full, peak_flops, rehearsal
from loadtests.gpu.training import training

NOT_MEASURED = "not measured"
LARGE_CALLS = 2**17  # tokens in one call, instead of the engine's own number


def measure(*, rehearse: bool, seconds: float, say: Callable[[str], object]) -> Told:
    """Runs everything, one thing at a time; what fails or has no time left says so."""
    plan, end = rehearsal() if rehearse else full(), time.monotonic() + seconds
    found: Told = {
        "device": jax.devices()[0].device_kind, "jax": jax.__version__,
        "python": platform.python_version(), "rehearsal": rehearse, "goal": GOAL,
    }  # fmt: skip
    peak = peak_flops(plan.peak_size, plan.rounds)
    found["peak_bfloat16_flops"] = peak
    for name, run in _measurements(plan, peak).items():
        if time.monotonic() > end:
            found[name] = {NOT_MEASURED: f"the {seconds:g} s were over"}
            continue
        say(name)
        started = time.monotonic()
        try:
            found[name] = run()
        # One thing that a device cannot do must not cost the figures of all others.
        except Exception as error:
            known = isinstance(error, NotMeasured)
            told = str(error) if known else f"{type(error).__name__}: {error}"
            found[name] = {NOT_MEASURED: told[:500]}
        found[name]["took_s"] = round(time.monotonic() - started, 1)
    return found


def _measurements(plan: Plan, peak: float) -> dict[str, Callable[[], Told]]:
    found: dict[str, Callable[[], Told]] = {}
    for name in plan.networks:
        found[f"many tasks in one program, {name}"] = lambda n=name: grouped_throughput(plan, n)
        found[f"equality, {name}"] = lambda n=name: equality(plan, n)
    for name in plan.trained:
        found[f"training, {name}"] = lambda n=name: training(plan, n, peak)
    for name in plan.networks:
        found[f"engine, {name}"] = lambda n=name: engine_throughput(plan, n, None)
    found |= {
        f"over HTTP, {name}": lambda n=name: over_http(plan, n) for name in list(plan.networks)[:1]
    }
    for name in plan.networks:
        found[f"engine in large calls, {name}"] = (
            lambda n=name: engine_throughput(plan, n, LARGE_CALLS)
        )  # fmt: skip
    return found


def table(found: Mapping[str, Any]) -> str:
    """A line for each figure."""
    rows = [(name, *row) for name, told in found.items() for row in _rows(told)]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
             for row in rows)  # fmt: skip
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _rows(told: Any) -> list[tuple[str, str]]:
    if not isinstance(told, Mapping):
        return [("", _text(told))]
    rows = []
    for key, value in told.items():
        inner = ", ".join(f"{k}: {_text(v)}" for k, v in value.items()) if isinstance(
            value, Mapping) else _text(value)  # fmt: skip
        rows.append((key, inner))
    return rows


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else value if isinstance(
        value, str) else json.dumps(value)  # fmt: skip
