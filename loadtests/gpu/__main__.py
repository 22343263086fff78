"""python loadtests/gpu [--rehearse] [--seconds 480] [--json FILE]

Equality of answers, throughput of many tasks next to one, training next to its floor, and requests
over HTTP where the gateway's libraries are there. It needs Python 3.11 or later, JAX for the
device, flax, optax, numpy and pillow: for libraries that only other parts of the packages use,
there are stand-ins where they lack. What there is no time left for is said to be not measured.
`--rehearse` does all of it at tiny sizes, on any machine.
"""

from __future__ import annotations

import argparse
import importlib.abc
import importlib.machinery
import importlib.util
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

TOP = Path(__file__).parents[2]
# What the packages import, and nothing that is measured in this process calls.
ELSEWHERE = (
    "aiohttp", "cryptography", "obstore", "openvino", "prometheus_client", "requests", "rich",
    "typer",
)  # fmt: skip


class _StandIns(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Modules that answer anything, for libraries that are not installed."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name.partition(".")[0] in self._names:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> Any:
        return MagicMock(name=spec.name, __path__=[])

    def exec_module(self, module: Any) -> None:
        """Nothing is in it."""


def main() -> None:
    """Prints tables, and writes the JSON if asked."""
    options = argparse.ArgumentParser(prog="python loadtests/gpu")
    options.add_argument("--rehearse", action="store_true", help="Tiny sizes, in seconds.")
    options.add_argument("--seconds", type=float, default=480.0, help="Nothing begins after that.")
    options.add_argument("--json", type=Path, help="Write the figures there.")
    asked = options.parse_args()
    sys.path[0] = str(TOP)  # not this folder
    sys.meta_path.append(_StandIns([n for n in ELSEWHERE if importlib.util.find_spec(n) is None]))
    from loadtests.gpu import report

    found = report.measure(rehearse=asked.rehearse, seconds=asked.seconds, say=_say)
    sys.stdout.write(report.table(found))
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1) + "\n")


def _say(what: str) -> None:
    sys.stderr.write(f"{what}\n")


if __name__ == "__main__":
    main()
