"""What all commands that compute share: log, compiled programs, end."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
from rich.console import Console

from evolution.process import stopping


@contextmanager
def computing(level: int = logging.INFO) -> Iterator[None]:
    """Within it signals end the command as `stopping` says, and compiled programs are kept.

    A command that is told to stop ends with 130 (Ctrl-C) or 143 (SIGTERM). `level` is that of the
    log.
    """
    logging.basicConfig(format="%(message)s")
    logger = logging.getLogger("evolution")
    before = logger.level
    logger.setLevel(level)
    logging.getLogger("absl").setLevel(logging.ERROR)  # TFDS advises OpenCV at each start
    # A later run or resume loads compiled programs instead of compiling them again.
    cache = os.environ.get("JAX_COMPILATION_CACHE_DIR", Path.home() / ".cache/munet/compilations")
    jax.config.update("jax_compilation_cache_dir", str(cache))
    try:
        with stopping.listening(), _end_told():
            yield
    finally:
        logger.setLevel(before)


@contextmanager
def _end_told() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        stopping.leave(stopping.exit_code() or 130)
    except SystemExit as end:  # also Typer's answer to KeyboardInterrupt
        told = stopping.exit_code()
        if told is None:
            raise
        if end.code and not isinstance(end, stopping.Stopped):
            Console(emoji=False, stderr=True).print("stopped", highlight=False)
        stopping.leave(told if end.code else 0)
