"""The possible changes of the core files, and a sample of them."""

from __future__ import annotations

import itertools
import random
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cosmic_ray.ast import ast_nodes, get_ast_from_path
from cosmic_ray.mutating import mutate_code

from tests.import_graph import room_of, source_files
from tests.mutants.operators import operators
from tests.rings import CORE


@dataclass(frozen=True, order=True)
class Mutant:
    """One change of one file."""

    file: str  # from the top of the checkout
    line: int
    column: int
    operator: str
    occurrence: int  # the number of the place, of those in this file that the operator can change


def core_files(top: Path, prefixes: Sequence[str]) -> list[str]:
    """The core's files whose path begins with one of these; all without any. In their order."""
    core = [
        file for package in CORE for file in source_files(top, package)
        if room_of(file) in CORE[package] and not file.endswith(("_pb2.py", "__main__.py"))
    ]  # fmt: skip
    return [file for prefix in prefixes or [""] for file in core if file.startswith(prefix)]


def mutants(top: Path, file: str) -> Iterator[Mutant]:
    """All changes of a file."""
    nodes = list(ast_nodes(get_ast_from_path(top / file)))
    for name, operator in operators().items():
        found = [start for node in nodes for start, _ in operator.mutation_positions(node)]
        for occurrence, (line, column) in enumerate(found):
            yield Mutant(file, line, column, name, occurrence)


def sample(top: Path, files: Sequence[str], count: int, seed: int) -> list[Mutant]:
    """Changes of `count` different places, or of all if there are fewer, in random order.

    A comparison can be changed in more ways than a call: so places are drawn first, and then one
    change of each. Each place has a random number of its own, so that an edit of one file does not
    change the draw in the others.
    """
    places: dict[tuple[str, int, int], list[Mutant]] = {}
    for file in files:
        for mutant in sorted(mutants(top, file)):
            places.setdefault((file, mutant.line, mutant.column), []).append(mutant)
    order = sorted(places, key=lambda place: random.Random(f"{seed} {place}").random())
    changes = (random.Random(f"{seed} {place}").choice(places[place]) for place in order)
    return list(itertools.islice((one for one in changes if is_program(top, one)), count))


def is_program(top: Path, mutant: Mutant) -> bool:
    """Whether the changed file can be compiled: `*` may stand for more than a product.

    An operator may also fail: Cosmic Ray's for exceptions knows no name with dots.
    """
    source = (top / mutant.file).read_text("utf-8")
    try:
        changed = mutate_code(source, operators()[mutant.operator], mutant.occurrence)
        with warnings.catch_warnings(action="ignore"):  # `is` with a number
            compile(changed or "", mutant.file, "exec", dont_inherit=True)
    except (SyntaxError, ValueError, AttributeError):
        return False
    return True
