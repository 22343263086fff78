"""Which test files are likely to notice a change of a file, from what each file imports."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from pathlib import Path

from tests.import_graph import imports, source_files

Graph = Mapping[str, set[str]]  # file -> the files that it imports


def graph(top: Path) -> Graph:
    """Of all files, tests too."""
    files = [
        file
        for folder in ("evolution", "loadtests", "model_store", "service", "tests", "vit")
        for file in source_files(top, folder)
    ]
    known = {module: file for file in files for module in _modules(file)}
    return {
        file: {known[found.module] for found in imports(top, file) if found.module in known}
        for file in files
    }


def _modules(file: str) -> list[str]:
    module = file.removesuffix(".py").replace("/", ".")
    return [module, module.removesuffix(".__init__")]


def nearest(top: Path, graph: Graph, file: str, count: int) -> list[str]:
    """At most `count` test files that reach a file by imports, in this order: those of its name,
    those of its package, those with a part of its name, those of its folder, those that need the
    fewest steps, and those that have the most of its names in them.
    """
    steps = _steps_to(graph, file)
    package, folder = file.split("/")[0], str(Path("tests", file).parent)
    words, names = {*Path(file).stem.split("_")}, _defined(top / file)

    def rank(test: str) -> tuple[bool, bool, bool, bool, int, int, str]:
        stem = Path(test).stem.removeprefix("test_")
        same, named = stem == Path(file).stem, bool(words & {*stem.split("_")})
        mentioned = len(names & {*re.findall(r"\w+", (top / test).read_text("utf-8"))})
        elsewhere = not test.startswith(f"tests/{package}/")
        other = str(Path(test).parent) != folder
        return not same, elsewhere, not named, other, steps[test], -mentioned, test

    tests = [name for name in steps if Path(name).name.startswith("test_")]
    return sorted(tests, key=rank)[:count]


def _defined(file: Path) -> set[str]:
    """The names of its functions, methods and classes."""
    definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return {
        node.name
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, definitions) and not node.name.startswith("__")
    }


def _steps_to(graph: Graph, file: str) -> dict[str, int]:
    """File -> how many imports lead from it to this one."""
    found, edge, steps = {file: 0}, {file}, 0
    while edge:
        steps += 1
        edge = {name for name, targets in graph.items() if name not in found and targets & edge}
        found |= dict.fromkeys(edge, steps)
    return found
