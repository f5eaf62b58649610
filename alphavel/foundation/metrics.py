"""
Metrics: what packages count and measure, for whoever collects it. A provider contributes its own (`ServiceProvider.metrics`),
so no package has to know another, and nobody needs prometheus-client who does not expose anything.

Names follow Prometheus' conventions: base units in the name (`_seconds`, `_bytes`), `_total` at the end of what only grows.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alphavel.foundation.container import Container
    from alphavel.foundation.providers import ServiceProvider

Sample = tuple[str, dict[str, str], float]
"""Suffix of the name (`_bucket`, else empty), labels, value."""


class Family:
    """
    A metric with all its samples.

    Attributes:
        name: The whole name, `_total` included.
        kind: `counter`, `gauge` or `histogram`.
        help: What it tells, one sentence.
        samples: See `Sample`.
        is_shared: Whether all processes of a server say the same of it, so that one of them is enough.
    """

    __slots__ = ("help", "is_shared", "kind", "name", "samples")

    def __init__(self, name: str, kind: str, text: str, *, is_shared: bool = False) -> None:
        self.name = name
        self.kind = kind
        self.help = text
        self.is_shared = is_shared
        self.samples: list[Sample] = []

    def add(self, value: float, suffix: str = "", **labels: str) -> Family:
        """Add a sample; return the family."""
        self.samples.append((suffix, labels, value))
        return self

    def add_histogram(self, histogram: Histogram, **labels: str) -> Family:
        """Add what a histogram has counted; return the family."""
        for bound, count in histogram.cumulative():
            self.add(count, "_bucket", le=bound, **labels)
        return self.add(histogram.count, "_count", **labels).add(histogram.total, "_sum", **labels)

    def as_json(self) -> list[Any]:
        """Return what `of_json` makes a family of."""
        return [self.name, self.kind, self.help, self.is_shared, self.samples]

    @classmethod
    def of_json(cls, content: Sequence[Any]) -> Family:
        """Make a family of what another process has sent."""
        name, kind, text, is_shared, samples = content
        family = cls(name, kind, text, is_shared=is_shared)
        family.samples = [(suffix, labels, value) for suffix, labels, value in samples]
        return family


class Histogram:
    """How often a measurement was below which bound. Not for threads: one hub measures and reads."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count a measurement."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    @property
    def count(self) -> int:
        """How many there were."""
        return sum(self.counts)

    def cumulative(self) -> list[tuple[str, int]]:
        """Return bounds, as texts, and how many measurements were not above each; the last bound is `+Inf`."""
        texts, reached = [*map(str, self.bounds), "+Inf"], 0
        counts = []
        for text, count in zip(texts, self.counts, strict=True):
            reached += count
            counts.append((text, reached))
        return counts


def contributions(providers: Iterable[ServiceProvider], container: Container) -> list[Family]:
    """Return what the packages of this process count."""
    return [family for provider in providers for family in provider.metrics(container)]


def merged(processes: Iterable[tuple[str, Iterable[Family]]], label: str) -> list[Family]:
    """
    Return the metrics of several processes as those of one server.

    Args:
        processes: A name for each, and what it counts.
        label: Name of the label that tells them apart: totals are not added up here, because a process that is started anew
            begins at nothing, which only a rate over each of them takes for what it is.
    """
    found: dict[str, Family] = {}
    for process, families in processes:
        for family in families:
            whole = found.get(family.name)
            if whole is None:
                whole = found[family.name] = Family(family.name, family.kind, family.help, is_shared=family.is_shared)
            elif family.is_shared:
                continue
            own = {} if family.is_shared else {label: process}
            whole.samples += [(suffix, {**labels, **own}, value) for suffix, labels, value in family.samples]
    return list(found.values())
