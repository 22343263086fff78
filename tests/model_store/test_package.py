"""What importing the package brings in, and what it offers."""

import subprocess
import sys

import model_store


def test_importing_the_store_imports_no_jax() -> None:
    script = (
        "import sys, model_store, model_store.__main__;"
        "print([name for name in ('jax', 'flax', 'tensorflow', 'vit', 'evolution', 'service')"
        " if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout == "[]\n"


def test_everything_offered_exists_and_is_documented() -> None:
    assert sorted(model_store.__all__) == model_store.__all__
    for name in model_store.__all__:
        assert getattr(model_store, name) is not None
        if isinstance(getattr(model_store, name), type):
            assert getattr(model_store, name).__doc__
