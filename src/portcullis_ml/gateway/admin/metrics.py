"""What the gate counts, for Prometheus. No label ever holds a client's name: five thousand would cost
72 ms a scrape; the dashboard shows clients.

Times are added up in plain floats and handed over when somebody scrapes.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate
from typing import Any

__all__ = ["BUCKETS", "STAGES", "Metrics", "exposition"]

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
        return exposition({"": self})


def exposition(of_models: Mapping[str, Metrics]) -> bytes:
    """The metrics of every model in Prometheus's text format, labelled with its name; without a label where that is
    empty, as it is for a model that is alone."""
    from prometheus_client import CollectorRegistry, generate_latest

    registry = CollectorRegistry()
    registry.register(_Collector(of_models))
    return bytes(generate_latest(registry))


class _Collector:
    def __init__(self, of_models: Mapping[str, Metrics]) -> None:
        self._of_models = {(name,) if name else (): metrics for name, metrics in of_models.items()}

    def collect(self) -> Iterator[Any]:
        yield self._counter("portcullis_requests", "Requests by what became of them", lambda m: m.requests, "decision")
        yield self._counter("portcullis_rows", "Rows answered", lambda m: {"": m.rows})
        yield self._counter("portcullis_alarms", "Alarms", lambda m: {"": m.alarms})
        refused = "Refusals not enforced in observe mode"
        yield self._counter("portcullis_would_refuse", refused, lambda m: {"": m.would_refuse})
        failed = "Requests served although a part failed"
        yield self._counter("portcullis_not_enforced", failed, lambda m: m.not_enforced, "part")
        yield self._counter("portcullis_stage_seconds", "Time by stage", lambda m: m.stage_seconds, "stage")
        yield self._added()
        yield from self._gauges()

    @property
    def _labels(self) -> list[str]:
        return ["model"] if any(self._of_models) else []

    def _counter(self, name: str, help: str, values: Callable[[Metrics], Mapping[str, float]], *label: str) -> Any:
        """A counter of each model, one for each word of its label if it has one."""
        from prometheus_client.core import CounterMetricFamily

        family = CounterMetricFamily(name, help, labels=[*self._labels, *label])
        for model, metrics in self._of_models.items():
            for word, value in values(metrics).items():
                family.add_metric([*model, *([word] if label else [])], value)
        return family

    def _added(self) -> Any:
        from prometheus_client.core import HistogramMetricFamily

        family = HistogramMetricFamily(
            "portcullis_added_seconds", "Time that the gate itself took", labels=self._labels
        )
        for model, metrics in self._of_models.items():
            counts = accumulate(metrics.added)
            buckets = [(bound, float(n)) for bound, n in zip((*map(str, BUCKETS), "+Inf"), counts, strict=True)]
            family.add_metric(list(model), buckets, sum_value=metrics.added_seconds)
        return family

    def _gauges(self) -> Iterator[Any]:
        from prometheus_client.core import GaugeMetricFamily

        for name in dict.fromkeys(name for metrics in self._of_models.values() for name in metrics.gauges):
            family = GaugeMetricFamily(f"portcullis_{name}", name.replace("_", " "), labels=self._labels)
            for model, metrics in self._of_models.items():
                if name in metrics.gauges:
                    family.add_metric(list(model), metrics.gauges[name]())
            yield family
