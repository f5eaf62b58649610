"""
The last event of each cache channel, for those who join later. Bounded in time and in bytes. No I/O.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from alphavel.websocket.protocols.messages import Message

_MAX_BYTES = 64 * 1024 * 1024


class Cached(NamedTuple):
    """
    An event that is kept.

    Attributes:
        message: The event.
        expires_at: When it is forgotten, on the cache's clock.
        size: Bytes it counts for.
    """

    message: Message
    expires_at: float
    size: int


class EventCache:
    """Keeps one event a channel, whether somebody is on the channel or not; where there is no room, the oldest goes."""

    def __init__(self, ttl_s: float, max_bytes: int = _MAX_BYTES, clock: Callable[[], float] = time.monotonic) -> None:
        """
        Args:
            ttl_s: Seconds an event is kept.
            max_bytes: Bytes of all events together; a larger event is not kept.
            clock: Seconds on a clock that never goes back.
        """
        self.ttl_s = ttl_s
        self._max_bytes = max_bytes
        self._clock = clock
        self._size = 0
        self._events: dict[str, Cached] = {}  # the oldest first

    def put(self, channel: str, message: Message, ttl_s: float | None = None) -> None:
        """Keep an event as the last of its channel, for `ttl_s` or as long as all, and no longer than its own ttl."""
        self._forget(channel)
        size = message.size + len(channel)
        if size > self._max_bytes:
            return
        message.compact()
        kept_s = self.ttl_s if ttl_s is None else ttl_s
        if message.delivery is not None and message.delivery.ttl is not None:
            kept_s = min(kept_s, message.delivery.ttl)
        self._events[channel] = Cached(message, self._clock() + kept_s, size)
        self._size += size
        while self._size > self._max_bytes:
            self._forget(next(iter(self._events)))

    def get(self, channel: str) -> Message | None:
        """Return the last event of a channel, None where none is kept."""
        cached = self._events.get(channel)
        if cached is not None and cached.expires_at <= self._clock():
            self._forget(channel)
            return None
        return cached.message if cached is not None else None

    def time_left(self, channel: str) -> float:
        """Return the seconds until the event of a channel is forgotten, 0 where none is kept."""
        cached = self._events.get(channel)
        return max(0.0, cached.expires_at - self._clock()) if cached is not None else 0.0

    def events(self) -> list[tuple[str, Message, float]]:
        """Return all that is kept: channel, event, and the seconds until it is forgotten."""
        now = self._clock()
        return [(name, kept.message, kept.expires_at - now) for name, kept in self._events.items() if kept.expires_at > now]

    def __len__(self) -> int:
        return len(self._events)

    def _forget(self, channel: str) -> None:
        cached = self._events.pop(channel, None)
        if cached is not None:
            self._size -= cached.size
