"""
Numbers by which nodes find out that a message came twice, or not at all. Pure: no I/O, no clock.

A node that does not know whether Redis took a message sends it again, and with it all that came after: whoever had it already
must not deliver it twice, and what was still on its way over the connection that broke must not come between. So each message
carries three numbers of the node that publishes it:

    line     of its connection to Redis: the first is 1, each further one is one more; 0 for what is told again, see `replaying`
    number   of the message, among all that it publishes
    place    of the message, among those for the same key, as far back as it remembers the key
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple, TypeVar

MAX_KEYS = 65_536
MAX_STREAMS = 131_072
MAX_IDS = 16_384


class Numbers(NamedTuple):
    """What a message carries, see above."""

    line: int
    number: int
    place: int


class Numbering:
    """Gives numbers to what this node publishes. Each push takes one, so that it costs two look-ups."""

    def __init__(self) -> None:
        self.number = 0
        self._places: dict[bytes, int] = {}
        self._older: dict[bytes, int] = {}  # of keys that had none since the others were so many

    def next(self, key: bytes) -> tuple[int, int]:
        """Return the number and the place of the next message for a key."""
        self.number += 1
        place = self._places.get(key)
        if place is None:
            place = self._older.get(key, 0)
            if len(self._places) >= MAX_KEYS:
                self._older, self._places = self._places, {}
        self._places[key] = place = place + 1
        return self.number, place


class Seen:
    """
    What has come so far.

    Attributes:
        duplicates: Messages that had come before.
        missed: Messages that did not come. Known when a later one for the same key comes from the same node.
    """

    def __init__(self) -> None:
        self.duplicates = 0
        self.missed = 0
        self._last: OrderedDict[tuple[str, int], tuple[int, int]] = OrderedDict()
        self._places: OrderedDict[tuple[str, bytes], tuple[float, int]] = OrderedDict()
        self._ids: OrderedDict[str, None] = OrderedDict()

    def is_new(self, origin: str, stream: int, numbers: Numbers) -> bool:
        """
        Take note of a message; return False for one to be dropped: it has come before, or will come over the newer connection.

        Args:
            origin: Who published it.
            stream: Messages of one origin and one stream come in the order of their numbers, over each connection.
            numbers: What it carries.
        """
        last, where = self._last, (origin, stream)
        line, number = last.get(where, (0, 0))
        if numbers.number <= number or 0 < numbers.line < line:
            self.duplicates += 1
            return False
        _keep(last, where, (numbers.line or line, numbers.number), MAX_STREAMS)
        return True

    def has_all(self, origin: str, stream: int, number: int) -> None:
        """Take note that nothing of an origin is missing up to a number, whatever of it came here."""
        line, last = self._last.get((origin, stream), (0, 0))
        _keep(self._last, (origin, stream), (line, max(last, number)), MAX_STREAMS)

    def last(self, stream: int) -> dict[str, int]:
        """Return the number of the last message of each origin in a stream."""
        return {origin: number for (origin, of), (_, number) in self._last.items() if of == stream}

    def is_first(self, message_id: str) -> bool:
        """Take note of a message that has an id and no numbers; return False for one that has come before."""
        if message_id in self._ids:
            self.duplicates += 1
            return False
        _keep(self._ids, message_id, None, MAX_IDS)
        return True

    def gap(self, origin: str, key: bytes, since: float, place: int) -> int:
        """
        Take note of a new message for a key; return how many of the same origin should have come before it and did not.

        Args:
            origin: Who published it.
            key: What it was published to.
            since: Since when this node listens to the key: what was published to it before is not missed.
            place: What it carries.
        """
        where = (origin, key)
        last_since, last_place = self._places.get(where, (0.0, 0))
        _keep(self._places, where, (since, place), MAX_KEYS)
        if since != last_since or place <= last_place:  # nothing to compare with
            return 0
        missing = place - last_place - 1
        self.missed += missing
        return missing


K = TypeVar("K")
V = TypeVar("V")


def _keep(memory: OrderedDict[K, V], key: K, value: V, most: int) -> None:
    """Remember something, and forget what was not asked for the longest time where it is too much."""
    memory[key] = value
    memory.move_to_end(key)
    if len(memory) > most:
        memory.popitem(last=False)
