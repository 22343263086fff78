"""One published version on its way into memory and out of it: cold, loading, ready or failed."""

from __future__ import annotations

import logging
import math
import threading
import traceback
import weakref
from concurrent.futures import Future
from dataclasses import dataclass

from model_store import Digest, Published
from service.compute.paths import LoadedPath
from service.errors import Unavailable
from service.tasks.eviction import NoRoom
from service.tasks.loader import Loader
from service.tasks.reasons import reason
from service.tasks.store_health import StoreAway
from service.tasks.summaries import Summary, summarise

logger = logging.getLogger(__name__)
FIRST_RETRY_S = 1.0
LONGEST_RETRY_S = 60.0
LONGEST_READ_AGAIN_S = 10.0  # where reading failed, which may be over at any time


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a version could not be loaded, and when it may be tried again."""

    reason: str
    attempts: int
    retry_at: float


class Slot:
    """The place of one version in memory; concurrent loads of it coalesce.

    While it is loaded the slot holds the path: dropping the slot lets go of the version.
    """

    def __init__(
        self,
        loader: Loader,
        task: str,
        version: int,
        digest: Digest,
        *,
        pinned: bool = False,
    ) -> None:
        """`digest` is that of the manifest."""
        self.task = task
        self.version = version
        self.digest = digest
        self.pinned = pinned
        self._loader = loader
        self._lock = threading.Lock()
        self._summarising = threading.Lock()
        self._summary: Summary | None = None
        self._job: Future[LoadedPath] | None = None
        self._path: LoadedPath | None = None
        self._failure: Failure | None = None
        self._crowded_out: Failure | None = None  # the last NoRoom, until a load succeeds

    @property
    def state(self) -> str:
        """cold | loading | ready | failed."""
        with self._lock:  # `let_go` takes the path away for a moment
            if self._path is not None:
                return "ready"
            if self._job is not None:
                return "loading"
            return "cold" if self._failure is None else "failed"

    @property
    def failure(self) -> Failure | None:
        """The last failure, until a load succeeds."""
        return self._failure

    @property
    def due(self) -> bool:
        """Whether to begin a load without a request: no load runs, and none has to wait."""
        return self._job is None and not (
            self._waits(self._failure) or self._waits(self._crowded_out)
        )

    def _waits(self, failure: Failure | None) -> bool:
        return failure is not None and self._loader.clock() < failure.retry_at

    @property
    def path(self) -> LoadedPath | None:
        """The version, while it is in memory."""
        return self._path

    def use(self) -> LoadedPath | None:
        """The version, if it is in memory, for a request."""
        path = self._path
        if path is not None:
            self._loader.recency.used(self)
        return path

    def let_go(self) -> bool:
        """Goes back to cold, unless somebody else holds the path; returns whether it did."""
        with self._lock:
            if self._path is None:
                return False
            held = weakref.ref(self._path)
            self._path = None  # frees it, if nobody holds it
            self._path = held()
            return self._path is None

    def withdraw(self, error: Exception) -> None:
        """Lets go of a version that must not answer any more, because of this error."""
        with self._lock:
            if self._path is None:
                return
            self._path = None  # who runs on it holds it
            self._failure = Failure(reason(error), 1, self._loader.clock())
        self._loader.metrics.task_loads.labels("failed").inc()
        logger.error(
            "event=task_withdrawn task=%s version=%d reason=%r", self.task, self.version, str(error)
        )

    def forgive(self) -> None:
        """The cause of the last failure is over: the version may be loaded at once."""
        with self._lock:
            if self._path is None:
                self._failure = None

    def published(self) -> Published:
        """What the store says of this version; reads it unless it is loaded. Raises StoreError."""
        path = self._path
        if path is not None:
            return path.published
        self._loader.health.require()
        return self._resolved()

    def _resolved(self) -> Published:
        found = self._loader.store.resolve(self.task, self.version)
        self.digest = found.digest
        self._summary = summarise(found)
        return found

    @property
    def summarised(self) -> bool:
        """Whether `summary` need not read the store."""
        return self.known_summary is not None

    def summary(self) -> Summary:
        """The version in short; reads the store the first time. Raises StoreError."""
        found = self.known_summary
        if found is not None:
            return found
        with self._summarising:  # read once, however many ask
            return self.known_summary or summarise(self.published())

    @property
    def known_summary(self) -> Summary | None:
        """The summary, if it has been read; never waits for the store.

        None also if the task has been removed since and published again.
        """
        found, path = self._summary, self._path
        if found is not None and found.digest == self.digest:
            return found
        return None if path is None else summarise(path.published)

    def begin(self) -> Future[LoadedPath]:
        """The load, started if need be. Raises Unavailable while a failure is too recent."""
        with self._lock:
            if self._path is not None:
                done = Future[LoadedPath]()
                done.set_result(self._path)
                return done
            failure = self._failure
            if self._job is None and failure is not None and self._waits(failure):
                raise self._unavailable(failure)
            try:
                self._loader.health.require(may_try=self._job is None)
            except StoreAway as error:
                raise self.away(error) from None
            if self._job is None:
                self._job = self._loader.submit(self._load, failed_before=failure is not None)
            return self._job

    def _unavailable(self, failure: Failure) -> Unavailable:
        wait_s = max(0.0, failure.retry_at - self._loader.clock())
        detail = f"task {self.task!r} version {self.version} failed to load: {failure.reason}"
        return Unavailable(detail, retry_after_s=wait_s)

    def _load(self) -> LoadedPath:
        started = self._loader.clock()
        try:
            path = self._loader.prepare(self._resolved(), pinned=self.pinned)
        except NoRoom as error:
            self._loader.health.load_ended(works=True)
            raise self._postponed(error) from None
        except Exception as error:
            self._loader.health.load_ended(works=False)
            if self._loader.of_the_store(error):
                raise self._left_cold(error) from None
            raise self._failed(error) from error
        with self._lock:
            self._path, self._job = path, None
            self._failure = self._crowded_out = None
        self._loader.read(self)
        self._loader.recency.used(self)
        seconds = self._loader.clock() - started
        self._loader.metrics.task_loads.labels("ready").inc()
        self._loader.metrics.task_load_seconds.observe(seconds)
        logger.info(
            "event=task_ready task=%s version=%d seconds=%.3f", self.task, self.version, seconds
        )
        return path

    def _postponed(self, error: NoRoom) -> Unavailable:
        """No fault of the task: the next request tries again; loads without a request wait."""
        with self._lock:
            self._crowded_out = self._after(self._crowded_out, error)
            self._job = None
        self._loader.metrics.task_loads.labels("no_room").inc()
        logger.warning("event=no_room task=%s version=%d: %s", self.task, self.version, error)
        return Unavailable(f"task {self.task!r} cannot be loaded: {error}", retry_after_s=1)

    def _left_cold(self, error: Exception) -> Unavailable:
        """No fault of the task: the store is away, which is logged once for all tasks."""
        traceback.clear_frames(error.__traceback__)
        with self._lock:
            self._job = None
        self._loader.metrics.task_loads.labels("store_away").inc()
        return self.away(error)

    def away(self, error: Exception) -> Unavailable:
        """The error if the state of the whole store keeps this version from being loaded."""
        detail = f"task {self.task!r} is not loaded, and the store cannot be read: {reason(error)}"
        return Unavailable(detail, retry_after_s=1)

    def _failed(self, error: Exception) -> Unavailable:
        """Other failures concern this task alone: kept as its reason, and tried again later."""
        traceback.clear_frames(error.__traceback__)  # they hold what has been read
        with self._lock:
            failure = self._failure = self._after(self._failure, error)
            self._job = None
        self._loader.metrics.task_loads.labels("failed").inc()
        logger.error(
            "event=task_failed task=%s version=%d attempts=%d reason=%r",
            self.task,
            self.version,
            failure.attempts,
            f"{type(error).__name__}: {error}",  # with the places that clients are not told of
        )
        return self._unavailable(failure)

    def _after(self, last: Failure | None, error: Exception) -> Failure:
        """The next failure, with a pause that doubles."""
        attempts = 1 if last is None else last.attempts + 1
        unread = self._loader.unread(self, error)
        longest_s = LONGEST_READ_AGAIN_S if unread else LONGEST_RETRY_S
        delay_s = min(longest_s, FIRST_RETRY_S * 2 ** min(attempts - 1, 30))
        return Failure(reason(error), attempts, self._loader.clock() + delay_s)


class Unread(Slot):
    """Stands for a task whose refs cannot be read: its live version is not known."""

    def __init__(self, loader: Loader, task: str, error: Exception) -> None:
        """`error` is why; the catalog puts another slot here when the refs can be read."""
        super().__init__(loader, task, 0, Digest(""))
        self._error = error
        self._failure = Failure(reason(error), 1, math.inf)

    def published(self) -> Published:
        """Raises the error."""
        raise self._error

    def begin(self) -> Future[LoadedPath]:
        """Raises Unavailable."""
        detail = f"task {self.task!r} cannot be read from the store: {reason(self._error)}"
        raise Unavailable(detail, retry_after_s=1)
