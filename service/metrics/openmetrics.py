"""What OpenMetrics can say and Prometheus's older text format cannot: exemplars.

An exemplar is the trace of one recent request next to the bucket that counted it, so that one finds
an example of what was slow. They are kept for requests in a trace that is recorded: one that the
client began and says to record (W3C `traceparent`), or one of the gateway's own.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping

from prometheus_client.samples import Exemplar

MEDIA_TYPE = "application/openmetrics-text"
TEXT = "text/plain"
MOST = 2048  # exemplars of all tasks, some 300 bytes each; the oldest go
OFFERS = 16  # media types that a client accepts, of which no more are looked at
# Version, trace, span, flags (https://www.w3.org/TR/trace-context/#traceparent-header); the last
# bit of the flags says whether it is recorded. What later versions add behind them is ignored.
TRACEPARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f][13579bdf](?:-.*)?"
)


def recorded_trace(traceparent: str) -> str | None:
    """The id of the trace that this header names, if it is recorded."""
    found = TRACEPARENT.fullmatch(traceparent)
    return found[1] if found else None


class Exemplars:
    """The last one of each bucket of each label; for one thread at a time, but for reading."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._kept: dict[tuple[str, int], Exemplar] = {}  # in order of their times

    def note(self, label: str, place: int, value: float, trace_id: str) -> None:
        """A bucket has counted this value."""
        self._kept.pop((label, place), None)
        self._kept[label, place] = Exemplar({"trace_id": trace_id}, value, round(time.time(), 3))
        if len(self._kept) > self._most:
            del self._kept[next(iter(self._kept))]

    def forget(self, label: str) -> None:
        """Removes those of a label."""
        for key in [key for key in self._kept if key[0] == label]:
            del self._kept[key]

    def by_label(self) -> Mapping[str, Mapping[int, Exemplar]]:
        """All, by label and place of the bucket."""
        found: dict[str, dict[int, Exemplar]] = {}
        for (label, place), one in list(self._kept.items()):
            found.setdefault(label, {})[place] = one
        return found


def is_wanted(accept: str) -> bool:
    """Whether a client with this header `Accept` would rather have OpenMetrics than plain text."""
    weights = {MEDIA_TYPE: 0.0, TEXT: 0.0}
    for part in accept.split(",", OFFERS)[:OFFERS]:
        media, *parameters = (one.strip().lower() for one in part.split(";", OFFERS))
        if media in weights:
            weights[media] = max(weights[media], _weight(parameters))
    return 0 < weights[MEDIA_TYPE] >= weights[TEXT]


def _weight(parameters: list[str]) -> float:
    given = next((one[2:] for one in parameters if one.startswith("q=")), "1")
    return float(given) if re.fullmatch(r"[01](\.[0-9]{0,3})?", given) else 0.0
