"""
Catching up with another node: the whole of what it says of itself, in parts that the one who lacks it asks for one by one, so
that neither of them nor the bus between them is ever flooded. Pure: no I/O, no clock.

Changes that happen meanwhile travel on as always. Each part says how many changes it includes, so that the changes laid over
the parts are the state of the last change.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import orjson

from alphavel.websocket.bus.envelope import MalformedError
from alphavel.websocket.bus.facts import Fact

_FACTS = 256  # in one part
_EVENTS_BYTES = 256 * 1024


class Telling:
    """
    What one other node is being told.

    Attributes:
        session: What that node calls it.
        idle: Ticks since it last asked.
    """

    def __init__(self, session: str, facts: dict[Fact, Any] | None, events: Iterable[dict[str, Any]]) -> None:
        """
        Args:
            session: See above.
            facts: All of them, the very dict that changes; None: they are not asked for.
            events: Of cache channels, to be told when the facts are.
        """
        self.session = session
        self.idle = 0
        self._facts = facts or {}
        self._left = iter(list(self._facts))
        self._events = iter(events)
        self._part = 0
        self._has_facts = facts is not None

    def part(self, number: int) -> tuple[list[tuple[Fact, Any]], list[orjson.Fragment], bool] | None:
        """Return facts, events and whether these are the last, as they are now; None for another part than the next."""
        if number != self._part:
            return None
        self._part += 1
        self.idle = 0
        if self._has_facts:
            names = list(itertools.islice(self._left, _FACTS))
            self._has_facts = len(names) == _FACTS
            return [(name, self._facts[name]) for name in names if name in self._facts], [], False
        events, size = [], 0
        for event in self._events:
            data = orjson.dumps(event)
            events.append(orjson.Fragment(data))
            size += len(data)
            if size > _EVENTS_BYTES:
                return [], events, False
        return [], events, True


class Asking:
    """
    What this node asks another one for.

    Attributes:
        session: Its name, unlike any other of this node's.
        facts: Whether facts are asked for; else events alone.
        kept_s: Events of cache channels that are asked for: those of so many last seconds.
        part: The number of the part that is to come.
        is_moving: Whether anything has come since the last tick.
    """

    def __init__(self, session: str, facts: bool, kept_s: float) -> None:
        self.session = session
        self.facts = facts
        self.kept_s = kept_s
        self.part = 0
        self.is_moving = True
        self._told: dict[Fact, Any] = {}
        self._changes: dict[int, list[tuple[Fact, Any]]] = {}
        self._first = self._last = -1
        self._has_all = False

    def took(self, number: int, seq: int, facts: list[tuple[Fact, Any]], is_last: bool) -> bool:
        """Take a part that includes the changes up to `seq`; return False for another one than the next."""
        if number != self.part or self._has_all:
            return False
        if number == 0:
            self._first = seq
        elif seq < self._last:
            raise MalformedError(f"Expected a part that includes change {self._last}; got one of change {seq}.")
        self._last = seq
        self._told.update(facts)
        self._has_all = is_last
        self.part += 1
        self.is_moving = True
        return True

    def changed(self, seq: int, facts: list[tuple[Fact, Any]]) -> None:
        """Take note of a change that came meanwhile."""
        self._changes[seq] = facts

    def result(self) -> tuple[int, dict[Fact, Any]] | None:
        """Return the number of the last change, and all facts as of it; None while something is missing."""
        if not self._has_all:
            return None
        if not self.facts:
            return self._last, {}
        seq, told = self._first, dict(self._told)
        for change, facts in self._following():
            seq = change
            for fact, value in facts:
                if value is None:
                    told.pop(fact, None)
                else:
                    told[fact] = value
        return (seq, told) if seq >= self._last else None

    def _following(self) -> Iterator[tuple[int, list[tuple[Fact, Any]]]]:
        seq = self._first
        while (facts := self._changes.get(seq + 1)) is not None:
            seq += 1
            yield seq, facts
