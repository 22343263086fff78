"""Which versions answer and which cannot be loaded, by task; read when Prometheus scrapes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

Failed = tuple[str, int, str]  # task, version and the reason
Live = tuple[str, int]  # task and version
LONGEST_REASON = 120  # characters of a label


class Versions(Collector):
    """Only versions that are live, or that a roll-out has, are looked at: so labels are few."""

    def __init__(self) -> None:
        self.failed: Callable[[], Iterable[Failed]] = tuple
        self.live: Callable[[], Iterable[Live]] = tuple

    def collect(self) -> Iterator[Metric]:
        """All of them."""
        return self.public(lambda _: True)

    def public(self, shown: Callable[[str], bool]) -> Iterator[Metric]:
        """Those of tasks that everybody may see."""
        failed = GaugeMetricFamily(
            "munet_failed_versions",
            "1 for each version, live or of a roll-out, that cannot be loaded, with the reason; "
            "version 0 of a task whose refs cannot be read.",
            labels=("task", "version", "reason"),
        )
        for task, version, reason in self.failed():
            if shown(task):
                failed.add_metric((task, str(version), reason[:LONGEST_REASON]), 1)
        yield failed
        live = GaugeMetricFamily(
            "munet_live_version",
            "The number of the version that answers, of each task in memory.",
            labels=("task", "version"),
        )
        for task, version in self.live():
            if shown(task):
                live.add_metric((task, str(version)), version)
        yield live
