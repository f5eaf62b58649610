"""What was published on one channel that keeps a history. Bounded in number, time and bytes. No I/O."""

from __future__ import annotations

import itertools
from collections import deque
from typing import TYPE_CHECKING

from alphavel.websocket.channels.positions import EventId, Position, new_epoch

if TYPE_CHECKING:
    from alphavel.websocket.channels.channel import Channel
    from alphavel.websocket.channels.histories import Histories
    from alphavel.websocket.protocols import Protocol
    from alphavel.websocket.protocols.messages import FromClient, Message
    from alphavel.websocket.settings import HistorySettings

_OVERHEAD = 256
"""Bytes of a message beside its texts, roughly; `python -m benchmarks history` measures them."""


class Kept:
    """
    One message of a history; stands in a batch like a message, and frames itself once for each protocol.

    Attributes:
        serial: Its number.
        number: Its number among the messages of all channels of the app.
        message: What was published.
        excluded: Socket ids of those who were not to get it.
        expires_at: When it is forgotten before its time, on the histories' clock; None: as long as the channel keeps it.
        is_held: Whether its history holds it, and counts its bytes; it may be on its way to somebody for longer.
    """

    __slots__ = ("_frames", "_history", "excluded", "expires_at", "is_held", "message", "number", "serial")

    def __init__(
        self,
        history: History,
        serial: int,
        message: Message | FromClient,
        excluded: frozenset[str],
        expires_at: float | None,
        number: int,
    ) -> None:
        self.serial = serial
        self.number = number
        self.message = message
        self.excluded = excluded
        self.expires_at = expires_at
        self.is_held = False
        message.compact()
        self._history = history
        self._frames: tuple[tuple[Protocol, bytes], ...] = ()  # a tuple of one is 56 bytes, a dict of one 184

    @property
    def json_end(self) -> bytes:
        """The end of its JSON object, with the serial."""
        return b',"serial":%d}' % self.serial

    @property
    def channel(self) -> str:
        """Name of its channel."""
        return self._history.channel

    @property
    def event_id(self) -> EventId:
        """Its place among the messages of all channels."""
        return EventId(self._history.histories.epoch, self.number)

    @property
    def size(self) -> int:
        """Bytes it takes on the wire, roughly."""
        return self.message.size

    def frame(self, protocol: Protocol, channel: Channel | None) -> bytes:
        """Frame it, with its serial, for the subscribers of the channel who speak `protocol`."""
        for known, frame in self._frames:
            if known is protocol:
                return frame
        frame = self.message.frame(protocol, channel, self)
        self._frames += ((protocol, frame),)
        if self.is_held:
            self._history.grow(len(frame))
        return frame

    @property
    def held(self) -> int:
        """Bytes of memory it takes, roughly."""
        return _OVERHEAD + self.message.size + sum(len(frame) for _, frame in self._frames)


class History:
    """
    The history of one channel.

    Attributes:
        channel: Its name.
        histories: Those it is one of.
        rules: How much is kept.
        position: Of the last message.
        before: Position up to which an epoch is the same counting as this one: of a position in it, what came after is known
            where it is no later. Redis has it where another run of it went on, see `bus.journal`; None: there is none.
        expires_at: When nothing of it is left to keep.
        lost: Serial of the last message that is not kept any more.
        lost_number: Number, among the messages of all channels, of the last one that is not kept any more.
    """

    __slots__ = (
        "_bytes",
        "_entries",
        "before",
        "channel",
        "expires_at",
        "histories",
        "lost",
        "lost_number",
        "position",
        "rules",
    )

    def __init__(self, histories: Histories, channel: str, rules: HistorySettings, position: Position | None = None) -> None:
        self.channel = channel
        self.rules = rules
        self.position = position or Position(new_epoch(channel), 0)
        self.before: Position | None = None
        self.expires_at = 0.0
        self.histories = histories
        self._entries: deque[tuple[float, Kept]] = deque()  # with the time it was published
        # Who has not seen these cannot be given all that was missed.
        self.lost = self.position.serial
        self.lost_number = histories.forgotten
        self._bytes = 0

    def add(self, message: Message | FromClient, excluded: frozenset[str], ttl: float | None) -> Kept:
        """
        Number a message and keep it.

        Args:
            message: The message.
            excluded: Socket ids of those who do not get it.
            ttl: Seconds after which it is not to be given to anybody any more; None: as all of the channel.
        """
        return self.receive(message, excluded, ttl, self.histories.number + 1)

    def receive(
        self, message: Message | FromClient, excluded: frozenset[str], ttl: float | None, number: int, age: float = 0.0
    ) -> Kept:
        """Keep a message as the next one, see `add`; `number`: among those of all channels, `age`: seconds."""
        now = self.histories.now()
        self.histories.number = max(self.histories.number, number)
        self.position = self.position._replace(serial=self.position.serial + 1)
        expires_at = None if ttl is None else now - age + ttl
        kept = Kept(self, self.position.serial, message, excluded, expires_at, number)
        self.append(now - age, kept)
        self._trim(now)
        self.histories.shrink()
        return kept

    def begin(self, position: Position) -> None:
        """Begin anew after a position."""
        self.clear()
        self.before = None
        self.position = position
        self.lost = position.serial

    def skip_to(self, serial: int) -> None:
        """Go on after a message, though those before it did not come: who has not seen them cannot be given all."""
        self.begin(self.position._replace(serial=serial))
        self.lost_number = self.histories.number

    def append(self, published: float, kept: Kept) -> None:
        """Keep a message that has its number, which came at that time on the histories' clock."""
        self._entries.append((published, kept))
        kept.is_held = True
        self.expires_at = max(self.expires_at, published + self.rules.ttl)
        self.grow(kept.held)

    def all(self) -> list[tuple[float, Kept]]:
        """Return what it holds, with the time that each was published."""
        return list(self._entries)

    def grow(self, size: int) -> None:
        """Take note that it holds so many bytes more."""
        self._bytes += size
        self.histories.bytes += size

    def entries(self) -> list[Kept]:
        """Return what is kept, the oldest first."""
        now = self.histories.now()
        self._trim(now)
        return [kept for _, kept in self._entries if kept.expires_at is None or kept.expires_at > now]

    def since(self, position: Position) -> list[Kept] | None:
        """
        Return what came after a position, the oldest first; None where not all of it is known any more.

        Raises:
            ValueError: The position is in the future.
        """
        entries, before = self.entries(), self.before
        if before is not None and position.epoch == before.epoch:
            if position.serial > before.serial:
                return None
        elif position.epoch != self.position.epoch:
            return None
        if position.serial > self.position.serial:
            raise ValueError(f"The last message of {self.channel} is number {self.position.serial}; got {position.serial}.")
        return None if position.serial < self.lost else [kept for kept in entries if kept.serial > position.serial]

    def after(self, last: EventId) -> list[Kept] | None:
        """Return what came after a message of whatever channel; as `since`."""
        entries, histories = self.entries(), self.histories
        if last.epoch != histories.epoch:
            return None
        if last.number > histories.number and not histories.is_shared:
            raise ValueError(f"The last message here is number {histories.number}; got {last.number}.")
        return None if last.number < self.lost_number else [kept for kept in entries if kept.number > last.number]

    @property
    def has_entries(self) -> bool:
        """Whether anything is kept."""
        return bool(self._entries)

    def clear(self) -> None:
        """Forget all."""
        while self._entries:
            self._drop()

    def _trim(self, now: float) -> None:
        rules, entries = self.rules, self._entries
        oldest = now - rules.ttl
        while entries and (len(entries) > rules.size or self._bytes > rules.max_bytes or entries[0][0] <= oldest):
            self._drop()

    def _drop(self) -> None:
        _, kept = self._entries.popleft()
        kept.is_held = False
        self.grow(-kept.held)
        # What its publisher wanted forgotten by now is missed by nobody.
        if kept.expires_at is None or kept.expires_at > self.histories.now():
            self.lost, self.lost_number = kept.serial, kept.number


def last(entries: list[Kept], limit: int) -> list[Kept]:
    """Return the last `limit` of them."""
    return list(itertools.islice(entries, max(0, len(entries) - limit), None))
