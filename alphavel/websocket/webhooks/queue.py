"""
What waits to be told to one receiver of webhooks: in order, bounded, and without the comings and goings that undo each other.
No I/O; the time is an argument.

A client that reconnects leaves and comes back within a second or two. So `channel_vacated` and `member_removed` wait for a
while, and are dropped, together with the `channel_occupied` or `member_added` that answers them, where the client is back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

HOLD_S = 3.0

_UNDONE_BY = {"channel_occupied": "channel_vacated", "member_added": "member_removed"}
_HELD = frozenset(_UNDONE_BY.values())


class _Held(NamedTuple):
    due: float
    event: dict[str, Any]


class WebhookQueue:
    """
    Events for one receiver.

    Attributes:
        dropped: Events that found no room.
    """

    def __init__(self, limit: int) -> None:
        """
        Args:
            limit: Events that may wait.
        """
        self.dropped = 0
        self._limit = limit
        self._ready: deque[dict[str, Any]] = deque()
        self._held: dict[tuple[str, ...], _Held] = {}  # the oldest first: all wait equally long
        self._missed: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._ready) + len(self._held)

    def put(self, name: str, payload: dict[str, Any], now: float) -> bool:
        """
        Add an event.

        Args:
            name: `channel_occupied`, …
            payload: Its further members.
            now: Seconds, on a clock that never goes back.

        Returns:
            False where there was no room for it.
        """
        undone = _UNDONE_BY.get(name)
        if undone is not None and self._held.pop(_key(undone, payload), None) is not None:
            return True  # the client is back before anybody was told that it had gone
        if name == "cache_miss" and self._told_of_miss(payload["channel"], now):
            return True
        if len(self) >= self._limit:
            self.dropped += 1
            return False
        event = {"name": name, **payload}
        if name in _HELD:
            self._held[_key(name, payload)] = _Held(now + HOLD_S, event)
        else:
            self._ready.append(event)
        return True

    def take(self, most: int, now: float, all_of_them: bool = False) -> list[dict[str, Any]]:
        """
        Remove and return the events that are due.

        Args:
            most: How many at most.
            now: See `put`.
            all_of_them: Whether those count as due, too, that are held back.
        """
        for key, held in list(self._held.items()):
            if held.due > now and not all_of_them:
                break
            del self._held[key]
            self._ready.append(held.event)
        return [self._ready.popleft() for _ in range(min(most, len(self._ready)))]

    def put_back(self, events: list[dict[str, Any]]) -> None:
        """Have events that were taken be the next ones again."""
        self._ready.extendleft(reversed(events))

    def remove(self, matches: Callable[[dict[str, Any]], Any]) -> list[dict[str, Any]]:
        """Remove and return the events that match."""
        removed = [event for event in (*self._ready, *(held.event for held in self._held.values())) if matches(event)]
        self._ready = deque(event for event in self._ready if not matches(event))
        self._held = {key: held for key, held in self._held.items() if not matches(held.event)}
        return removed

    def wait(self, now: float) -> float | None:
        """Return in how many seconds something is due: 0 where something is, None where nothing waits."""
        if self._ready:
            return 0.0
        held = next(iter(self._held.values()), None)
        return None if held is None else max(0.0, held.due - now)

    def _told_of_miss(self, channel: str, now: float) -> bool:
        # All subscribers of an empty cache channel miss the same event.
        told_at = self._missed.get(channel)
        if told_at is not None and now - told_at < HOLD_S:
            return True
        self._missed.pop(channel, None)
        self._missed[channel] = now
        if len(self._missed) > self._limit:
            del self._missed[next(iter(self._missed))]
        return False


def _key(name: str, payload: dict[str, Any]) -> tuple[str, ...]:
    return (name, payload["channel"], payload.get("user_id", ""))
