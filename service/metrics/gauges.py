"""What is read when Prometheus scrapes, instead of being counted at each change."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

Value = float | Mapping[str, float]  # of one series, or by label


@dataclass(frozen=True, slots=True)
class Snapshot:
    """State of the gateway at one time."""

    queue_rows: int
    tasks_by_state: Mapping[str, int]
    resident_components: int
    resident_bytes: int
    component_releases: int
    memory_budget_bytes: float
    trusted_keys_age_s: float = 0.0  # since all files of keys could last be used; 0 without any
    tokens_age_s: float = 0.0  # since the file of tokens could last be used; 0 without one
    memory_left_bytes: float = 0.0
    offered_s: Mapping[str, float] = field(default_factory=dict)  # of work that came, by resource
    capacity: Mapping[str, float] = field(default_factory=dict)  # by resource
    store_age_s: float = 0.0
    store_faults: Mapping[str, float] = field(default_factory=dict[str, float])  # by kind


@dataclass(frozen=True, slots=True)
class Reading:
    """A metric, and what it has of a snapshot."""

    name: str
    text: str
    value: Callable[[Snapshot], Value]
    label: str = ""

    def of(self, snapshot: Snapshot) -> Metric:
        """The metric now."""
        make = CounterMetricFamily if self.name.endswith("_total") else GaugeMetricFamily
        value = self.value(snapshot)
        if not isinstance(value, Mapping):
            return make(self.name, self.text, value)
        found = make(self.name, self.text, labels=[self.label])
        for label, one in sorted(value.items()):
            found.add_metric([label], one)
        return found


READINGS = (
    Reading("munet_queue_rows", "Rows waiting.", lambda now: now.queue_rows),
    Reading(
        "munet_resident_components", "Components in memory.", lambda now: now.resident_components
    ),
    Reading(
        "munet_resident_bytes",
        "Bytes of components in memory.",
        lambda now: now.resident_bytes,
    ),
    Reading(
        "munet_memory_budget_bytes",
        "Bytes that components may take in memory.",
        lambda now: now.memory_budget_bytes,
    ),
    Reading(
        "munet_memory_left_bytes",
        "Bytes really left for components, by the control groups and the machine.",
        lambda now: now.memory_left_bytes,
    ),
    Reading(
        "munet_component_releases_total",
        "Components freed because no path used them any more.",
        lambda now: now.component_releases,
    ),
    Reading(
        "munet_offered_work_seconds_total",
        "Time that all requests, also refused ones, would take of a resource: its rate divided by "
        "munet_capacity is the load, above 1 if more comes than can be done.",
        lambda now: now.offered_s,
        "resource",
    ),
    Reading(
        "munet_capacity",
        "Threads of a resource: engine (batches at the same time, while the rest of the process "
        "needs as much as now), decoders, loop (the event loop).",
        lambda now: now.capacity,
        "resource",
    ),
    Reading(
        "munet_trusted_keys_age_seconds",
        "Since the trusted keys were last read; grows while one of their files is unusable.",
        lambda now: now.trusted_keys_age_s,
    ),
    Reading(
        "munet_tokens_age_seconds",
        "Since the file of tokens was last read, or found unchanged; grows while it is unusable.",
        lambda now: now.tokens_age_s,
    ),
    Reading(
        "munet_store_age_seconds",
        "Since the last good look at the store; grows while it does not answer.",
        lambda now: now.store_age_s,
    ),
    Reading(
        "munet_store_faults",
        "What is wrong with the store: 1 by kind of fault; for unreadable, how many tasks.",
        lambda now: now.store_faults,
        "kind",
    ),
    Reading(
        "munet_tasks",
        "Tasks by state: cold, loading, ready, failed.",
        lambda now: now.tasks_by_state,
        "state",
    ),
)


class Gauges(Collector):
    """Makes a snapshot at each scrape."""

    def __init__(self, snapshot: Callable[[], Snapshot]) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        """Every reading of one snapshot."""
        now = self._snapshot()
        for reading in READINGS:
            yield reading.of(now)
