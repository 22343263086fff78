"""Runs a sample of mutants; prints the share that tests notice, and the others as differences.

    make mutants
    .venv-mutants/bin/python -m tests.mutants model_store/refs.py service/compute --count 40

Each mutant meets the --tests test files that are nearest to the changed file, until one fails. The
mutants come in random order, so that the first ones are a sample too. It works on a copy of the
last commit. Interrupted at any time, it continues where it was: a result counts until the changed
file changes, or the test file that noticed it, or one of those that did not. Exit code 0: at least
95 % are noticed.
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
# Most mutants change no compiled program: JAX keeps each for the next mutant.
COMPILED_ONCE = (
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0", "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES=-1"
)  # fmt: skip
GOAL = 0.95
NONE_RAN = re.compile(r"^(?:no tests ran|\d+ deselected) in ", re.MULTILINE)
FAILED = re.compile(r"^(?:FAILED|ERROR) (\S+)", re.MULTILINE)


class Results:
    """Each mutant's last result, a line of JSON in a file."""

    def __init__(self, file: Path, checkout: Path) -> None:
        """What the file holds already counts, where the files that it depends on are the same."""
        self._file, self._checkout = file, checkout
        lines = file.read_text().splitlines() if file.exists() else []
        self._known = {row["mutant"]: row for row in map(json.loads, lines)}

    def get(self, mutant: Mutant, tests: Sequence[str]) -> dict[str, Any] | None:
        """The result of a mutant, if these tests would give it again."""
        row = self._known.get(str(mutant))
        if row is None or row["digest"] != self._digest(row["files"]):
            return None
        return row if row["noticed"] or row["files"] == [mutant.file, *tests] else None

    def add(self, mutant: Mutant, tests: Sequence[str], row: dict[str, Any]) -> None:
        """Keeps one. What a test noticed depends on no other test."""
        noticing = [row["by"].split("::")[0]] if "::" in row["by"] else tests
        row["files"] = [mutant.file, *noticing]
        row |= {"mutant": str(mutant), "digest": self._digest(row["files"])}
        self._known[row["mutant"]] = row
        with self._file.open("a") as out:
            out.write(json.dumps(row) + "\n")

    def _digest(self, files: Sequence[str]) -> str:
        paths = [self._checkout / name for name in files]
        return hashlib.sha256(b"".join(p.read_bytes() for p in paths if p.exists())).hexdigest()


class Tests:
    """The tests of each file."""

    def __init__(self, checkout: Path, count: int) -> None:
        """`count` test files for each file."""
        self._checkout, self._count = checkout, count
        self._graph: Graph = graph(checkout)

    def of(self, file: str) -> list[str]:
        """Those that run on the mutants of a file."""
        return nearest(self._checkout, self._graph, file, self._count)

    def run(self, tests: Sequence[str], most_s: float, *more: str) -> tuple[bool, str]:
        """Runs tests on the checkout as it is: whether all pass, and what was printed."""
        if not tests:
            return True, ""
        compiled = f"JAX_COMPILATION_CACHE_DIR={self._checkout.parent / 'compilations'}"
        place = ["env", "-C", str(self._checkout), compiled, *COMPILED_ONCE]
        command = shlex.join([*place, *PYTEST, *more, *tests])
        outcome, printed = run_tests(command, most_s)
        return outcome is TestOutcome.SURVIVED or bool(NONE_RAN.search(printed)), printed

    def failing(self, names: Sequence[str]) -> set[str]:
        """Those that fail although nothing is changed: what they noticed does not count."""
        printed = self.run(sorted({*names}), 3600, "--maxfail=1000")[1]
        return {*FAILED.findall(printed)}


def main() -> int:
    """The exit code."""
    options = _options()
    folder = TOP / "build" / "mutants"
    checkout = _checkout(folder)
    chosen = sample(checkout, core_files(checkout, options.files), options.count, options.seed)
    tests = Tests(checkout, options.tests)
    results = Results(folder / "results.jsonl", checkout)
    until = time.monotonic() + 60 * options.minutes
    rows: list[dict[str, Any]] = []
    for mutant in chosen:
        near = tests.of(mutant.file)
        if (row := results.get(mutant, near)) is None:
            if time.monotonic() > until:
                continue
            row = _run(checkout, mutant, tests, options.seconds)
            results.add(mutant, near, row)
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
    parser.add_argument("--seconds", type=float, default=300, help="for the nearest test file")
    parser.add_argument("--minutes", type=float, default=1e9, help="begin none later")
    return parser.parse_args()


def _checkout(folder: Path) -> Path:
    """A copy of the last commit, which mutants may change."""
    found = folder / "checkout"
    shutil.rmtree(found, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["git", "clone", "--quiet", "--shared", str(TOP), str(found)], check=True)
    subprocess.run([sys.executable, "-m", "compileall", "-q", str(found)], check=True)
    return found


def _run(checkout: Path, mutant: Mutant, tests: Tests, most_s: float) -> dict[str, Any]:
    """The result of one mutant. The nearest test file has noticed it too if it hangs. The others
    have less time together, and have noticed nothing when it ends.
    """
    began = time.monotonic()
    operator = operators()[mutant.operator]
    with use_mutation(checkout / mutant.file, operator, mutant.occurrence) as (before, after):
        assert after is not None, mutant
        near = tests.of(mutant.file)
        passed, printed = tests.run(near[:1], most_s)  # alone, as most are noticed by it
        if passed:
            passed, printed = tests.run(near[1:], most_s / 4)
            passed |= printed == "timeout"
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
