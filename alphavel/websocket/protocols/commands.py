"""What a client can ask for, whatever protocol it speaks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Union

if TYPE_CHECKING:
    from alphavel.websocket.channels.positions import EventId


class Ping(NamedTuple):
    """Are you there?"""


class Pong(NamedTuple):
    """I am here. Having come is all it is for."""


class Subscribe(NamedTuple):
    """Put me on a channel. As it came: what is in it is checked where it is used."""

    channel: Any
    recover: Any = None  # the position after which it missed what came
    rewind: Any = None  # how many of the last messages it wants first


class SubscribeSigned(NamedTuple):
    """Put me on a channel: here is the signature of who says that I may."""

    channel: Any
    auth: Any
    channel_data: Any
    recover: Any = None
    rewind: Any = None


class OpenStream(NamedTuple):
    """Put me on these channels, for as long as I am here: what an event stream asks with its address."""

    subscriptions: list[Subscribe]
    last_event_id: EventId | None


class Unsubscribe(NamedTuple):
    """Take me off a channel."""

    channel: Any


class ReadHistory(NamedTuple):
    """Show me what was said on a channel."""

    channel: Any
    limit: Any
    since: Any


class Broadcast(NamedTuple):
    """Send `message` to the others on a channel."""

    channel: Any
    message: Any


class Refresh(NamedTuple):
    """Here is a fresh token."""

    token: Any


class ClientEvent(NamedTuple):
    """Send an event to the others on a channel, as Pusher clients do: `client-…`."""

    event: str
    channel: Any
    data: Any


class SignIn(NamedTuple):
    """I am this user: here is the signature of who says so."""

    auth: Any
    user_data: Any


class Custom(NamedTuple):
    """An event of the application's own."""

    event: str
    data: Any
    channel: Any = None


class Refused(NamedTuple):
    """What came makes no sense: an error event is the answer."""

    code: int
    message: str


Command = Union[
    Ping,
    Pong,
    Subscribe,
    SubscribeSigned,
    OpenStream,
    Unsubscribe,
    ReadHistory,
    Broadcast,
    ClientEvent,
    Refresh,
    SignIn,
    Custom,
    Refused,
]
