"""
Prometheus: `instrument()` once at the start, then expose prometheus-client's registry as ever.

    alphavel_circuit_breaker_state{service,state}                       1 for the state the circuit is in, 0 for the others
    alphavel_circuit_breaker_calls_total{service,outcome}               success, failure, ignored, rejected
    alphavel_circuit_breaker_slow_calls_total{service}
    alphavel_circuit_breaker_call_duration_seconds{service,outcome}     a histogram: success, failure

State and counts are read when they are scraped and cost calls nothing. The histogram has every call timed and observed;
`instrument(latency=False)` leaves it out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prometheus_client import REGISTRY, CollectorRegistry, Histogram
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from alphavel.circuit_breaker.facade import CircuitBreaker
from alphavel.circuit_breaker.metrics import PREFIX, families
from alphavel.foundation.exposition import as_metric

if TYPE_CHECKING:
    from alphavel.circuit_breaker.listeners import Event
    from alphavel.circuit_breaker.manager import CircuitBreakerManager


def instrument(
    manager: CircuitBreakerManager | None = None, registry: CollectorRegistry = REGISTRY, *, latency: bool = True
) -> None:
    """
    Register the circuits of this process. Does nothing where `metrics.enabled` is off.

    With the shared and the redis store every process reports the totals of all: take the maximum over processes, not the sum.
    Not for prometheus-client's multiprocess mode, in which a scrape meets files only: scrape each process by itself.

    Args:
        manager: Whose circuits; None: those of this process, as configured.
        registry: Where to.
        latency: Whether to time calls.

    Raises:
        ValueError: They are registered there already.
    """
    breakers = CircuitBreaker if manager is None else manager
    if not breakers.settings.metrics.enabled:
        return
    registry.register(_Collector(breakers))
    if latency:
        durations = Histogram(
            f"{PREFIX}call_duration_seconds",
            "How long calls took that reached the service.",
            ["service", "outcome"],
            registry=registry,
            buckets=breakers.settings.metrics.buckets,
        )
        breakers.on("succeeded", _observer(durations, "success"))
        breakers.on("failed", _observer(durations, "failure"))


def _observer(durations: Histogram, outcome: str) -> Any:
    children: dict[str, Histogram] = {}  # labels() would check and hash the labels of every call

    def observe(event: Event) -> None:
        child = children.get(event.service)
        if child is None:
            child = children.setdefault(event.service, durations.labels(event.service, outcome))
        if event.duration is not None:
            child.observe(event.duration)

    return observe


class _Collector(Collector):
    def __init__(self, manager: CircuitBreakerManager) -> None:
        self._manager = manager

    def describe(self) -> list[Metric]:
        """Return the metrics without a sample, for the registry to check their names: nothing is read."""
        return [as_metric(family) for family in families(None)]

    def collect(self) -> list[Metric]:
        """Read all circuits."""
        return [as_metric(family) for family in families(self._manager)]
