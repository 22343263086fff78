"""Which back end the engine uses: the one asked for, or the faster one on this machine."""

from __future__ import annotations

import json
import logging
import os
import time
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.compute.backends import Backend
from service.compute.backends.jax_backend import JaxBackend
from service.compute.paths import cut
from service.errors import SettingsError
from vit import Architecture, shapes

logger = logging.getLogger(__name__)
# A block of a small network in a batch of middling size.
SAMPLE = Architecture.named("Ti", patch_size=16, image_size=80, num_layers=2, num_classes=1)
SAMPLE_ROWS = 8
ROUNDS = 15
EQUAL = 1e-3  # answers are about 1


def choose(name: str, compilation_cache: str | None, threads: int) -> Backend:
    """The back end of this name; for `auto` the faster one.

    That is measured where the folder `compilation_cache` has no result yet, which is kept there:
    workers that start together may each measure. Raises SettingsError where it cannot be used.
    """
    require(name)
    if name == "openvino":
        return _openvino(compilation_cache, threads)
    try:
        jax = JaxBackend(compilation_cache)
    except RuntimeError as error:
        raise SettingsError(
            f"starting the gateway: JAX finds nothing to compute on: {error}; correct JAX_PLATFORMS"
            " or the device's driver"
        ) from None
    if name == "jax" or jax.accelerated or find_spec("openvino") is None:
        return jax
    openvino = _openvino(compilation_cache, threads)
    chosen, other = _faster(jax, openvino, compilation_cache, threads)
    other.close()
    return chosen


def require(name: str) -> None:
    """Raises SettingsError for a back end whose package is not installed."""
    if name == "openvino" and find_spec("openvino") is None:
        raise SettingsError(
            "starting the gateway: MUNET_BACKEND=openvino needs the package openvino, which is "
            "not installed: pip install openvino, or set MUNET_BACKEND=jax"
        )


def _openvino(compilation_cache: str | None, threads: int) -> Backend:
    from service.compute.backends.openvino_backend import (
        OpenVinoBackend,  # not where it is not installed
    )

    return OpenVinoBackend(compilation_cache, threads)


def _faster(
    jax: Backend, openvino: Backend, folder: str | None, threads: int
) -> tuple[Backend, Backend]:
    record = None if folder is None else Path(folder) / "backend.json"
    machine = [version("jax"), version("openvino"), openvino.device, threads]
    found = _read(record, machine)
    reason = "recorded"
    if found is None:
        reason = "measured"
        found = {"machine": machine, **_measure(jax, openvino)}
        _write(record, found)
    each = openvino.streams / jax.streams  # so many times the batches in that time
    wins = found["equal"] and found["openvino_s"] < found["jax_s"] * each
    chosen, other = (openvino, jax) if wins else (jax, openvino)
    logger.info(
        "event=backend chosen=%s reason=%s equal=%s jax_s=%.6f openvino_s=%.6f",
        *(chosen.name, reason, found["equal"], found["jax_s"], found["openvino_s"]),
    )
    return chosen, other


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
        logger.warning("event=backend_not_recorded error=%r", error)


def _measure(jax: Backend, openvino: Backend) -> dict[str, Any]:
    """Seconds of one block with each, alternating, the best of all rounds; and if they agree."""
    rng = np.random.default_rng(0)
    program, _ = cut(SAMPLE)[1]
    tree = _random(shapes(program.shape, "encoderblock"), rng)
    x = rng.standard_normal((SAMPLE_ROWS, *program.row_shape), np.float32)
    runs = {
        backend.name: (
            backend.compile(program, SAMPLE_ROWS, stacked=False).run,
            [(backend.place("encoderblock", tree),)],
        )
        for backend in (jax, openvino)
    }
    results = {name: np.asarray(run(weights, x)) for name, (run, weights) in runs.items()}
    best = dict.fromkeys(runs, float("inf"))
    for _ in range(ROUNDS):
        for name, (run, weights) in runs.items():
            started = time.perf_counter()
            np.asarray(run(weights, x))
            best[name] = min(best[name], time.perf_counter() - started)
    equal = bool(np.abs(results["jax"] - results["openvino"]).max() < EQUAL)
    return {"equal": equal, "jax_s": best["jax"], "openvino_s": best["openvino"]}


def _random(shape: Any, rng: np.random.Generator) -> Any:
    if isinstance(shape, dict):
        return {name: _random(inner, rng) for name, inner in shape.items()}  # pyright: ignore
    array: NDArray[np.float32] = 0.05 * rng.standard_normal(shape.shape, np.float32)
    return array
