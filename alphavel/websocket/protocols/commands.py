"""What a client can ask for, whatever protocol it speaks."""

from __future__ import annotations

from typing import Any, NamedTuple, Union


class Ping(NamedTuple):
    """Are you there?"""


class Subscribe(NamedTuple):
    """Put me on a channel."""

    channel: Any  # as it came: the name is checked where it is used


class Unsubscribe(NamedTuple):
    """Take me off a channel."""

    channel: Any


class Broadcast(NamedTuple):
    """Send `message` to the others on a channel."""

    channel: Any
    message: Any


class Refresh(NamedTuple):
    """Here is a fresh token."""

    token: Any


class Custom(NamedTuple):
    """An event of the application's own."""

    event: str
    data: Any
    channel: Any = None


class Refused(NamedTuple):
    """What came makes no sense: an error event is the answer."""

    code: int
    message: str


Command = Union[Ping, Subscribe, Unsubscribe, Broadcast, Refresh, Custom, Refused]
