"""Which level a log line has: who reads only warnings learns of all that went wrong."""

import ast
from collections.abc import Iterator
from pathlib import Path

TOP = Path(__file__).parent.parent
PACKAGES = ("evolution", "model_store", "service", "vit")
BAD = {"warning", "error", "exception"}
# Events that carry an error and are no warning, and why.
HARMLESS = {
    "event=retry": "another try follows, and its failure is told",
    "event=not_in_source": "the next source is asked, and a blob that is in none is told",
}


def lines() -> Iterator[tuple[str, str, str]]:
    """File, level and text of each call of a logger."""
    for file in sorted(path for package in PACKAGES for path in (TOP / package).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            match node:
                case ast.Call(
                    func=ast.Attribute(value=ast.Name("logger"), attr=level),
                    args=[ast.Constant(value=str(text)), *_],
                ):
                    yield str(file.relative_to(TOP)), level, text


def test_a_line_with_an_error_is_a_warning_or_worse() -> None:
    found = {(file, text) for file, level, text in lines() if "error=" in text and level not in BAD}
    assert {text.split()[0] for _, text in found} == {*HARMLESS}, found


def test_only_the_running_gateway_logs_errors_where_others_raise_them() -> None:
    files = {file for file, level, _ in lines() if level in ("error", "exception")}
    assert files and all(file.startswith("service/") for file in files), files
