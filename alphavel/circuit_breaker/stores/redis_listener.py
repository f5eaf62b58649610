"""
The thread that hears what others change: a greenlet, where gevent has patched threads.

It is the only one in a process that ever waits for Redis without a call that needs it. Whatever happens to the connection,
or to Redis, it connects again and looks at all circuits, for it may have missed something; it ends with its store.
"""

from __future__ import annotations

import random
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any

import redis

from alphavel.circuit_breaker.listeners import logger

if TYPE_CHECKING:
    from alphavel.circuit_breaker.stores.redis import RedisStore
    from alphavel.circuit_breaker.stores.redis_circuit import RedisCircuit

REPORT = "?"
"""Published to ask all processes for their totals. No service: names are not that short of letters."""
WAKE = ""
"""Published to be heard, no more."""
_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 0.5
"""Between tries to listen again; each is half chance, so that a fleet does not come at once."""
_TURN_S, _AWAY_TURN_S = 1.0, 0.25
"""How long it waits for a message before it looks up; the second: while Redis could not be used."""
_QUIET_S, _ANSWER_S = 5.0, 2.0
"""After so long without a message it asks for one; where that does not come, the connection is dead and nobody has said so."""


class Listener(threading.Thread):
    """
    Listens for changes.

    Attributes:
        listening: Whether Redis has confirmed that it will tell.
    """

    def __init__(self, store: RedisStore) -> None:
        super().__init__(name="alphavel-circuits", daemon=True)
        self._store = weakref.ref(store)
        self._channel = store.key("changes")
        self._stopped = threading.Event()
        self.listening = False

    def stop(self) -> None:
        """Cease to listen: when the next message comes, or within a second."""
        self._stopped.set()

    def run(self) -> None:
        """Listen until nobody needs the store any more."""
        pause = _PAUSE_S
        while (store := self._wanted()) is not None:
            connections = _connections(store)
            del store
            try:
                self._listen(connections)
            except Exception as error:  # noqa: BLE001 (without this thread the process would hear of nothing any more)
                if self.listening:
                    pause = _PAUSE_S
                expected = isinstance(error, (redis.RedisError, OSError))
                log = logger.debug if expected else logger.error
                log("Listening for changes of circuits ended: %s: %s. It begins again.", type(error).__name__, error)
                self._stopped.wait(pause * random.uniform(0.5, 1))  # noqa: S311
                pause = min(2 * pause, _LONGEST_PAUSE_S)
            finally:
                self.listening = False
                connections.disconnect()

    def _wanted(self) -> RedisStore | None:
        """Return the store, unless it is closed or nobody has it any more."""
        store = self._store()
        return None if store is None or store.closed or self._stopped.is_set() else store

    def _listen(self, connections: Any) -> None:
        client: Any = redis.Redis(connection_pool=connections)
        with client.pubsub() as subscription:
            subscription.subscribe(self._channel)
            heard, away = time.monotonic(), False
            while True:
                message = subscription.get_message(timeout=_AWAY_TURN_S if away else _TURN_S)
                store = self._wanted()
                if store is None:
                    return
                now = time.monotonic()
                if message is not None:
                    heard = now
                    self._take(store, message)
                else:
                    self._wait_on(store, now - heard)
                away = store.away
                del store  # while this waits, nobody but its users keeps it

    def _take(self, store: RedisStore, message: dict[str, Any]) -> None:
        if message["type"] == "subscribe":
            self.listening = True
            _look_at(store.known())  # what has changed while nobody listened
        elif message["data"] == REPORT:
            store.report()
        elif message["data"] != WAKE:
            circuit = store.circuits.get(message["data"])
            _look_at([] if circuit is None else [circuit])

    @staticmethod
    def _wait_on(store: RedisStore, quiet_s: float) -> None:
        if store.away:
            if store.may_ask:
                _look_at(store.known())
        elif quiet_s > _QUIET_S + _ANSWER_S:
            raise redis.ConnectionError(f"nothing was heard for {quiet_s:.0f} s")
        elif quiet_s > _QUIET_S:
            store.say(WAKE)


def _connections(store: RedisStore) -> Any:
    # Without a time limit for reading: it may wait for as long as nothing changes.
    return redis.ConnectionPool.from_url(
        store.settings.url, decode_responses=True, encoding_errors="replace", socket_connect_timeout=store.settings.timeout
    )


def _look_at(circuits: list[RedisCircuit]) -> None:
    for circuit in circuits:
        circuit.look()
        circuit.told_of_change()
