"""
Deltas: of a message only what is not as in the one before, for those who asked for it. A delta is a JSON Merge Patch, RFC 7396.

All who follow a channel by deltas have the same message before, the base: who joins is given it, and what not all of them get
is not made one. So each delta is made once, however many follow. No I/O; nothing here switches.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import orjson

from alphavel.websocket.channels.channel import POISON
from alphavel.websocket.compact import compact

if TYPE_CHECKING:
    from alphavel.websocket.channels.channel import Channel
    from alphavel.websocket.channels.history import Kept
    from alphavel.websocket.protocols import Message, Protocol

E = TypeVar("E", "Message", "Kept")

_MAX_DEPTH = 32
_INEXACT = 2.0**63  # what is read as a float of that size may have been an integer with more digits than a float has


class Chain:
    """
    The messages of a channel that at least one connection follows by deltas.

    Attributes:
        followers: How many do.
        base: JSON of the data of the last message that all of them have; None: what comes next is sent whole.
    """

    __slots__ = ("base", "followers")

    def __init__(self) -> None:
        self.followers = 0
        self.base: bytes | None = None

    def link(self, event: E, message: Message, channel: Channel, excluded: frozenset[str]) -> E | Link:
        """
        Append a message, and return what stands in a batch in its place. One that not all followers get is no base of what
        comes next, and stands there as it is.

        Args:
            event: What would stand there.
            message: The message itself: the same, or what it wraps.
            channel: The channel.
            excluded: Socket ids of those who do not get it.
        """
        subscribers = channel.subscribers
        if any(name in subscribers and subscribers[name].protocol.takes_deltas for name in excluded):
            return event
        if b'"delta":' in message.json_rest:  # it could not be told from ours
            return event
        base, data = self.base, message.json_data
        if data is None:
            self.base = None
            return Link(event, message, None)
        self.base = compact(data)
        return Link(event, message, None if base is None else patch(base, data))


class Link:
    """A message of a chain on its way; stands in a batch like a message."""

    __slots__ = ("_event", "_message", "_patch")

    def __init__(self, event: Message | Kept, message: Message, patch: bytes | None) -> None:
        self._event = event
        self._message = message
        self._patch = patch

    @property
    def size(self) -> int:
        """Bytes it takes on the wire, roughly and at most."""
        return self._event.size

    def frame(self, protocol: Protocol, channel: Channel | None) -> bytes:
        """Frame it for the subscribers who speak `protocol`."""
        if protocol.takes_deltas and channel is not None:
            kept = None if self._event is self._message else self._event
            return protocol.linked(self._message, channel, kept, self._patch)  # type: ignore[attr-defined, no-any-return]
        return self._event.frame(protocol, channel)


class _UnfitError(Exception):
    """What has changed cannot be said by a merge patch."""


def patch(base: bytes, new: bytes) -> bytes | None:
    """
    Return the merge patch that makes one JSON object of another.

    Args:
        base: JSON text.
        new: JSON text.

    Returns:
        JSON text; None where there is none, or none that is shorter than `new`. Whoever applies it has an object equal to the
        new one, but for the order of members, which means nothing (RFC 8259, section 4). Numbers are 64-bit integers and
        doubles (section 6).
    """
    if new[:1] != b"{" or base[:1] != b"{":
        return None
    try:
        text = orjson.dumps(_difference(orjson.loads(base), orjson.loads(new), _MAX_DEPTH))
    except (_UnfitError, ValueError):
        return None
    return text if len(text) < len(new) else None


def _difference(base: dict[str, Any], new: dict[str, Any], depth: int) -> dict[str, Any]:
    if not depth:
        raise _UnfitError
    difference: dict[str, Any] = dict.fromkeys(base.keys() - new.keys())
    for name, value in new.items():
        if name == POISON:  # JavaScript would take it for something else
            raise _UnfitError
        if name not in base:
            difference[name] = _whole(value, depth - 1)
        elif isinstance(value, dict) and isinstance(base[name], dict):
            inner = _difference(base[name], value, depth - 1)
            if inner:
                difference[name] = inner
        elif not _is_same(base[name], value):
            difference[name] = _whole(value, depth - 1)
    return difference


def _whole(value: Any, depth: int) -> Any:
    """Return a value that is set as a whole. Raises where its null would mean that something is removed."""
    if value is None or not depth or (isinstance(value, float) and abs(value) >= _INEXACT):
        raise _UnfitError
    if isinstance(value, dict):
        if POISON in value:
            raise _UnfitError
        for inner in value.values():
            _whole(inner, depth - 1)
    return value


def _is_same(one: Any, other: Any) -> bool:
    if type(one) is not type(other) or one != other:  # in Python 1, 1.0 and True are equal
        return False
    if isinstance(one, float):
        return abs(one) < _INEXACT and (one != 0 or str(one) == str(other))  # and so are 0.0 and -0.0
    return not isinstance(one, list) or orjson.dumps(one) == orjson.dumps(other)
