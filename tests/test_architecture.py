"""Who may import whom, and which library belongs to which file."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).parent.parent
OURS = {
    "vit": set(),
    "model_store": set(),
    "evolution": {"vit", "model_store"},
    "service": {"vit", "model_store"},
    "loadtests": set(),
}
# File or folder -> what it alone may import beside that: the store's cost is that of calls to it,
# synthetic tasks have to be published, and a gateway runs with an engine that does nothing.
EXCEPTIONS = {
    "loadtests/overhead/noop_gateway.py": {"service"},
    "loadtests/store/": {"model_store"},
    "loadtests/systems.py": {"model_store", "vit"},
    "loadtests/engine/": {"model_store", "service", "vit"},
    "loadtests/peers/networks.py": {"vit"},  # what each answer is compared with
    "loadtests/growth/measure.py": {"vit"},
    "loadtests/gpu/": {"evolution", "model_store", "service", "vit"},
}
# Library -> the only files, or folders, that may import it.
OWNERS = {
    "bentoml": (
        "service/gateway.py",
        "loadtests/overhead/peers/on_bentoml.py",
        "loadtests/peers/apps/",
    ),
    "circus": ("service/processes.py",),
    "prometheus_client": ("service/telemetry/",),
    "cryptography": ("model_store/signing.py",),
    "obstore": (
        "model_store/objects.py",
        "model_store/object_clients.py",
        "loadtests/store/place.py",
        "evolution/data/buckets.py",
    ),
    "requests": ("model_store/registry_client.py",),
    "uvicorn": ("service/http/connections.py", "loadtests/peers/apps/"),
    "grpc": ("service/v2/",),
    "grpc_health": ("service/v2/",),
    "grpc_reflection": ("service/v2/",),
    "google": ("service/v2/",),  # google.protobuf
    "jax": ("vit/", "evolution/", "service/compute/backends/jax_backend.py", "loadtests/gpu/"),
    "opentelemetry": ("service/telemetry/tracing.py",),
    "openvino": ("service/compute/backends/openvino_library.py", "loadtests/engine/"),
    "flax": ("vit/", "evolution/adopting/"),
    "matplotlib": ("evolution/analysis/", "loadtests/growth/"),
    "ray": ("evolution/cluster.py", "loadtests/peers/apps/"),
    "safetensors": (
        "vit/pretrained.py",
        "evolution/adopting/",
        "loadtests/store/place.py",
        "loadtests/peers/apps/",
    ),
    "optax": ("evolution/training.py", "evolution/objectives.py", "evolution/roots.py"),
    "tensorflow_datasets": (
        "evolution/tasks.py",
        "evolution/prepare.py",
        "evolution/data/prepared.py",
    ),
}
FILES = sorted(file for package in OURS for file in (TOP / package).rglob("*.py"))


def imports(file: Path) -> set[str]:
    """Top-level packages that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(TOP)))
def test_imports_keep_to_the_table(file):
    name, package = str(file.relative_to(TOP)), file.relative_to(TOP).parts[0]
    used = imports(file)
    more = set[str]().union(*(m for place, m in EXCEPTIONS.items() if name.startswith(place)))
    assert used & set(OURS) <= OURS[package] | {package} | more
    for library, owners in OWNERS.items():
        assert library not in used or name.startswith(owners), f"{library} belongs to {owners}"


def test_the_store_loads_without_jax():
    code = "import sys, model_store; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=TOP, check=False).returncode == 0


def test_no_file_has_grown_into_two_subjects():
    too_long = {str(f): n for f in FILES if (n := len(f.read_text().splitlines())) > 400}
    assert not too_long
