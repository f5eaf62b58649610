"""
One connection to Redis over which messages come in: subscribed to what this node wants, for as long as it wants it.

What is wanted and what is not wanted any more in one turn of the loop goes to Redis in one command each, and a key that nobody
wants any more is kept a moment longer: a page that is loaded anew leaves and joins its channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import gevent
import redis
from gevent.event import Event

from alphavel.websocket import clock

_AT_ONCE = 1000  # keys in one command
_LINGER_S = 1.0
_YIELD_EVERY = 64  # messages received before others get a turn

Receive = Callable[[bytes, float, bytes], None]
"""`receive(key, since, message)`: since when this node listens to the key, seconds on `clock`; 0: not any more."""


class Subscriber:
    """
    Attributes:
        is_up: Whether it is connected and subscribed to all that was wanted then.
        heard_at: When Redis was last heard, seconds on `clock`; 0: never.
        on_listening: Called with each key that is listened to from now on and was not when it came up; has `confirm` called.
        on_unwanted: Called with each key that nobody wants any more.
    """

    def __init__(
        self,
        open_pubsub: Callable[[], Any],
        receive: Receive,
        went: Callable[[bool], None],
        timeout_s: float,
        reach: Callable[[Callable[[], object]], None],
        is_sharded: bool = False,
    ) -> None:
        """
        Args:
            open_pubsub: Returns a `PubSub` of redis-py.
            receive: Called, in a greenlet, with each message.
            went: Called, in a greenlet, with True when it is up, False when it is not any more.
            timeout_s: Time that Redis may take to answer.
            reach: Calls what connects, see `Reconnecting.reach`.
            is_sharded: Whether it is a node of a cluster, with sharded pub/sub.
        """
        self.is_up = False
        self.heard_at = 0.0
        self.on_listening: Callable[[bytes], None] = self.confirm
        self.on_unwanted: Callable[[bytes], None] = lambda key: None
        self._open_pubsub = open_pubsub
        self._receive = receive
        self._went = went
        self._timeout_s = timeout_s
        self._reach = reach
        self._is_sharded = is_sharded
        self._wanted: dict[bytes, int] = {}  # by how many
        self._keys: dict[bytes, float] = {}  # what it is subscribed to, or is about to be, since when
        self._fresh: list[bytes] = []  # of the keys: what Redis is yet to be asked for
        self._leaving: dict[bytes, float] = {}  # what is not wanted any more, and when to leave it
        self._unanswered: dict[bytes, int] = {}
        self._confirmed: set[bytes] = set()
        self._asked_at: float | None = None  # since when an answer is due
        self._waiting: dict[bytes, Event] = {}
        self._wake = Event()
        self._failure: Exception | None = None  # of the greenlet that tells Redis of changes
        self._is_over = False

    # What is wanted. Nothing here switches, but `wait`.

    def want(self, key: bytes) -> None:
        """Listen to a key, until `unwant` was called as often."""
        self._wanted[key] = self._wanted.get(key, 0) + 1
        if key not in self._keys:
            self._keys[key] = clock.now()
            self._fresh.append(key)
            self._wake.set()

    def unwant(self, key: bytes) -> None:
        """Take back a `want`."""
        self._wanted[key] -= 1
        if not self._wanted[key]:
            del self._wanted[key]
            self._leaving[key] = clock.now() + _LINGER_S
            self._wake.set()
            self.on_unwanted(key)

    def hears(self, key: bytes) -> bool:
        """Whether what is published to a key comes in: Redis has said so. Also True where there is no Redis to wait for."""
        return key in self._confirmed or not self.is_up

    def wait(self, key: bytes) -> None:
        """Block the calling greenlet until `hears`, for a key that it wants and that does not move elsewhere."""
        while key in self._keys and not self.hears(key):
            answered = self._waiting.setdefault(key, Event()).wait(2 * self._timeout_s)
            if not answered and self.is_up and key in self._unanswered:
                # Whatever else comes, this answer does not.
                self.give_up("it has not answered to a subscription")

    def confirm(self, key: bytes) -> None:
        """Let nobody wait any longer for a key that is listened to."""
        if key in self._keys:
            self._confirmed.add(key)
            self._wake_waiting([key])

    def is_steady(self, key: bytes) -> bool:
        """Whether a key is listened to, and wanted."""
        return key in self._confirmed and key in self._wanted

    @property
    def size(self) -> int:
        """How many keys are wanted."""
        return len(self._wanted)

    def since(self, key: bytes) -> float:
        """Return since when it listens to a key, 0 where it does not."""
        return self._keys.get(key, 0.0)

    # The life of a connection

    def give_up(self, why: str) -> None:
        """Have the connection given up, soon, as it does not do what it should."""
        self._failure = redis.ConnectionError(why)

    def stop(self) -> None:
        """Have `run` return, soon."""
        self._is_over = True
        self._wake.set()

    def run(self) -> None:
        """
        Connect, subscribe and receive, once there is something to listen to. Blocks the calling greenlet until there is not.

        Raises:
            redis.RedisError, OSError: Redis cannot be reached, or not any more.
        """
        while not self._keys and not self._is_over:
            self._wake.wait()
            self._wake.clear()
        with self._open_pubsub() as pubsub:
            changing: gevent.Greenlet | None = None
            try:
                self._fresh.clear()
                for key in self._leaving:
                    if key not in self._wanted:
                        self._keys.pop(key, None)
                self._failure = None
                self._reach(lambda: self._subscribe(pubsub, list(self._keys)))
                changing = gevent.spawn(self._change, pubsub)
                self._listen(pubsub)
            finally:
                if changing is not None:
                    changing.kill()  # to its end: once more, and it would wait for answers of the next connection
                self._lost()

    def _lost(self) -> None:
        self._confirmed.clear()
        self._unanswered.clear()
        self._asked_at = None
        was_up, self.is_up = self.is_up, False
        self._wake_waiting(list(self._waiting))
        if was_up:
            self._went(False)

    def _listen(self, pubsub: Any) -> None:
        receive, keys = self._receive, self._keys
        pause = min(1.0, self._timeout_s / 4)
        self.heard_at = clock.now()
        number = 0
        while (keys or self._unanswered) and not self._is_over:
            try:
                message = pubsub.get_message(timeout=pause)
            except ValueError as error:  # redis-py closes what it reads into where another greenlet could not write
                raise redis.ConnectionError("it was closed while it was listened to") from error
            now = clock.now()
            if self._failure is not None:
                raise self._failure
            if message is None:
                self._check_silence(pubsub, now)
                continue
            self.heard_at, self._asked_at = now, None
            kind = message["type"]
            if kind in ("message", "smessage"):
                receive(message["channel"], keys.get(message["channel"], 0.0), message["data"])
            elif kind != "pong":
                self._answered(message["channel"], kind)
            number += 1
            if number % _YIELD_EVERY == 0:
                gevent.sleep(0)  # a socket that always has something to read never switches by itself

    def _check_silence(self, pubsub: Any, now: float) -> None:
        if self._asked_at is None:
            if now - self.heard_at > self._timeout_s:
                self._asked_at = now
                pubsub.ping()
        elif now - self._asked_at > self._timeout_s:
            raise redis.ConnectionError(f"it has not answered for {now - self._asked_at:.1f} s")

    def _answered(self, key: bytes, kind: str) -> None:
        subscribed = not kind.endswith("unsubscribe")
        left = self._unanswered.pop(key, 0) - 1
        if left < 0:
            if not subscribed:  # nobody here has asked for that
                raise redis.ConnectionError("another node of the cluster has what this one had")
        elif left > 0:
            self._unanswered[key] = left
        elif subscribed:
            (self.on_listening if self.is_up else self.confirm)(key)
        if not self.is_up and not self._unanswered and not self._fresh:
            self.is_up = True
            self._went(True)

    def _wake_waiting(self, keys: list[bytes]) -> None:
        for key in keys:
            event = self._waiting.pop(key, None)
            if event is not None:
                event.set()

    # Changes of what is wanted

    def _change(self, pubsub: Any) -> None:
        try:
            while True:
                self._wake.wait(_LINGER_S / 2 if self._leaving else None)
                self._wake.clear()
                if self._is_over:
                    pubsub.ping()  # whose answer wakes the greenlet that listens
                fresh, self._fresh = self._fresh, []
                self._subscribe(pubsub, fresh)
                self._leave(pubsub)
        except (redis.RedisError, OSError) as error:
            self._failure = error

    def _subscribe(self, pubsub: Any, keys: list[bytes]) -> None:
        for some in self._portions(keys):
            self._ask(some)
            (pubsub.subscribe if not self._is_sharded else pubsub.ssubscribe)(*some)

    def _leave(self, pubsub: Any) -> None:
        now = clock.now()
        over = [key for key, until in self._leaving.items() if until <= now or key in self._wanted]
        for key in over:
            del self._leaving[key]
        gone = [key for key in over if key not in self._wanted and self._keys.pop(key, None) is not None]
        self._confirmed.difference_update(gone)
        for some in self._portions(gone):
            self._ask(some)
            (pubsub.unsubscribe if not self._is_sharded else pubsub.sunsubscribe)(*some)

    def _ask(self, keys: list[bytes]) -> None:
        for key in keys:
            self._unanswered[key] = self._unanswered.get(key, 0) + 1
        if self._asked_at is None:
            self._asked_at = clock.now()

    def _portions(self, keys: list[bytes]) -> Iterable[list[bytes]]:
        """Return keys in such portions as one command may name: of one slot each, in a cluster."""
        if not self._is_sharded:
            return [keys[start : start + _AT_ONCE] for start in range(0, len(keys), _AT_ONCE)]
        by_slot: dict[int, list[bytes]] = {}
        for key in keys:
            by_slot.setdefault(slot_of(key), []).append(key)
        return by_slot.values()


def slot_of(key: bytes) -> int:
    """Return the slot of a Redis Cluster that a key belongs to."""
    from redis.crc import key_slot

    return int(key_slot(key))
