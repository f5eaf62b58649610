"""What a push says on the bus, of whom it is for: written by servers and senders, read by servers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from alphavel.websocket.bus.envelope import MalformedError
from alphavel.websocket.protocols import Message


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
