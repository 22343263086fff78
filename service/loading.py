"""One published version on its way into memory: cold, loading, ready or failed."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from model_store import Digest, ModelStore, Published
from service.errors import Unavailable
from service.metrics import Metrics
from service.paths import LoadedPath

logger = logging.getLogger(__name__)
FIRST_RETRY_S = 1.0
LONGEST_RETRY_S = 60.0


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a version could not be loaded, and when it may be tried again."""

    reason: str
    attempts: int
    retry_at: float


class Loader:
    """Loads versions in a few threads, never on the event loop or the engine's thread."""

    def __init__(
        self,
        store: ModelStore,
        prepare: Callable[[Published], LoadedPath],
        metrics: Metrics,
        *,
        threads: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`prepare` reads a version's components and warms its programs; it blocks."""
        self.store = store
        self.prepare = prepare
        self.metrics = metrics
        self.clock = clock
        self.pool = ThreadPoolExecutor(threads, thread_name_prefix="load")

    def close(self) -> None:
        """Drops the loads that have not begun."""
        self.pool.shutdown(cancel_futures=True)


class Slot:
    """The place of one version in memory; concurrent loads of it coalesce.

    While it is loaded the slot holds the path; whoever drops the slot lets go of the version.
    """

    def __init__(self, loader: Loader, task: str, version: int, digest: Digest | None) -> None:
        """`digest` is that of the manifest, None where it is not known before it is read."""
        self.task = task
        self.version = version
        self.digest = digest
        self._loader = loader
        self._lock = threading.Lock()
        self._published: Published | None = None
        self._job: Future[LoadedPath] | None = None
        self._failure: Failure | None = None

    @property
    def state(self) -> str:
        """cold | loading | ready | failed."""
        job = self._job
        if job is not None:
            return "ready" if job.done() and self._failure is None else "loading"
        return "cold" if self._failure is None else "failed"

    @property
    def failure(self) -> Failure | None:
        """The last failure, until a load succeeds."""
        return self._failure

    @property
    def retry_due(self) -> bool:
        """Whether the last load failed and may be tried again now."""
        failure = self._failure
        return failure is not None and self._loader.clock() >= failure.retry_at

    def published(self) -> Published:
        """What the store says of this version; reads it the first time. Raises StoreError."""
        found = self._published
        if found is None:
            found = self._published = self._loader.store.resolve(self.task, self.version)
            self.digest = found.digest
        return found

    def begin(self) -> Future[LoadedPath]:
        """The load, started if need be. Raises Unavailable while a failure is too recent."""
        with self._lock:
            if self._job is None:
                failure = self._failure
                if failure is not None and not self.retry_due:
                    raise self._unavailable(failure)
                self._job = self._loader.pool.submit(self._load)
            return self._job

    def _unavailable(self, failure: Failure) -> Unavailable:
        wait_s = max(0.0, failure.retry_at - self._loader.clock())
        detail = f"task {self.task!r} version {self.version} failed to load: {failure.reason}"
        return Unavailable(detail, retry_after_s=wait_s)

    def _load(self) -> LoadedPath:
        started = self._loader.clock()
        try:
            path = self._loader.prepare(self.published())
        except Exception as error:
            raise self._failed(error) from error
        self._failure = None
        self._loader.metrics.task_loads.labels("ready").inc()
        seconds = self._loader.clock() - started
        logger.info(
            "event=task_ready task=%s version=%d seconds=%.3f", self.task, self.version, seconds
        )
        return path

    def _failed(self, error: Exception) -> Unavailable:
        """Any failure is this task's alone; it is kept as the reason and retried later."""
        with self._lock:
            attempts = 1 if self._failure is None else self._failure.attempts + 1
            delay_s = min(LONGEST_RETRY_S, FIRST_RETRY_S * 2 ** (attempts - 1))
            reason = f"{type(error).__name__}: {error}"
            self._failure = Failure(reason, attempts, self._loader.clock() + delay_s)
            self._published = None  # the next attempt reads everything anew
            self._job = None
        self._loader.metrics.task_loads.labels("failed").inc()
        logger.error(
            "event=task_failed task=%s version=%d attempts=%d reason=%r",
            self.task,
            self.version,
            attempts,
            reason,
        )
        return self._unavailable(self._failure)
