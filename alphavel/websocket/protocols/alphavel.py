"""
Alphavel's own protocol, version 1: one JSON object a text message, `{"event": …, "channel": …, "data": …}`.

docs/protocol.md describes it for those who write a client.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import orjson

from alphavel.websocket.frames import Opcode, frame, text_frame
from alphavel.websocket.protocols.commands import (
    Broadcast,
    Command,
    Custom,
    Ping,
    ReadHistory,
    Refresh,
    Refused,
    Subscribe,
    Unsubscribe,
)
from alphavel.websocket.protocols.contract import ErrorCode, Resumption
from alphavel.websocket.protocols.messages import Message

if TYPE_CHECKING:
    from alphavel.websocket.apps import App
    from alphavel.websocket.channels import Channel, Kept, Member
    from alphavel.websocket.stats import Tally


class AlphavelProtocol:
    """See `contract.Protocol`."""

    name = "alphavel"
    number = 1
    has_channels = True
    is_duplex = True
    takes_deltas = False
    ping = frame(Opcode.PING, b"")
    app: App
    tally: Tally

    def __init__(self, app: App | None = None) -> None:
        if app is not None:
            self.app = app

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
        return self._event(Message(message), orjson.dumps(channel) if channel is not None else None)

    def event(self, message: Message, channel: Channel | None, kept: Kept | None = None) -> bytes:
        """`{"event":"new-message","channel":"chat.room.1","data":{…}}`, where the channel keeps a history with `"serial"`"""
        return self._event(message, channel.json_name if channel is not None else None, kept)

    def user_event(self, message: Message, user_id: str) -> bytes:
        """`{"event":"notification","data":{…}}`: who it is for, the connection knows."""
        return self._event(message, None)

    def client_event(
        self, message: Message, user_id: str | None, channel: Channel, kept: Kept | None = None, more: bytes = b""
    ) -> bytes:
        """`{"event":"typing","channel":…,"data":{…}}`, on presence channels with `"user_id"`"""
        user = b"" if user_id is None else b',"user_id":' + orjson.dumps(user_id)
        return self._event(message, channel.json_name, kept, user + more)

    def connected(self, socket_id: str, now: float, **more: Any) -> bytes:
        """`{"event":"connected","socket_id":"123.456","timestamp":1732291200.12}`"""
        return self._frame({"event": "connected", "socket_id": socket_id, "timestamp": now, **more})

    def pong(self, now: float) -> bytes:
        """`{"event":"pong","timestamp":…}`"""
        return self._frame({"event": "pong", "timestamp": now})

    def subscribed(self, channel: Channel, now: float, resumption: Resumption | None = None) -> bytes:
        """
        `{"event":"subscribed","channel":…,"timestamp":…}`, on presence channels with `"data":{"members":[…]}`, where the
        channel keeps a history with `"data":{"epoch":…,"serial":57}`, and with `"recovered"` for who asked.
        """
        event: dict[str, Any] = {"event": "subscribed", "channel": channel.name, "timestamp": now}
        data = self._about(channel)
        if resumption is not None:
            if resumption.position is not None:
                data.update(resumption.position._asdict())
            if resumption.recovered is not None:
                event["recovered"] = resumption.recovered
        return self._frame({**event, "data": data} if data else event)

    def _about(self, channel: Channel) -> dict[str, Any]:
        return {} if channel.members is None else {"members": channel.roster()}

    def history(self, name: str, data: Mapping[str, Any]) -> bytes:
        """`{"event":"history","channel":…,"data":{"epoch":…,"serial":57,"messages":[{"serial":56,"event":…,"data":…}, …]}}`"""
        return self._frame({"event": "history", "channel": name, "data": data})

    def unsubscribed(self, name: str) -> bytes:
        """`{"event":"unsubscribed","channel":…}`"""
        return self._frame({"event": "unsubscribed", "channel": name})

    def expelled(self, name: str) -> bytes:
        """`{"event":"unsubscribed","channel":…,"code":4009,"message":"Unauthorized"}`"""
        return self._frame(
            {"event": "unsubscribed", "channel": name, "code": ErrorCode.UNAUTHORIZED, "message": "Unauthorized"}
        )

    def member_added(self, channel: Channel, member: Member) -> bytes:
        """`{"event":"member_added","channel":…,"data":{"user":{"id":…,"info":…}}}`"""
        return self._member("member_added", channel, member)

    def member_removed(self, channel: Channel, member: Member) -> bytes:
        """`{"event":"member_removed","channel":…,"data":{"user":{"id":…,"info":…}}}`"""
        return self._member("member_removed", channel, member)

    def subscription_count(self, channel: Channel, count: int) -> bytes:
        """There is no such event."""
        return b""

    def cache_miss(self, channel: Channel) -> None:
        """There is no such event."""

    def subscription_error(self, channel: str, code: int, message: str) -> bytes:
        """`{"event":"error","code":4009,"message":"Unauthorized","channel":"private-…"}`"""
        return self.error(code, message, {"channel": channel})

    def refreshed(self, expires_at: float | None) -> bytes:
        """`{"event":"refreshed","data":{"expires_at":1732291200.0}}`"""
        return self._frame({"event": "refreshed", "data": {"expires_at": expires_at}})

    def error(self, code: int, message: str, context: Mapping[str, Any]) -> bytes:
        """`{"event":"error","code":4009,"message":"Unauthorized","channel":"private-…"}`"""
        return self._frame({"event": "error", "code": int(code), "message": message, **context})

    def farewell(self, code: int, reason: str) -> bytes | None:
        """The close frame says it all."""

    def _event(
        self,
        message: Message,
        json_channel: bytes | None,
        kept: Kept | None = None,
        more: bytes = b"",
        data: tuple[bytes, ...] | None = None,
    ) -> bytes:
        # Put together from finished pieces of JSON: the data is encoded once, whoever gets it.
        pieces = [b'{"event":', message.json_event]
        if json_channel is not None:
            pieces += (b',"channel":', json_channel)
        if data is not None:
            pieces += data
        elif message.json_data is not None:
            pieces += (b',"data":', message.json_data)
        pieces += (message.json_rest, more, b"}" if kept is None else kept.json_end)
        return self._framed(b"".join(pieces), kept)

    def _member(self, event: str, channel: Channel, member: Member, **more: Any) -> bytes:
        user = {"id": member.id, "info": member.shown_info}
        return self._frame({"event": event, "channel": channel.name, "data": {"user": user}, **more})

    def _frame(self, event: dict[str, Any]) -> bytes:
        return self._framed(orjson.dumps(event, option=orjson.OPT_NON_STR_KEYS), None)

    def _framed(self, json: bytes, kept: Kept | None) -> bytes:
        return text_frame(json)


_COMMANDS: dict[str, Callable[[dict[str, Any]], Command]] = {
    "ping": lambda data: Ping(),
    "subscribe": lambda data: Subscribe(data.get("channel"), data.get("recover"), data.get("rewind")),
    "unsubscribe": lambda data: Unsubscribe(data.get("channel")),
    "history": lambda data: ReadHistory(data.get("channel"), data.get("limit"), data.get("since")),
    "broadcast": lambda data: Broadcast(data.get("channel"), data.get("message")),
    "refresh": lambda data: Refresh(data.get("token")),
}

RESERVED_EVENTS = frozenset(
    (*_COMMANDS, "connected", "pong", "subscribed", "unsubscribed", "member_added", "member_removed", "refreshed", "error")
)
"""Events that the protocol gives a meaning: clients cannot broadcast them, handlers cannot be registered for them."""
