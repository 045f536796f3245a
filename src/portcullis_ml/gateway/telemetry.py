"""Spans and metrics by the official OpenTelemetry SDK, sent to a collector by OTLP over HTTP (the extra `otel`).

    [telemetry]
    endpoint = "http://127.0.0.1:4318"
    spans = 0.01      # the share of requests that become spans
    every_s = 60.0    # between two reports of the metrics

A span holds what became of a request and where its time went, never a client's name, their rows or the model's answer.
The gate draws for itself which requests become spans: a client's own flag would let them choose how much it does.
Metrics are the counters of /metrics, read when a report is due, so that a request costs nothing.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from portcullis_ml.core.errors import MissingExtra
from portcullis_ml.gateway.admin.metrics import STAGES, Metrics
from portcullis_ml.gateway.exchange import TRACE_PARENT, Exchange
from portcullis_ml.gateway.policy.settings import Telemetry

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import MetricReader
    from opentelemetry.sdk.trace import SpanProcessor
    from opentelemetry.sdk.trace.sampling import Sampler

__all__ = ["Tracing", "open_tracing"]

SEND_S = 2.0  # for one report, repeated attempts included


class Tracing:
    """The spans of one gate's requests, and its metrics.

    processors  where spans go
    readers     who reads the metrics
    model       which of several models the gate stands before; "" where it is the only one
    """

    def __init__(
        self,
        metrics: Metrics,
        settings: Telemetry,
        processors: Sequence[SpanProcessor],
        readers: Sequence[MetricReader],
        model: str = "",
    ) -> None:
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider

        about = Resource.create({"service.name": settings.service})
        self._spans = TracerProvider(resource=about, sampler=_drawn(settings.spans))
        for processor in processors:
            self._spans.add_span_processor(processor)
        self._tracer = self._spans.get_tracer("portcullis")
        self._meters = MeterProvider(resource=about, metric_readers=readers)
        self._about = {"portcullis.model": model} if model else {}
        _observe(self._meters.get_meter("portcullis"), metrics, {"model": model} if model else {})

    def begin(self, exchange: Exchange) -> None:
        """A question's head is there."""
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        known = TRACE_PARENT.fullmatch(exchange.headers.get("traceparent", ""))
        parent = TraceContextTextMapPropagator().extract(exchange.headers) if known else None
        name = f"infer {exchange.policy.served.name}"
        exchange.span = self._tracer.start_span(name, parent, kind=SpanKind.SERVER)

    def end(self, exchange: Exchange, decision: str, status: int) -> None:
        """What became of it, and a span for each part of its way."""
        from opentelemetry.trace import Status, StatusCode, set_span_in_context

        span, line = exchange.span, exchange.notes.line
        if span is None or not span.is_recording():
            return
        span.set_attributes({
            "http.response.status_code": status, "portcullis.decision": decision, "portcullis.request_id": exchange.id,
            "portcullis.protocol": exchange.wire.name, "portcullis.rows": line.rows, "portcullis.altered": line.altered,
            "portcullis.alarms": line.alarms, "portcullis.policy": exchange.policy.digest, **self._about,
        })  # fmt: skip
        if status >= 500:
            span.set_status(Status(StatusCode.ERROR))
        now, at = time.time_ns(), time.perf_counter()
        moments = [now - int(1e9 * (at - mark)) for mark in exchange.notes.marks]
        inside = set_span_in_context(span)
        for stage, begun, ended in zip(STAGES, moments, moments[1:], strict=False):
            self._tracer.start_span(stage, inside, start_time=begun).end(ended)
        span.end()

    def close(self) -> None:
        """Send what waits, for some seconds at most."""
        self._spans.force_flush(int(1000 * SEND_S))
        self._spans.shutdown()
        self._meters.shutdown(1000 * SEND_S)


def _drawn(share: float) -> Sampler:
    """Takes this share of the requests, by lot. The SDK's own sampler goes by the trace's number or its flag, both of
    which a client may choose."""
    from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
    from opentelemetry.trace import get_current_span

    class Drawn(Sampler):
        def should_sample(self, parent_context: Any, trace_id: int, name: str, *more: Any, **about: Any) -> Any:
            parent = get_current_span(parent_context)
            own = parent.is_recording()  # a part of a request that is a span
            taken = own or random.random() < share
            return SamplingResult(Decision.RECORD_AND_SAMPLE if taken else Decision.DROP)

        def get_description(self) -> str:
            return f"Drawn({share:g})"

    return Drawn()


def _observe(meter: Any, metrics: Metrics, about: dict[str, str]) -> None:
    """Instruments that read the gate's counters when they are asked; `about` are attributes of all of them."""
    from opentelemetry.metrics import CallbackOptions, Observation

    def of(values: Callable[[], dict[str, float]], label: str) -> Callable[[CallbackOptions], Iterable[Observation]]:
        return lambda options: [Observation(value, {**about, label: word}) for word, value in values().items()]

    def one(value: Callable[[], float]) -> Callable[[CallbackOptions], Iterable[Observation]]:
        return lambda options: [Observation(value(), about)]

    counter = meter.create_observable_counter
    counter("portcullis.requests", [of(lambda: dict(metrics.requests), "decision")])
    counter("portcullis.rows", [one(lambda: metrics.rows)])
    counter("portcullis.alarms", [one(lambda: metrics.alarms)])
    counter("portcullis.would_refuse", [one(lambda: metrics.would_refuse)])
    counter("portcullis.not_enforced", [of(lambda: dict(metrics.not_enforced), "part")])
    counter("portcullis.stage_time", [of(lambda: metrics.stage_seconds, "stage")], unit="s")
    for name, value in metrics.gauges.items():
        meter.create_observable_gauge(f"portcullis.{name}", [one(value)])


def open_tracing(metrics: Metrics, settings: Telemetry, model: str = "") -> Tracing:
    """Tracing that sends to the policy's collector."""
    try:
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ModuleNotFoundError as error:
        raise MissingExtra("[telemetry]", "opentelemetry-sdk", "otel") from error
    url = settings.endpoint.rstrip("/")
    spans = BatchSpanProcessor(OTLPSpanExporter(f"{url}/v1/traces", timeout=SEND_S))
    reader = PeriodicExportingMetricReader(
        OTLPMetricExporter(f"{url}/v1/metrics", timeout=SEND_S), export_interval_millis=1000 * settings.every_s
    )
    return Tracing(metrics, settings, [spans], [reader], model)
