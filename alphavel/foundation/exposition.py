"""From `metrics.Family` to prometheus-client, which writes what Prometheus reads. Imported only by who exposes metrics."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from alphavel.foundation.metrics import Family


def as_metric(family: Family) -> Metric:
    """Return prometheus-client's form of a metric, which keeps the `_total` of a counter's name to itself."""
    metric = Metric(family.name.removesuffix("_total") if family.kind == "counter" else family.name, family.help, family.kind)
    for suffix, labels, value in family.samples:
        metric.add_sample(family.name + suffix, labels, value)
    return metric


def exposed(families: Iterable[Family], accept: str = "") -> tuple[bytes, str]:
    """
    Write metrics in the format that a scraper asks for.

    Args:
        families: The metrics.
        accept: Its header `Accept`.

    Returns:
        The text and its Content-Type.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Fixed(families))
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


class _Fixed(Collector):
    def __init__(self, families: Iterable[Family]) -> None:
        self._metrics = [as_metric(family) for family in families]

    def collect(self) -> Iterable[Metric]:
        """Return them."""
        return self._metrics
