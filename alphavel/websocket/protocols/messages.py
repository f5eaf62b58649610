"""
An event on its way to many: checked and turned into JSON once, then framed once for each protocol.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from alphavel.websocket.channels import Channel, Member
    from alphavel.websocket.protocols.contract import Protocol

_OPTIONS = orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY


def to_json(value: Any, what: str) -> bytes:
    """
    Turn a value into JSON text, UTF-8.

    Args:
        value: dicts, lists, texts, numbers, bools, None, dates, UUIDs, dataclasses, enums, numpy arrays.
        what: What it is, for the error.

    Raises:
        TypeError: It holds something else.
    """
    try:
        return orjson.dumps(value, option=_OPTIONS)
    except TypeError as error:  # orjson.JSONEncodeError is a TypeError too
        raise TypeError(f"{what} cannot be turned into JSON: {error}") from error


class Message:
    """
    One event. What the caller passed is copied into JSON here: changing it later changes nothing.

    Attributes:
        event: Name of the event.
        json_event: The name as JSON text.
        json_data: The data as JSON text, None where the event has none.
        json_rest: Further members as JSON text that starts with a comma, or empty.
    """

    __slots__ = ("event", "json_data", "json_event", "json_rest")

    def __init__(self, message: Mapping[str, Any]) -> None:
        """
        Raises:
            TypeError: Not a mapping, or something in it cannot be turned into JSON.
            ValueError: It has no event name.
        """
        if not isinstance(message, Mapping):
            raise TypeError(
                f'A message is a dict such as {{"event": "new-message", "data": {{...}}}}; got {type(message).__name__}.'
            )
        event = message.get("event")
        if not isinstance(event, str) or not event:
            raise ValueError(f'A message names its event: {{"event": "new-message", "data": {{...}}}}; got event={event!r}.')
        self.event = event
        self.json_event = to_json(event, "The event's name")
        self.json_data = to_json(message["data"], f"The data of {event!r}") if "data" in message else None
        self.json_rest = b""
        if len(message) > 1 + (self.json_data is not None):
            rest = {key: value for key, value in message.items() if key not in ("event", "channel", "data")}
            if rest:
                self.json_rest = b"," + to_json(rest, f"The message {event!r}")[1:-1]

    @property
    def size(self) -> int:
        """Bytes it takes on the wire, roughly."""
        return 64 + len(self.json_data or b"") + len(self.json_rest)

    def frame(self, protocol: Protocol, channel: Channel | None) -> bytes:
        """Frame it for the subscribers of a channel who speak `protocol`."""
        return protocol.event(self, channel)


class PresenceChange:
    """A member that came or went, on its way to the others; stands in a batch like a message."""

    __slots__ = ("_change", "_member")

    size = 128

    def __init__(self, change: str, member: Member) -> None:
        self._change = change
        self._member = member

    def frame(self, protocol: Protocol, channel: Channel | None) -> bytes:
        """Frame it for the subscribers of the channel who speak `protocol`."""
        assert channel is not None
        encode = protocol.member_added if self._change == "member_added" else protocol.member_removed
        return encode(channel, self._member)
