"""
Circuits of a fleet, in Redis.

Each process keeps what it last saw, so an ordinary call asks nobody: a change is published, and a thread that only listens
(`redis_listener`) takes it up. A change is one Lua script (`redis_scripts`), which replaces a record if it is still the
expected one. Times are Redis' own: a process measures once how far its clock is from Redis' `TIME`.

A record that is gone is a closed circuit. Joining writes nothing. Where Redis cannot be reached, or takes no writes, a
process goes on with what it knows, says so once, and asks again after `retry` seconds; no operation waits for longer than
`timeout`.
"""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from alphavel.circuit_breaker.listeners import logger
from alphavel.circuit_breaker.stores import redis_scripts as scripts
from alphavel.circuit_breaker.stores.redis_circuit import RedisCircuit
from alphavel.circuit_breaker.stores.redis_listener import REPORT, WAKE, Listener
from alphavel.foundation import ConfigurationError

if TYPE_CHECKING:
    from alphavel.circuit_breaker.settings import RedisSettings, ThresholdSettings
    from alphavel.circuit_breaker.states import Record
    from alphavel.circuit_breaker.window import Tally

_REPORT_S = 0.1
"""What others get to answer, where somebody asks for totals; and how often they are asked at most: ten times that."""
_END_S = 1.5
"""What the listener gets to end, where a store is closed."""


class RedisStore:
    """
    See `Store`.

    Attributes:
        settings: Where Redis is.
        redis: Its client. Used within `ask` alone.
        swap_script, fail_script, report_script: See `redis_scripts`.
        circuits: Those that want to hear of changes, by service.
        away: Whether Redis could not be used when it was last asked.
        closed: Whether it asks no more: each circuit is this process's own.
    """

    name = "redis"
    told = False

    def __init__(self, settings: RedisSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self.settings = settings
        self._clock = clock
        # Until Redis has told its time, this machine's is the best guess at it.
        self._offset: float | None = None
        self._guess = float(round(time.time() - clock()))
        try:
            self.redis: Any = redis.Redis.from_url(
                settings.url,
                decode_responses=True,
                socket_timeout=settings.timeout,
                socket_connect_timeout=settings.timeout,
                retry=Retry(NoBackoff(), 0),
            )
        except ValueError:  # what it says may quote a part of the password
            raise ConfigurationError(
                "expected redis://HOST:PORT/DATABASE, rediss:// or unix:///PATH. In a password / is %2F, : is %3A, @ is %40.",
                key="stores.redis.url",
            ) from None
        self.swap_script: Any = self.redis.register_script(scripts.SWAP)
        self.fail_script: Any = self.redis.register_script(scripts.FAIL)
        self.report_script: Any = self.redis.register_script(scripts.REPORT)
        self.circuits: weakref.WeakValueDictionary[str, RedisCircuit] = weakref.WeakValueDictionary()
        self.away = False
        self.closed = False
        self._ask_again = float("-inf")
        self._reported = float("-inf")
        self._listeners: dict[str, Listener] = {}  # one or none, under the key ""
        _stores.add(self)

    def now(self) -> float:
        """See `Store.now`."""
        return self._clock() + (self._guess if self._offset is None else self._offset)

    def key(self, kind: str, service: str = "") -> str:
        """Return the name of a key."""
        return f"{self.settings.prefix}{kind}:{service}" if service else self.settings.prefix + kind

    def circuit(self, service: str, record: Record, rules: ThresholdSettings, tally: Tally) -> RedisCircuit:
        """See `Store.circuit`."""
        self.watch()
        circuit = RedisCircuit(self, service, record, rules, tally)
        circuit.meet()  # before anybody can call
        return circuit

    def known(self) -> list[RedisCircuit]:
        """Return the circuits of this process."""
        # Copied in one step: to walk over the dictionary itself fails where another thread adds to it meanwhile.
        return [circuit for reference in self.circuits.valuerefs() if (circuit := reference()) is not None]

    def services(self) -> list[str]:
        """See `Store.services`."""
        if not self.may_ask:
            return []
        self.ask_for_reports()  # a service that has only succeeded is nowhere until somebody wants to know
        return sorted(self.ask(lambda: self.redis.smembers(self.key("services"))) or [])

    def problem(self) -> str | None:
        """See `Store.problem`."""
        if self.ask(self.redis.ping):
            return None
        at = self.redis.get_connection_kwargs()  # not the URL: there may be a password in it
        return f"Redis at {at.get('path') or '{host}:{port}'.format(**at)} cannot be reached."

    def close(self) -> None:
        """See `Store.close`. A call that is under way ends as it would; then its circuit is this process's own."""
        _stores.discard(self)
        listener = self._listeners.get("")  # it stays there until the store is closed, for nobody to start another
        if listener is not None:
            listener.stop()
        if self.may_ask:
            self.report()  # what nobody has asked for so far
        if self.may_ask:
            self.say(WAKE)
        self.closed = True
        self._listeners.clear()
        for circuit in self.known():
            circuit.go_alone()
        if listener is not None:
            listener.join(_END_S)
        # A connection that some thread is waiting at is its own; the garbage collector closes it when that is done.
        self.redis.connection_pool.disconnect(inuse_connections=False)

    # -- listening -----------------------------------------------------------------------------------------------------

    @property
    def watched(self) -> bool:
        """Whether somebody listens for changes in this process."""
        return bool(self._listeners)

    def watch(self) -> None:
        """Begin to listen for changes, if nobody does."""
        if self._listeners or self.closed:
            return
        listener = Listener(self)
        # Of threads that come here at once one puts its listener there, in one step.
        if self._listeners.setdefault("", listener) is listener:
            try:
                listener.start()
            except RuntimeError:  # no more threads, or the interpreter ends: circuits then ask before each call
                self._listeners.pop("", None)

    def after_fork(self) -> None:
        """Nobody listens in a new process: ask for that when a circuit is next used."""
        self._listeners = {}
        for circuit in self.known():
            circuit.after_fork()

    # -- asking --------------------------------------------------------------------------------------------------------

    @property
    def may_ask(self) -> bool:
        """Whether Redis is to be asked: always, but after it could not be reached only once in `retry` seconds."""
        if self.closed:
            return False
        if not self.away:
            return True
        now = time.monotonic()
        if now < self._ask_again:
            return False
        self._ask_again = now + self.settings.retry  # whoever else comes meanwhile does not wait for Redis, too
        return True

    def ask(self, question: Callable[[], Any]) -> Any:
        """
        Ask Redis something. Raises nothing: what went wrong is said once and remembered.

        Args:
            question: Asks by `redis`, and returns anything but None.

        Returns:
            What the question returned; None: Redis cannot be used.
        """
        if self.closed:
            return None
        was_away = self.away
        try:
            if was_away:  # one that is full, or a replica, can be read all the same: only one that is written to is back
                self.redis.set(self.key("back"), "", px=1)
            answer = question()
            if self._offset is None:
                self._measure()
        except (redis.RedisError, OSError) as error:
            self._ask_again = time.monotonic() + self.settings.retry
            if not self.away:
                self.away = True
                why = str(error).rstrip(".")
                logger.error("The circuits in Redis cannot be reached: %s. This process goes on with what it knows.", why)
            return None
        if was_away:
            self.away = False
            logger.info("The circuits in Redis can be reached again.")
        # Where another thread has found out meanwhile that Redis cannot be used, what was heard before does not end that.
        return None if self.away else answer

    def say(self, message: str) -> int:
        """Publish a message; return how many hear it, 0 where Redis cannot be reached."""
        return self.ask(lambda: self.redis.publish(self.key("changes"), message)) or 0

    def _measure(self) -> None:
        before = self._clock()
        seconds, microseconds = self.redis.time()
        offset = seconds + microseconds / 1e6 - (before + self._clock()) / 2
        # To less than 0.1 ms, as well as it can be measured: sums of such times and of settings are then exact.
        self._offset = round(offset * 2**14) / 2**14

    # -- totals --------------------------------------------------------------------------------------------------------

    def ask_for_reports(self) -> None:
        """Have all processes add what they have counted to the totals, and wait a moment for that."""
        now = time.monotonic()
        if now < self._reported + 10 * _REPORT_S:
            return
        self._reported = now
        self.report()
        if self.away:
            return
        listener = self._listeners.get("")
        listening = listener is not None and listener.listening  # a process that has just begun does not yet
        if self.say(REPORT) > listening:
            time.sleep(_REPORT_S)

    def report(self) -> None:
        """Add what this process has counted since the last report to the totals."""
        for circuit in self.known():
            circuit.report()
            if self.away:
                return


_stores: weakref.WeakSet[RedisStore] = weakref.WeakSet()


def _after_fork() -> None:
    for store in tuple(_stores):
        store.after_fork()


os.register_at_fork(after_in_child=_after_fork)
