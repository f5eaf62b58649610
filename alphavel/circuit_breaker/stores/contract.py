"""
What a store is. One suite of tests holds all of them to it: see `store_config` in `tests/circuit_breaker/conftest.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, Protocol

from alphavel.circuit_breaker.window import Rates, reading

if TYPE_CHECKING:
    from alphavel.circuit_breaker.settings import ThresholdSettings
    from alphavel.circuit_breaker.states import Record
    from alphavel.circuit_breaker.window import Tally


class View:
    """
    A record as somebody saw it, with what is counted under it in this process. A new one for every new record; compared by
    identity.

    Attributes:
        record: The record.
        failures: When calls of this generation failed, where the store keeps that in this process.
        rates: Calls of this generation, where a rate is set. Rates are each process's own, in every store.
    """

    __slots__ = ("failures", "rates", "record")

    def __init__(self, record: Record, rules: ThresholdSettings, before: View | None = None) -> None:
        """
        Args:
            record: The record.
            rules: Settings of its service.
            before: The view it follows; what was counted is carried over where it is of the same generation.
        """
        self.record = record
        if before is not None and before.record.generation == record.generation:
            self.failures: list[float] = before.failures
            self.rates: Rates | None = before.rates
            return
        self.failures = []
        self.rates = Rates(rules.timeout) if rules.failure_rate or rules.slow_call_rate else None


class Totals(NamedTuple):
    """Totals of a service, see `Tally`; times are seconds on the store's clock, None where there was nothing."""

    successes: int = 0
    failures: int = 0
    ignored: int = 0
    rejected: int = 0
    slow: int = 0
    last_success: float | None = None
    last_failure: float | None = None


def totals_of(tally: Tally) -> Totals:
    """Return what a process has counted."""
    return Totals(
        reading(tally.successes), reading(tally.failures), tally.rare("ignored"), reading(tally.rejected), tally.rare("slow")
    )


class Circuit(Protocol):
    """
    One service in a store. No method raises because the store cannot be reached, and none waits for longer than the store's
    own time limit.

    Attributes:
        steady: Whether a view that `newest` returned holds until this process changes it or the store calls `changed`;
            where it is False, `newest` has to be asked before every call.
        changed: What the store calls, in whatever thread, where it learns that others have changed the circuit or `steady`
            has become another.
    """

    @property
    def steady(self) -> bool:
        """See above."""

    def listen(self, changed: Callable[[], None]) -> None:
        """Have `changed` called; see above."""

    def newest(self) -> View:
        """Return the present record."""

    def swap(self, old: View, record: Record) -> View | None:
        """
        Replace the record, in one step that is atomic for all who share the store, if it is still that of `old`.

        Returns:
            The view that now holds; None where somebody else was faster.
        """

    def note_failure(self, view: View, now: float) -> int:
        """Count a failure of a call that began under `view`; return how many its generation has in the window."""

    def failures(self, view: View, now: float) -> int:
        """Return how many failures the generation of `view` has in the window."""

    def calm(self) -> View | None:
        """Return the present view if it lets everything through. Only asked where the store is `told`."""

    def succeeded(self, number: int, now: float) -> None:
        """Take note of the success before which this process had `number`."""

    def refused(self, number: int) -> None:
        """Take note of the refusal before which this process had `number`."""

    def counted(self) -> None:
        """Take note that other totals of this process have changed."""

    def others(self, tally: Tally) -> Totals:
        """Return what processes other than this one counted; `tally` is what this one did."""

    def forget(self, tally: Tally) -> None:
        """Set the totals of all processes to nothing; `tally`, which is new, will be those of this one."""


class Store(Protocol):
    """
    Where circuits are kept.

    Attributes:
        name: As in the configuration.
        told: Whether its circuits are to be told of every call that has ended, by `succeeded` and `counted`.
    """

    name: str
    told: bool

    def now(self) -> float:
        """Return the time that all its records use, in seconds."""

    def circuit(self, service: str, record: Record, rules: ThresholdSettings, tally: Tally) -> Circuit:
        """
        Return a service's circuit. Says in the log where it can only be this process's own; raises nothing.

        Args:
            service: Name of the service.
            record: Its state where the store has none yet.
            rules: Its settings.
            tally: What this process counts of it.
        """

    def services(self) -> list[str]:
        """Return the services that others may have put there."""

    def problem(self) -> str | None:
        """Return why what is read here is not what all see, in one sentence for people; None where it is."""

    def close(self) -> None:
        """Let go of files and connections."""
