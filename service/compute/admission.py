"""Which requests are let in: bounds on rows, and a forecast of when each would be answered.

A request counts from the moment before its images are decoded, so that no image is decoded for a
request that the queues would refuse. Work is estimated by flow, as the fair queue shares it: a
flood makes its own requests wait, but hardly those of others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from service.compute.fair_queue import Ask, Flow
from service.compute.throughput import Throughput
from service.compute.tuning import DECODINGS, MARGIN, MOST_FLOWS, NOTHING_S, WEIGHTS
from service.errors import GatewayError, TaskQueueFull, Unavailable


@dataclass(frozen=True, slots=True)
class Limits:
    """How much may wait, and how much runs at once."""

    batch_rows: int  # power of two
    per_task: int  # rows
    total: int  # rows
    decoders: int = 1  # threads
    streams: int = 1  # of batches, which run at the same time


class Admission:
    """What waits or is being decoded, for one thread at a time."""

    def __init__(
        self,
        limits: Limits,
        throughput: Throughput,
        delay: Callable[[float], float] = lambda _: 0.0,
    ) -> None:
        """`throughput` says how long work takes, `delay` how far behind the event loop is."""
        self._limits = limits
        self._throughput = throughput
        self._delay = delay
        self.offered_s = 0.0  # of the streams, that all requests which came would take
        self.offered_decode_s = 0.0  # of the decoders
        self._offered = self._let_in = 0  # requests
        self._rows = 0
        self._by_task: Counter[str] = Counter()  # rows
        self._by_flow: Counter[Flow] = Counter()  # requests
        self._work: dict[Flow, float] = {}
        self._decoding: dict[Flow, float] = {}  # expected seconds
        self._decode_s: dict[Flow, float] = {}  # of a row, lately; the flow heard of last is last

    def check(self, ask: Ask, now: float, next_end: float | None, streams: int) -> bool:
        """Whether a stream is free for it; raises TaskQueueFull or Unavailable.

        `next_end` is when the first of the `streams` that may run should be free; None if one is.
        """
        try:
            return self._check(ask, now, next_end, streams)
        except GatewayError:
            self._count_offered(ask, self._expected(ask))
            raise

    def _check(self, ask: Ask, now: float, next_end: float | None, streams: int) -> bool:
        delay_s, left_s = self._delay(now), ask.deadline - now
        if delay_s > left_s:
            raise Unavailable(
                f"overloaded: the event loop is {delay_s:.3f} s behind, and the request's deadline "
                f"is in {max(0.0, left_s):.3f} s",
                retry_after_s=delay_s,
            )
        if not self._rows and next_end is None:
            return True  # even against the forecasts: this is how they recover
        ahead = self._ahead(ask, self._work, ask.work)
        wait_s = max(0.0, (next_end or now) - now) + self._throughput.drain(ahead) / streams
        for task in ask.tasks:
            waiting = self._by_task.get(task, 0)
            if waiting + ask.tasks.count(task) > self._limits.per_task:
                raise TaskQueueFull(
                    f"{waiting} rows for task {task!r} are waiting already, at most "
                    f"{self._limits.per_task} may",
                    retry_after_s=wait_s,
                )
        if self._rows + len(ask.tasks) > self._limits.total:
            raise Unavailable(
                f"overloaded: {self._rows} rows are waiting already, at most "
                f"{self._limits.total} may",
                retry_after_s=wait_s,
            )
        decode_s = self._expected(ask)
        wait_s += self._ahead(ask, self._decoding, decode_s) / self._limits.decoders + decode_s
        own_s = self._throughput.seconds(len(ask.tasks), ask.work)
        if (wait_s + own_s) * MARGIN + delay_s > left_s:
            raise self._too_long(ask, ahead, wait_s + own_s, left_s)
        return False

    def _too_long(self, ask: Ask, ahead: float, wait_s: float, left_s: float) -> GatewayError:
        own = self._work.get(ask.flow, 0.0) > ahead / 2
        error = TaskQueueFull if own else Unavailable
        return error(
            f"{'its own' if own else 'all'} waiting work may delay this request by "
            f"{wait_s * MARGIN:.3f} s, and its deadline is in {max(0.0, left_s):.3f} s",
            retry_after_s=wait_s,
        )

    def _ahead(self, ask: Ask, waiting: Mapping[Flow, float], work: float) -> float:
        """The work that is done before this request's own work is finished.

        Until then, any other flow gets all of its waiting work done, or its share.
        """
        share = (waiting.get(ask.flow, 0.0) + work) / WEIGHTS[ask.level]
        ahead = 0.0
        for flow, more in waiting.items():  # some hundred flows, at each request: no calls in here
            most = share * WEIGHTS[flow[1]]
            ahead += more if more < most else most
        return ahead

    def _expected(self, ask: Ask) -> float:
        """Seconds that its decoding takes; 0 while nothing is known of its flow."""
        return len(ask.tasks) * self._decode_s.get(ask.flow, 0.0)

    @property
    def flooded(self) -> bool:
        """Whether more than half of what waits is of one flow."""
        return max(self._work.values(), default=0.0) > sum(self._work.values()) / 2

    def enter(self, ask: Ask) -> float:
        """Counts a request, about to be decoded; how many seconds that is expected to take."""
        self._count(ask, 1)
        self._let_in += 1
        expected_s = self._expected(ask)
        self._count_offered(ask, expected_s)
        self._decoding[ask.flow] = self._decoding.get(ask.flow, 0.0) + expected_s
        return expected_s

    def _count_offered(self, ask: Ask, decode_s: float) -> None:
        """Counts the work of a request, admitted or not: the sum may exceed what can be done."""
        self._offered += 1
        self.offered_s += self._throughput.drain(ask.work)
        self.offered_decode_s += decode_s

    def came(self) -> tuple[int, int]:
        """How many requests came, and how many of them were admitted."""
        return self._offered, self._let_in

    def missed(self) -> None:
        """Counts a request of which nothing is known: it takes the mean of the others."""
        if self._offered:
            self.offered_s += self.offered_s / self._offered
            self.offered_decode_s += self.offered_decode_s / self._offered
            self._offered += 1

    def decoded(self, ask: Ask, expected_s: float, seconds: float | None) -> None:
        """Making it took this long, without waiting for its turn; None if it failed."""
        left_s = self._decoding.pop(ask.flow, 0.0) - expected_s
        if left_s > NOTHING_S:  # a sum of floats may not come back to zero
            self._decoding[ask.flow] = left_s
        if seconds is not None:
            each = seconds / len(ask.tasks)
            before = self._decode_s.pop(ask.flow, each)
            self._decode_s[ask.flow] = before + (each - before) / DECODINGS
            if len(self._decode_s) > MOST_FLOWS:
                del self._decode_s[next(iter(self._decode_s))]

    def leave(self, ask: Ask) -> None:
        """It waits no more."""
        self._count(ask, -1)

    def _count(self, ask: Ask, sign: int) -> None:
        self._rows += sign * len(ask.tasks)
        for task in ask.tasks:
            self._by_task[task] += sign
            if not self._by_task[task]:
                del self._by_task[task]
        self._by_flow[ask.flow] += sign
        self._work[ask.flow] = self._work.get(ask.flow, 0.0) + sign * ask.work
        if not self._by_flow[ask.flow]:  # a sum of floats may not have come back to zero
            del self._by_flow[ask.flow], self._work[ask.flow]
