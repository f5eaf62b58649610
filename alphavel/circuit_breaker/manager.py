"""All breakers of a process, by the name of their service. What the facade `CircuitBreaker` stands for."""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Callable, Mapping
from types import CoroutineType
from typing import Any, TypeVar

from alphavel.circuit_breaker import settings as settings_
from alphavel.circuit_breaker import stats as stats_
from alphavel.circuit_breaker.breaker import ORDINARY, Breaker
from alphavel.circuit_breaker.fallbacks import NOTHING, Policy
from alphavel.circuit_breaker.judging import Judge, Matchers
from alphavel.circuit_breaker.listeners import EventName, Handler, Listeners, logger
from alphavel.circuit_breaker.settings import CircuitBreakerSettings, ThresholdSettings
from alphavel.circuit_breaker.states import State
from alphavel.circuit_breaker.stores import make_store
from alphavel.circuit_breaker.stores.contract import Store
from alphavel.circuit_breaker.stores.memory import MemoryStore
from alphavel.circuit_breaker.timeouts import positive
from alphavel.circuit_breaker.wrapping import Guard, Site, protected
from alphavel.foundation import ConfigurationError

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])
HandlerT = TypeVar("HandlerT", bound=Handler)

OTHERS = "(others)"
"""Names past `max_services` share the circuit of this name."""
MAX_NAME_CHARACTERS = 300
"""A host has 253 at most, and a port comes to that."""


class CircuitBreakerManager:
    """
    Breakers by service name; a name that is new gets one.

        manager = CircuitBreakerManager({"thresholds": {"failure_threshold": 3}})
        answer = manager.call("payment-api", lambda: requests.post(url, timeout=5), fallback=lambda: QUEUED)

    Usable without a configuration file, and from greenlets, threads and asyncio tasks at once; no method takes a lock.

    Attributes:
        settings: The settings.
        store: Where the circuits are kept.
    """

    def __init__(
        self,
        config: CircuitBreakerSettings | Mapping[str, Any] | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        source: str = "",
        store: Store | None = None,
    ) -> None:
        """
        Args:
            config: What `config/circuit_breaker.yaml` could say; None: the defaults.
            clock: Seconds that never go back; processes that share a store must share it too.
            wall_clock: Unix time, for statistics.
            source: Where `config` is from, for errors.
            store: A store to use in place of the configured one.

        Raises:
            ConfigurationError: The configuration is wrong; says at which key, what was expected and what came.
            StoreError: The store cannot be used.
        """
        self.settings = settings_.load(config, source)
        try:
            self.store = make_store(self.settings, clock) if store is None else store
        except ConfigurationError as error:
            raise (error.in_file(source) if source else error) from None
        self._wall_clock = wall_clock
        self._listeners = Listeners()
        self._breakers: dict[str, Breaker] = {}
        self._made: dict[str | None, tuple[ThresholdSettings, Policy]] = {}
        self._suggested: dict[str, ThresholdSettings] = {}
        self._overflowing = False

    # -- calling -------------------------------------------------------------------------------------------------------

    def call(
        self,
        service: str,
        function: Callable[[], Any],
        fallback: Any = None,
        timeout: float | None = None,
        key: Any = None,
    ) -> Any:
        """
        Call a function unless the service's circuit refuses.

        Args:
            service: Name of the service: a bounded set of names, not one for each request.
            function: What to call, without arguments. Where it returns a coroutine (an `async def`), so does `call`.
            fallback: What to return where the call is refused (with `fallback_on: failure` also where it fails): a function,
                given the exception if it takes one; `"cache"`: the last good result; `"exception"`: nothing. None: as the
                service is configured.
            timeout: Seconds the call may take, where gevent runs or what the function returns is awaited; elsewhere a
                RuntimeError. None: as configured.
            key: For the cache: which of the service's results this is.

        Returns:
            What the function, or the fallback, returns.

        Raises:
            CircuitOpenError: The call was refused and there is no fallback.
            CallTimeoutError: It took too long.
            RuntimeError, ValueError: It cannot be given this `timeout`; the service was not called.
            BaseException: Whatever the function raises.
        """
        # The body of Breaker.call: a call more would cost as much as all of it.
        try:
            breaker = self._breakers[service]
        except KeyError:
            breaker = self.service(service)
        view = breaker.flowing
        if view is None or timeout is not None or (fallback is not None and fallback == "cache"):
            simple = fallback is None and timeout is None and key is None
            return breaker.ask(function, breaker.own_policy if simple else breaker.policy(fallback, timeout, key))
        try:
            result = function()
        except BaseException as error:
            answer = breaker.call_failed(view, error, fallback, key)
            if answer is NOTHING:
                raise
            return answer
        if type(result) is CoroutineType:
            return breaker.awaiting(result, (view, ORDINARY), breaker.policy(fallback, None, key))
        for number in breaker.successes:  # noqa: B007
            break
        if number >= breaker.due:
            breaker.look(number)
        return result

    def protect(
        self,
        service: str,
        fallback: Any = None,
        *,
        fallback_on: str | None = None,
        timeout: float | None = None,
        key: Any = None,
        record: Matchers = None,
        ignore: Matchers = None,
        failure_if: Callable[[Any], bool] | None = None,
    ) -> Callable[[FunctionT], FunctionT]:
        """
        Return a decorator for functions, methods, generator functions and `async def`.

            @manager.protect("payment-api", fallback=lambda error: QUEUED, ignore=ValueError)
            def charge(amount): ...

        A generator's breaker is around its whole iteration; it takes no fallback, timeout, key or failure_if. A fallback of an
        async function may be async.

        Args:
            service, timeout: See `call`.
            fallback: See `call`.
            fallback_on: `open` or `failure`; None: as configured.
            key: For the cache: a value, or a function of the call's arguments that returns one.
            record, ignore, failure_if: See `configure`; where none is given, those of the service.

        Raises:
            TypeError, ValueError: An argument is not what it should be.
        """
        site = Site(self.service(service), _changes(fallback, fallback_on, timeout, key, record, ignore, failure_if))
        return lambda function: protected(function, site)

    def guard(
        self,
        service: str,
        *,
        record: Matchers = None,
        ignore: Matchers = None,
    ) -> Guard:
        """
        Return a context manager, for `with` and `async with`.

        Raises (at the beginning of the block):
            CircuitOpenError: The circuit refuses.
        """
        breaker = self.service(service)
        policy = breaker.own_policy
        if record is not None or ignore is not None:
            policy = policy.replaced(judge=Judge(record, ignore))
        return Guard(breaker, policy)

    def configure(
        self,
        service: str,
        fallback: Any = None,
        *,
        fallback_on: str | None = None,
        timeout: float | None = None,
        record: Matchers = None,
        ignore: Matchers = None,
        failure_if: Callable[[Any], bool] | None = None,
    ) -> None:
        """
        Say in code what holds for all calls of a service that say nothing else.

        Args:
            service, fallback, fallback_on, timeout: See `protect`.
            record: The only exceptions that count as failures: types, or functions that say so of an exception. None: every
                Exception, and gevent.Timeout.
            ignore: Exceptions that count as nothing, such as a customer's mistake.
            failure_if: Says of a result whether it is a failure: `lambda response: response.status_code >= 500`.
        """
        breaker = self.service(service)
        breaker.use(breaker.own_policy.replaced(**_changes(fallback, fallback_on, timeout, None, record, ignore, failure_if)))

    def suggest(self, service: str, thresholds: Mapping[str, Any]) -> None:
        """
        Say what suits a service, before it is called first: for a package that calls one. Whatever the configuration says of
        the service, by its name or a pattern, goes before it.

        Args:
            service: Its name.
            thresholds: As in the configuration, times in seconds: `{"recovery_timeout": 1.0}`.

        Raises:
            TypeError: There is no such threshold.
        """
        if service not in self._suggested and service not in self._breakers:
            self._suggested[service] = dataclasses.replace(self.settings.thresholds, **thresholds)

    # -- asking --------------------------------------------------------------------------------------------------------

    def service(self, name: str) -> Breaker:
        """
        Return the breaker of a service, made if it is new.

        Past `max_services` names, new ones share one breaker: names made from what users send cannot fill memory.

        Raises:
            TypeError: The name is no text, or is empty.
            ValueError: It is too long, or no text that can be written down in UTF-8.
        """
        breaker = self._breakers.get(name)
        if breaker is not None:
            return breaker
        _check_name(name)
        if len(self._breakers) >= self.settings.max_services and name != OTHERS and name not in self.settings.services:
            if not self._overflowing:
                self._overflowing = True
                logger.error(
                    "There are %d services already, %r is one more; it and further ones share one circuit. A name should be "
                    "that of a service, not of a request; or raise max_services.", len(self._breakers), name,
                )  # fmt: skip
            return self.service(OTHERS)
        # Where two come at once both make one, and setdefault, one atomic step, decides which of them all will use.
        return self._breakers.setdefault(name, self._make(name)).begin()

    def get_state(self, service: str) -> State:
        """
        Return a service's state; for one that was never called, the one it would begin in.

        An open circuit whose recovery time is over is OPEN until somebody calls: nothing changes by itself.
        """
        return self._peek(service).circuit.newest().record.shown

    def get_stats(self, service: str) -> dict[str, Any]:
        """Return what is known of a service, zeros where nothing is; see `stats` in `alphavel.circuit_breaker.stats`."""
        return stats_.stats(self._peek(service), self._wall_clock)

    def get_all_stats(self) -> dict[str, dict[str, Any]]:
        """Return `get_stats` of all services, by name."""
        return {name: stats_.stats(self.service(name), self._wall_clock) for name in self.names()}

    def names(self) -> list[str]:
        """Return the services that were called here, and those that others put into the store."""
        return sorted({*self._breakers, *self.store.services()})

    def explain(self, service: str) -> str:
        """Say in words why a service's circuit is or is not open: counts, thresholds, what would change it."""
        return stats_.explain(self._peek(service))

    # -- operators -----------------------------------------------------------------------------------------------------

    def open(self, service: str) -> None:
        """Open a circuit now; it recovers as usual."""
        self.service(service).force(State.OPEN)

    def close(self, service: str) -> None:
        """Close a circuit now, whatever state it is in; failures count from nothing."""
        self.service(service).force(State.CLOSED)

    def isolate(self, service: str) -> None:
        """Refuse all calls until `close` or `reset`."""
        self.service(service).force(State.ISOLATED)

    def disable(self, service: str) -> None:
        """Let all calls through and only count them, until `close` or `reset`."""
        self.service(service).force(State.DISABLED)

    def metrics_only(self, service: str) -> None:
        """Refuse nobody, but report what would have been done, until `close` or `reset`."""
        self.service(service).force(State.METRICS_ONLY)

    def reset(self, service: str | None = None) -> None:
        """Set a service, or all, back to the beginning: configured state, no failures, no totals."""
        for name in self.names() if service is None else [service]:
            self.service(name).reset()

    # -- listening -----------------------------------------------------------------------------------------------------

    def on(self, name: EventName, handler: Handler | None = None) -> Any:
        """
        Have `handler(event)` called; see `Event`. Without a handler, returns a decorator.

            @manager.on("state_change")
            def page_somebody(event): ...

        `state_change` and `refused` cost ordinary calls nothing; `succeeded`, `failed` and `slow` have every call timed.

        Raises:
            ValueError: There is no such event.
        """
        if handler is None:
            return lambda function: self.on(name, function)
        self._listeners.add(name, handler)
        self._refresh()
        return handler

    def off(self, name: EventName, handler: Handler) -> None:
        """Forget a handler."""
        self._listeners.remove(name, handler)
        self._refresh()

    def shut_down(self) -> None:
        """Let go of the store's files and connections."""
        self.store.close()

    def _refresh(self) -> None:
        for breaker in tuple(self._breakers.values()):
            breaker.refresh()

    def _make(self, name: str, store: Store | None = None) -> Breaker:
        pattern = self.settings.pattern(name)
        # Services of one pattern share their settings.
        if pattern is None and name in self._suggested:
            made = self._with_policy(self._suggested[name])
        else:
            made = self._made.get(pattern) or self._made.setdefault(pattern, self._with_policy(self.settings.rules(pattern)))
        return Breaker(name, made[0], store or self.store, self._listeners, made[1], self.settings.fallbacks.cache)

    def _with_policy(self, rules: ThresholdSettings) -> tuple[ThresholdSettings, Policy]:
        fallbacks = self.settings.fallbacks
        fallback: Any = fallbacks.default
        if fallback == "default_value":
            # A copy for each caller: what one of them adds to a dict is not for the others.
            fallback = lambda: copy.deepcopy(fallbacks.default_value)  # noqa: E731 (what a caller could have given)
        return rules, Policy(fallback, rules.fallback_on == "failure", rules.call_timeout or None)

    def _peek(self, name: str) -> Breaker:
        """Return a service's breaker; for a name that nobody has used one that is not kept."""
        breaker = self._breakers.get(name)
        if breaker is not None:
            return breaker
        if name in self.settings.services or name in self.store.services():
            return self.service(name)
        return self._make(name, MemoryStore(self.store.now))


def _check_name(name: Any) -> None:
    if not isinstance(name, str) or not name:
        raise TypeError(f"A service's name is a text that is not empty; got {name!r}.")
    if len(name) > MAX_NAME_CHARACTERS:
        raise ValueError(
            f"A service's name has at most {MAX_NAME_CHARACTERS} characters; this one, {name[:40]!r}…, has {len(name)}. "
            "It should be that of a service, not of a request."
        )
    try:
        name.encode()
    except UnicodeEncodeError:  # JSON may bring half a surrogate pair; stores, logs and metrics could not take it
        raise ValueError(f"A service's name is a text that can be encoded in UTF-8; got {name!r}.") from None


def _changes(
    fallback: Any,
    fallback_on: str | None,
    timeout: float | None,
    key: Any,
    record: Matchers,
    ignore: Matchers,
    failure_if: Callable[[Any], bool] | None,
) -> dict[str, Any]:
    """Return the attributes of a Policy that arguments ask to be otherwise."""
    changes: dict[str, Any] = {}
    if fallback is not None:
        wanted = Policy(fallback)
        changes.update(fallback=wanted.fallback, cached=wanted.cached)
    if fallback_on is not None:
        if fallback_on not in ("open", "failure"):
            raise ValueError(f"fallback_on is 'open' or 'failure'; got {fallback_on!r}.")
        changes["on_failure"] = fallback_on == "failure"
    if timeout is not None:
        changes["timeout"] = positive(timeout)
    if key is not None:
        changes["key"] = key
    if record is not None or ignore is not None or failure_if is not None:
        changes["judge"] = Judge(record, ignore, failure_if)
    return changes
