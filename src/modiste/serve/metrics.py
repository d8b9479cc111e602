"""Prometheus metrics of the server, served at ``/metrics``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector, generate_latest

SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
ITEMS = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Collectors of one server, in their own registry, so that one process can run several servers.

    >>> metrics = Metrics()
    >>> metrics.observe("/search", 200, 0.012)
    >>> b'modiste_requests_total{route="/search",status="200"} 1.0' in metrics.text()
    True
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        own: Any = {"registry": self.registry}
        self.requests = Counter("modiste_requests", "Requests answered", ["route", "status"], **own)
        self.seconds = Histogram("modiste_request_seconds", "Time to answer", ["route"], buckets=SECONDS, **own)
        self.batch_items = Histogram("modiste_batch_items", "Items in a micro-batch", ["tower"], buckets=ITEMS, **own)
        self.batch_seconds = Histogram(
            "modiste_batch_seconds", "Time of a micro-batch", ["tower"], buckets=SECONDS, **own
        )
        self.waiting = Gauge("modiste_queue_items", "Items waiting for a tower", ["tower"], **own)
        self.in_flight = Gauge("modiste_requests_in_flight", "Requests being answered", **own)
        self.index = Info("modiste_index", "Path and version of a served index", ["name"], **own)
        self.backend = Info("modiste_backend", "Backend of a tower", ["tower"], **own)
        ProcessCollector(registry=self.registry)

    def observe(self, route: str, status: int, seconds: float) -> None:
        """Record a response to ``route``: its status and the seconds it took."""
        self.requests.labels(route, str(status)).inc()
        self.seconds.labels(route).observe(seconds)

    def batches(self, tower: str) -> Callable[[int, float], None]:
        """Return the callback that a `Batcher` calls after each batch."""
        items, seconds = self.batch_items.labels(tower), self.batch_seconds.labels(tower)

        def observe(count: int, taken: float) -> None:
            items.observe(count)
            seconds.observe(taken)

        return observe

    def text(self) -> bytes:
        """All metrics in Prometheus's text format."""
        return generate_latest(self.registry)
