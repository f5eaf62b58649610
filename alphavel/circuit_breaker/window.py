"""
What is counted of a circuit's calls in this process.

"Without locks" rests on steps that CPython runs as one: `next()` of an `itertools.count` (C code that calls back into
nothing), `list.append`, `del list[:n]` of floats, `dict.setdefault` and `dict.pop` with texts and numbers as keys. Under
the interpreter lock no other thread and no greenlet runs within one of them; on free-threaded builds containers lock
themselves for the step, and `count` is exact from Python 3.14 on.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import count
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from alphavel.circuit_breaker.settings import ThresholdSettings

SLICES = 10
"""A rate's window moves in so many steps."""


def reading(counter: count[int]) -> int:
    """Return how often `next(counter)` has been called on a `count()`, without another call."""
    # __reduce__ would say it too, but warns from Python 3.12 on. repr() is "count(5)".
    return int(repr(counter)[6:-1])


class Tally:
    """
    Totals of a service in this process. `next(tally.failures)` counts one, `reading(tally.failures)` tells how many.

    Attributes:
        successes, failures: Calls that ended so.
        rejected: Calls refused.
    """

    __slots__ = ("__dict__", "failures", "rejected", "successes")

    def __init__(self) -> None:
        self.successes = count()
        self.failures = count()
        self.rejected = count()

    def add(self, what: str) -> None:
        """
        Count one of what most services never have: `ignored` (exceptions that are no failures), `slow` (calls that took
        longer than `slow_call_duration`, however they ended), `spared` (METRICS_ONLY: calls that would have been refused).
        """
        # An object's own dict is made in C when it is first touched; counters nobody needs take no memory.
        next(self.__dict__.setdefault(what, count()))

    def rare(self, what: str) -> int:
        """Return how many of those there were."""
        counter = getattr(self, what, None)
        return 0 if counter is None else reading(counter)


def note(times: list[float], now: float, keep: int, window: float) -> int:
    """
    Add a failure to `times` and return how many of them, at most `keep`, lie within the last `window` seconds.

    Each caller adds first and counts then, so of those that race the last to add sees all.
    """
    times.append(now)
    if len(times) > keep:
        del times[:-keep]
    return within(times, now, window)


def within(times: list[float], now: float, window: float) -> int:
    """Return how many of the growing `times` lie within the last `window` seconds."""
    return len(times) - bisect_right(times, now - window)


class Slice:
    """Calls of one tenth of the window."""

    __slots__ = ("calls", "failures", "slow", "until")

    def __init__(self, until: float) -> None:
        self.until = until
        self.calls = count()
        self.failures = count()
        self.slow = count()


class Rates:
    """How many of the last calls failed or were slow. The window moves by tenths of itself."""

    __slots__ = ("_slices", "_width", "current")

    def __init__(self, window: float) -> None:
        self._width = window / SLICES
        self._slices: dict[int, Slice] = {}
        self.current = Slice(float("-inf"))

    def at(self, now: float) -> Slice:
        """Return the slice that calls ending now are counted in."""
        if now < self.current.until:
            return self.current
        number = int(now / self._width)
        # One of those that race makes the slice that all use.
        self.current = self._slices.setdefault(number, Slice((number + 1) * self._width))
        for old in [known for known in tuple(self._slices) if known <= number - SLICES]:
            self._slices.pop(old, None)
        return self.current

    def totals(self, now: float) -> tuple[int, int, int]:
        """Return the calls of the window, how many failed, how many were slow."""
        oldest = int(now / self._width) - SLICES
        slices = [part for number, part in tuple(self._slices.items()) if number > oldest]
        return (
            sum(reading(part.calls) for part in slices),
            sum(reading(part.failures) for part in slices),
            sum(reading(part.slow) for part in slices),
        )

    def exceeded(self, rules: ThresholdSettings, now: float) -> str | None:
        """Return which rate is too high, in words; None where none is, or where there were too few calls."""
        calls, failures, slow = self.totals(now)
        if calls < rules.minimum_calls:
            return None
        for what, many, limit in (("failed", failures, rules.failure_rate), ("were slow", slow, rules.slow_call_rate)):
            if limit and many * 100 >= limit * calls:
                return f"{many * 100 / calls:.0f} % of {calls} calls within {rules.timeout:g} s {what}"
        return None
