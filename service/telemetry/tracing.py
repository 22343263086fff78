"""OpenTelemetry spans of a request and its stages, made when it has ended.

They need no code while the request runs: its times are noted anyway. They continue the trace that
the request names (W3C `traceparent`). The tracer provider of this process samples and exports
them: in BentoML, the one that its configuration describes.
"""

from __future__ import annotations

import time

from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from service.request import Exchange, Request

LAST_WORDS_S = 2.0
SHOWN_CHARACTERS = 200  # of a name that somebody sent

_propagator = TraceContextTextMapPropagator()


def use(provider: trace.TracerProvider) -> None:
    """Makes it this process's provider, once."""
    trace.set_tracer_provider(provider)


class Tracing:
    """Turns exchanges into spans."""

    def __init__(self, provider: trace.TracerProvider | None = None) -> None:
        """With this process's provider, if none is given."""
        self._provider = provider or trace.get_tracer_provider()
        self._tracer = self._provider.get_tracer("munet")

    def note(self, exchange: Exchange) -> None:
        """Makes the spans, and tells the exchange the id of its trace if that is kept."""
        ahead_ns = time.time_ns() - time.monotonic_ns()

        def at(moment: float) -> int:
            return ahead_ns + int(moment * 1e9)

        span = self._tracer.start_span(
            f"{exchange.method} {exchange.route or ''}".rstrip(),
            _propagator.extract(exchange.trace),
            kind=trace.SpanKind.SERVER,
            attributes=_attributes(exchange),
            start_time=at(exchange.started),
        )
        found = span.get_span_context()
        if found.trace_flags.sampled:
            exchange.trace_id = trace.format_trace_id(found.trace_id)
            inside = trace.set_span_in_context(span)
            request = exchange.request
            spans = () if request is None else request.timings.spans(exchange.ended)
            for name, began, ended in spans:
                stage = self._tracer.start_span(
                    name,
                    inside,
                    attributes=_batch(request) if name == "execute" else {},
                    start_time=at(began),
                )
                stage.end(at(ended))
            if exchange.status >= 500:
                span.set_status(trace.StatusCode.ERROR)
        span.end(at(exchange.ended))

    def stop(self) -> None:
        """Sends what waits, for a moment at most."""
        flush = getattr(self._provider, "force_flush", None)  # the API has none, the SDK does
        if flush is not None:
            flush(int(LAST_WORDS_S * 1e3))


def _attributes(exchange: Exchange) -> dict[str, AttributeValue]:
    """By the semantic conventions for HTTP; what is ours begins with `munet`."""
    attributes: dict[str, AttributeValue] = {
        "http.request.method": exchange.method[:20],
        "http.response.status_code": exchange.status,
        "client.address": exchange.client,
        "munet.request_id": exchange.request_id,
    }
    if exchange.route is not None:
        attributes["http.route"] = exchange.route
    request = exchange.request
    if request is not None:
        attributes["munet.tasks"] = [task[:SHOWN_CHARACTERS] for task in request.tasks]
        if request.refusal is not None:
            attributes["error.type"] = request.refusal
        if request.rows:
            # 0 for a task that could not answer: an attribute's list holds no nulls.
            attributes["munet.versions"] = [version or 0 for version in request.versions]
            attributes["munet.rows"] = request.rows
    return attributes


def _batch(request: Request | None) -> dict[str, AttributeValue]:
    """That it ran in; nothing of one that came to nothing."""
    if request is None or not request.rows:
        return {}
    return {
        "munet.batch.rows": request.batch_rows,
        "munet.batch.tasks": request.batch_tasks,
    }
