"""What is known of a service, in numbers and in words."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from alphavel.circuit_breaker import states
from alphavel.circuit_breaker.states import Record, State
from alphavel.circuit_breaker.window import reading

if TYPE_CHECKING:
    from alphavel.circuit_breaker.breaker import Breaker
    from alphavel.circuit_breaker.stores.contract import View


def stats(breaker: Breaker, wall_clock: Callable[[], float]) -> dict[str, Any]:
    """
    Return the state of a service, JSON-able. Times are Unix time, ages and durations seconds.

    Keys: `service`, `state`; `failures` (those in the window; HALF_OPEN: of trials), `successes` (in this process since the
    state began; HALF_OPEN: of trials), `success_rate` (percent of all calls that ended, 100.0 before the first),
    `total_requests` (calls that reached the service and ended), `total_failures`, `total_successes`, `last_failure_time`,
    `last_success_time`, `last_failure` (in words, of this process), `rejected`, `slow`, `ignored`, `opened_at`,
    `retry_after`; METRICS_ONLY: `would_be` and `would_have_rejected`; `cache` (of the fallback: `entries`, `age` of the
    youngest, `stale_age` of the last one handed out). Totals are those of all who share the store.
    """
    now = breaker.now()
    view = breaker.circuit.newest()
    record = view.record
    tally, others = breaker.tally, breaker.circuit.others(breaker.tally)
    successes = reading(tally.successes) + others.successes
    failures = reading(tally.failures) + others.failures
    ignored = tally.rare("ignored") + others.ignored
    half_open = record.state is states.HALF_OPEN

    def unix(*moments: float | None) -> float | None:
        latest = max((moment for moment in moments if moment is not None), default=None)
        return None if latest is None else wall_clock() - (now - latest)

    return {
        "service": breaker.service,
        "state": record.shown.value,
        "failures": record.failed if half_open else breaker.circuit.failures(view, now),
        "successes": record.succeeded if half_open else reading(tally.successes) - breaker.base,
        "success_rate": round(100 * successes / (successes + failures), 2) if successes + failures else 100.0,
        "total_requests": successes + failures + ignored,
        "total_failures": failures,
        "total_successes": successes,
        "last_failure_time": unix(breaker.failed_at, others.last_failure),
        "last_success_time": unix(breaker.succeeded_at, others.last_success),
        "last_failure": breaker.last_failure,
        "rejected": reading(tally.rejected) + others.rejected,
        "slow": tally.rare("slow") + others.slow,
        "ignored": ignored,
        "opened_at": unix(record.opened),
        "retry_after": retry_after(record, now),
        "would_be": record.state.value if record.shadow else None,
        "would_have_rejected": tally.rare("spared"),
        "cache": breaker.cache_stats,
    }


def retry_after(record: Record, now: float) -> float | None:
    """Return the seconds until an open circuit takes trials; None where it is not open or only an operator knows."""
    return max(0.0, record.since + record.wait - now) if record.state is states.OPEN else None


def explain(breaker: Breaker) -> str:
    """Say in words why a service's circuit is or is not open: counts, thresholds, what would change it."""
    now = breaker.now()
    view = breaker.circuit.newest()
    record, rules = view.record, breaker.rules
    distance = _distance(breaker, view, now)
    text = {
        State.CLOSED: f"It lets all calls through. {distance}",
        State.OPEN: (
            f"It opened {now - record.since:.1f} s ago and refuses all calls"
            + (
                f"; in {retry_after(record, now):.1f} s it lets {rules.half_open_requests} trials through."
                if retry_after(record, now)
                else f"; its recovery time is over: the next {rules.half_open_requests} calls are trials."
            )
        ),
        State.HALF_OPEN: (
            f"{record.taken} of {rules.half_open_requests} trials have begun; {record.succeeded} succeeded, {record.failed} "
            f"failed. It closes when {rules.success_threshold:g} % of them have succeeded and opens again as soon as that "
            "can no longer be reached. All other calls are refused."
        ),
        State.RECOVERING: (
            f"Its trials succeeded; it lets {states.share(record, rules, now)} % of the calls through "
            f"(steps of {rules.ramp_step:g} s: {', '.join(map(str, rules.ramp))}, then 100 %). {distance}"
        ),
        State.ISOLATED: "An operator isolated it: it refuses all calls until it is closed or reset.",
        State.DISABLED: "It is disabled: it lets all calls through and counts them, whatever happens.",
    }[record.state]
    shadow = "It only reports (metrics_only): nobody is refused. What it would do: " if record.shadow else ""
    last = f" The last failure here: {breaker.last_failure}." if breaker.last_failure else ""
    return f"The circuit of {breaker.service!r} is {record.shown.value.replace('_', '-')}. {shadow}{text}{last}"


def _distance(breaker: Breaker, view: View, now: float) -> str:
    rules, failures = breaker.rules, breaker.circuit.failures(view, now)
    calls, failed, slow = (0, 0, 0) if view.rates is None else view.rates.totals(now)
    parts = [
        f"{failures} of {rules.failure_threshold} failures within {rules.timeout:g} s; "
        f"{max(1, rules.failure_threshold - failures)} more would open it"
    ]
    rates = [
        ("failed", failed, rules.failure_rate),
        (f"took longer than {rules.slow_call_duration:g} s", slow, rules.slow_call_rate),
    ]
    parts += [
        f"so would {limit:g} % of at least {rules.minimum_calls} calls that {what} (here {many} of {calls})"
        for what, many, limit in rates
        if limit
    ]
    return ", and ".join(parts) + "."


def printable(text: str) -> str:
    """Return text for a terminal: names and errors may hold what would end the line, or move the cursor."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)
