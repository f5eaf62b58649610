"""
Trying again and again to reach Redis, with longer and longer pauses that are never the same on two nodes, and through the
circuit breaker of this process, where one is installed: operators see there how it goes, and can keep a node away.

The pauses go on as they are, so that the circuit is open for no longer than the shortest of those it would come to. Nobody who
calls waits here: what an open circuit saves is attempts of the other connection, and of other workers that share the circuit.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import redis
from gevent.event import Event

from alphavel.foundation.guarding import guarded
from alphavel.websocket.logs import get_logger

logger = get_logger("alphavel.websocket.bus")

MAX_PAUSE_S = 2.0
_FIRST_PAUSE_S = 0.1
_STEADY_S = 5.0  # what has worked for so long has not just failed
_SUGGESTED = {"recovery_timeout": MAX_PAUSE_S / 2, "half_open_requests": 2}  # one to listen, one to publish
_MAX_PLACE = 200


class Reconnecting:
    """What is done as long as a node is on the bus, whatever happens to its connections."""

    def __init__(self, place: str) -> None:
        """
        Args:
            place: Where Redis is, for the log.
        """
        self._place = place
        self._over = Event()

    def keep(self, work: Callable[[], None], what: str, goes_on: Callable[[], bool] = lambda: True) -> None:
        """
        Do something that ends when Redis is lost, again and again. Blocks the calling greenlet until `end`.

        Args:
            work: What to do. It is begun again where it returns by itself.
            what: What that is, for the log: "publish".
            goes_on: Whether it is still to be done.
        """
        failures = 0
        while goes_on() and not self._over.is_set():
            started = time.monotonic()
            try:
                work()
            except (redis.RedisError, OSError) as error:
                if self._over.is_set():
                    return
                failures = 1 if time.monotonic() - started > _STEADY_S else failures + 1
                # Half of it is chance, so that the nodes of a fleet do not all come at once.
                pause = min(MAX_PAUSE_S, _FIRST_PAUSE_S * 2**failures) * random.uniform(0.5, 1.0)  # noqa: S311 (nothing secret)
                if failures & (failures - 1) == 0:  # the 1st, 2nd, 4th, 8th: an hour without Redis is a dozen lines
                    text = "Redis at %s cannot be reached to %s, trying again in %.1f s: %s"
                    logger.warning(text, self._place, what, pause, error)
                self._over.wait(pause)

    def reach(self, connect: Callable[[], object]) -> None:
        """
        Connect, or see whether there still is a connection.

        Raises:
            redis.RedisError, OSError: It was not to be had, or the circuit breaker refuses.
        """
        reached = False

        def attempt() -> None:
            nonlocal reached
            connect()
            reached = True

        try:
            guarded(f"websocket-bus {self._place[:_MAX_PLACE]}", attempt, suggested=_SUGGESTED)
        except (redis.RedisError, OSError):
            raise
        except Exception as error:  # of the breaker; which one it is, and what it raises, is not known
            raise redis.ConnectionError(str(error)) from error
        if not reached:  # a breaker with a fallback for all services raises nothing
            raise redis.ConnectionError("its circuit is open")

    def end(self) -> None:
        """Try no more. What is going on has to be ended besides."""
        self._over.set()
