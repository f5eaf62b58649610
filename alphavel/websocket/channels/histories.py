"""The histories of all channels of an app: who keeps one, and what is too much for all of them together. No I/O."""

from __future__ import annotations

import heapq
import itertools
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from alphavel.websocket.channels.history import History, Kept
from alphavel.websocket.channels.positions import EPOCH_HEX, EventId, Position
from alphavel.websocket.channels.rules import Rules

if TYPE_CHECKING:
    from alphavel.websocket.protocols.messages import FromClient, Message
    from alphavel.websocket.settings import ChannelSettings, HistorySettings

_MAX_SILENT = 100_000
"""Histories without any message, of channels that nobody is on: a stranger may invent names."""


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
