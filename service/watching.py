"""What is seen of every request to classify, whatever its protocol: one place reports its end."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from service.errors import GatewayError
from service.metrics import Metrics


@dataclass(slots=True)
class Seen:
    """One request, filled in on its way."""

    protocol: str  # http | v2-http | v2-grpc
    tasks: Sequence[str]
    started: float = field(default_factory=time.monotonic)
    status: int = 500
    seconds: dict[str, float] | None = None  # by stage, with `total`, if it was classified

    def classified(self, seconds: dict[str, float]) -> dict[str, float]:
        """The stages' times, with the total."""
        self.status = 200
        self.seconds = {**seconds, "total": time.monotonic() - self.started}
        return self.seconds


@contextmanager
def watched(metrics: Metrics, seen: Seen) -> Iterator[Seen]:
    """Around a request to classify; GatewayErrors are noted and go on."""
    try:
        yield seen
    except GatewayError as error:
        seen.status, seen.seconds = error.status, None
        metrics.rejected.labels(error.kind).inc()
        raise
    finally:
        for task in seen.tasks:
            metrics.answered(task, seen.status, seen.seconds)
