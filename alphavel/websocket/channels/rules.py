"""What the configuration says of a channel, by patterns of names. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import translate
from re import compile as compile_regex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from alphavel.websocket.settings import ChannelSettings

_MAX_MATCHED = 100_000  # a stranger may invent names


class Rules:
    """The first pattern that matches decides."""

    def __init__(self, channels: Mapping[str, ChannelSettings]) -> None:
        """
        Args:
            channels: Settings by pattern, see `ChannelSettings`.
        """
        self._rules = [(compile_regex(translate(pattern)), settings) for pattern, settings in channels.items()]
        self._matched: dict[str, ChannelSettings | None] = {}

    def of(self, channel: str) -> ChannelSettings | None:
        """Return what is said of a channel, None where nothing is, and for a name that stands for a user."""
        try:
            return self._matched[channel]
        except KeyError:
            pass
        named = not channel.startswith("#")
        found = next((rules for pattern, rules in self._rules if pattern.match(channel)), None) if named else None
        if len(self._matched) >= _MAX_MATCHED:
            self._matched.clear()
        self._matched[channel] = found
        return found
