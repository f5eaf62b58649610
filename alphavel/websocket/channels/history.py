"""
What was published on channels that keep a history, for those who come back. Bounded in number, time and bytes. No I/O.

Every message of such a channel has a serial, one more than the last. Serials count within an epoch, a name drawn at random: a
server that has forgotten what it said begins a new one, so that an old position is never taken for a new one. Together they are
a position.
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from alphavel.websocket.channels.rules import Rules

if TYPE_CHECKING:
    from alphavel.websocket.channels.channel import Channel
    from alphavel.websocket.protocols import Protocol
    from alphavel.websocket.protocols.messages import FromClient, Message
    from alphavel.websocket.settings import ChannelSettings, HistorySettings

EPOCH_HEX = 12
_TAG_BYTES = 4
_EPOCH_LENGTH = EPOCH_HEX + 2 * _TAG_BYTES
_MAX_SERIAL = 2**53 - 1  # JavaScript's numbers are exact so far
_OVERHEAD = 256
"""Bytes of a message beside its texts, roughly; `python -m benchmarks history` measures them."""
_MAX_SILENT = 100_000
"""Histories without any message, of channels that nobody is on: a stranger may invent names."""


class Position(NamedTuple):
    """
    A place in a channel's history: everything up to and with `serial` has been seen.

    Attributes:
        epoch: Which counting it belongs to.
        serial: Number of the last message; 0 before the first.
    """

    epoch: str
    serial: int

    @classmethod
    def read(cls, value: Any, channel: str) -> Position:
        """
        Read what a client or an application gives: `{"epoch": …, "serial": 41}`.

        Raises:
            ValueError: It is none, or one of another channel.
        """
        epoch, serial = (value.get("epoch"), value.get("serial")) if isinstance(value, Mapping) else (None, None)
        if not isinstance(epoch, str) or not isinstance(serial, int) or isinstance(serial, bool):
            raise ValueError(  # noqa: TRY004 (what a client sent: a text is as wrong as a number below 0)
                'A position is an object such as {"epoch":"…","serial":41}, as it came with "subscribed".'
            )
        if not 0 <= serial <= _MAX_SERIAL:
            raise ValueError(f"A serial is a number from 0 to 2^53 - 1; got {ascii(serial)[:40]}.")
        if len(epoch) != _EPOCH_LENGTH or not epoch.isascii() or epoch != _epoch(epoch[:EPOCH_HEX], channel):
            raise ValueError(f"There never was such an epoch on {channel}.")
        return cls(epoch, serial)


class EventId(NamedTuple):
    """
    A place among the messages of all channels of an app that keep a history: `Last-Event-ID` of an event stream.

    Attributes:
        epoch: Which counting it belongs to.
        number: Number of the last message.
    """

    epoch: str
    number: int

    @classmethod
    def read(cls, text: str) -> EventId:
        """
        Read `str` of one.

        Raises:
            ValueError: It is none.
        """
        epoch, _, number = text.partition("-")
        if len(epoch) != EPOCH_HEX or not epoch.isalnum() or not number.isascii() or not number.isdigit() or len(number) > 16:
            raise ValueError(f"Expected an event's id as it came; got {ascii(text)[:40]}.")
        return cls(epoch, int(number))

    def __str__(self) -> str:
        return f"{self.epoch}-{self.number}"


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


class Histories:
    """
    The histories of an app's channels.

    Attributes:
        channels: What the configuration says of channels.
        keeps: Whether there are channels that keep one.
        is_shared: Whether they are parts of those of a fleet: then none begins here, see `shared_histories`.
        bytes: What all of them hold, roughly.
        epoch: Which counting over all channels this is.
        number: Number of the last message of all channels.
        forgotten: Number of the last message that went with its channel's whole history.
        now: Seconds on a clock that never goes back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.keeps = self.is_shared = False
        self.bytes = 0
        self.epoch = secrets.token_hex(EPOCH_HEX // 2)
        self.number = self.forgotten = 0
        self.now = clock
        self.channels = Rules({})
        self._max_bytes = 0
        self._histories: dict[str, History] = {}  # the one longest without a message first
        self._checks: list[tuple[float, str]] = []  # a heap: when to see whether one is to be forgotten
        self._checked: set[str] = set()  # those that stand in it
        self._silent: dict[str, None] = {}  # those that began without a message, the oldest first

    def configure(self, channels: Mapping[str, ChannelSettings], max_bytes: int) -> None:
        """
        Take rules, at the start or anew.

        Args:
            channels: Settings by pattern, see `Rules`.
            max_bytes: What all histories together may hold; where it is more, those longest without a message go.
        """
        self.channels = Rules(channels)
        self.keeps = any(settings.history.size for settings in channels.values())
        self._max_bytes = max_bytes
        for history in list(self._histories.values()):
            rules = self.rules(history.channel)
            if rules is None:
                self._forget(history)
            else:
                history.rules = rules

    def rules(self, channel: str) -> HistorySettings | None:
        """Return how much a channel keeps, None where it keeps nothing."""
        settings = self.channels.of(channel)
        return settings.history if settings is not None and settings.history.size else None

    def of(self, channel: str) -> History | None:
        """Return the history of a channel, a new one where it has none yet; None where it keeps none."""
        history = self._histories.get(channel)
        if history is None:
            rules = self.rules(channel)
            if rules is None or self.is_shared:
                return None
            history = self._begin(History(self, channel, rules))
        return history

    def share(self, epoch: str) -> None:
        """Be a part of a fleet's from now on; `epoch`: of the counting over all channels."""
        self.is_shared, self.epoch = True, epoch

    def aside(self, channel: str, fill: Callable[[History], None]) -> History | None:
        """Return a channel's history that is only read, and not one of these; None where it keeps none."""
        rules, others = self.rules(channel), Histories(self.now)
        if rules is None:
            return None
        others._max_bytes, others.is_shared, others.epoch = rules.max_bytes, True, self.epoch
        history = History(others, channel, rules)
        fill(history)
        return history

    def get(self, channel: str) -> History | None:
        """Return the history of a channel, None where it has none."""
        return self._histories.get(channel)

    def keep(
        self, channel: str, message: Message | FromClient, excluded: frozenset[str] = frozenset(), ttl: float | None = None
    ) -> Kept | None:
        """Number and keep a message, see `History.add`; None where the channel keeps no history."""
        history = self.of(channel)
        if history is None:
            return None
        self._histories[channel] = self._histories.pop(channel)
        return history.add(message, excluded, ttl)

    def shrink(self) -> None:
        """Forget what is too much for all of them together."""
        while self.bytes > self._max_bytes and self._histories:
            oldest = next(iter(self._histories.values()))
            if self.is_shared:  # somebody is on the channel: what has been delivered is to be known still
                oldest.clear()
                self._histories[oldest.channel] = self._histories.pop(oldest.channel)
                if not any(history.has_entries for history in self._histories.values()):
                    return
            else:
                self._forget(oldest)

    def replace(self, channel: str, position: Position) -> History | None:
        """Begin the history of a channel anew after a position that another worker names; None where it keeps none."""
        self.forget(channel)
        rules = self.rules(channel)
        if rules is None:
            return None
        return self._begin(History(self, channel, rules, position))

    def go_on(self, epoch: str, number: int, forgotten: int) -> None:
        """Go on counting where another process was."""
        self.epoch, self.number, self.forgotten = epoch, number, forgotten

    def forget(self, channel: str) -> None:
        """Forget the history of a channel; its next message begins a new epoch."""
        history = self._histories.get(channel)
        if history is not None:
            self._forget(history)

    def forget_all(self) -> None:
        """Forget everything."""
        for history in list(self._histories.values()):
            self._forget(history)

    def second_passed(self, is_live: Callable[[str], bool]) -> None:
        """
        Forget histories of which nothing is left to keep. To be called every second or so.

        Args:
            is_live: Whether somebody is on the channel of that name, and holds a position.
        """
        now, checks = self.now(), self._checks
        while checks and checks[0][0] <= now:
            _, channel = heapq.heappop(checks)
            self._checked.discard(channel)
            history = self._histories.get(channel)
            if history is None:
                continue
            if history.expires_at <= now:
                history.clear()
            if (history.expires_at <= now or self.is_shared) and not is_live(channel):
                self._forget(history)
                continue
            self._watch(history)
        if len(self._silent) > _MAX_SILENT:
            self._forget_silent(is_live)

    def _forget_silent(self, is_live: Callable[[str], bool]) -> None:
        excess = len(self._silent) - _MAX_SILENT
        for channel in list(itertools.islice(self._silent, 2 * excess + 1000)):  # no more at once than is worth it
            del self._silent[channel]
            history = self._histories[channel]
            if history.position.serial == 0:
                if is_live(channel):
                    self._silent[channel] = None
                else:
                    self._forget(history)
            if len(self._silent) <= _MAX_SILENT:
                return

    def __iter__(self) -> Iterator[History]:
        return iter(list(self._histories.values()))

    def __len__(self) -> int:
        return len(self._histories)

    def _begin(self, history: History) -> History:
        self._histories[history.channel] = history
        if history.position.serial == 0:
            self._silent[history.channel] = None
        self._watch(history)
        return history

    def _watch(self, history: History) -> None:
        if history.channel in self._checked:
            return
        self._checked.add(history.channel)
        heapq.heappush(self._checks, (max(history.expires_at, self.now() + history.rules.ttl), history.channel))

    @property
    def event_id(self) -> EventId:
        """The place of the last message of all channels."""
        return EventId(self.epoch, self.number)

    def _forget(self, history: History) -> None:
        history.clear()
        self.forgotten = max(self.forgotten, history.lost_number)
        del self._histories[history.channel]
        self._silent.pop(history.channel, None)


def last(entries: list[Kept], limit: int) -> list[Kept]:
    """Return the last `limit` of them."""
    return list(itertools.islice(entries, max(0, len(entries) - limit), None))


def new_epoch(channel: str) -> str:
    """Draw an epoch for a channel."""
    return _epoch(secrets.token_hex(EPOCH_HEX // 2), channel)


def derived_epoch(channel: str, secret: str) -> str:
    """Return the epoch of a channel that follows from a secret: all who know that agree on it."""
    key = hashlib.blake2s(secret.encode()).digest()
    return _epoch(hashlib.blake2s(channel.encode(), key=key, digest_size=EPOCH_HEX // 2).hexdigest(), channel)


def _epoch(random: str, channel: str) -> str:
    # With a checksum of the channel's name: a position of another channel is told from one of a counting that is over.
    return random + hashlib.blake2s(f"{random}{channel}".encode(), digest_size=_TAG_BYTES).hexdigest()
