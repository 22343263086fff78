"""Runs a sample of mutants; prints the share that tests notice, and the others as differences.

    make mutants
    .venv-mutants/bin/python -m tests.mutants model_store/refs.py service/compute --count 40

Each mutant meets the --tests test files that are nearest to the changed file, until one fails. It
works on a copy of the last commit. Interrupted at any time, it continues where it was: a result
counts until the changed file or one of its tests changes. Exit code 0: at least 95 % are noticed.
"""

from __future__ import annotations

import argparse
import difflib
import hashlib
import json
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cosmic_ray.mutating import use_mutation
from cosmic_ray.testing import run_tests
from cosmic_ray.work_item import TestOutcome

from tests.mutants.nearest import Graph, graph, nearest
from tests.mutants.operators import operators
from tests.mutants.places import Mutant, core_files, sample

TOP = Path(__file__).parent.parent.parent
PYTEST = (sys.executable, "-m", "pytest", "-x", "-q", "-m", "not slow", "-p", "no:cacheprovider")
GOAL = 0.95
FAILED = re.compile(r"^(?:FAILED|ERROR) (\S+)", re.MULTILINE)


class Results:
    """Each mutant's result, a line of JSON in a file."""

    def __init__(self, file: Path) -> None:
        """What the file holds already counts."""
        self._file = file
        lines = file.read_text().splitlines() if file.exists() else []
        self._known = {row["key"]: row for row in map(json.loads, lines)}

    def get(self, key: str) -> dict[str, Any] | None:
        """The result of a mutant and its tests as they are now."""
        return self._known.get(key)

    def add(self, key: str, row: dict[str, Any]) -> None:
        """Keeps one."""
        self._known[key] = row
        with self._file.open("a") as out:
            out.write(json.dumps({"key": key, **row}) + "\n")


class Tests:
    """The tests of each file."""

    def __init__(self, checkout: Path, count: int, most_s: float) -> None:
        """`count` test files for each file; they have `most_s` to notice a mutant."""
        self._checkout, self._count, self._most_s = checkout, count, most_s
        self._graph: Graph = graph(checkout)

    def of(self, file: str) -> list[str]:
        """Those that run on the mutants of a file."""
        return nearest(self._checkout, self._graph, file, self._count)

    def run(self, tests: Sequence[str], *more: str) -> tuple[bool, str]:
        """Runs tests on the checkout as it is: whether all pass, and what was printed."""
        if not tests:
            return True, ""
        command = shlex.join(["env", "-C", str(self._checkout), *PYTEST, *more, *tests])
        outcome, printed = run_tests(command, self._most_s)
        return outcome is TestOutcome.SURVIVED, printed

    def failing(self, names: Sequence[str]) -> set[str]:
        """Those that fail although nothing is changed: what they noticed does not count."""
        printed = self.run(sorted({*names}), "--maxfail=1000")[1]
        return {*FAILED.findall(printed)}


def main() -> int:
    """The exit code."""
    options = _options()
    folder = TOP / "build" / "mutants"
    checkout = _checkout(folder)
    chosen = sample(checkout, core_files(checkout, options.files), options.count, options.seed)
    tests = Tests(checkout, options.tests, options.seconds)
    results = Results(folder / "results.jsonl")
    until = time.monotonic() + 60 * options.minutes
    rows: list[dict[str, Any]] = []
    for mutant in chosen:
        key = _key(checkout, mutant, tests.of(mutant.file))
        if (row := results.get(key)) is None:
            if time.monotonic() > until:
                continue
            row = _run(checkout, mutant, tests)
            results.add(key, row)
            print(_told(row), flush=True)
        rows.append(row)
    failing = tests.failing([row["by"] for row in rows if "::" in row["by"]])
    for row in rows:
        row["noticed"] &= row["by"] not in failing
    return _report(rows, len(chosen))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests.mutants", description=__doc__)
    parser.add_argument("files", nargs="*", help="paths, or how they begin; all core files without")
    parser.add_argument("--count", type=int, default=200, help="how many mutants")
    parser.add_argument("--seed", type=int, default=0, help="another seed draws another sample")
    parser.add_argument("--tests", type=int, default=6, help="how many test files meet each")
    parser.add_argument("--seconds", type=float, default=600, help="that the tests have for each")
    parser.add_argument("--minutes", type=float, default=1e9, help="begin none later")
    return parser.parse_args()


def _checkout(folder: Path) -> Path:
    """A copy of the last commit, which mutants may change."""
    found = folder / "checkout"
    shutil.rmtree(found, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["git", "clone", "--quiet", "--shared", str(TOP), str(found)], check=True)
    return found


def _key(checkout: Path, mutant: Mutant, tests: Sequence[str]) -> str:
    """What a result depends on: the mutant, its file and its tests as they are now."""
    found = hashlib.sha256()
    for name in [mutant.file, *tests]:
        found.update((checkout / name).read_bytes())
    return " ".join([*map(str, asdict(mutant).values()), found.hexdigest()[:16]])


def _run(checkout: Path, mutant: Mutant, tests: Tests) -> dict[str, Any]:
    """The result of one mutant. A test that hangs has noticed it."""
    began = time.monotonic()
    operator = operators()[mutant.operator]
    with use_mutation(checkout / mutant.file, operator, mutant.occurrence) as (before, after):
        assert after is not None, mutant
        near = tests.of(mutant.file)
        passed, printed = tests.run(near[:1])  # alone, as most are noticed by it
        if passed:
            passed, printed = tests.run(near[1:])
    by = FAILED.search(printed)
    return {
        **asdict(mutant),
        "noticed": not passed,
        "by": by[1] if by else printed[-100:].strip(),
        "difference": _difference(mutant.file, before, after),
        "seconds": round(time.monotonic() - began, 1),
    }


def _difference(file: str, before: str, after: str) -> str:
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), file, file, "", "", 1, "")
    return "\n".join(list(lines)[2:])


def _told(row: dict[str, Any]) -> str:
    outcome = "noticed" if row["noticed"] else "NOT NOTICED"
    place = f"{row['file']}:{row['line']} {row['operator']}"
    return f"{outcome} {place}, {row['seconds']} s: {row['by']}"


def _report(rows: Sequence[dict[str, Any]], count: int) -> int:
    unnoticed = [row for row in rows if not row["noticed"]]
    for row in unnoticed:
        print(f"\n{row['file']}:{row['line']} {row['operator']}\n{row['difference']}")
    noticed = len(rows) - len(unnoticed)
    share = noticed / max(1, len(rows))
    print(f"\n{noticed} of {len(rows)} noticed ({share:.1%}); {count - len(rows)} not run yet")
    return 0 if share >= GOAL else 1


if __name__ == "__main__":
    raise SystemExit(main())
