"""
What this node missed while Redis did not reach it, told again by those who published it.

Redis pub/sub keeps nothing. So a node that is on the bus again asks all others, and each tells what it has published lately:

    this node  → all        {"kind":"ask","session":3,"away":1.7,"seen":{"node-2":57}}
    node-2     → this node  {"kind":"replay","session":3,"items":[[number, place, age in s, key, content],…],"is_last":true}

What a node has seen is the last of another one's numbers that came, and what that one says with each of its beats, `sent`: the
beat comes after all up to there, on whichever keys. Only where that says nothing, because a node is new or a cluster's shards
keep no common order, the other one goes by the clock, from `away` seconds before the question came, and some more.

Until a node has answered, what it publishes meanwhile is held, so that all comes in its order. What it tells again is taken
portion by portion, so that where the connection breaks again, and be it for the size of the answers, the next question goes on
from there; portions for an earlier question are dropped, as some between may be lost. A node that tells nothing for too long
has nothing to tell any more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from alphavel.websocket import clock
from alphavel.websocket.bus.envelope import MalformedError
from alphavel.websocket.bus.numbering import Numbers

_MAX_HELD = 100_000
MARGIN_S = 0.5  # of time that a message may have been on its way
_WRONG = (AttributeError, KeyError, TypeError, ValueError)


class Message(NamedTuple):
    """Something that a node published to a key."""

    numbers: Numbers
    key: bytes
    content: dict[str, Any]


class Missing:
    """
    What this node may have missed.

    Attributes:
        since: From when on, seconds on `clock`; None: all has come, or is waited for no longer.
        session: Number of the question whose answers are taken.
        is_moving: Whether anything was told again since this was last set to false.
    """

    def __init__(self, deliver: Callable[[Message], None]) -> None:
        """
        Args:
            deliver: Called with what was held or told again, that of each node in order; it may have come before.
        """
        self.since: float | None = clock.now()
        self.session = 0
        self.is_moving = False
        self._deliver = deliver
        self._is_asking = False
        self._gave_up: float | None = None  # what was `since`, when that was
        self._late: set[str] = set()
        self._answered: set[str] = set()
        self._held: dict[str, list[Message]] = {}

    @property
    def away_s(self) -> float:
        """For how long messages may have been missed, in seconds."""
        since = self._gave_up if self.since is None else self.since
        return 0.0 if since is None else clock.now() - since

    def lost(self, heard_at: float) -> None:
        """
        Redis does not reach this node any more; it did at `heard_at`. What comes from now on is held until the next question
        is answered: some of it may come before that is asked.
        """
        self.begin()
        if self.since is None:
            self.since = heard_at

    def begin(self) -> None:
        """Begin to wait for the answers of all nodes to the next question."""
        self._is_asking = True
        self.session += 1
        self._answered.clear()
        self._late.clear()

    def awaits(self, origin: str) -> bool:
        """Whether a node has yet to answer."""
        return (self._is_asking or origin in self._late) and origin not in self._answered

    def has_answered(self, origin: str) -> bool:
        """Whether all is here that a node has published until now, and that is meant for this one."""
        return origin in self._answered

    def met(self, origin: str, is_new: bool) -> bool:
        """
        Take note of a node that asks, itself, or publishes, and return whether it is to be asked again: it was away, too, and
        has not heard the question. What it publishes is held until it answers.

        Args:
            origin: Its name.
            is_new: Whether it asks for the first time: before, it has published nothing, or this node has met it by that.
        """
        if origin in self._answered:
            return False
        if not self._is_asking:
            if is_new and origin not in self._late:
                self._answered.add(origin)
                return False
            self._late.add(origin)
        return True

    def late_over(self, origin: str) -> None:
        """Wait no longer for a node that was `met` when the others had answered, nor ask it again for that."""
        if origin in self._late:
            self._late.remove(origin)
            self._answered.add(origin)
            self._release(origin)

    def hold(self, message: Message) -> None:
        """Hold what a node publishes that has yet to answer."""
        held = self._held.setdefault(message.content["origin"], [])
        held.append(message)
        if len(held) > _MAX_HELD:
            self.over()

    def told(self, origin: str, session: int, messages: list[Message], is_last: bool) -> None:
        """Take what a node tells again, in order."""
        if session != self.session:
            return
        self.is_moving = True
        for message in messages:
            self._deliver(message)
        if is_last:
            self._answered.add(origin)
            self._late.discard(origin)
            self._release(origin)

    def over(self) -> None:
        """Wait no longer."""
        self._is_asking = False
        self._gave_up, self.since = self.since, None
        for origin in list(self._held):
            self._release(origin)

    def _release(self, origin: str) -> None:
        for message in sorted(self._held.pop(origin, ()), key=lambda message: message.numbers.number):
            self._deliver(message)


def read_replay(content: dict[str, Any]) -> tuple[int, list[tuple[float, Message]], bool]:
    """
    Read what a node tells again: for which question, messages, each with its age in seconds, and whether these are the last.

    Raises:
        MalformedError: It is not like that.
    """
    try:
        messages = [_read_item(content["origin"], *item) for item in content["items"]]
        return int(content["session"]), messages, bool(content["is_last"])
    except _WRONG as error:
        raise MalformedError(f"Expected messages told again: {error}.") from None


def read_late(content: dict[str, Any]) -> tuple[float, Message]:
    """
    Read what a node tells late, see `interest`: its age in seconds, and the message.

    Raises:
        MalformedError: It is not like that.
    """
    try:
        return _read_item(content["origin"], *content["item"])
    except _WRONG as error:
        raise MalformedError(f"Expected a message told late: {error}.") from None


def _read_item(origin: str, number: Any, place: Any, age: Any, key: Any, told: Any) -> tuple[float, Message]:
    if not type(number) is type(place) is int or not isinstance(told, dict) or not isinstance(told.get("kind"), str):
        raise TypeError("a message has a number, a place and a kind")
    return float(age), Message(Numbers(0, number, place), key.encode("latin-1"), {**told, "origin": origin})
