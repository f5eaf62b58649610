"""What a push says on the bus, of whom it is for: written by servers and senders, read by servers."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from alphavel.websocket.bus.envelope import MalformedError, write
from alphavel.websocket.protocols import Message

if TYPE_CHECKING:
    from alphavel.websocket.bus.contract import Bus

_HEADS = 4096


class Push(NamedTuple):
    """
    A message and its audience, as `Broadcaster.publish` takes them.

    Attributes:
        app: Id of the app; empty for the first.
    """

    app: str
    message: Message
    channels: list[str]
    users: list[str]
    everybody: bool
    excluded: frozenset[str]


def push_content(
    app_id: str,
    message: Message,
    channels: Iterable[str],
    users: Iterable[str],
    everybody: bool,
    excluded: frozenset[str],
) -> dict[str, Any]:
    """Return the content of an envelope of the kind `push`."""
    return {
        "app": app_id,
        "channels": list(channels),
        "users": list(users),
        "everybody": everybody,
        "except": sorted(excluded),
        "message": message.as_content(),
    }


def write_push(app_id: str, message: Message, channel: str) -> bytes:
    """Write a push to all subscribers of one channel, as nearly every push is; like `envelope.write`."""
    return b"".join((_head(app_id, channel), message.written(), b"}"))


@functools.lru_cache(_HEADS)
def _head(app_id: str, channel: str) -> bytes:
    content = {"app": app_id, "channels": [channel], "users": [], "everybody": False, "except": []}
    return write("push", content)[:-1] + b',"message":'


def push_by_routes(
    bus: Bus,
    app_id: str,
    message: Message,
    channels: Sequence[str],
    users: Sequence[str],
    everybody: bool,
    excluded: frozenset[str],
) -> int:
    """Publish a message by all ways that lead to somebody; see `contract.Bus.push`."""
    ways = bus.routes(app_id, channels, users, everybody)
    for to, names, ids, all_of_them in ways:
        if len(names) == 1 and not (ids or all_of_them or excluded):
            bus.publish(write_push(app_id, message, names[0]), to)
        else:
            bus.publish(write("push", push_content(app_id, message, names, ids, all_of_them, excluded)), to)
    return len(ways)


def read_push(content: dict[str, Any]) -> Push:
    """
    Read what `push_content` wrote.

    Raises:
        MalformedError: It is not like that.
    """
    app, everybody = content.get("app"), content.get("everybody")
    lists = [content.get(name) for name in ("channels", "users", "except")]
    if not isinstance(app, str) or not isinstance(everybody, bool) or not all(map(_are_texts, lists)):
        raise MalformedError("Expected a push with app, channels, users, everybody and except.")
    channels, users, excluded = lists
    try:
        message = Message.of_content(content.get("message"))
    except (TypeError, ValueError) as error:
        raise MalformedError(f"Expected a push with a message: {error}") from None
    return Push(app, message, channels or [], users or [], everybody, frozenset(excluded or ()))


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)
