"""Which back end the engine uses: the one asked for, or the cheaper one on this machine.

JAX takes memory and a second to import, so a gateway that computes with OpenVINO never imports it.
If both have to be tried, another process does that.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from service.compute import installed
from service.compute.backends import Backend
from service.compute.backends.keeping import not_kept
from service.errors import SettingsError

if TYPE_CHECKING:
    from service.compute.backends.jax_backend import JaxBackend

logger = logging.getLogger(__name__)
TRIAL = "service.compute.backends.trial"
# Packages with which JAX may find an accelerator: it is imported, and asked, where one is there.
PLUGINS = ("jax_plugins", "libtpu")
TRIAL_S = 300.0  # before it is given up


def choose(name: str, compilation_cache: str | None, threads: int) -> Backend:
    """The back end of this name; for `auto` the one that takes less of the processor.

    Both are tried if the folder `compilation_cache` has no result yet; the result is kept there.
    Workers that start together may each try. Raises SettingsError where it cannot be used.
    """
    installed.require(name)
    if name == "jax" or find_spec("openvino") is None:
        return _jax(compilation_cache)
    if name == "auto" and any(find_spec(plugin) for plugin in PLUGINS):
        jax = _jax(compilation_cache)
        if jax.accelerated:
            return jax
        jax.close()
    openvino = _openvino(compilation_cache, threads)
    if name == "openvino" or _wins(openvino, compilation_cache):
        return openvino
    openvino.close()
    return _jax(compilation_cache)


def _jax(compilation_cache: str | None) -> JaxBackend:
    from service.compute.backends.jax_backend import JaxBackend  # not where it is not used

    try:
        return JaxBackend(compilation_cache)
    except RuntimeError as error:
        raise SettingsError(
            f"starting the gateway: JAX finds nothing to compute on: {error}; correct JAX_PLATFORMS"
            " or the device's driver"
        ) from None


def _openvino(compilation_cache: str | None, threads: int) -> Backend:
    from service.compute.backends.openvino_backend import (
        OpenVinoBackend,  # not where it is not installed
    )

    return OpenVinoBackend(compilation_cache, threads)


def _wins(openvino: Backend, folder: str | None) -> bool:
    """Whether OpenVINO answers the same as JAX, with less of the processor."""
    record = None if folder is None else Path(folder) / "backend.json"
    machine = [version("jax"), version("openvino"), openvino.device]
    found = _read(record, machine)
    reason = "recorded"
    if found is None:
        reason = "measured"
        tried = _try(folder)
        if tried is None:
            return False
        found = {"machine": machine, **tried}
        _write(record, found)
    wins = found["equal"] and found["openvino_s"] < found["jax_s"]
    logger.info(
        "event=backend chosen=%s reason=%s equal=%s jax_s=%.6f openvino_s=%.6f",
        *("openvino" if wins else "jax", reason),
        *(found["equal"], found["jax_s"], found["openvino_s"]),
    )
    return wins


def _try(folder: str | None) -> dict[str, Any] | None:
    """What `trial` finds, in a process of its own; None if that fails."""
    command = [sys.executable, "-m", TRIAL, *([folder] if folder else [])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=TRIAL_S, check=True
        )
        return json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        reason = str(getattr(error, "stderr", None) or error).strip().splitlines()[-1:]
        logger.warning("event=backend_not_tried chosen=jax error=%r", *reason or [""])
        return None


def _read(record: Path | None, machine: list[Any]) -> dict[str, Any] | None:
    try:
        found = json.loads(record.read_text()) if record is not None else None
        usable = found["machine"] == machine and isinstance(found["equal"], bool)  # pyright: ignore
        return found if usable and found["jax_s"] > 0 and found["openvino_s"] > 0 else None  # pyright: ignore
    except (OSError, ValueError, TypeError, KeyError):  # none yet, or not ours
        return None


def _write(record: Path | None, found: dict[str, Any]) -> None:
    if record is None:
        return
    try:
        record.parent.mkdir(parents=True, exist_ok=True)
        temporary = record.with_name(f"{record.name}.{os.getpid()}")
        temporary.write_text(json.dumps(found))
        temporary.replace(record)
    except OSError as error:
        not_kept(record.parent, error)
