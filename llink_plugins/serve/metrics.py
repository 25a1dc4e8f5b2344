"""Counters in Prometheus's format: requests, tokens, waiting, and what the engine has in memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from llink.serving.engine import Engine
from llink.serving.scheduler import TokenCount

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """The counters of one server, in a registry of its own."""

    def __init__(self, engine: Engine) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_OfEngine(engine))
        own: dict[str, Any] = {"registry": self.registry}
        self.requests = Counter("llink_requests", "Requests that ended.", ["route", "status"], **own)
        self.seconds = Histogram("llink_request_seconds", "Until they did.", ["route"], buckets=SECONDS, **own)
        self.tokens = Counter(
            "llink_tokens",
            "Decoder tokens: prompt (slots among them), slots, raw (what these stand for), answer.",
            ["adapter", "kind"],
            **own,
        )
        self.first = Histogram(
            "llink_first_token_seconds", "Until the first piece.", ["adapter"], buckets=SECONDS, **own
        )
        self.last = Histogram("llink_answer_seconds", "Until the last piece.", ["adapter"], buckets=SECONDS, **own)

    def ended(self, route: str, status: int, seconds: float) -> None:
        """Count a request; 0 is the status of a client that left."""
        self.requests.labels(route, str(status or 499)).inc()
        self.seconds.labels(route).observe(seconds)

    def count(self, usage: TokenCount, adapter: str, first: float, last: float) -> None:
        """Count an answer, whole or not."""
        for kind in ("prompt", "slots", "raw", "answer"):
            self.tokens.labels(adapter, kind).inc(getattr(usage, kind))
        if first:
            self.first.labels(adapter).observe(first)
            self.last.labels(adapter).observe(last)

    def page(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self.registry)


class _OfEngine(Collector):
    """What ``Engine.stats`` says at the moment somebody looks."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def collect(self) -> Iterator[Metric]:
        stats = self.engine.stats()
        yield GaugeMetricFamily("llink_waiting_rows", "Texts that wait for the decoder.", value=stats["waiting"])
        yield GaugeMetricFamily("llink_running_rows", "Texts in the decoder.", value=stats["running"])
        yield GaugeMetricFamily("llink_adapter_bytes", "Adapters in memory.", value=stats["bytes"])
        users = GaugeMetricFamily("llink_adapter_users", "Requests that hold an adapter.", labels=["adapter"])
        for code, adapter in stats["adapters"].items():
            users.add_metric([code], adapter["users"])
        yield users
        for name in ("slots", "features"):
            yield GaugeMetricFamily(f"llink_{name}_cache_bytes", f"Cache of {name}.", value=stats[name]["bytes"])
            for kind in ("hits", "misses"):
                yield CounterMetricFamily(
                    f"llink_{name}_cache_{kind}", f"Of the {name} cache.", value=stats[name][kind]
                )
        for name in ("batches", "steps", "swaps", "loads", "evictions"):
            yield CounterMetricFamily(f"llink_{name}", f"`{name}` of Engine.stats.", value=stats[name])
