"""Processes that permissions of files mean something to: root as such may read everything."""

import functools
import os
import shutil
import subprocess
from collections.abc import Sequence
from typing import NoReturn

import pytest

OVERRIDES = "-dac_override,-dac_read_search"


def _cannot(reason: str) -> NoReturn:
    """A skip on a machine of one's own; in continuous integration these tests have to run."""
    (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)


@functools.cache
def prefix() -> tuple[str, ...]:
    """Put before a command, it makes its process heed permissions; skips where nothing can."""
    if os.geteuid() != 0:
        return ()
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        _cannot("root ignores permissions, and setpriv (util-linux) is not installed")
    command = (setpriv, "--bounding-set", OVERRIDES, "--inh-caps", OVERRIDES)
    tried = subprocess.run([*command, "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        _cannot(f"root ignores permissions, and setpriv may not change that: {tried.stderr}")
    return command


def unprivileged(command: Sequence[str]) -> list[str]:
    """The command, run so that it heeds permissions."""
    return [*prefix(), *command]
