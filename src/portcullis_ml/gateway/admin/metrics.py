"""What the gate counts, for Prometheus. No label ever holds a client's name: five thousand would cost
72 ms a scrape; the dashboard shows clients.

Times are added up in plain floats and handed over when somebody scrapes.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["BUCKETS", "STAGES", "Metrics"]

STAGES = ("identify", "read", "admit", "upstream", "release", "write")
BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
DECISIONS = ("answered", "altered", "withheld", "refused", "unidentified", "malformed", "busy", "failed")


class Metrics:
    """Counters of one gate."""

    def __init__(self) -> None:
        self.requests = dict.fromkeys(DECISIONS, 0)
        self.rows = 0
        self.alarms = 0
        self.would_refuse = 0  # in observe mode
        self.not_enforced = dict.fromkeys(("state", "guard", "log"), 0)  # served although a part failed
        self._spent = [0.0] * len(STAGES)  # seconds by stage
        self.added = [0] * (len(BUCKETS) + 1)  # requests by the time that the gate itself took
        self.added_seconds = 0.0
        self.gauges: dict[str, Callable[[], float]] = {}  # asked at every scrape

    def took(self, marks: list[float]) -> None:
        """marks: when a request came in, and when each of STAGES was done."""
        begun, known, read, admitted, asked, released, written = marks
        spent, upstream = self._spent, asked - admitted
        spent[0] += known - begun
        spent[1] += read - known
        spent[2] += admitted - read
        spent[3] += upstream
        spent[4] += released - asked
        spent[5] += written - released
        own = written - begun - upstream
        self.added[bisect_left(BUCKETS, own)] += 1
        self.added_seconds += own

    @property
    def stage_seconds(self) -> dict[str, float]:
        return dict(zip(STAGES, self._spent, strict=True))

    def text(self) -> bytes:
        """Everything in Prometheus's text format."""
        from prometheus_client import CollectorRegistry, generate_latest

        registry = CollectorRegistry()
        registry.register(_Collector(self))
        return bytes(generate_latest(registry))


class _Collector:
    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        m = self._metrics
        yield _labelled(
            CounterMetricFamily, "portcullis_requests", "Requests by what became of them", "decision", m.requests
        )
        yield CounterMetricFamily("portcullis_rows", "Rows answered", value=m.rows)
        yield CounterMetricFamily("portcullis_alarms", "Alarms", value=m.alarms)
        yield CounterMetricFamily(
            "portcullis_would_refuse", "Refusals not enforced in observe mode", value=m.would_refuse
        )
        yield _labelled(
            CounterMetricFamily,
            "portcullis_not_enforced",
            "Requests served although a part failed",
            "part",
            m.not_enforced,
        )
        yield _labelled(CounterMetricFamily, "portcullis_stage_seconds", "Time by stage", "stage", m.stage_seconds)
        total, buckets = 0, []
        for bound, count in zip((*map(str, BUCKETS), "+Inf"), m.added, strict=True):
            total += count
            buckets.append((bound, float(total)))
        yield HistogramMetricFamily(
            "portcullis_added_seconds", "Time that the gate itself took", buckets=buckets, sum_value=m.added_seconds
        )
        for name, value in m.gauges.items():
            yield GaugeMetricFamily(f"portcullis_{name}", name.replace("_", " "), value=value())


def _labelled(kind: Any, name: str, help: str, label: str, values: dict[str, Any]) -> Any:
    family = kind(name, help, labels=[label])
    for word, value in values.items():
        family.add_metric([word], value)
    return family
