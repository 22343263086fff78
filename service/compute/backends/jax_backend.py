"""JAX: the same functions that evolution trains with, on the device that JAX finds."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.monitoring
import jax.numpy as jnp
from jax import Array
from jax.experimental.compilation_cache import compilation_cache as compilation_cache_of_jax

from model_store.files.limits import Machine
from service.compute.backends import Chain, Compiled, always
from service.compute.backends.keeping import writable
from service.compute.paths import Program
from vit import shapes
from vit.components import apply

CACHE_HIT = "/jax/compilation_cache/cache_hits"


class JaxBackend:
    """Programs are compiled by XLA from the components' forward functions."""

    name = "jax"
    streams = 1  # a run takes what cores there are
    inline = False
    call_tokens = 1024
    fuses = False  # XLA would fuse operations across stages, and round otherwise

    def __init__(self, compilation_cache: str | None) -> None:
        """`compilation_cache` is the folder that keeps compiled programs over restarts."""
        cores = Machine().cores()
        if cores < len(os.sched_getaffinity(0)):  # XLA does not know quotas of time
            os.environ.setdefault("PJRT_NPROC", str(cores))
        if compilation_cache is not None:
            if not writable(compilation_cache):  # which JAX says of each program
                warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation")
            compilation_cache_of_jax.reset_cache()  # else it stays with what it was first told
            jax.config.update("jax_compilation_cache_dir", compilation_cache)
            # Without these JAX keeps only programs that took a second to compile.
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
            jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
            # JAX decides at its first compilation whether it has a cache. A thread that compiles at
            # that moment is told that there is none: its program is neither read nor kept.
            jax.jit(lambda: 0).lower().compile()
        self.device = jax.devices()[0].device_kind
        self.accelerated = jax.default_backend() != "cpu"  # else OpenVINO may be faster
        self._compiling = threading.local()
        jax.monitoring.register_event_listener(self._note_cache_hit)

    def close(self) -> None:
        """Stops listening to JAX's events."""
        jax.monitoring.unregister_event_listener(self._note_cache_hit)

    def place(self, kind: str, tree: Any) -> Any:
        """The same tree on the device."""
        del kind
        return jax.device_put(tree)

    def compile(
        self, chain: Chain, rows: int, *, stacked: bool, spare: Callable[[], bool] = always
    ) -> Compiled:
        """Compiles, or loads what was compiled before."""

        def stage(trees: Sequence[Any], x: Array) -> Array:
            kinds = ((program, kind) for program in chain for kind in program.kinds)
            for (program, kind), tree in zip(kinds, trees, strict=True):
                x = _apply(program, kind, tree, x)
            return x

        def each(weights: Sequence[Sequence[Any]], x: Array) -> Array:
            trees = jax.tree.map(lambda *arrays: jnp.stack(arrays), *weights)
            return jax.vmap(lambda own, row: stage(own, row[None])[0])(trees, x)

        def shared(weights: Sequence[Sequence[Any]], x: Array) -> Array:
            return stage(weights[0], x)

        weights = [tuple(shapes(p.shape, kind) for p in chain for kind in p.kinds)]
        x = jax.ShapeDtypeStruct((rows, *chain[0].row_shape), jnp.float32)
        traced = jax.jit(each if stacked else shared).lower(weights * (rows if stacked else 1), x)
        self._compiling.hit = False
        return Compiled(traced.compile(), cached=self._compiling.hit)

    def _note_cache_hit(self, event: str, **_: Any) -> None:
        if event == CACHE_HIT:  # raised in the thread that compiles
            self._compiling.hit = True


def _apply(program: Program, kind: str, tree: Any, x: Array) -> Array:
    if program.class_token_only:  # as a path's last block
        return apply(replace(program.shape, num_layers=1), "encoderblock_0", tree, x)
    return apply(program.shape, kind, tree, x)
