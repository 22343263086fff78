"""Assembles what a gateway reports about itself: metrics page, access log, traces."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial

from service.metrics.instruments import Metrics
from service.request import Report
from service.settings import Settings
from service.telemetry.access_log import AccessLog
from service.telemetry.logs import LogLevels
from service.telemetry.tracing import Tracing
from service.telemetry.workers import Worker, Workers

STANDARD_OUTPUT = 1


class Reporting:
    """Each part exists only where the settings ask for it."""

    def __init__(self, settings: Settings, metrics: Metrics, worker: Worker | None) -> None:
        """`worker` says which of several this process is."""
        self._log = self._tracing = None
        self._workers: list[Workers] = []
        self.levels = LogLevels(worker.folder if worker else None)
        reports: list[Report] = []
        if settings.tracing:
            self._tracing = Tracing()
            reports.append(self._tracing.note)  # before the log, which names the trace
        if settings.access_log:
            write = partial(os.write, STANDARD_OUTPUT)
            self._log = AccessLog(write, metrics.log_lines_dropped.inc)
            reports.append(self._log.note)
        self.reports: Sequence[Report] = tuple(reports)
        # The text that Prometheus reads: for everybody, and with the names of private tasks.
        self.page = partial(metrics.exposition, private=False)
        self.private_page: Callable[[], bytes] = metrics.exposition
        if worker is not None:
            public = Workers(_among(worker, "public"), self.page)
            private = Workers(_among(worker, "private"), self.private_page)
            self.page, self.private_page = public.exposition, private.exposition
            self._workers = [public, private]

    def start(self) -> None:
        """Starts the threads."""
        for part in (*self._workers, self._log, self.levels):
            if part is not None:
                part.start()

    def stop(self) -> None:
        """Sends what waits, for a moment at most."""
        for part in (*self._workers, self._log, self._tracing, self.levels):
            if part is not None:
                part.stop()


def _among(worker: Worker, page: str) -> Worker:
    """The worker where all tell each other their pages of one kind."""
    folder = worker.folder / page
    folder.mkdir(exist_ok=True)
    return Worker(folder, worker.index)
