"""Every Prometheus instrument of the gateway and its meaning; seconds and bytes.

Each gateway has a registry of its own. The label `task` holds only names of tasks that exist; all
others are `(other)`, and the series of a removed task go. So unknown names make no series. On the
page for everybody, private tasks are `(other)` too: what is counted for a task that is not known to
be public is also counted there, so that no sum falls when such a task goes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import Metric
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

from service import VERSION
from service.metrics import openmetrics
from service.metrics.gauges import Gauges, Snapshot
from service.metrics.rollouts import Comparisons
from service.metrics.stage_seconds import SEVERAL, StageSeconds
from service.metrics.task_requests import ALL, OTHER, TaskRequests
from service.metrics.versions import Versions
from service.request import TOTAL, Request

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS_TYPE = f"{openmetrics.MEDIA_TYPE}; version=1.0.0; charset=utf-8"
SECONDS = (
    *(0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075),
    *(0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
# Coarser, as each task has them for each stage.
STAGE_SECONDS = (*(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5), 10.0)
AGES = (0.1, 1.0, 10.0, 60.0, 600.0, 3600.0, 86400.0)
ALERTED = ("unavailable", "deadline", "task-queue-full", "short-deadline")  # kinds of refusal
ROWS = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """The instruments of one gateway."""

    def __init__(self, *, per_task: bool = True) -> None:
        """`per_task=False` folds the label `task` to the one value `all`."""
        disable_created_metrics()  # a second series for each, with the time of its first value
        self.registry = CollectorRegistry()
        self._per_task = per_task
        self._tasks: set[str] = set()
        self._lock = threading.Lock()
        self._public: Callable[[str], bool] = lambda _: True
        self.rollouts, self.versions = Comparisons(), Versions()
        if per_task:
            self.registry.register(self.rollouts)
            self.registry.register(self.versions)
        self._requests()
        self._batches()
        self._loading()
        ProcessCollector(registry=self.registry)
        self.log_lines_dropped = self._counter(
            "munet_access_log_dropped_total", "Lines left out because their reader was too slow."
        )
        self.samples = self._counter(
            "munet_samples_total",
            "Answers chosen to be kept with their pictures: kept; no_room, as earlier ones are "
            "still being written; or failed, as the place could not be written to.",
            "outcome",
        )
        self._build_info = Gauge(
            "munet_build_info",
            "Constant 1; the labels name versions, and what the engine computes on.",
            ("version", "jax", "bentoml", "backend", "device"),
            registry=self.registry,
        )

    def _requests(self) -> None:
        self.by_task = TaskRequests(SECONDS)
        self.registry.register(self.by_task)
        self.stage_seconds = StageSeconds(
            "munet_stage_duration_seconds",
            "Time of a request in each stage, up to the last byte of its answer: receive, decode "
            "(to network input, with its wait), load (of its tasks), queue (waiting for the "
            "engine), execute (the batch it was in), answer; total is their sum. A request that "
            "was refused or failed has only the stages that it reached.",
            STAGE_SECONDS,
        )
        self.registry.register(self.stage_seconds)
        self.loop_delay_seconds = self._histogram(
            "munet_loop_delay_seconds",
            "How late the event loop is, looked at 20 times a second.",
            SECONDS,
        )
        self.arrival_delay_seconds = self._histogram(
            "munet_arrival_delay_seconds",
            "How long the bytes of a request were on this machine before they were read: of the "
            "first on a connection, and of all while the event loop is late.",
            SECONDS,
        )
        self.rejected = self._counter(
            "munet_rejected_total",
            "Requests refused, by kind of refusal; short-deadline if time ran out and the "
            "client had given less than a second.",
            "reason",
        )
        for reason in ALERTED:  # from the start: a series that begins at 1 has not grown
            self.rejected.labels(reason)

    def _batches(self) -> None:
        self.batches = self._counter(
            "munet_batches_total",
            "Batches, by what ended their filling: target_rows, as more rows would not raise the "
            "throughput (one may be enough), or all_waiting, as no other row waited.",
            "reason",
        )
        self.queue_delay_seconds = self._histogram(
            "munet_queue_delay_seconds",
            "How long a request's rows waited for the engine, by when they went; for autoscaling.",
            SECONDS,
        )
        self.batch_rows = self._histogram("munet_batch_rows", "Rows in a batch.", ROWS)
        self.batch_tasks = self._histogram("munet_batch_tasks", "Distinct tasks in a batch.", ROWS)
        self.padded_rows = self._counter(
            "munet_batch_padded_rows_total",
            "Rows of zeros computed to fill a group up to its bucket, summed over stages.",
        )
        self.shared_rows = self._counter(
            "munet_rows_shared_total",
            "Row-stages not computed because an equal image had gone the same way.",
        )
        self.compilations = self._counter(
            "munet_compilations_total",
            "Programs made ready, by source: compiler, or the cache on disk.",
            "source",
        )
        self.fusions = self._counter(
            "munet_fused_programs_total",
            "Programs for several stages made ready, by source: compiler, or the cache on disk.",
            "source",
        )

    def _loading(self) -> None:
        self.component_loads = self._counter(
            "munet_component_loads_total", "Components read from the store."
        )
        self.component_load_seconds = self._histogram(
            "munet_component_load_seconds", "Reading and verifying one component.", SECONDS
        )
        self.task_loads = self._counter(
            "munet_task_loads_total",
            "Loads of a task: ready, failed, no_room as all else was in use, or store_away.",
            "outcome",
        )
        self.task_load_seconds = self._histogram(
            "munet_task_load_duration_seconds",
            "From the start of a load until the task is ready.",
            SECONDS,
        )
        self.cache_misses = self._counter(
            "munet_cache_misses_total", "Requests that found their task not in memory."
        )
        self.cache_miss_seconds = self._histogram(
            "munet_cache_miss_duration_seconds",
            "How long these requests waited for their task, if it could be loaded.",
            SECONDS,
        )
        self.evictions = self._counter(
            "munet_evictions_total", "Tasks that went back to cold to make room for others."
        )
        self.age_at_eviction = self._histogram(
            "munet_age_at_eviction_seconds",
            "Time from an evicted task's last request to its eviction.",
            AGES,
        )
        self.catalog_polls = self._counter(
            "munet_catalog_polls_total", "Looks at the store's refs: ok or error.", "outcome"
        )
        for outcome in ("ok", "error"):
            self.catalog_polls.labels(outcome)
        self.catalog_changes = self._counter(
            "munet_catalog_changes_total", "Tasks added, changed and removed.", "kind"
        )

        self.rollbacks = self._counter(
            "munet_rollbacks_total",
            "Roll-outs that this gateway ended in the store, by the rule that was broken: errors, "
            "non_finite, agreement.",
            "reason",
        )
        for rule in ("errors", "non_finite", "agreement"):
            self.rollbacks.labels(rule)

    def _counter(self, name: str, text: str, labels: str = "") -> Counter:
        return Counter(name, text, labels.split(), registry=self.registry)

    def _histogram(
        self, name: str, text: str, buckets: tuple[float, ...], labels: str = ""
    ) -> Histogram:
        return Histogram(name, text, labels.split(), buckets=buckets, registry=self.registry)

    def count_samples(self, outcome: str, answers: int) -> None:
        """Counts what became of answers that were to be kept."""
        self.samples.labels(outcome).inc(answers)

    def register(self, task: str) -> None:
        """From now on the task has series of its own."""
        with self._lock:
            self._tasks.add(task)

    def forget(self, task: str) -> None:
        """Removes the task's series."""
        with self._lock:
            self._tasks.discard(task)
            self.by_task.forget(task)
            self.stage_seconds.forget(task)

    def count(self, request: Request) -> None:
        """Counts a request to classify, which has ended: stages, tasks, why it was refused."""
        with self._lock:  # as in `answered`
            label, public = SEVERAL, True
            if len(request.tasks) == 1:
                label, public = self._label(request.tasks[0])
            self.stage_seconds.add(label, request.outcome, request.seconds, public=public)
        if request.refusal is not None:
            self.rejected.labels(request.reason).inc()
        for one in request.routed:
            one.ended(request)
        tasks = request.tasks
        if request.problems:
            for task, status in request.problems.items():
                self.answered([task], status, None)
            tasks = [task for task in tasks if task not in request.problems]
        self.answered(tasks, request.status, request.seconds[TOTAL] if request.rows else None)
        if request.traceparent is not None:
            self.trace(request, openmetrics.recorded_trace(request.traceparent))

    def trace(self, request: Request, trace_id: str | None) -> None:
        """A request that was counted is in this trace, which is recorded."""
        if trace_id is None or not request.rows:
            return
        with self._lock:
            for task in request.tasks:
                if task not in request.problems:
                    label, _ = self._label(task)
                    self.by_task.exemplify(label, request.seconds[TOTAL], trace_id)

    def answered(self, tasks: Sequence[str], status: int, seconds: float | None) -> None:
        """Counts a request for its tasks; its whole time if it was classified."""
        with self._lock:  # a task forgotten between label and increment would come back
            for task in tasks:
                label, public = self._label(task)
                self.by_task.add(label, status, seconds, public=public)

    def _label(self, task: str) -> tuple[str, bool]:
        """The label of the series for admins, and whether everybody may see it."""
        public = task in self._tasks and self._public(task)
        if self._per_task:
            return (task if task in self._tasks else OTHER), public
        return (ALL if public else OTHER), public

    def describe(self, *, backend: str, device: str) -> None:
        """Says what computes: a name of JAX's backend, and of the device."""
        versions = VERSION, version("jax"), version("bentoml")
        self._build_info.labels(*versions, backend, device).set(1)

    def watch(
        self, snapshot: Callable[[], Snapshot], public: Callable[[str], bool] = lambda _: True
    ) -> None:
        """Adds the gauges that are read from `snapshot` at each scrape; `public` says of a task
        whether everybody may know of it.
        """
        self._public = public
        self.registry.register(Gauges(snapshot))

    def exposition(self, private: bool = True, *, with_exemplars: bool = False) -> bytes:
        """The text that Prometheus reads, with the names of private tasks or without; as
        OpenMetrics where it has exemplars.
        """
        write = generate_openmetrics if with_exemplars else generate_latest
        return write(self.registry if private else self)  # pyright: ignore[reportArgumentType]

    def collect(self) -> Iterator[Metric]:
        """What everybody may see."""
        public = {metric.name: metric for metric in self.by_task.public(self._shown)}
        public |= {metric.name: metric for metric in self.stage_seconds.public(self._shown)}
        public |= {metric.name: metric for metric in self.versions.public(self._public)}
        public |= {metric.name: metric for metric in self.rollouts.public(self._public)}
        for metric in self.registry.collect():
            yield public.get(metric.name, metric)

    def _shown(self, label: str) -> bool:
        return self._public(label) if self._per_task else label == ALL
