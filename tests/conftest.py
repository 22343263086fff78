"""What holds for all tests, and a real S3 server, which starts when the first test needs it."""

import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.data import DATA
from tests.model_store.object_stores import S3Server, s3_server
from tests.model_store.places import Place, s3_place

# Tests compile far more than they compute. Without fusion emitters XLA compiles twice as fast, with
# the least of LLVM's optimisations a third faster again, and a seventh faster if it does not split
# a program for several cores.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_cpu_use_fusion_emitters=false --xla_backend_optimization_level=1"
    " --xla_cpu_parallel_codegen_split_count=1",
)
# Tests of these folders compile without any of LLVM's optimisations, four times as fast. Tests of
# the engine compare bits, and there these would depend on what else is in a program.
UNOPTIMISED = ("tests/evolution/", "tests/vit/", "tests/service/")
COMPARING_BITS = "tests/service/compute/"
DISABLED = "JAX_DISABLE_MOST_OPTIMIZATIONS"
# Each program is compiled once for all processes of this run.
MADE_HERE = "JAX_COMPILATION_CACHE_DIR" not in os.environ  # and not by the process that began us
if MADE_HERE:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="compilations-")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
# Data sets are looked for here, and not where the user has some.
os.environ["TFDS_DATA_DIR"] = str(DATA)
# Tests press Ctrl-C, which a shell ignores for what it starts in the background.
signal.signal(signal.SIGINT, signal.default_int_handler)
# Processes that tests start find our modules compiled, as a user's do.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# No test passes or fails by how fast the machine is.
settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")


def pytest_unconfigure() -> None:
    """Removes what this process made."""
    if MADE_HERE:
        shutil.rmtree(os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Before the fixtures of a module; for processes that they start, too."""
    disabled = item.nodeid.startswith(UNOPTIMISED) and not item.nodeid.startswith(COMPARING_BITS)
    if disabled == (DISABLED in os.environ):
        return
    if disabled:
        os.environ[DISABLED] = "1"
    else:
        del os.environ[DISABLED]
    if (jax := sys.modules.get("jax")) is not None:
        jax.config.update(DISABLED.lower(), disabled)
        jax.clear_caches()


@pytest.fixture(autouse=True)
def compiled_once() -> Iterator[None]:
    """A test that had a cache of its own leaves the next one that of the run."""
    yield
    jax = sys.modules.get("jax")
    folder = os.environ["JAX_COMPILATION_CACHE_DIR"]
    if jax is not None and jax.config.jax_compilation_cache_dir != folder:
        jax.config.update("jax_compilation_cache_dir", folder)
        sys.modules["jax._src.compilation_cache"].reset_cache()


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A server of its own for this run of the tests."""
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def s3_store(s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A place on the server for one test."""
    found = s3_place(s3, tmp_path)
    for name, value in found.environment.items():
        monkeypatch.setenv(name, value)
    return found
