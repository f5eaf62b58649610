"""
States of a circuit and how it moves between them: pure functions from one record to the next. No clock, no I/O, no locks.

Every store keeps one `Record` a service and replaces it in one atomic step (`Circuit.swap`), so that whoever reads sees
either the old record or the new one, and of two who change the same record one wins and the other looks again.
"""

from __future__ import annotations

import enum
import random
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from alphavel.circuit_breaker.settings import ThresholdSettings


class State(str, enum.Enum):
    """What a circuit does with calls. Equal to its text: `State.OPEN == "open"`."""

    CLOSED = "closed"  # lets all through, counts failures
    OPEN = "open"  # refuses all until the recovery time is over
    HALF_OPEN = "half_open"  # lets a few trials through, refuses the rest
    RECOVERING = "recovering"  # lets a growing share through, counts failures
    ISOLATED = "isolated"  # an operator's: refuses all until told otherwise
    DISABLED = "disabled"  # an operator's: lets all through, judges nothing
    METRICS_ONLY = "metrics_only"  # lets all through, reports what it would have refused

    def __str__(self) -> str:
        return self.value


CLOSED, OPEN, HALF_OPEN, RECOVERING = State.CLOSED, State.OPEN, State.HALF_OPEN, State.RECOVERING

TRANSITIONS: dict[tuple[State, str], State] = {
    (CLOSED, "too many failures or slow calls"): OPEN,
    (OPEN, "the recovery time is over"): HALF_OPEN,
    (HALF_OPEN, "too few trials can still succeed"): OPEN,
    (HALF_OPEN, "enough trials succeeded"): CLOSED,
    (HALF_OPEN, "enough trials succeeded, and a ramp is set"): RECOVERING,
    (HALF_OPEN, "trials did not come back"): HALF_OPEN,
    (RECOVERING, "too many failures or slow calls"): OPEN,
    (RECOVERING, "the ramp is over"): CLOSED,
}
"""What a circuit does by itself; operators move it from any state to any other."""


class Outcome(enum.Enum):
    """How a call ended."""

    SUCCESS = "success"
    FAILURE = "failure"
    IGNORED = "ignored"  # an exception that says nothing about the service, or a call that was cut short


class Record(NamedTuple):
    """
    Everything that is decided about a circuit. Times are seconds on the store's clock.

    Attributes:
        generation: Grows with every change of state. A call belongs to the generation in which it began.
        state: CLOSED, OPEN, HALF_OPEN, RECOVERING, or the operator's ISOLATED or DISABLED.
        shadow: METRICS_ONLY: the state is kept as ever and nobody is refused.
        since: When the state began.
        wait: OPEN: how long until trials may begin.
        taken, succeeded, failed: HALF_OPEN: permits taken, and trials that ended so.
        tried: HALF_OPEN: when the last permit was taken.
        openings: How often it opened since it was last closed; the recovery time may grow with it.
        opened: When it last opened, None where it has not since it was last closed.
    """

    generation: int = 0
    state: State = CLOSED
    shadow: bool = False
    since: float = 0.0
    wait: float = 0.0
    taken: int = 0
    succeeded: int = 0
    failed: int = 0
    tried: float = 0.0
    openings: int = 0
    opened: float | None = None

    @property
    def shown(self) -> State:
        """The state that users see."""
        return State.METRICS_ONLY if self.shadow else self.state

    @property
    def flows(self) -> bool:
        """Whether every call is let through and nothing but failures matters."""
        return self.state is CLOSED or self.state is State.DISABLED


INITIAL = Record()


class Decision(NamedTuple):
    """
    What becomes of a call that wants in.

    Attributes:
        admitted: Whether it may run.
        trial: Whether it holds one of the permits of HALF_OPEN.
        record: What the circuit's record must be replaced with for this to hold; None: it stays.
        retry_after: Refused: seconds until it makes sense to ask again, None where nobody knows.
    """

    admitted: bool
    trial: bool = False
    record: Record | None = None
    retry_after: float | None = None


_PASS = Decision(True)
_ISOLATED = Decision(False)
_BUSY_S = 1.0
"""When to ask again while trials or a ramp decide how it goes on."""
_BUSY = Decision(False, retry_after=_BUSY_S)


def admit(record: Record, rules: ThresholdSettings, now: float, ticket: int) -> Decision:
    """
    Decide about a call that wants in.

    Args:
        record: The circuit's record.
        rules: Its settings.
        now: Seconds on the store's clock.
        ticket: RECOVERING: a number that grows by one with each call, to let an exact share of them through.
    """
    state = record.state
    if state is CLOSED or state is State.DISABLED:
        return _PASS
    if state is OPEN:
        left = record.since + record.wait - now
        if left > 0:
            return Decision(False, retry_after=left)
        return Decision(True, True, _next(record, HALF_OPEN, now)._replace(taken=1, tried=now))
    if state is HALF_OPEN:
        return _admit_trial(record, rules, now)
    if state is RECOVERING:
        return _admit_share(record, rules, now, ticket)
    return _ISOLATED


def _admit_trial(record: Record, rules: ThresholdSettings, now: float) -> Decision:
    if record.taken < rules.half_open_requests:
        return Decision(True, True, record._replace(taken=record.taken + 1, tried=now))
    if now - record.tried < rules.trial_timeout:
        return _BUSY
    # Those that did not come back give their permits up. A new generation, so that they count no more if they do.
    ended = record.succeeded + record.failed
    renewed = _next(record, HALF_OPEN, now)
    return Decision(True, True, renewed._replace(taken=ended + 1, tried=now, succeeded=record.succeeded, failed=record.failed))


def _admit_share(record: Record, rules: ThresholdSettings, now: float, ticket: int) -> Decision:
    percent = share(record, rules, now)
    if percent >= 100:
        return Decision(True, record=_next(record, CLOSED, now)._replace(openings=0, opened=None))
    # Of any 100 calls in a row exactly `percent` pass, spread evenly.
    return _PASS if ticket * percent // 100 > (ticket - 1) * percent // 100 else _BUSY


def share(record: Record, rules: ThresholdSettings, now: float) -> int:
    """Return the percentage of calls that RECOVERING lets through by now; 100: the ramp is over."""
    # A caller that looked at the clock before somebody else changed the state may be early.
    step = max(0, int((now - record.since) / rules.ramp_step))
    return rules.ramp[step] if step < len(rules.ramp) else 100


def ended(record: Record, generation: int, outcome: Outcome, rules: ThresholdSettings, now: float) -> Record | None:
    """
    Return the record after a trial has ended; None where it changes nothing, as the trial belongs to an older generation.
    """
    if record.generation != generation or record.state is not HALF_OPEN:
        return None
    if outcome is Outcome.IGNORED:
        return record._replace(taken=record.taken - 1)
    if outcome is Outcome.SUCCESS:
        record = record._replace(succeeded=record.succeeded + 1)
    else:
        record = record._replace(failed=record.failed + 1)
    trials = rules.half_open_requests
    if (trials - record.failed) * 100 < rules.success_threshold * trials:
        return opened(record, rules, now)
    if record.succeeded + record.failed < trials:
        return record
    if rules.ramp:
        return _next(record, RECOVERING, now)
    return _next(record, CLOSED, now)._replace(openings=0, opened=None)


def opened(record: Record, rules: ThresholdSettings, now: float) -> Record:
    """Return the record of a circuit that opens now."""
    openings = record.openings + 1
    # The exponent is bounded: a float cannot hold 2.0 ** 1024.
    wait = rules.recovery_timeout * rules.recovery_backoff ** min(openings - 1, 64)
    wait = min(wait, max(rules.recovery_timeout, rules.recovery_timeout_max))
    wait *= 1 + rules.recovery_jitter * random.random()  # noqa: S311 (spreads probes, guards nothing)
    return _next(record, OPEN, now)._replace(wait=wait, openings=openings, opened=now)


def forced(record: Record, state: State, rules: ThresholdSettings, now: float) -> Record:
    """Return the record after an operator has put the circuit into `state`."""
    if state is OPEN:
        return opened(record._replace(openings=0, shadow=False), rules, now)
    if state is State.METRICS_ONLY:
        return _next(record, CLOSED, now)._replace(shadow=True, openings=0, opened=None)
    return _next(record, state, now)._replace(shadow=False, openings=0, opened=None)


def _next(record: Record, state: State, now: float) -> Record:
    return Record(
        generation=record.generation + 1,
        state=state,
        shadow=record.shadow,
        since=now,
        openings=record.openings,
        opened=record.opened,
    )


def known(record: Record, now: float) -> Record:
    """
    Return a record that somebody else wrote. Nothing in it is yet to come: where its times are of a clock that was set back
    since, what waits for them would wait for as long as that.
    """
    opened = None if record.opened is None else min(record.opened, now)
    return record._replace(since=min(record.since, now), tried=min(record.tried, now), opened=opened)


def encode(record: Record) -> str:
    """Return a record as a text that can be the name of a file."""
    return "~".join(
        [
            str(int(value)) if isinstance(value, bool) else value.value if isinstance(value, State) else repr(value)
            for value in record
        ]
    )


def decode(text: str) -> Record | None:
    """Return the record a text stands for; None: none."""
    try:
        generation, state, shadow, since, wait, taken, succeeded, failed, tried, openings, opened = text.split("~")
        return Record(
            int(generation), State(state), shadow == "1", float(since), float(wait), int(taken), int(succeeded), int(failed),
            float(tried), int(openings), None if opened == "None" else float(opened),
        )  # fmt: skip
    except ValueError:
        return None
