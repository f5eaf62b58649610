"""What a fleet has been told: who published how much on which channel, and what of it must come. Pure: no I/O, no clock."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass
class Stream:
    """
    What one publisher says on one channel: 0, 1, 2, …

    Attributes:
        count: How much that is so far.
        checked: How much of it was known to have come when everything was last looked at.
        must_come: Whether all since then must come; it need not where the publisher has died meanwhile.
    """

    count: int = 0
    checked: int = 0
    must_come: bool = True


class Truth:
    """
    Attributes:
        streams: By channel, then by publisher.
    """

    def __init__(self, channels: list[str]) -> None:
        self.streams: dict[str, dict[str, Stream]] = {name: {} for name in channels}

    def next(self, channel: str, publisher: str) -> int:
        """Return the number of what is published next, from now on."""
        stream = self.streams[channel].setdefault(publisher, Stream())
        stream.count += 1
        return stream.count - 1

    def counts(self, channel: str) -> dict[str, int]:
        """Return how much each has published on a channel."""
        return {publisher: stream.count for publisher, stream in self.streams[channel].items()}

    def has_died(self, publisher: str) -> None:
        """Whatever was still on its way from a publisher may be lost."""
        for streams in self.streams.values():
            if publisher in streams:
                streams[publisher].must_come = False

    def everything_may_be_lost(self) -> None:
        """What was published was away for longer than anybody keeps it."""
        for streams in self.streams.values():
            for stream in streams.values():
                stream.must_come = False

    def checked(self) -> None:
        """All has come; what is published from now on is the next thing to be looked at."""
        for streams in self.streams.values():
            for stream in streams.values():
                stream.checked, stream.must_come = stream.count, True


_CHANGES = {"channel_occupied": True, "channel_vacated": False, "member_added": True, "member_removed": False}

So = set[tuple[str, str]]
"""Channels that are occupied, as `(channel, "")`, and members of them, as `(channel, user)`."""


class Told:
    """
    What webhooks were told. What is told twice is told once: they are told at least once.

    Attributes:
        lacked: What was not told where it need not be, see `may_lack`.
    """

    def __init__(self) -> None:
        self.lacked = 0
        self._so: So = set()
        self._unsure: So = set()

    def take(self, event: dict[str, Any]) -> None:
        """Take note of an event."""
        is_so = _CHANGES.get(event["name"])
        if is_so is None:
            return
        key = (event["channel"], event.get("user_id", ""))
        self._unsure.discard(key)
        (self._so.add if is_so else self._so.discard)(key)

    def differs(self, truth: So) -> So:
        """Return what is told to be otherwise than it is."""
        return (self._so ^ truth) - self._unsure

    def may_lack(self, truth: So) -> None:
        """Who told has changed, again and again perhaps: what is not told now need not be told before it changes."""
        lacking = self.differs(truth)
        self.lacked += len(lacking)
        self._unsure |= lacking
