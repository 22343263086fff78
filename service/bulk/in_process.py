"""Answers of the engine in this process, on all cores or the accelerator.

Some threads read and decode, others compute a chunk of images for all tasks at once: the engine
computes what tasks share once. Limits are the gateway's settings, so an image that a gateway would
refuse is refused here in the same words.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from model_store import ModelStore
from model_store.files.limits import Machine
from service.bulk.answering import Answered, Answering, NotPinned, Pin, Pins, failed, submitted
from service.bulk.sources import Item
from service.classify import predictions, targets_of
from service.client import Answer, Prediction, Refused
from service.compute.decode_memory import DecodeMemory
from service.compute.engine import Engine
from service.compute.paths import LoadedPath, Row
from service.errors import GatewayError, InternalError, TooLarge
from service.images import Decoded, File
from service.memory import divided, own_memory
from service.metrics.instruments import Metrics
from service.settings import Settings
from service.tasks.eviction import Budget, Recency
from service.tasks.residency import Residency
from service.tasks.trust import Trust
from vit.contract import Target
from vit.decode import Decoding

logger = logging.getLogger(__name__)
UNDECODED = 4  # images that wait for each thread that decodes
Pictures = Mapping[Decoding, Mapping[Target, Decoded]]
Made = tuple[str, Pictures | Refused]  # an image's name, and what the engine takes


@contextmanager
def opened(
    store: str, tasks: Sequence[str], top: int, pins: Pins | None
) -> Iterator[tuple[Pins, Answering]]:
    """Without `pins` the versions are those that are live now.

    Raises StoreError, SettingsError, Told for a version that cannot run, or NotPinned.
    """
    settings = Settings.from_environment({**os.environ, "MUNET_STORE": store})
    models = ModelStore(store)
    found: dict[str, Pin] = {}
    for task in tasks:
        published = models.resolve(task, pins[task].version if pins else None)
        found[task] = Pin(published.version, published.digest)
        if pins and found[task] != pins[task]:
            raise NotPinned(f"version {published.version} of task {task!r} is another one by now")
    metrics = Metrics()
    engine = Engine(
        metrics,
        max_rows=settings.max_batch_rows,
        compilation_cache=settings.compilation_cache,
        backend=settings.backend,
        threads=settings.compute_threads,
    )
    own, main = own_memory()
    settings = divided(settings, Machine().memory(), own + main)
    budget = Budget(settings.memory_budget, Recency(metrics))
    residency = Residency(models, engine.place, metrics, budget)
    trust = Trust(models, settings.trusted_keys)
    try:
        paths: list[LoadedPath] = []
        for task, pin in found.items():
            published = models.resolve(task, pin.version)
            trust.require(published)
            path = residency.load(published)
            engine.warm(path)
            engine.probe(path)
            paths.append(path)
        engine.programs.wait()  # so that every chunk runs through the same ones
        yield found, _Engine(engine, paths, settings, top)
    finally:
        residency.close()
        engine.close()


class _Engine:
    """Decodes and computes."""

    def __init__(
        self, engine: Engine, paths: Sequence[LoadedPath], settings: Settings, top: int
    ) -> None:
        self._engine = engine
        self._paths = paths
        self._tasks = [path.published.task for path in paths]
        self._settings = settings
        self._top = top
        self._targets = targets_of(paths)
        self._memory = DecodeMemory(settings.decode_memory)

    def answers(self, items: Iterable[Item]) -> Iterator[Sequence[Answered]]:
        """As of Answering."""
        threads, streams = max(2, Machine().cores()), self._engine.streams
        decoders = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        computing = ThreadPoolExecutor(streams, thread_name_prefix="compute")
        pending: deque[Future[Sequence[Answered]]] = deque()
        try:
            for chunk in submitted(decoders, self._decoded, items, UNDECODED * threads):
                pending.append(computing.submit(self._computed, chunk))
                if len(pending) > streams + 1:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            decoders.shutdown(cancel_futures=True)
            computing.shutdown(cancel_futures=True)

    def _decoded(self, item: Item) -> Made:
        try:
            return item.name, self._pictures(item.read())
        except Refused as error:
            return item.name, error
        except GatewayError as error:
            return item.name, _refused(error)

    def _pictures(self, data: bytes) -> Pictures:
        """As each path wants it; decoded once by each set of rules. Raises GatewayError."""
        most = self._settings.max_body_bytes
        if len(data) > most:
            raise TooLarge(f"an image of {len(data)} bytes; raise MUNET_MAX_BODY_BYTES from {most}")
        looked_at = File(data).look(self._settings.max_pixels)
        found: dict[Decoding, Mapping[Target, Decoded]] = {}
        for rules, targets in self._targets.items():
            image = looked_at.by(rules)
            with self._memory.holding(*image.memory(targets)):
                found[rules] = image.decoded(targets)
        return found

    def _computed(self, chunk: Sequence[Future[Made]]) -> Sequence[Answered]:
        """The answers of a chunk. Where the engine fails, each image is tried alone."""
        made = [one.result() for one in chunk]
        good = [found for _, found in made if not isinstance(found, Refused)]
        try:
            answers = self._run(good)
        except Exception:
            logger.exception("event=chunk_failed images=%d retried=one_by_one", len(good))
            answers = [self._alone(one) for one in good]
        rest = iter(answers)
        return [
            (name, failed(self._tasks, found) if isinstance(found, Refused) else next(rest))
            for name, found in made
        ]

    def _alone(self, image: Pictures) -> Sequence[Answer]:
        try:
            return self._run([image])[0]
        except Exception:
            error = InternalError("the engine failed on this image")
            return failed(self._tasks, _refused(error))

    def _run(self, images: Sequence[Pictures]) -> list[Sequence[Answer]]:
        rows = [Row(path, one[path.decoding]) for one in images for path in self._paths]
        logits = iter(self._engine.run(rows) if rows else ())
        return [[self._answer(path, next(logits)) for path in self._paths] for _ in images]

    def _answer(self, path: LoadedPath, logits: NDArray[np.float32]) -> Answer:
        task, version = path.published.task, path.published.version
        try:
            listed = predictions(path, logits, self._top)
        except GatewayError as error:
            return Answer(task, None, error=_refused(error))
        return Answer(task, version, tuple(Prediction(**one) for one in listed))


def _refused(error: GatewayError) -> Refused:
    return Refused(error.detail, error.status, error.kind)
