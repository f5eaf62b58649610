"""
The breaker of one service: asks its circuit before a call, tells it how the call ended.

Three paths, from the fastest to the one that can do everything:

- *plain*: the circuit lets everything through and only failures matter. `flowing` is then the view that holds.
- *timed*: the same, but calls are timed, and perhaps counted for a rate. `timing` is the view.
- *asking*: anything else. The state is computed from the clock at admission; there is no timer.

Refusals have a short cut, too: `refusing` says until when nobody needs to ask.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import count
from types import CoroutineType
from typing import TYPE_CHECKING, Any, Final

from alphavel.circuit_breaker import states
from alphavel.circuit_breaker.announcing import announce
from alphavel.circuit_breaker.errors import CircuitOpenError, FailedResultError
from alphavel.circuit_breaker.fallbacks import NOTHING, Policy, ResultCache
from alphavel.circuit_breaker.listeners import Event, EventName, Listeners, logger, tell
from alphavel.circuit_breaker.states import INITIAL, Outcome, Record, State
from alphavel.circuit_breaker.timeouts import check_limit, limited, limited_async, positive
from alphavel.circuit_breaker.window import Tally, reading

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from alphavel.circuit_breaker.settings import CacheSettings, ThresholdSettings
    from alphavel.circuit_breaker.stores.contract import Store, View

ORDINARY: Final = 0
"""A permit of a circuit that lets everything through, or a share of it."""
TRIAL: Final = 1
"""One of the permits of HALF_OPEN."""
SPARED: Final = 2
"""METRICS_ONLY: let through in spite of the state. How it ends changes nothing."""

Permit = tuple["View", int]

_ROUNDS: Final = 64
"""How often a change is tried. A round is lost only to somebody else's change, and a circuit can take few of them."""

_STRIDE: Final = 16
_FAST_S: Final = 1 / 16
"""Calls that come faster than one in so many seconds are fast."""

_LAST_FAILURE_CHARACTERS: Final = 160
"""What is kept of a failure's text: services are many."""


class Breaker:
    """
    The breaker of one service, made by `CircuitBreakerManager.service`.

    Attributes:
        service: Name of the service.
        rules: Its settings.
        flowing, timing, passing: The view under which calls begin without asking, on the plain path, on the timed path, and
            on any; None where they have to ask.
        refusing: Until when all are refused, and the state that is why; None: ask.
        tally: Totals of this process; `successes` is its counter.
        due: The success from which on the clock is to be looked at; see `look`.
        slow_after: A call that takes longer is slow.
        succeeded_at, failed_at: When a call last ended so, on the store's clock; None: not yet.
        last_failure: The last failure in this process, in words. No exception is kept: it would keep its traceback.
        own_policy: What holds for calls that say nothing else.
        base: Successes when the present state began.
    """

    __slots__ = (
        "_cache", "_cache_settings", "_listeners", "_tickets", "_told", "base", "circuit", "due", "failed_at", "flowing",
        "last_failure", "now", "own_policy", "passing", "refusing", "rules", "service", "slow_after", "succeeded_at",
        "successes", "tally", "timing",
    )  # fmt: skip

    def __init__(
        self,
        service: str,
        rules: ThresholdSettings,
        store: Store,
        listeners: Listeners,
        policy: Policy,
        cache_settings: CacheSettings,
    ) -> None:
        self.service = service
        self.rules = rules
        self.now = store.now
        self._listeners = listeners
        self.own_policy = policy
        self._cache_settings = cache_settings
        self._cache: ResultCache | None = None
        self._tickets = count(1) if rules.ramp else None
        self.tally = Tally()
        self.successes = self.tally.successes
        self.base = 0
        self.succeeded_at: float | None = None
        self.failed_at: float | None = None
        self.last_failure: str | None = None
        self.slow_after = rules.slow_call_duration or math.inf
        self.due = 0
        self.flowing: View | None = None
        self.timing: View | None = None
        self.passing: View | None = None
        self.refusing: tuple[float, State] | None = None
        self.circuit = store.circuit(service, initial(rules), rules, self.tally)
        self._told = self.circuit if store.told else None
        self.refresh()

    # -- calling -------------------------------------------------------------------------------------------------------

    def call(self, function: Callable[[], Any], fallback: Any = None, timeout: float | None = None, key: Any = None) -> Any:
        """See `CircuitBreakerManager.call`."""
        view = self.flowing
        if view is None or timeout is not None or (fallback is not None and fallback == "cache"):
            simple = fallback is None and timeout is None and key is None
            return self.ask(function, self.own_policy if simple else self.policy(fallback, timeout, key))
        try:
            result = function()
        except BaseException as error:
            answer = self.call_failed(view, error, fallback, key)
            if answer is NOTHING:
                raise
            return answer
        if type(result) is CoroutineType:
            return self.awaiting(result, (view, ORDINARY), self.policy(fallback, None, key))
        # One atomic step, as `next`, without the cost of a call.
        for number in self.successes:  # noqa: B007
            break
        if number >= self.due:
            self.look(number)
        return result

    def ask(self, function: Callable[[], Any], policy: Policy) -> Any:
        """`call` on the other paths."""
        if not policy.light:
            return self.run(function, policy)
        view = self.timing
        if view is None and (self._told is None or self._listeners.watching or (view := self._told.calm()) is None):
            return self.run(function, policy)
        now = self.now
        began = now()
        try:
            result = function()
        except BaseException as error:
            answer = self.failed((view, ORDINARY), began, error, policy)
            if answer is NOTHING:
                raise
            return answer
        if type(result) is CoroutineType:
            return self.awaiting(result, (view, ORDINARY), policy, began)
        ended = now()
        if ended - began > self.slow_after:
            return self.succeeded((view, ORDINARY), began, result, policy)
        if (rates := view.rates) is not None:
            part = rates.current
            for _ in part.calls if ended < part.until else rates.at(ended).calls:
                break
        for number in self.successes:  # noqa: B007
            break
        self.succeeded_at = ended
        if self._told is not None:
            self._told.succeeded(number, ended)
        return result

    def look(self, number: int) -> None:
        """
        Look at the clock after a success, and say after how many more to look again.

        A look costs as much as the rest of the plain path, so where calls come fast only every sixteenth is looked at: it
        then lies less than a second back, as long as they come as fast.
        """
        now = self.now()
        last, self.succeeded_at = self.succeeded_at, now
        fast = last is not None and now - last < _FAST_S * (number - self.due + 1)
        self.due = number + (_STRIDE if fast else 1)

    def run(self, function: Callable[[], Any], policy: Policy) -> Any:
        """Call a function on the asking path."""
        began = self.now()
        refusing = self.refusing
        if refusing is not None and began < refusing[0]:
            if policy.refuses:
                raise self.refusal(refusing, began)
            return self.refused(self.refusal(refusing, began), policy)
        if policy.timeout is not None:
            check_limit(function, self.service, policy.timeout)
        permit = self.enter(began)
        if isinstance(permit, CircuitOpenError):
            try:
                return self.refused(permit, policy)
            finally:
                del permit
        try:
            result = function() if policy.timeout is None else limited(function, self.service, policy.timeout)
        except BaseException as error:
            answer = self.failed(permit, began, error, policy)
            if answer is NOTHING:
                raise
            return answer
        if type(result) is CoroutineType:
            return self.awaiting(result, permit, policy, began)
        return self.succeeded(permit, began, result, policy)

    async def run_async(self, function: Callable[[], Awaitable[Any]], policy: Policy) -> Any:
        """Like `run` for what is to be awaited. What a fallback returns is awaited where it can be."""
        began = self.now()
        permit = self.enter(began)
        if isinstance(permit, CircuitOpenError):
            try:
                return await _settled(self.refused(permit, policy))
            finally:
                del permit
        return await self.awaiting(function, permit, policy, began)

    async def awaiting(self, what: Any, permit: Permit, policy: Policy, began: float | None = None) -> Any:
        """Await a coroutine, or what a function returns, of a call that holds a permit."""
        try:
            awaitable = what() if callable(what) else what
            result = await (awaitable if policy.timeout is None else limited_async(awaitable, self.service, policy.timeout))
        except BaseException as error:
            answer = self.failed(permit, began, error, policy)
            if answer is NOTHING:
                raise
            return await _settled(answer)
        answer = self.succeeded(permit, began, result, policy)
        return result if answer is result else await _settled(answer)

    def policy(self, fallback: Any = None, timeout: float | None = None, key: Any = None) -> Policy:
        """Return the service's policy with what one call wants otherwise."""
        policy = self.own_policy
        if fallback is not None:
            wanted = Policy(fallback)
            policy = policy.replaced(fallback=wanted.fallback, cached=wanted.cached)
        if timeout is not None or key is not None:
            policy = policy.replaced(
                timeout=policy.timeout if timeout is None else positive(timeout), key=policy.key if key is None else key
            )
        return policy

    # -- before and after a call ---------------------------------------------------------------------------------------

    def enter(self, began: float) -> Permit | CircuitOpenError:
        """
        Ask for a permit. Whoever gets one must hand it to `succeeded` or `failed`.

        Args:
            began: Now, on the store's clock.

        Returns:
            The permit, or the exception to raise. Nothing is raised but what interrupts a listener (GreenletExit, …).
        """
        passing = self.passing
        if passing is not None:
            return passing, ORDINARY
        circuit = self.circuit
        for _ in range(_ROUNDS):
            view = circuit.newest()
            record = view.record
            ticket = next(self._tickets) if self._tickets is not None and record.state is states.RECOVERING else 0
            decision = states.admit(record, self.rules, began, ticket)
            if decision.record is None:
                if decision.admitted:
                    return view, ORDINARY
                break
            if (swapped := circuit.swap(view, decision.record)) is not None:
                permit = (swapped, TRIAL if decision.trial else ORDINARY)
                try:
                    self._changed(record, swapped.record, _why_admitted(record, swapped.record, self.rules))
                except BaseException:
                    self._end_trial(permit, Outcome.IGNORED, began)
                    raise
                return permit
        if record.shadow:
            self.tally.add("spared")
            self._tell_refused(record, decision.retry_after)
            return view, SPARED
        number = next(self.tally.rejected)
        if self._told is not None:
            self._told.refused(number)
        if self._listeners.refused:
            self._tell_refused(record, decision.retry_after)
        return CircuitOpenError(self.service, record.state, decision.retry_after, self.last_failure)

    def refusal(self, refusing: tuple[float, State], now: float) -> CircuitOpenError:
        """Count a refusal and return its exception. For those who have found in `refusing` that nobody need be asked."""
        next(self.tally.rejected)
        until, state = refusing
        return CircuitOpenError(self.service, state, None if until == math.inf else until - now, self.last_failure)

    def refused(self, error: CircuitOpenError, policy: Policy) -> Any:
        """Return what the caller gets in place of an answer, or raise the refusal."""
        answer = self._answer(policy, error)
        if answer is NOTHING:
            # A frame in an exception's traceback that holds the exception is a cycle: each refused call would leave its
            # frames to the garbage collector. So this one, and all who hand a refusal on, let go of it.
            try:
                raise error
            finally:
                del error
        return answer

    def succeeded(self, permit: Permit, began: float | None, result: Any, policy: Policy) -> Any:
        """Take a permit back after a call that returned; return the result, or a fallback where it was judged a failure."""
        judge = policy.judge.failure_if
        if judge is not None and self._judged(lambda result: bool(judge(result)), result, permit):
            answer = self._failure(permit, began, None, FailedResultError(self.service, result), policy)
            return result if answer is NOTHING else answer
        now = self.now()
        number = next(self.successes)
        self.succeeded_at = now
        if self._told is not None:
            self._told.succeeded(number, now)
        duration = None if began is None else now - began
        slow = self._is_slow(duration)
        if slow or permit[1] == TRIAL or permit[0].rates is not None:
            self._count(permit, Outcome.SUCCESS, slow, now)
        if policy.cached:
            self._results().put(policy.key, result, now)
        if slow:
            self._tell_ended("slow", duration)
        if self._listeners.succeeded:
            self._tell_ended("succeeded", duration)
        return result

    def call_failed(self, view: View, error: BaseException, fallback: Any, key: Any) -> Any:
        """See `failed`; for `call`, which looks at a fallback only when it is needed."""
        try:
            policy = self.policy(fallback, None, key)
        except TypeError:
            self.failed((view, ORDINARY), None, error, self.own_policy)  # the service failed, whatever the caller did
            raise
        return self.failed((view, ORDINARY), None, error, policy)

    def failed(self, permit: Permit, began: float | None, error: BaseException, policy: Policy) -> Any:
        """Take a permit back after a call that raised; return a fallback's result, or NOTHING: let the exception go on."""
        if self._judged(policy.judge.outcome, error, permit) is Outcome.IGNORED:
            self.tally.add("ignored")
            self._count(permit, Outcome.IGNORED, False, self.now())
            return NOTHING
        return self._failure(permit, began, error, error, policy)

    def _failure(
        self, permit: Permit, began: float | None, error: BaseException | None, shown: BaseException, policy: Policy
    ) -> Any:
        now = self.now()
        next(self.tally.failures)
        self.failed_at = now
        self.last_failure = _in_words(shown)
        duration = None if began is None else now - began
        slow = self._is_slow(duration)
        self._count(permit, Outcome.FAILURE, slow, now)
        if slow:
            self._tell_ended("slow", duration)
        if self._listeners.failed:
            self._tell_ended("failed", duration, error)
        return self._answer(policy, shown) if policy.on_failure else NOTHING

    def _judged(self, judge: Callable[[Any], Any], what: Any, permit: Permit) -> Any:
        """Ask the application's own judge. If it raises, the call counts as a failure; it never keeps the permit."""
        try:
            return judge(what)
        except Exception:  # noqa: BLE001 (somebody else's code)
            logger.exception("What judges calls of %r raised; the call counts as a failure.", self.service)
            return Outcome.FAILURE
        except BaseException:
            self._count(permit, Outcome.IGNORED, False, self.now())
            raise

    def _is_slow(self, duration: float | None) -> bool:
        return duration is not None and duration > self.slow_after

    # -- what the end of a call changes --------------------------------------------------------------------------------

    def _count(self, permit: Permit, outcome: Outcome, slow: bool, now: float) -> None:
        view, kind = permit
        if slow:
            self.tally.add("slow")
        if self._told is not None:
            self._told.counted()
        if kind == TRIAL:
            if slow and self.rules.slow_call_rate and outcome is Outcome.SUCCESS:
                outcome = Outcome.FAILURE
            self._end_trial(permit, outcome, now)
        elif kind == ORDINARY and outcome is not Outcome.IGNORED and view.record.state is not State.DISABLED:
            self._count_ordinary(view, outcome is Outcome.FAILURE, slow, now)

    def _count_ordinary(self, view: View, failure: bool, slow: bool, now: float) -> None:
        rules = self.rules
        if view.rates is not None:
            part = view.rates.at(now)
            next(part.calls)
            if failure:
                next(part.failures)
            if slow:
                next(part.slow)
        if failure:
            failures = self.circuit.note_failure(view, now)
            if failures >= rules.failure_threshold:
                some = "1 failure" if rules.failure_threshold == 1 else f"{rules.failure_threshold} failures"
                self._trip(view, now, f"{some} within {rules.timeout:g} s")
                return
        if view.rates is not None and (failure or slow):
            why = view.rates.exceeded(rules, now)
            if why is not None:
                self._trip(view, now, why)

    def _trip(self, view: View, now: float, why: str) -> None:
        for _ in range(_ROUNDS):
            newest = self.circuit.newest()
            record = newest.record
            if record.generation != view.record.generation:
                return  # the call is of an older generation, or somebody was faster
            swapped = self.circuit.swap(newest, states.opened(record, self.rules, now))
            if swapped is not None:
                self._changed(record, swapped.record, why)
                return

    def _end_trial(self, permit: Permit, outcome: Outcome, now: float) -> None:
        for _ in range(_ROUNDS):
            newest = self.circuit.newest()
            record = states.ended(newest.record, permit[0].record.generation, outcome, self.rules, now)
            if record is None:
                return
            swapped = self.circuit.swap(newest, record)
            if swapped is not None:
                trials = f"{newest.record.succeeded + (outcome is Outcome.SUCCESS)} of {self.rules.half_open_requests} trials"
                self._changed(newest.record, record, f"{trials} succeeded")
                return

    def _changed(self, old: Record, new: Record, why: str) -> None:
        """Take up a change this process has made, then say so."""
        self.refresh()
        if old.generation != new.generation:
            self.base = reading(self.tally.successes)
            announce(self.service, self._listeners, old, new, why)

    def refresh(self) -> None:
        """Find out which path calls take now: after a change, or when somebody begins or ceases to watch."""
        timed = self.own_policy.light and not self._listeners.watching
        plain = not (self.rules.slow_call_duration or self.rules.failure_rate)
        for _ in range(_ROUNDS):
            view = self.circuit.newest()
            flows = self.circuit.steady and view.record.flows
            self.passing = view if flows else None
            self.timing = view if flows and timed else None
            self.flowing = view if flows and timed and plain else None
            self.refusing = self._refusing_of(view.record)
            # Had somebody changed the circuit before these lines and written these slots after, they would be stale.
            if self.circuit.newest() is view:
                return

    def _refusing_of(self, record: Record) -> tuple[float, State] | None:
        if not self.circuit.steady or record.shadow or self._listeners.refused:
            return None
        if record.state is states.OPEN:
            return record.since + record.wait, record.state
        return (math.inf, record.state) if record.state is State.ISOLATED else None

    # -- operators -----------------------------------------------------------------------------------------------------

    def force(self, state: State, why: str = "an operator") -> None:
        """Put the circuit into a state."""
        self._force(lambda record, now: states.forced(record, state, self.rules, now), why)

    def reset(self) -> None:
        """Begin anew: the configured state, no failures, no totals, no cached results."""
        start = initial(self.rules)

        def begin(record: Record, now: float) -> Record:
            return start._replace(generation=record.generation + 1, since=now)

        self.tally = Tally()
        self.circuit.forget(self.tally)
        self.successes = self.tally.successes
        self.due = 0
        self.succeeded_at = self.failed_at = self.last_failure = self._cache = None
        self._force(begin, "an operator's reset")

    def _force(self, change: Callable[[Record, float], Record], why: str) -> None:
        for _ in range(_ROUNDS):
            view = self.circuit.newest()
            swapped = self.circuit.swap(view, change(view.record, self.now()))
            if swapped is not None:
                self._changed(view.record, swapped.record, why)
                return

    # -- small things --------------------------------------------------------------------------------------------------

    def begin(self) -> Breaker:
        """Begin to hear of what others change. Not done by the constructor: of two that are made at once one is thrown away."""
        self.circuit.listen(self.refresh)
        return self

    def use(self, policy: Policy) -> None:
        """Make `policy` the service's own."""
        self.own_policy = policy
        self.refresh()

    def _answer(self, policy: Policy, error: BaseException) -> Any:
        if policy.cached:
            return NOTHING if self._cache is None else self._cache.get(policy.key, self.now())
        return NOTHING if policy.fallback is None else policy.fallback(error)

    def _results(self) -> ResultCache:
        if self._cache is None:
            self._cache = ResultCache(self._cache_settings)
        return self._cache

    @property
    def cache_stats(self) -> dict[str, Any] | None:
        """What `ResultCache.stats` says; None where nothing was ever kept."""
        return None if self._cache is None else self._cache.stats(self.now())

    def _tell_refused(self, record: Record, retry_after: float | None) -> None:
        tell(self._listeners.refused, Event("refused", self.service, record.shown, retry_after=retry_after))

    def _tell_ended(self, name: EventName, duration: float | None, error: BaseException | None = None) -> None:
        handlers = getattr(self._listeners, name)
        if handlers:
            state = self.circuit.newest().record.shown
            tell(handlers, Event(name, self.service, state, duration=duration, error=error))


def initial(rules: ThresholdSettings) -> Record:
    """Return the record a circuit begins with."""
    if rules.mode == "disabled":
        return Record(state=State.DISABLED)
    return Record(shadow=True) if rules.mode == "metrics_only" else INITIAL


def _why_admitted(old: Record, new: Record, rules: ThresholdSettings) -> str:
    if old.state is states.OPEN:
        return f"the recovery time of {old.wait:g} s is over"
    if new.state is states.CLOSED:
        return "the ramp is over"
    return f"{old.taken - old.succeeded - old.failed} trials did not come back within {rules.trial_timeout:g} s"


def _in_words(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 (somebody else's __str__)
        text = "?"
    return f"{type(error).__name__}: {text}"[:_LAST_FAILURE_CHARACTERS]


async def _settled(answer: Any) -> Any:
    return await answer if hasattr(answer, "__await__") else answer
