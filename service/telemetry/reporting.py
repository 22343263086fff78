"""Assembles what a gateway reports about itself: metrics page, access log, traces."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial

from service.metrics.instruments import Metrics
from service.request import Exchange, Report
from service.settings import Settings
from service.telemetry.access_log import AccessLog
from service.telemetry.logs import LogLevels
from service.telemetry.tracing import Tracing
from service.telemetry.workers import Worker, Workers

STANDARD_OUTPUT = 1
# Of the text that Prometheus reads: whether it names private tasks, and whether it has exemplars.
Form = tuple[bool, bool]
FORMS: Sequence[Form] = ((False, False), (False, True), (True, False), (True, True))


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
            reports.append(self._tracing.note)  # first: the others name the trace
            reports.append(partial(_exemplify, metrics))
        if settings.access_log:
            write = partial(os.write, STANDARD_OUTPUT)
            self._log = AccessLog(write, metrics.log_lines_dropped.inc)
            reports.append(self._log.note)
        self.reports: Sequence[Report] = tuple(reports)
        self.pages: dict[Form, Callable[[], bytes]] = {}
        for form in FORMS:
            private, with_exemplars = form
            page = partial(metrics.exposition, private, with_exemplars=with_exemplars)
            if worker is not None:
                together = Workers(_among(worker, _name(form)), page)
                self._workers.append(together)
                page = together.exposition
            self.pages[form] = page

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


def _exemplify(metrics: Metrics, exchange: Exchange) -> None:
    if exchange.request is not None:
        metrics.trace(exchange.request, exchange.trace_id)


def _name(form: Form) -> str:
    private, with_exemplars = form
    return ("private" if private else "public") + ("-openmetrics" if with_exemplars else "")


def _among(worker: Worker, page: str) -> Worker:
    """The worker where all tell each other their pages of one kind."""
    folder = worker.folder / page
    folder.mkdir(exist_ok=True)
    return Worker(folder, worker.index)
