"""Rounds: many short ones, interleaved, in another order each time, so that what disturbs the machine disturbs all alike."""

from __future__ import annotations

import random
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from benchmarks.contestants import Running
from benchmarks.processes import ServerError, cpu_s

T = TypeVar("T")
_SETTLE_MS = 60_000


class WrongFigureError(RuntimeError):
    """Messages were lost, doubled or disordered: there is no figure to report."""


@dataclass(frozen=True)
class FanOut:
    """
    One round of a fan-out.

    Attributes:
        rate: Messages delivered a second.
        server_us: Processor time of the server for one delivered message, in microseconds.
        server_share, client_share: Of one core, while it went on.
        latency_ms: From push to read: p50, p99, p99.9.
    """

    rate: float
    server_us: float
    server_share: float
    client_share: float
    latency_ms: Mapping[str, float]

    @property
    def client_was_limit(self) -> bool:
        """Whether the client was busy all the time and the server was not."""
        return self.client_share > 0.95 and self.server_share < 0.9


def fan_out(running: Running, command: str, *arguments: object) -> FanOut:
    """Have a server publish, and wait until everybody has everything."""
    load = running.loads[0]
    load.ask("mark", running.published)
    server_before, client_before, began = running.program.cpu_s(), cpu_s(load.pid), time.monotonic()
    last = running.publish(command, *arguments)
    seen = load.ask("until", last, _SETTLE_MS)
    wall = time.monotonic() - began
    server, client = running.program.cpu_s() - server_before, cpu_s(load.pid) - client_before
    check(running.name, seen)
    return FanOut(
        rate=seen["messages"] / max(1e-9, (seen["last_read_ns"] - seen["first_at_ns"]) / 1e9),
        server_us=server / max(1, seen["messages"]) * 1e6,
        server_share=server / wall,
        client_share=client / wall,
        latency_ms=latencies(seen),
    )


def check(name: str, seen: Mapping[str, Any]) -> None:
    """Refuse a figure where anything is missing."""
    wrong = {key: seen[key] for key in ("lost", "duplicates", "behind", "closed", "refused", "broken") if seen[key]}
    if wrong or not seen["messages"]:
        raise WrongFigureError(f"{name}: {wrong or 'nothing came'}")


def latencies(seen: Mapping[str, Any]) -> dict[str, float]:
    """Percentiles of a report in milliseconds."""
    return {key: seen["latency_ns"][key] / 1e6 for key in ("p50", "p99", "p999", "max")}


def interleaved(contestants: Sequence[Running], rounds: int, measure: Callable[[Running], T], what: str) -> dict[str, list[T]]:
    """
    Measure all, round by round; one round before the first warms up and does not count.

    Returns:
        The samples of each contestant, in the order of the rounds. One that loses messages is left out; it is an error where
        it is ours.
    """
    samples: dict[str, list[T]] = {running.name: [] for running in contestants}
    for number in range(rounds + 1):
        progress(f"{what}: round {number} of {rounds}")
        for running in random.sample(list(contestants), len(contestants)):
            if running.name in samples:
                try:
                    sample = measure(running)
                except (WrongFigureError, ServerError) as error:
                    if running.contestant.is_ours:
                        raise
                    progress(f"{running.name} is left out: {error}")
                    del samples[running.name]
                    continue
                if number:
                    samples[running.name].append(sample)
    return samples


def median(values: Sequence[float]) -> float:
    """The middle one."""
    return statistics.median(values)


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median of the ratios of the same rounds: what slowed down a whole round cancels out."""
    return statistics.median(our / their for our, their in zip(ours, theirs, strict=True))


def progress(text: str) -> None:
    """Say what goes on: on a terminal in place, elsewhere a line at a time."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\033[K{text}")
    else:
        sys.stderr.write(text + "\n")
    sys.stderr.flush()
