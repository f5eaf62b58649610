"""
What this node published lately, for nodes that were away (see `replaying`). Bounded in bytes and in time. No I/O; the time is
an argument.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import takewhile
from typing import NamedTuple

_KEEP_S = 60.0


class Kept(NamedTuple):
    """
    A message.

    Attributes:
        at: When it was published, or was for nobody: seconds on `clock`.
        key: What it was published to.
        written: What its envelope held.
        number, place: See `numbering`.
        is_unneeded: Whether it was not published, as nobody else listened, see `interest`.
    """

    at: float
    key: bytes
    written: bytes
    number: int
    place: int
    is_unneeded: bool


# Tuples of no class: those that hold nothing which could be a part of a cycle, no garbage collection looks at twice.
_Plain = tuple[float, bytes, bytes, int, int, bool]


class Published:
    """Messages, the oldest first."""

    def __init__(self, max_bytes: int) -> None:
        """
        Args:
            max_bytes: Bytes that are kept.
        """
        self._max_bytes = max_bytes
        self._bytes = 0
        self._messages: deque[_Plain] = deque()

    def add(self, some: list[_Plain]) -> None:
        """Keep messages, at least one, see `Kept`; forget what is too much, or was published too long before the last."""
        messages, since = self._messages, some[-1][0] - _KEEP_S
        messages.extend(some)
        self._bytes += sum([len(message[2]) for message in some])
        while messages and (self._bytes > self._max_bytes or messages[0][0] < since):
            self._bytes -= len(messages.popleft()[2])

    def after(self, number: int) -> list[Kept]:
        """Return those with higher numbers, the oldest first."""
        return self._last(lambda kept: kept.number > number)

    def since(self, at: float) -> list[Kept]:
        """Return those from a time on, the oldest first."""
        return self._last(lambda kept: kept.at >= at)

    def _last(self, is_one: Callable[[Kept], bool]) -> list[Kept]:
        return list(takewhile(is_one, (Kept(*message) for message in reversed(self._messages))))[::-1]
