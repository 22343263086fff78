"""The machine and libraries that a run's results depend on, and how they have changed.

With another number of cores, processor or library version the last digits of a computation differ,
and after some steps everything. So the same seed gives the same result on the same machine only,
and a run records what it was computed with.
"""

from __future__ import annotations

import itertools
import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import jax

from evolution.events import Remark
from evolution.state import Progress

LIBRARIES = ("jax", "jaxlib", "numpy")
# Variables and options that change how XLA computes.
VARIABLES = ("XLA_FLAGS", "PJRT_NPROC", "NPROC", "JAX_DISABLE_JIT")
OPTIONS = ("jax_enable_x64", "jax_default_matmul_precision", "jax_threefry_partitionable")
VECTORS = ("amx_bf16", "avx512_bf16", "avx512f", "avx2", "avx", "sve", "asimd")
MEANING = "its results differ in the last digits from those of a run that was not moved"

Environment = dict[str, Any]  # JSON


def environment() -> Environment:
    """That of this process; cores and processor only if the CPU computes."""
    devices = jax.devices()
    on_cpu = devices[0].platform == "cpu"
    return {
        "devices": f"{len(devices)} {devices[0].platform} ({devices[0].device_kind})",
        **({"cores": cores(), "processor": _processor()} if on_cpu else {}),
        **{name: version(name) for name in LIBRARIES},
        **{name: os.environ[name] for name in VARIABLES if os.environ.get(name)},
        **{name: getattr(jax.config, name) for name in OPTIONS},
    }


def moved(progress: Progress, name: str) -> list[Remark]:
    """Records the present environment of a run; returns a warning if it has changed.

    A run without a record, such as a new one, has not changed.
    """
    now, entries = environment(), progress.environments
    if entries and entries[-1]["environment"] == now:
        return []
    place = {"iteration": progress.iteration, "generation": progress.generation}
    entries.append({**place, "environment": now})
    if len(entries) == 1:
        return []
    changed = differences(entries[-2]["environment"], now)
    return [Remark(f"warning: {name} goes on with {changed}: {MEANING}")]


def computed_with(entries: Sequence[Mapping[str, Any]]) -> str:
    """A space and a sentence on what `moved` has recorded of a run; empty without a record."""
    if not entries:
        return ""
    first = entries[0]["environment"]
    told = ", ".join(f"{name} {value}" for name, value in first.items() if value)
    for former, entry in itertools.pairwise(entries):
        changed = differences(former["environment"], entry["environment"])
        told += f"; from task iteration {entry['iteration'] + 1} on {changed}"
    return f" Computed with {told}."


def differences(recorded: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The differences, as `cores 2 → 4, jax 0.9 → 0.10`; empty if there are no differences."""
    changed = [
        f"{name} {_shown(recorded, name)} → {_shown(now, name)}"
        for name in dict.fromkeys([*recorded, *now])
        if recorded.get(name) != now.get(name)
    ]
    return ", ".join(changed)


def _shown(found: Mapping[str, Any], name: str) -> str:
    value = found.get(name)
    return "unset" if value is None else str(value)


def cores() -> int:
    """How many cores XLA starts threads for: those that the process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _processor() -> str:
    """Its name and the vectors it has, which XLA compiles for."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            lines = dict(line.strip().split("\t", 1) for line in file if "\t" in line)
    except OSError:
        return platform.processor() or platform.machine()
    told = {name: value.lstrip("\t: ") for name, value in lines.items()}
    features = told.get("flags", told.get("Features", "")).split()
    vectors = next((name for name in VECTORS if name in features), "")
    return " ".join(filter(None, (told.get("model name", platform.machine()), vectors)))
