"""Who may import whom, and which library belongs to which file. rings.py has the rooms' tables."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.import_graph import (
    arrows,
    circles,
    imports,
    room_of,
    source_files,
    work_at_import,
)
from tests.rings import ASSEMBLY, CIRCLES, CORE, LATE_IMPORTS, ROOMS, STILL, WORK_AT_IMPORT

TOP = Path(__file__).parent.parent
OURS = {
    "vit": set(),
    "model_store": set(),
    "evolution": {"vit", "model_store"},
    "service": {"vit", "model_store"},
    "loadtests": set(),
}
# File or folder -> what it alone may import besides that: the store's cost is that of calls to it,
# synthetic tasks have to be published, and a gateway runs with an engine that does nothing.
EXCEPTIONS = {
    "loadtests/noop/noop_gateway.py": {"service"},
    "loadtests/store/": {"model_store"},
    "loadtests/systems.py": {"model_store", "vit"},
    "loadtests/engine/": {"model_store", "service", "vit"},
    "loadtests/peers/networks.py": {"vit"},  # what each answer is compared with
    "loadtests/growth/measure.py": {"vit"},
    "loadtests/agents/": {"evolution", "model_store"},  # the children of measured runs
    "loadtests/gpu/": {"evolution", "model_store", "service", "vit"},
}
# Library -> the only files, or folders, that may import it.
OWNERS = {
    "bentoml": (
        "service/host/",
        "loadtests/noop/peers/on_bentoml.py",
        "loadtests/peers/apps/",
    ),
    "circus": ("service/host/",),
    "prometheus_client": ("service/metrics/", "loadtests/exposition.py"),
    "cryptography": ("model_store/exchange/signing.py",),
    "obstore": (
        "model_store/files/objects.py",
        "model_store/files/object_clients.py",
        "model_store/files/buckets.py",
        "loadtests/store/place.py",
        "evolution/data/buckets.py",
    ),
    "requests": ("model_store/exchange/registry_http.py",),
    "uvicorn": ("service/host/", "loadtests/peers/apps/"),
    "grpc": ("service/open_inference/",),
    "grpc_health": ("service/open_inference/",),
    "grpc_reflection": ("service/open_inference/",),
    "google": ("service/open_inference/",),  # google.protobuf
    "jax": ("vit/", "evolution/", "service/compute/backends/jax_backend.py", "loadtests/gpu/"),
    "opentelemetry": ("service/telemetry/tracing.py",),
    "openvino": ("service/compute/backends/openvino_library.py", "loadtests/engine/"),
    "flax": ("vit/", "evolution/adopting/"),
    "matplotlib": ("evolution/reports/", "loadtests/growth/"),
    "ray": ("evolution/agents/ray_cluster.py", "loadtests/peers/apps/"),
    "safetensors": (
        "vit/pretrained.py",
        "evolution/adopting/",
        "loadtests/store/place.py",
        "loadtests/peers/apps/",
    ),
    "optax": (
        "evolution/training/programs.py",
        "evolution/training/objectives.py",
        "evolution/roots/training.py",
    ),
    "tensorflow_datasets": (
        "evolution/data/eurosat.py",
        "evolution/data/tasks.py",
        "evolution/data/preparing.py",
        "evolution/data/prepared.py",
        "evolution/data/tfds_builders.py",
    ),
}
FILES = [file for package in OURS for file in source_files(TOP, package)]


def library_faults(top: Path, file: str) -> list[str]:
    """What a file imports against OURS, EXCEPTIONS and OWNERS."""
    package = file.split("/")[0]
    more = set[str]().union(*(m for place, m in EXCEPTIONS.items() if file.startswith(place)))
    allowed = OURS[package] | {package} | more
    used = {found.module.split(".")[0] for found in imports(top, file)}
    return [
        *(f"{package} may not import {other}" for other in used & set(OURS) - allowed),
        *(
            f"{library} belongs to {owners}"
            for library, owners in OWNERS.items()
            if library in used and not file.startswith(owners)
        ),
    ]


def room_arrows(top: Path, package: str, assembly: set[str]) -> dict[tuple[str, str], list[str]]:
    """(room, room it imports) -> the files that do, without those that assemble."""
    found: dict[tuple[str, str], list[str]] = {}
    for file, targets in arrows(top, package).items():
        for target in sorted(targets) if file not in assembly else ():
            if (pair := (room_of(file), room_of(target))) and pair[0] != pair[1]:
                found.setdefault(pair, []).append(f"{file} -> {target}")
    return found


def table_faults(core: list[str], rooms: dict[str, list[str]]) -> list[str]:
    """Where a table of rooms lets the core import a ring."""
    return [f"{room!r} -> {other!r}" for room in core for other in rooms[room] if other not in core]


def ring_faults(
    top: Path,
    package: str,
    rooms: dict[str, list[str]],
    still: list[tuple[str, str]],
    assembly: set[str],
) -> list[str]:
    """Arrows that the table lacks, rows and exceptions that nothing needs."""
    there = {room_of(file) for file in source_files(top, package)}
    found = room_arrows(top, package, assembly)
    allowed = {(room, other) for room, others in rooms.items() for other in others}
    return [
        *(f"room {room!r} has no row" for room in sorted(there - set(rooms))),
        *(f"row {room!r} has no room" for room in sorted(set(rooms) - there)),
        *(f"{a!r} -> {b!r} is gone: take it out" for a, b in sorted({*still, *allowed} - {*found})),
        *(files[0] for pair, files in found.items() if pair not in allowed and pair not in still),
    ]


def late_imports(top: Path, file: str) -> list[str]:
    """Our own modules that a file imports inside functions."""
    return [
        found.module
        for found in imports(top, file)
        if found.in_function and found.module.split(".")[0] in OURS
    ]


@pytest.mark.parametrize("file", FILES)
def test_imports_keep_to_the_table(file):
    assert not library_faults(TOP, file)


@pytest.mark.parametrize("package", OURS)
def test_the_core_imports_no_ring_and_each_room_only_those_of_its_row(package):
    assert not table_faults(CORE[package], ROOMS[package])
    still = STILL.get(package, [])
    assert not ring_faults(TOP, package, ROOMS[package], still, ASSEMBLY)


@pytest.mark.parametrize("package", OURS)
def test_no_files_import_one_another(package):
    still = [[f"{package}/{n}.py" for n in names] for names in CIRCLES.get(package, [])]
    assert circles(arrows(TOP, package)) == still


def test_imports_of_our_own_are_at_the_top_of_the_file():
    """Except in the files of LATE_IMPORTS, each of which has some."""
    assert {file for file in FILES if late_imports(TOP, file)} == set(LATE_IMPORTS)


def test_importing_a_file_does_no_work():
    """Except in the files of WORK_AT_IMPORT, each of which does some."""
    host = "service/host/"
    busy = {f for f in FILES if not f.startswith(host) and work_at_import(TOP, f)}
    assert busy == set(WORK_AT_IMPORT)


def test_files_that_assemble_are_there():
    assert set(FILES) >= ASSEMBLY


def test_the_store_loads_without_jax_or_numpy():
    code = "import sys, model_store; sys.exit(not {'jax', 'numpy'}.isdisjoint(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], cwd=TOP, check=False).returncode == 0


def test_no_file_has_grown_into_two_subjects():
    """Nor has a file of tests."""
    every = [*FILES, *source_files(TOP, "tests")]
    too_long = {f: n for f in every if (n := len((TOP / f).read_text().splitlines())) > 400}
    assert not too_long


def test_tests_share_helper_files_and_import_no_file_of_tests():
    """Else the tests of one subject are loaded, and changed, with those of another."""
    found = [
        (file, found.module)
        for file in source_files(TOP, "tests")
        for found in imports(TOP, file)
        if found.module.startswith("tests.") and ".test_" in found.module
    ]
    assert not found


def tree(top: Path, files: dict[str, str]) -> Path:
    """A made-up `model_store`, of file names and their texts."""
    for name, text in files.items():
        path = top / "model_store" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return top


MADE_UP = {"": ["files"], "files": [], "cli": [""]}


@pytest.mark.parametrize(
    "text",
    [
        "import model_store.cli.show",
        "from model_store.cli import show",
        "from model_store.cli.show import run",
        "from .cli.show import run",
        "from .cli import show",
        "from . import cli",
        "def late():\n    from model_store.cli.show import run",
        "if TYPE_CHECKING:\n    from model_store.cli.show import run",
        "import importlib\nimportlib.import_module('model_store.cli.show')",
    ],
)
def test_a_core_that_imports_a_ring_is_found(tmp_path, text):
    files = {
        "cli/__init__.py": "",
        "cli/show.py": "import model_store.refs",
        "refs.py": "import model_store.files.local",
        "files/local.py": "",
    }
    good = tree(tmp_path / "good", files)
    assert not ring_faults(good, "model_store", MADE_UP, [], set())
    bad = tree(tmp_path / "bad", files | {"store.py": text})
    assert len(ring_faults(bad, "model_store", MADE_UP, [], set())) == 1
    assert not ring_faults(bad, "model_store", MADE_UP, [("", "cli")], set())
    assert not ring_faults(bad, "model_store", MADE_UP, [], {"model_store/store.py"})


def test_rows_and_exceptions_that_nothing_needs_are_found(tmp_path):
    top = tree(
        tmp_path,
        {"refs.py": "import model_store.files.local", "files/local.py": "", "new/room.py": ""},
    )
    assert ring_faults(top, "model_store", MADE_UP, [("files", "")], set()) == [
        "room 'new' has no row",
        "row 'cli' has no room",
        "'cli' -> '' is gone: take it out",
        "'files' -> '' is gone: take it out",
    ]


def test_a_table_that_lets_the_core_import_a_ring_is_found():
    assert table_faults(["", "files"], MADE_UP) == []
    assert table_faults([""], MADE_UP) == ["'' -> 'files'"]


def test_circles_of_files_are_found(tmp_path):
    top = tree(
        tmp_path,
        {
            "a.py": "import model_store.b",
            "b.py": "def late():\n    from model_store import c",
            "c.py": "from . import a",
            "d.py": "import model_store.a",
            "e.py": "import model_store.e",
        },
    )
    found = circles(arrows(top, "model_store"))
    assert found == [["model_store/a.py", "model_store/b.py", "model_store/c.py"]]


def test_late_imports_are_found(tmp_path):
    top = tree(
        tmp_path,
        {
            "a.py": "import vit.config",
            "b.py": "class B:\n    def c(self):\n        if self:\n            import vit.config",
            "c.py": "def c():\n    import json",
            "d.py": "d = lambda: __import__('vit')",
        },
    )
    late = [late_imports(top, file) for file in source_files(top, "model_store")]
    assert late == [[], ["vit.config"], [], ["vit"]]


def test_work_at_import_is_found(tmp_path):
    top = tree(
        tmp_path,
        {
            "quiet.py": '"""Docstring."""\nimport json\nA = 1\nif TYPE_CHECKING:\n    import vit',
            "command.py": "def main(): ...\nif __name__ == '__main__':\n    main()",
            "call.py": "import json\nprint(json)",
            "loop.py": "for a in b:\n    c(a)",
            "guard.py": "if a:\n    import vit",
            "tried.py": "try:\n    import vit\nexcept ImportError:\n    vit = None",
        },
    )
    names = ("quiet", "command", "call", "loop", "guard", "tried")
    work = {name: work_at_import(top, f"model_store/{name}.py") for name in names}
    assert work == {
        "quiet": [],
        "command": [],
        "call": ["print(json)"],
        "loop": ["for a in b:"],
        "guard": ["if a:"],
        "tried": ["try:"],
    }


def test_a_library_in_a_wrong_file_is_found(tmp_path):
    top = tree(tmp_path, {"wrong.py": "def f():\n    import jax.numpy\n    import service.app"})
    assert [fault.split(" (")[0] for fault in library_faults(top, "model_store/wrong.py")] == [
        "model_store may not import service",
        "jax belongs to",
    ]
