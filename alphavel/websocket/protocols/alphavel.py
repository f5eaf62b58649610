"""
Alphavel's own protocol, version 1: one JSON object a text message, `{"event": …, "channel": …, "data": …}`.

docs/protocol.md describes it for those who write a client.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import orjson

from alphavel.websocket.frames import text_frame
from alphavel.websocket.protocols.commands import Broadcast, Command, Custom, Ping, Refresh, Refused, Subscribe, Unsubscribe
from alphavel.websocket.protocols.contract import ErrorCode
from alphavel.websocket.protocols.messages import Message

if TYPE_CHECKING:
    from alphavel.websocket.channels import Channel, Member


class AlphavelProtocol:
    """See `contract.Protocol`."""

    name = "alphavel"
    has_channels = True

    def decode(self, message: str | bytes) -> Command:
        """Turn a client's text into a command; see `contract.Protocol`."""
        if not isinstance(message, str):
            return Refused(ErrorCode.BAD_MESSAGE, "Expected a text message with a JSON object; got a binary message.")
        try:
            event = orjson.loads(message)
        except ValueError as error:
            return Refused(ErrorCode.BAD_MESSAGE, f"Expected a JSON object: {error}.")
        if not isinstance(event, dict):
            return Refused(ErrorCode.BAD_MESSAGE, 'Expected a JSON object such as {"event":"ping"}.')
        name = event.get("event")
        if not isinstance(name, str) or not name:
            return Refused(ErrorCode.BAD_MESSAGE, 'The object needs an "event" with the name of the event.')
        data = event.get("data")
        read = _COMMANDS.get(name)
        if read is None:
            return Custom(name, data, event.get("channel"))
        return read(data if isinstance(data, dict) else {})

    def frame_for(self, message: Any) -> bytes:
        """Frame a message for one connection; it may name a channel of its own."""
        channel = message.get("channel") if isinstance(message, Mapping) else None
        return _event(Message(message), orjson.dumps(channel) if channel is not None else None)

    def event(self, message: Message, channel: Channel | None) -> bytes:
        """`{"event":"new-message","channel":"chat.room.1","data":{…}}`"""
        return _event(message, channel.json_name if channel is not None else None)

    def connected(self, socket_id: str, now: float) -> bytes:
        """`{"event":"connected","socket_id":"123.456","timestamp":1732291200.12}`"""
        return _frame({"event": "connected", "socket_id": socket_id, "timestamp": now})

    def pong(self, now: float) -> bytes:
        """`{"event":"pong","timestamp":…}`"""
        return _frame({"event": "pong", "timestamp": now})

    def subscribed(self, channel: Channel, now: float) -> bytes:
        """`{"event":"subscribed","channel":…,"timestamp":…}`, on presence channels with `"data":{"members":[…]}`"""
        event: dict[str, Any] = {"event": "subscribed", "channel": channel.name, "timestamp": now}
        if channel.members is not None:
            event["data"] = {"members": channel.roster()}
        return _frame(event)

    def unsubscribed(self, name: str) -> bytes:
        """`{"event":"unsubscribed","channel":…}`"""
        return _frame({"event": "unsubscribed", "channel": name})

    def member_added(self, channel: Channel, member: Member) -> bytes:
        """`{"event":"member_added","channel":…,"data":{"user":{"id":…,"info":…}}}`"""
        return _member("member_added", channel, member)

    def member_removed(self, channel: Channel, member: Member) -> bytes:
        """`{"event":"member_removed","channel":…,"data":{"user":{"id":…,"info":…}}}`"""
        return _member("member_removed", channel, member)

    def refreshed(self, expires_at: float | None) -> bytes:
        """`{"event":"refreshed","data":{"expires_at":1732291200.0}}`"""
        return _frame({"event": "refreshed", "data": {"expires_at": expires_at}})

    def error(self, code: int, message: str, context: Mapping[str, Any]) -> bytes:
        """`{"event":"error","code":4009,"message":"Unauthorized","channel":"private-…"}`"""
        return _frame({"event": "error", "code": int(code), "message": message, **context})


_COMMANDS: dict[str, Callable[[dict[str, Any]], Command]] = {
    "ping": lambda data: Ping(),
    "subscribe": lambda data: Subscribe(data.get("channel")),
    "unsubscribe": lambda data: Unsubscribe(data.get("channel")),
    "broadcast": lambda data: Broadcast(data.get("channel"), data.get("message")),
    "refresh": lambda data: Refresh(data.get("token")),
}

RESERVED_EVENTS = frozenset(
    (*_COMMANDS, "connected", "pong", "subscribed", "unsubscribed", "member_added", "member_removed", "refreshed", "error")
)
"""Events that the protocol gives a meaning: clients cannot broadcast them, handlers cannot be registered for them."""


def _event(message: Message, json_channel: bytes | None) -> bytes:
    # Put together from finished pieces of JSON: the data is encoded once, whoever gets it.
    pieces = [b'{"event":', message.json_event]
    if json_channel is not None:
        pieces += (b',"channel":', json_channel)
    if message.json_data is not None:
        pieces += (b',"data":', message.json_data)
    pieces += (message.json_rest, b"}")
    return text_frame(b"".join(pieces))


def _member(event: str, channel: Channel, member: Member) -> bytes:
    return _frame({"event": event, "channel": channel.name, "data": {"user": {"id": member.id, "info": member.info}}})


def _frame(event: dict[str, Any]) -> bytes:
    return text_frame(orjson.dumps(event, option=orjson.OPT_NON_STR_KEYS))
