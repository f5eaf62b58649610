"""What the rest of the server asks of a protocol."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from typing import Protocol as Contract

if TYPE_CHECKING:
    from alphavel.websocket.channels import Channel, Member
    from alphavel.websocket.protocols.commands import Command
    from alphavel.websocket.protocols.messages import Message


class ErrorCode(enum.IntEnum):
    """Codes of error events: 4000 and the HTTP status that says the same, but for Pusher's 4009 and 4301."""

    UNAUTHORIZED = 4009
    CLIENT_EVENT_REJECTED = 4301
    BAD_MESSAGE = 4400
    FORBIDDEN = 4403
    UNKNOWN_EVENT = 4404
    TOO_LONG = 4413
    TOO_MANY = 4429
    HANDLER_FAILED = 4500


class Protocol(Contract):
    """
    One wire protocol. All of its frames are complete server frames, RFC 6455, ready to be written.

    Attributes:
        name: `alphavel`, `raw`, …
        has_channels: Whether its connections take part in channels, pushes to users and pushes to all.
    """

    name: str
    has_channels: bool

    def decode(self, message: str | bytes) -> Command:
        """Turn what a client sent into a command; `Refused` where it makes no sense. Never raises."""

    def frame_for(self, message: Any) -> bytes:
        """Frame a message of the application for one connection. Raises TypeError or ValueError for a bad one."""

    def event(self, message: Message, channel: Channel | None) -> bytes:
        """Frame an event for the subscribers of a channel, or for connections (None)."""

    def connected(self, socket_id: str, now: float) -> bytes | None:
        """The first frame, None where the protocol has none."""

    def pong(self, now: float) -> bytes:
        """The answer to Ping."""

    def subscribed(self, channel: Channel, now: float) -> bytes:
        """The answer to Subscribe."""

    def unsubscribed(self, name: str) -> bytes | None:
        """The answer to Unsubscribe."""

    def member_added(self, channel: Channel, member: Member) -> bytes:
        """Tell the others of a user's first connection on a presence channel."""

    def member_removed(self, channel: Channel, member: Member) -> bytes:
        """Tell the others of a user's last."""

    def refreshed(self, expires_at: float | None) -> bytes:
        """The answer to Refresh."""

    def error(self, code: int, message: str, context: Mapping[str, Any]) -> bytes | None:
        """An error event; `context` may name the channel or the event. None where the protocol has none."""
