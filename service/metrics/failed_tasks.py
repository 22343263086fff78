"""Which versions cannot be loaded, by task; read when Prometheus scrapes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

Failed = tuple[str, int]  # task and version


class FailedTasks(Collector):
    """Only versions that are live, or that a roll-out has, are looked at: so labels are few."""

    def __init__(self) -> None:
        self.found: Callable[[], Iterable[Failed]] = tuple

    def collect(self) -> Iterator[Metric]:
        """All of them."""
        return self.public(lambda _: True)

    def public(self, shown: Callable[[str], bool]) -> Iterator[Metric]:
        """Those of tasks that everybody may see."""
        metric = GaugeMetricFamily(
            "munet_failed_versions",
            "1 for each version, live or of a roll-out, that cannot be loaded; version 0 of a task "
            "whose refs cannot be read.",
            labels=("task", "version"),
        )
        for task, version in self.found():
            if shown(task):
                metric.add_metric((task, str(version)), 1)
        yield metric
