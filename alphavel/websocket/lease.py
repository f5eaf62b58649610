"""
The one that leads a fleet over Redis: it holds a key that Redis forgets when the lease is over, and renews it three times as
often.

Redis' clock alone decides when the key is forgotten. Should it jump, nobody takes the lead from a node that is heard to have
it; and a node that could not renew in time, because it was stopped or Redis was away, leads no more by its own clock, which
never jumps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gevent
import redis
from gevent.event import Event
from gevent.lock import BoundedSemaphore

from alphavel.websocket import clock
from alphavel.websocket.bus.membership import BEATS_A_LEASE
from alphavel.websocket.logs import get_logger

logger = get_logger("alphavel.websocket.bus")

_STAND_BACK_S = 1.0
_STOP_S = 1.0
# Nothing is written where it is renewed, so that a Redis that is full does not depose anybody.
_HOLD = """
local owner = redis.call('GET', KEYS[1])
if owner == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return not owner and redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
"""
_GIVE_BACK = "return redis.call('GET', KEYS[1]) == ARGV[1] and redis.call('DEL', KEYS[1])"


class LeaseLeader:
    """See `leader.Leader`."""

    def __init__(self, client: Any, key: str, name: str, lease_s: float, may_stand: Callable[[], bool]) -> None:
        """
        Args:
            client: Of Redis.
            key: The same for all nodes.
            name: Of this node.
            lease_s: Seconds that another node waits before it takes the lead from one that has fallen silent.
            may_stand: Whether this node may take the lead, or keep it.
        """
        self._client = client
        self._key = key
        self._name = name
        self._lease_s = lease_s
        self._may_stand = may_stand
        self._holds = False
        self._until = self._not_before = 0.0
        self._wake, self._turn = Event(), BoundedSemaphore()
        self._greenlet: gevent.Greenlet | None = None
        self._elected: Callable[[], None] = lambda: None
        self._deposed: Callable[[], None] = lambda: None

    @property
    def leads(self) -> bool:
        """See `Leader`."""
        return self._holds and clock.now() < self._until

    def start(self, elected: Callable[[], None], deposed: Callable[[], None]) -> None:
        """See `Leader`."""
        self._elected, self._deposed = elected, deposed
        self._look()
        self._greenlet = gevent.spawn(self._renew_forever)

    def ask(self) -> None:
        """See `Leader`. The answer comes later."""
        self._wake.set()

    def ask_now(self) -> None:
        """See `Leader`."""
        self._not_before = 0.0
        self._look()

    def stand_back(self) -> None:
        """See `Leader`."""
        with self._turn:
            if self._holds:
                self._holds, self._not_before = False, clock.now() + _STAND_BACK_S
                self._try(lambda: self._client.eval(_GIVE_BACK, 1, self._key, self._name))
                self._deposed()

    def stop(self) -> None:
        """See `Leader`."""
        if self._greenlet is not None:
            in_turn = self._turn.acquire(timeout=_STOP_S)  # rather not in the middle of a question to Redis
            self._greenlet.kill()
            if in_turn:
                self._turn.release()
        self.stand_back()

    def _renew_forever(self) -> None:
        while True:
            self._wake.wait(self._lease_s / BEATS_A_LEASE)
            self._wake.clear()
            self._look()

    def _look(self) -> None:
        with self._turn:
            self._ask_redis()

    def _ask_redis(self) -> None:
        before = clock.now()
        if self._holds and before >= self._until:
            self._lose()
        if self._may_stand() and before >= self._not_before:
            held, holds = self._holds, self._try(self._hold)
            if holds:
                self._holds, self._until = True, before + self._lease_s
                if not held:
                    logger.info("This node leads: it runs the timers and tells the webhooks")
                    self._elected()
            elif held and holds is not None:
                self._lose()

    def _lose(self) -> None:
        logger.warning("This node leads no more")
        self._holds = False
        self._deposed()

    def _hold(self) -> Any:
        return self._client.eval(_HOLD, 1, self._key, self._name, int(self._lease_s * 1000))

    @staticmethod
    def _try(ask: Callable[[], Any]) -> bool | None:
        """Return what Redis says, None where it cannot be asked."""
        try:
            return bool(ask())
        except (redis.RedisError, redis.exceptions.RedisClusterException, OSError) as error:
            logger.debug("Redis was not to be asked who leads: %s", error)
            return None
