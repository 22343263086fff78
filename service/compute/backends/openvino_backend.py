"""OpenVINO on the CPU, with weights as parameters.

`munet loadtest engine` compares it with OpenVINO with weights inside, and with others.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import Empty, LifoQueue
from threading import Semaphore
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.compute.backends import Chain, Compiled, Run, always, openvino_graph
from service.compute.backends.keeping import not_kept
from service.compute.backends.openvino_library import ov
from service.compute.decode_memory import give_back_free_memory
from service.compute.priority import BACKGROUND, give_way

logger = logging.getLogger(__name__)
F32 = NDArray[np.float32]
DIGEST_BYTES = 32
COPY_AGAIN_S = 1.0  # after a copy of a program could not be made


@dataclass(frozen=True, slots=True, weakref_slot=True)
class _Weights:
    """A component's arrays, and the same memory as OpenVINO takes it."""

    arrays: tuple[F32, ...]
    tensors: tuple[ov.Tensor, ...]


def _weights(arrays: Sequence[F32]) -> _Weights:
    return _Weights(tuple(arrays), tuple(ov.Tensor(a, shared_memory=True) for a in arrays))


class OpenVinoBackend:
    """Programs are graphs of a fixed number of rows, compiled for this processor."""

    name = "openvino"
    inline = True
    # Rows with 136 tokens together cost as much each as with 544, for a width of 192; for one of
    # 768, with 208 a fortieth more than with 832.
    call_tokens = 256
    fuses = True

    def __init__(self, compilation_cache: str | None, threads: int) -> None:
        """`compilation_cache` is the folder that keeps compiled programs over restarts.

        Each of `threads` runs programs by itself. Streams of OpenVINO's own would hand each run
        over to another thread; here a program has a copy for each thread that runs it meanwhile.
        """
        self.streams = threads
        self._copying = ThreadPoolExecutor(
            1, thread_name_prefix="copy", initializer=give_way, initargs=(BACKGROUND,)
        )
        self._core = ov.Core()
        self.device = str(self._core.get_property("CPU", "FULL_DEVICE_NAME"))
        self._settings: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": "f32",  # else bfloat16 where the processor has it
            "INFERENCE_NUM_THREADS": 1,  # the one that calls
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,  # the cores are shared with decoding and the event loop
            # Code made for each small operation takes as much memory as the rest of a program, and
            # saves no time; for two tokens it gave wrong answers (2026.4).
            "SNIPPETS_MODE": "DISABLE",
        }
        # OpenVINO's own cache changes the locale of the whole process while it looks for a program.
        self._cache = Path(compilation_cache) / self.name if compilation_cache else None
        graphs = Path(openvino_graph.__file__).read_bytes()
        self._version = f"{ov.__version__} {self.device} {self._settings} {graphs}"

    def close(self) -> None:
        """Ends the thread that makes copies of programs."""
        self._copying.shutdown(cancel_futures=True)

    def place(self, kind: str, tree: Any) -> _Weights:
        """Arrays in the order in which programs read them."""
        return _weights(openvino_graph.layout(kind, tree))

    def compile(
        self, chain: Chain, rows: int, *, stacked: bool, spare: Callable[[], bool] = always
    ) -> Compiled:
        """Compiles, or loads what was compiled before."""
        key = hashlib.sha256(f"{self._version} {chain} {rows} {stacked}".encode()).hexdigest()
        file = None if self._cache is None else self._cache / key
        blob = None if file is None else _kept(file)
        first = None if file is None or blob is None else self._kept_model(file, blob)
        cached = first is not None
        if first is None or blob is None:
            graph = openvino_graph.model(chain, rows, stacked=stacked)
            first = self._core.compile_model(graph, "CPU", self._settings)
            blob = first.export_model().getvalue()
            if self._cache is not None:
                _keep(self._cache, key, blob)
        shape = (rows, *chain[-1].result_shape)
        copies = _Copies(first, shape[0], self.streams, partial(self._copy, blob, spare))
        fill = stacked and chain[0].stackable
        return Compiled(_runner(copies, shape, fill=fill), cached)

    def _copy(self, blob: bytes, spare: Callable[[], bool], copies: _Copies) -> None:
        """In the background: a batch does not wait for it."""
        with suppress(RuntimeError):  # the back end has been closed
            self._copying.submit(self._add_copy, blob, spare, copies)

    def _add_copy(self, blob: bytes, spare: Callable[[], bool], copies: _Copies) -> None:
        try:
            if spare():
                copies.add(self._import(blob))
                return
        except Exception as error:  # threads go on to wait for the copies that there are
            logger.warning("event=program_not_copied error=%r", error)
        copies.put_off()

    def _import(self, blob: bytes) -> ov.CompiledModel:
        return self._core.import_model(io.BytesIO(blob), "CPU", self._settings)

    def _kept_model(self, file: Path, blob: bytes) -> ov.CompiledModel | None:
        """None where OpenVINO does not take what was kept."""
        try:
            return self._import(blob)
        except RuntimeError as error:
            logger.warning("event=program_not_loaded file=%s error=%r", file, error)
            return None


def _kept(file: Path) -> bytes | None:
    """What was kept, if it is whole: OpenVINO would crash on bytes that are not."""
    try:
        kept = file.read_bytes()
        digest, blob = kept[:DIGEST_BYTES], kept[DIGEST_BYTES:]
        if hashlib.sha256(blob).digest() != digest:
            raise ValueError(f"expected bytes with the digest {digest.hex()}, found others")
        return blob
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        logger.warning("event=program_not_loaded file=%s error=%r", file, error)
        return None


def _keep(folder: Path, name: str, blob: bytes) -> None:
    file = folder / name
    temporary = file.with_name(f"{file.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(hashlib.sha256(blob).digest() + blob)
        temporary.replace(file)
    except OSError as error:
        with suppress(OSError):  # a part of it, on a full disk
            temporary.unlink(missing_ok=True)
        not_kept(folder.parent, error)


class _Copy:
    """A program that one thread runs at a time, and what it was given last."""

    def __init__(self, model: ov.CompiledModel, rows: int) -> None:
        self.request = _tried(model)
        self.stack = _Stack(rows)
        # Not kept: a component that nobody else holds is to be freed.
        self._given: list[Callable[[], _Weights | None]] = [lambda: None] * len(model.inputs)

    def give(self, weights: Sequence[_Weights]) -> None:
        """The weights of the next run; those of the last one are there already."""
        index = 1
        for place, placed in enumerate(weights):
            if self._given[place]() is not placed:
                self._given[place] = weakref.ref(placed)
                for at, tensor in enumerate(placed.tensors, index):
                    self.request.set_input_tensor(at, tensor)
            index += len(placed.tensors)


class _Copies:
    """Copies of one program: one at first, and one more when a thread finds all in use."""

    def __init__(
        self,
        first: ov.CompiledModel,
        rows: int,
        most: int,
        make: Callable[[_Copies], None],
    ) -> None:
        """`make` adds a copy later, or puts it off; there are at most `most` in all."""
        self._rows, self._make = rows, make
        self._idle = LifoQueue[_Copy]()
        self._more = Semaphore(most - 1)  # that may still be made
        self._again_at = 0.0
        self.add(first)

    def add(self, model: ov.CompiledModel) -> None:
        """There is one more."""
        self.put(_Copy(model, self._rows))

    def put_off(self) -> None:
        """One could not be made now; it is tried again, but not at once."""
        self._again_at = time.monotonic() + COPY_AGAIN_S
        self._more.release()

    def get(self) -> _Copy:
        """One that nobody uses; waits for it."""
        try:
            return self._idle.get_nowait()
        except Empty:
            if time.monotonic() >= self._again_at and self._more.acquire(blocking=False):
                self._make(self)
            return self._idle.get()

    def put(self, copy: _Copy) -> None:
        """It is not used any more."""
        self._idle.put(copy)


def _tried(model: ov.CompiledModel) -> ov.InferRequest:
    """Ready to run, after a run on zeros.

    Before its first run a program holds memory of its own for all its inputs, the weights among
    them; from then on it uses what it is given.
    """
    request = model.create_infer_request()
    # A request does not keep the memory that it is given: it must be there until it has run.
    zeros = [np.zeros(tuple(port.shape), np.float32) for port in model.inputs]
    for index, each in enumerate(zeros):
        request.set_input_tensor(index, ov.Tensor(each, shared_memory=True))
    request.infer()
    give_back_free_memory()
    return request


def _runner(copies: _Copies, shape: tuple[int, ...], *, fill: bool) -> Run:
    """Runs at most one batch on each copy at the same time; others wait.

    `fill`: rows' weights are copied to one place; else they are given as they are.
    """

    def run(weights: Sequence[Sequence[_Weights]], x: F32) -> F32:
        copy = copies.get()
        request = copy.request
        try:
            copy.give(copy.stack.fill(weights) if fill else list(itertools.chain(*weights)))
            request.set_input_tensor(0, ov.Tensor(x, shared_memory=True))
            result = np.empty(shape, np.float32)
            request.set_output_tensor(0, ov.Tensor(result, shared_memory=True))
            request.infer()
        finally:
            copies.put(copy)
        return result

    return run


class _Stack:
    """Each row's components in one place, which is kept: new memory costs more than copying."""

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._components: list[_Weights] = []

    def fill(self, weights: Sequence[Sequence[_Weights]]) -> Sequence[_Weights]:
        if not self._components:
            self._components = [
                _weights([np.empty((self._rows, *a.shape[1:]), np.float32) for a in one.arrays])
                for one in weights[0]
            ]
        for row, components in enumerate(weights):
            for placed, stack in zip(components, self._components, strict=True):
                for array, rows in zip(placed.arrays, stack.arrays, strict=True):
                    rows[row] = array[0]
        return self._components
