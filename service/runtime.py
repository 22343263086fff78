"""The parts of one gateway, assembled, started and stopped in the right order."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from model_store import ModelStore, Published
from model_store.files.limits import Machine
from service import images
from service.access import Access
from service.compute import built_in, probe
from service.compute.batching import Batcher, BatchReport, Limits
from service.compute.decode_memory import DecodeMemory
from service.compute.decoders import Decoders
from service.compute.engine import Engine
from service.compute.features import FeaturePaths
from service.compute.paths import LoadedPath, Row
from service.compute.shadows import Shadows
from service.errors import Unavailable
from service.http.health import Health
from service.http.loop_delay import LOOP
from service.http.room import Room
from service.http.uploads import Intake
from service.memory import Headroom, divided, own_memory
from service.metrics.gauges import Snapshot
from service.metrics.instruments import SECONDS, Metrics
from service.open_inference.statistics import Tally
from service.page.changes import Changes
from service.page.system import System
from service.page.traffic import Traffic
from service.request import identified
from service.settings import Settings
from service.tasks.catalog import Catalog
from service.tasks.entry import failed, live
from service.tasks.eviction import Budget, Recency
from service.tasks.first_answer import FirstAnswer
from service.tasks.loader import Loader
from service.tasks.lookups import Lookups, Shared
from service.tasks.residency import Residency
from service.tasks.sharing import Sharing
from service.tasks.slot import Slot
from service.tasks.trust import Trust
from service.telemetry.reporting import Reporting
from service.telemetry.workers import Worker

if TYPE_CHECKING:
    from service.samples.sampler import Sampler

T = TypeVar("T")
PARSERS = 2  # threads; the cost of one piece of work is bounded by the limits of its body
LAST_READS_S = 3.0  # that the end waits for what reads the store
HUNG_S = 60.0  # without a turn of the event loop: no load explains that
STREAMS = 32  # of changes, at once; one caller may have half of what is free
MANY_VALUES = 4096  # of an answer, which take the event loop milliseconds


class Runtime:
    """Everything behind the HTTP interface; `start` before the first request, `stop` once."""

    def __init__(self, settings: Settings, worker: Worker | None = None) -> None:
        """Raises InvalidKey or SettingsError for unusable settings, keys or tokens. Whether the
        store answers shows later.
        """
        self.store = ModelStore(settings.store, later=True)
        self.trust = Trust(self.store, settings.trusted_keys)
        self.access = Access(settings.tokens, settings.cors_origins, identified=identified)
        self.metrics = Metrics(per_task=settings.task_metrics)
        self.engine = Engine(
            self.metrics,
            max_rows=settings.max_batch_rows,
            compilation_cache=settings.compilation_cache,
            backend=settings.backend,
            threads=settings.compute_threads,
        )
        self.samples, taken = self._sampling(settings)
        self.machine = Machine()
        own, main = own_memory()  # with what computes, and before anything is served
        base = own + main // settings.workers + taken
        self.settings = settings = divided(settings, self.machine.memory(), base)
        self.reporting = Reporting(settings, self.metrics, worker)
        self._limit(settings)
        self._follow(settings)
        self._compute(settings)
        self._look_up()
        self._show(settings)
        self.draining = False
        self.watcher = ThreadPoolExecutor(1, thread_name_prefix="watch")  # start, stop

    def _sampling(self, settings: Settings) -> tuple[Sampler | None, int]:
        """What keeps samples, if the settings say so, and the bytes that it may take."""
        if not settings.keeps_samples:
            return None, 0
        from service.samples import sampler, writer  # with pyarrow: 45 MB

        count = self.metrics.count_samples
        made = sampler.Sampler(settings, lambda task: self.catalog.public(task), count)
        return made, writer.MEMORY

    def _limit(self, settings: Settings) -> None:
        """What clients may take of the memory, and what is really left of it."""
        self.intake = Intake(settings.upload_memory)
        self.uploads = Room(settings.queue_total, "uploads")
        self.decode_memory = DecodeMemory(settings.decode_memory)
        self.headroom = Headroom(
            self.machine, settings.workers, lambda: self.intake.free + self.decode_memory.free
        )

    def _follow(self, settings: Settings) -> None:
        """The tasks of the store, and those in memory."""
        recency = Recency(self.metrics)
        budget = Budget(settings.memory_budget, recency, self.headroom.fits)
        self.residency = Residency(self.store, self.engine.place, self.metrics, budget)
        self.engine.programs.memory = self.residency
        self.loader = Loader(
            self.store, self._prepare, self.metrics, recency, threads=settings.load_threads
        )
        self.catalog = Catalog(
            self.loader,
            self.metrics,
            poll_s=settings.poll_s,
            preload=settings.preload_tasks,
            pins=settings.pinned_tasks,
        )
        self.catalog.rollouts.join = self.engine.join
        self.sharing = Sharing(self.catalog.entries)

    def _compute(self, settings: Settings) -> None:
        """What decodes pictures and runs batches."""
        self.tally = Tally(self.catalog.entries)
        self.counters = self.metrics.count, self.tally.count  # of requests that have ended
        self.batcher = Batcher[Row, NDArray[np.float32]](
            self.tally.counted(self.engine.run),
            Limits(
                settings.max_batch_rows,
                settings.queue_per_task,
                settings.queue_total,
                settings.decode_threads,
                self.engine.streams,
            ),
            cost_clock=self.engine.cost_clock,
            report=self._count_batch,
            delay=LOOP.seconds,
            shadows=Shadows(self.engine, self.tally.executed),
        )
        self.decoders = Decoders(settings.decode_threads)
        self.feature_paths = FeaturePaths(self.engine.programs)

    def _look_up(self) -> None:
        """Threads for all that must not run on the event loop."""
        # For work whose cost a client chooses: forms, JSON, names.
        self.parsers = ThreadPoolExecutor(PARSERS, thread_name_prefix="parse")
        # A store that hangs holds the threads that wait for it: others need threads of their own.
        self.lists = Lookups("lists of tasks", 1, self.loader.health)
        self.facts = Lookups("facts of tasks", 2, self.loader.health)
        self.pages = {form: Shared("metrics", make) for form, make in self.reporting.pages.items()}

    def _show(self, settings: Settings) -> None:
        """How it is: the system, metrics, readiness, health."""
        traffic = Traffic(self.metrics.by_task.counted, SECONDS)
        self.system = System(self.sharing, traffic)
        self.changes = Changes(self.catalog.entries)
        self.streams = Room(STREAMS, "streams of changes")
        self.metrics.watch(self._snapshot, self.catalog.public)
        self.metrics.versions.failed = lambda: failed(
            self.catalog.entries(), self.catalog.rollouts.slots()
        )
        self.metrics.versions.live = lambda: live(self.catalog.entries())
        LOOP.ticked = self.metrics.loop_delay_seconds.observe
        LOOP.read = self.metrics.arrival_delay_seconds.observe
        self.first_answer = FirstAnswer(
            self.catalog, settings.preload_tasks, self._try, self._try_built_in
        )
        self.health = None
        if settings.health_port:
            looks = {"alive": lambda: self.alive, "ready": lambda: self.ready}
            self.health = Health(settings.health_port, looks, shared=settings.workers > 1)

    def start(self) -> None:
        """Reads the store's refs and starts the threads; blocks for a moment."""
        self.access.start()
        self.batcher.start()
        self.residency.start()
        self.catalog.start()
        self.trust.start(self.catalog.slots)
        self.sharing.start()
        self.reporting.start()
        self.first_answer.start()
        if self.samples is not None:
            self.samples.writer.start()
        if self.health is not None:
            self.health.start()

    def stop(self) -> None:
        """Ends all threads except those that a hanging store holds; refuses the waiting rows."""
        self.access.stop()
        reading = threading.Thread(target=self._stop_reading, name="stop", daemon=True)
        reading.start()
        reading.join(LAST_READS_S)
        self.batcher.stop()
        if self.samples is not None:
            self.samples.writer.stop()
        self.decoders.shutdown()  # the batcher refuses what waits for its turn in them
        for lookups in (self.lists, self.facts, *self.pages.values(), self.changes):
            lookups.close()
        for pool in (self.parsers, self.watcher):
            pool.shutdown(wait=False, cancel_futures=True)
        self.engine.close()
        self.reporting.stop()
        if self.health is not None:
            self.health.stop()

    def _stop_reading(self) -> None:
        """Ends what may wait for the store."""
        self.first_answer.stop()
        self.sharing.stop()
        self.trust.stop()
        self.catalog.stop()
        self.loader.close()
        self.residency.close()

    @property
    def ready(self) -> bool:
        """Whether requests should be sent here: it has answered once, and does not drain."""
        return not self.draining and self.first_answer.given

    @property
    def alive(self) -> bool:
        """Whether all necessary threads run; a slow thread runs."""
        if LOOP.seconds(time.monotonic()) > HUNG_S:
            return False
        return self.batcher.alive and self.decoders.alive and self.catalog.alive

    @asynccontextmanager
    async def in_time(self) -> AsyncIterator[None]:
        """Around work that waits for the store; raises Unavailable at the longest deadline."""
        limit_s = self.settings.deadline_ms / 1e3
        try:
            async with asyncio.timeout(limit_s):
                yield
        except TimeoutError:
            raise Unavailable(
                f"not answered within {limit_s:g} s: the store is slow, or a task is still loading",
                retry_after_s=1,
            ) from None

    async def made(self, values: int, make: Callable[[], T]) -> T:
        """What `make` returns; in a thread instead of the event loop if `values` are many."""
        if values < MANY_VALUES:
            return make()
        return await asyncio.get_running_loop().run_in_executor(self.parsers, make)

    def _prepare(self, published: Published, *, pinned: bool) -> LoadedPath:
        self.trust.require(published)
        path = self.residency.load(published, pinned=pinned)
        self.engine.warm(path)
        self.engine.probe(path)
        return path

    def _try(self, slot: Slot) -> None:
        """Sends a picture through a version, by all steps of a request."""
        path = slot.path or self._prepare(slot.published(), pinned=slot.pinned)
        self._answer(path)

    def _try_built_in(self) -> None:
        path = built_in.path(self.engine.place)
        self.engine.warm(path)
        self._answer(path)

    def _answer(self, path: LoadedPath) -> None:
        targets = {walk.target for walk in path.walks}
        file = images.File(built_in.PICTURE).look(self.settings.max_pixels).by(path.decoding)
        with self.decode_memory.holding(*file.memory(targets)):
            pixels = file.decoded(targets)
        (logits,) = self.engine.run([Row(path, pixels)])
        probe.require_finite(path, logits)

    def _count_batch(self, report: BatchReport) -> None:
        self.metrics.batches.labels(report.reason).inc()
        self.metrics.batch_rows.observe(report.rows)
        self.metrics.batch_tasks.observe(report.tasks)
        for wait in report.waits:
            self.metrics.queue_delay_seconds.observe(wait)

    def _snapshot(self) -> Snapshot:
        usage = self.residency.usage()
        engine_s, decoders_s = self.batcher.offered_s
        return Snapshot(
            queue_rows=len(self.batcher),
            tasks_by_state=self.catalog.counts(),
            resident_components=usage.components,
            resident_bytes=usage.size_bytes,
            component_releases=usage.releases,
            memory_budget_bytes=self.settings.memory_budget,
            memory_left_bytes=self.headroom.left(),
            store_age_s=self.loader.health.age_s,
            store_faults=self.loader.faults(),
            trusted_keys_age_s=self.trust.keys_age_s,
            tokens_age_s=self.access.tokens_age_s,
            offered_s={"engine": engine_s, "decoders": decoders_s, "loop": LOOP.offered_s},
            capacity={
                "engine": self.batcher.streams,
                "decoders": self.settings.decode_threads,
                "loop": 1,
            },
        )
