"""Circuits of this process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alphavel.circuit_breaker.stores.contract import Totals, View
from alphavel.circuit_breaker.window import Tally, note, within

if TYPE_CHECKING:
    from collections.abc import Callable

    from alphavel.circuit_breaker.settings import ThresholdSettings
    from alphavel.circuit_breaker.states import Record


class _Link:
    """A view and, once there is one, the link after it in the attribute `after`."""

    # The dict of attributes is made when `swap` first asks for it: most links never have one.
    __slots__ = ("__dict__", "view")

    def __init__(self, view: View) -> None:
        self.view = view


class MemoryCircuit:
    """
    A chain of views of which the last one holds.

    The step that is atomic: `dict.setdefault` on the last link. Whoever comes first has appended the next view, and all
    see it from that moment on; there is no second step in which a thread, greenlet or signal handler could die.
    """

    __slots__ = ("_link", "_rules")

    steady = True

    def __init__(self, record: Record, rules: ThresholdSettings) -> None:
        self._link = _Link(View(record, rules))
        self._rules = rules

    def listen(self, changed: Callable[[], None]) -> None:
        """See `Circuit.listen`."""

    def newest(self) -> View:
        """See `Circuit.newest`."""
        return self._last().view

    def _last(self) -> _Link:
        link = self._link
        while (after := getattr(link, "after", None)) is not None:
            link = after
        return link

    def swap(self, old: View, record: Record) -> View | None:
        """See `Circuit.swap`."""
        last = self._last()
        if last.view is not old:
            return None
        link = _Link(View(record, self._rules, old))
        first: _Link = last.__dict__.setdefault("after", link)
        if first is not link:
            return None
        # A slower thread may put an older link back here: readers walk on from whatever they find.
        self._link = link
        return first.view

    def note_failure(self, view: View, now: float) -> int:
        """See `Circuit.note_failure`."""
        # Late failures of an old generation end up in its own list, which nobody reads any more.
        return note(view.failures, now, self._rules.failure_threshold, self._rules.timeout)

    def failures(self, view: View, now: float) -> int:
        """See `Circuit.failures`."""
        return within(view.failures, now, self._rules.timeout)

    def calm(self) -> View | None:
        """See `Circuit.calm`."""
        return None

    def succeeded(self, number: int, now: float) -> None:
        """See `Circuit.succeeded`."""

    def refused(self, number: int) -> None:
        """See `Circuit.refused`."""

    def counted(self) -> None:
        """See `Circuit.counted`."""

    def others(self, tally: Tally) -> Totals:
        """See `Circuit.others`."""
        return Totals()

    def forget(self, tally: Tally) -> None:
        """See `Circuit.forget`."""


class MemoryStore:
    """See `Store`."""

    name = "memory"
    told = False

    def __init__(self, clock: Callable[[], float]) -> None:
        self.now = clock

    def circuit(self, service: str, record: Record, rules: ThresholdSettings, tally: Tally) -> MemoryCircuit:
        """See `Store.circuit`."""
        return MemoryCircuit(record, rules)

    def services(self) -> list[str]:
        """See `Store.services`."""
        return []

    def problem(self) -> str | None:
        """See `Store.problem`."""
        return None

    def close(self) -> None:
        """See `Store.close`."""
