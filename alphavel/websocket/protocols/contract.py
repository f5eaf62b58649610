"""What the rest of the server asks of a protocol."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple
from typing import Protocol as Contract

if TYPE_CHECKING:
    from alphavel.websocket.apps import App
    from alphavel.websocket.channels import Channel, Kept, Member, Position
    from alphavel.websocket.protocols.commands import Command
    from alphavel.websocket.protocols.messages import Message
    from alphavel.websocket.stats import Tally


class ErrorCode(enum.IntEnum):
    """Codes of error events: 4000 and the HTTP status that says the same, but for Pusher's 4009, 4301 and 4302."""

    UNAUTHORIZED = 4009
    CLIENT_EVENT_REJECTED = 4301
    WATCHLIST_TOO_LONG = 4302
    BAD_MESSAGE = 4400
    FORBIDDEN = 4403
    UNKNOWN_EVENT = 4404
    TOO_LONG = 4413
    TOO_MANY = 4429
    HANDLER_FAILED = 4500


class Resumption(NamedTuple):
    """
    Where a subscriber of a channel with history is.

    Attributes:
        position: Of the last message; None where the channel keeps no history.
        recovered: Whether it is given all that it missed; None where it did not ask.
    """

    position: Position | None
    recovered: bool | None


class Protocol(Contract):
    """
    One wire protocol. All of its frames are complete server frames, RFC 6455, ready to be written.

    Attributes:
        name: `alphavel`, `raw`, …
        number: What stands for it in `Descriptors.ready`. Those with the same number frame an event alike; 0: has no channels.
        app: The app that its connections belong to: with one protocol object for each app, no connection needs to know.
        has_channels: Whether its connections take part in channels, pushes to users and pushes to all.
        tally: Where its messages are counted.
        is_duplex: Whether the peer talks, too: one that does not answers no ping, and has no closing handshake.
        takes_deltas: Whether it can say of a message what has changed since the one before, see `channels.deltas`.
        ping: The frame that asks a silent client whether it is there.
    """

    name: str
    number: int
    app: App
    has_channels: bool
    tally: Tally
    is_duplex: bool
    takes_deltas: bool
    ping: bytes

    def decode(self, message: str | bytes) -> Command:
        """Turn what a client sent into a command; `Refused` where it makes no sense. Never raises."""

    def frame_for(self, message: Any) -> bytes:
        """Frame a message of the application for one connection. Raises TypeError or ValueError for a bad one."""

    def event(self, message: Message, channel: Channel | None, kept: Kept | None = None) -> bytes:
        """
        Frame an event for the subscribers of a channel, or for connections (None).

        Args:
            message: The event.
            channel: The channel.
            kept: Where it stands in the channel's history; None where it keeps none.
        """

    def user_event(self, message: Message, user_id: str) -> bytes:
        """Frame an event that was pushed to a user."""

    def client_event(self, message: Message, user_id: str | None, channel: Channel, kept: Kept | None = None) -> bytes:
        """Frame an event of another client; `user_id` is who that is on a presence channel. `kept`: as with `event`."""

    def connected(self, socket_id: str, now: float) -> bytes | None:
        """The first frame, None where the protocol has none."""

    def pong(self, now: float) -> bytes:
        """The answer to Ping."""

    def subscribed(self, channel: Channel, now: float, resumption: Resumption | None = None) -> bytes:
        """The answer to Subscribe; `resumption` on a channel that keeps a history."""

    def unsubscribed(self, name: str) -> bytes | None:
        """The answer to Unsubscribe."""

    def expelled(self, name: str) -> bytes:
        """Tell a subscriber that it may not be on the channel any more, and is not."""

    def member_added(self, channel: Channel, member: Member) -> bytes:
        """Tell the others of a user's first connection on a presence channel."""

    def member_removed(self, channel: Channel, member: Member) -> bytes:
        """Tell the others of a user's last."""

    def subscription_count(self, channel: Channel, count: int) -> bytes:
        """Tell the subscribers how many they are. Empty where the protocol has no such event."""

    def cache_miss(self, channel: Channel) -> bytes | None:
        """Tell who joins a cache channel that nothing is kept for it. None where the protocol has no such event."""

    def subscription_error(self, channel: str, code: int, message: str) -> bytes:
        """The answer to a subscription that is refused."""

    def error(self, code: int, message: str, context: Mapping[str, Any]) -> bytes | None:
        """An error event; `context` may name the channel or the event. None where the protocol has none."""

    def farewell(self, code: int, reason: str) -> bytes | None:
        """What goes before a close frame, None where nothing does."""
