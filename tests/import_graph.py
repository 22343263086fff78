"""Reads which file imports which, out of a tree of source files; runs none of them.

A file is named by its path from the top of the tree, with slashes: `model_store/refs.py`. A
room is a folder of a package, named from the package: `files`, `compute/backends`; the files at
the package's top are in the room "".
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
HARMLESS = (
    ast.Import,
    ast.ImportFrom,
    ast.FunctionDef,
    ast.AsyncFunctionDef,
    ast.ClassDef,
    ast.Assign,
    ast.AnnAssign,
)
GUARDS = ("TYPE_CHECKING", "__name__ == '__main__'")


@dataclass(frozen=True)
class Import:
    """One module that a file imports."""

    module: str  # with dots
    in_function: bool


def room_of(file: str) -> str:
    """The folder of a file, named from its package."""
    return "/".join(file.split("/")[1:-1])


def source_files(top: Path, package: str) -> list[str]:
    """The Python files of a package, sorted."""
    return sorted(str(file.relative_to(top)) for file in (top / package).rglob("*.py"))


@cache
def imports(top: Path, file: str) -> tuple[Import, ...]:
    """All that a file imports, also in functions and for types only.

    `from a import b` counts as `a.b` where that is a file of the tree, and as `a` otherwise.
    """
    return tuple(
        Import(module, late)
        for node, late in _walk(_parsed(top / file))
        for module in _modules(node, top, file)
    )


def arrows(top: Path, package: str) -> dict[str, set[str]]:
    """File of a package -> the files of the same package that it imports."""
    return {
        file: {
            target
            for found in imports(top, file)
            if found.module.split(".")[0] == package
            and (target := _file_of(top, found.module)) not in (None, file)
        }
        for file in source_files(top, package)
    }


def circles(arrows: dict[str, set[str]]) -> list[list[str]]:
    """Each group of files that import one another, directly or through others; sorted."""
    reached = {file: _reached(file, arrows) for file in arrows}
    groups = {
        frozenset(other for other in reached[file] if file in reached[other])
        for file in arrows
        if file in reached[file]
    }
    return sorted(sorted(group) for group in groups)


def work_at_import(top: Path, file: str) -> list[str]:
    """The statements that run when a file is imported and are more than definitions."""
    return [
        ast.unparse(statement).splitlines()[0]
        for statement in _parsed(top / file).body
        if not isinstance(statement, HARMLESS) and not _is_docstring_or_guard(statement)
    ]


def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def _walk(top: ast.AST) -> Iterator[tuple[ast.AST, bool]]:
    """Each node below, and whether it is in a function."""
    waiting = [(top, False)]
    while waiting:
        node, late = waiting.pop()
        late = late or isinstance(node, FUNCTIONS)
        for child in ast.iter_child_nodes(node):
            yield child, late
            waiting.append((child, late))


def _modules(node: ast.AST, top: Path, file: str) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        parents = file.split("/")[: -node.level] if node.level else []
        base = ".".join([*parents, *([node.module] if node.module else [])])
        inner = [f"{base}.{alias.name}" for alias in node.names]
        return [name if _file_of(top, name) else base for name in inner]
    match node:
        case ast.Call(args=[ast.Constant(value=str(name)), *_]):
            called = getattr(node.func, "attr", getattr(node.func, "id", None))
            if called in ("import_module", "__import__"):
                return [name]
    return []


def _file_of(top: Path, module: str) -> str | None:
    path = module.replace(".", "/")
    for name in (f"{path}.py", f"{path}/__init__.py"):
        if (top / name).is_file():
            return name
    return None


def _reached(start: str, arrows: dict[str, set[str]]) -> set[str]:
    seen, waiting = set[str](), list(arrows[start])
    while waiting:
        if (file := waiting.pop()) not in seen:
            seen.add(file)
            waiting += arrows[file]
    return seen


def _is_docstring_or_guard(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.If):
        return ast.unparse(statement.test) in GUARDS
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
