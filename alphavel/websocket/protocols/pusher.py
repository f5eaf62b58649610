"""
Pusher protocol, versions 5 to 7: what pusher-js, Laravel Echo and Pusher's other client libraries speak.

Frames hold `event`, `channel` and `data`, which is JSON text inside a text; only client events and errors carry their data
as it is. docs/pusher.md says what is supported and where this differs from other servers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import orjson

from alphavel.websocket.channels import user_channel
from alphavel.websocket.frames import text_frame
from alphavel.websocket.protocols.commands import (
    ClientEvent,
    Command,
    Custom,
    Ping,
    Pong,
    Refused,
    SignIn,
    SubscribeSigned,
    Unsubscribe,
)
from alphavel.websocket.protocols.contract import ErrorCode, Resumption
from alphavel.websocket.protocols.messages import Message

if TYPE_CHECKING:
    from alphavel.websocket.apps import App
    from alphavel.websocket.channels import Channel, Kept, Member
    from alphavel.websocket.stats import Tally

VERSIONS = range(5, 8)
CLIENT_PREFIX = "client-"
_OWN_PREFIXES = ("pusher:", "pusher_internal:")
_LAST_WITH_ERROR_BEFORE_CLOSE = 5


class PusherProtocol:
    """See `contract.Protocol`. One object for each app, and one more for its clients of version 5."""

    name = "pusher"
    number = 2
    has_channels = True
    tally: Tally
    is_duplex = True
    takes_deltas = False

    def __init__(self, app: App, version: int = VERSIONS[-1]) -> None:
        self.app = app
        self.ping = _event("pusher:ping", {})
        self._error_before_close = version <= _LAST_WITH_ERROR_BEFORE_CLOSE

    def decode(self, message: str | bytes) -> Command:
        """Turn a client's text into a command; see `contract.Protocol`."""
        if not isinstance(message, str):
            return Refused(ErrorCode.BAD_MESSAGE, "Expected a text message with a JSON object; got a binary message.")
        try:
            event = orjson.loads(message)
        except ValueError as error:
            return Refused(ErrorCode.BAD_MESSAGE, f"Expected a JSON object: {error}.")
        name = event.get("event") if isinstance(event, dict) else None
        if not isinstance(name, str) or not name:
            return Refused(ErrorCode.BAD_MESSAGE, 'Expected a JSON object such as {"event":"pusher:ping","data":{}}.')
        data = event.get("data")
        if name.startswith(CLIENT_PREFIX):
            return ClientEvent(name, event.get("channel"), data)
        if not name.startswith(_OWN_PREFIXES):
            return Custom(name, data, event.get("channel"))
        read = _COMMANDS.get(name)
        if read is None:
            return Refused(ErrorCode.UNKNOWN_EVENT, f"Clients cannot send the event {name[:100]!r}.")
        return read(_object(data))

    # Events on their way to many

    def event(self, message: Message, channel: Channel | None, kept: Kept | None = None) -> bytes:
        """`{"event":"new-message","channel":"room.1","data":"{…}"}`, where the channel keeps a history with `"serial"`"""
        return _frame(message.json_event, channel.json_name if channel is not None else None, message.json_text, kept)

    def user_event(self, message: Message, user_id: str) -> bytes:
        """`{"event":"notification","channel":"#server-to-user-7","data":"{…}"}`"""
        return _frame(message.json_event, orjson.dumps(user_channel(user_id)), message.json_text)

    def client_event(self, message: Message, user_id: str | None, channel: Channel, kept: Kept | None = None) -> bytes:
        """
        `{"event":"client-typing","channel":"presence-room.1","data":{…},"user_id":"7"}`

        What comes without `client-`, from clients of another protocol, gets it: an event without it is the server's.
        """
        name = message.json_event if message.event.startswith(CLIENT_PREFIX) else orjson.dumps(CLIENT_PREFIX + message.event)
        user = b"" if user_id is None else b',"user_id":' + orjson.dumps(user_id)
        return _frame(name, channel.json_name, message.json_data or b"null", kept, user)

    def expelled(self, name: str) -> bytes:
        """As a subscription that is refused: clients take it for the end of one, too."""
        return self.subscription_error(name, ErrorCode.UNAUTHORIZED, "This channel may not be joined any more.")

    def member_added(self, channel: Channel, member: Member) -> bytes:
        """`{"event":"pusher_internal:member_added","channel":…,"data":"{\\"user_id\\":…,\\"user_info\\":…}"}`"""
        return _event("pusher_internal:member_added", {"user_id": member.id, "user_info": member.info}, channel)

    def member_removed(self, channel: Channel, member: Member) -> bytes:
        """`{"event":"pusher_internal:member_removed","channel":…,"data":"{\\"user_id\\":…}"}`"""
        return _event("pusher_internal:member_removed", {"user_id": member.id}, channel)

    def subscription_count(self, channel: Channel, count: int) -> bytes:
        """`{"event":"pusher_internal:subscription_count","channel":…,"data":"{\\"subscription_count\\":3}"}`"""
        return _event("pusher_internal:subscription_count", {"subscription_count": count}, channel)

    def watchlist(self, states: Mapping[str, list[str]]) -> bytes:
        """`{"event":"pusher_internal:watchlist_events","data":"{\\"events\\":[{\\"name\\":\\"online\\",\\"user_ids\\":[…]}]}"}`"""
        events = [{"name": state, "user_ids": ids} for state, ids in states.items() if ids]
        return _event("pusher_internal:watchlist_events", {"events": events})

    # Answers to one

    def frame_for(self, message: Any) -> bytes:
        """Frame a message for one connection; it may name a channel of its own."""
        channel = message.get("channel") if isinstance(message, Mapping) else None
        checked = Message(message)
        return _frame(checked.json_event, orjson.dumps(channel) if channel is not None else None, checked.json_text)

    def connected(self, socket_id: str, now: float) -> bytes:
        """`{"event":"pusher:connection_established","data":"{\\"socket_id\\":…,\\"activity_timeout\\":120}"}`"""
        data = {"socket_id": socket_id, "activity_timeout": self.app.settings.activity_timeout}
        return _event("pusher:connection_established", data)

    def pong(self, now: float) -> bytes:
        """`{"event":"pusher:pong","data":"{}"}`"""
        return _PONG

    def subscribed(self, channel: Channel, now: float, resumption: Resumption | None = None) -> bytes:
        """
        `{"event":"pusher_internal:subscription_succeeded","channel":…,"data":"{}"}`; the data may hold the members, and for a
        client that asked to recover, which is no part of Pusher's protocol, `"recovered"` and the position.
        """
        data: dict[str, Any] = {}
        if channel.members is not None:
            # Each user once, however many connections; the keys of a JSON object are texts, and so are ids everywhere here.
            members = {member.id: member.info for member in channel.members.values()}
            data = {"presence": {"count": len(members), "ids": list(members), "hash": members}}
        if resumption is not None:
            if resumption.position is not None:
                data.update(resumption.position._asdict())
            if resumption.recovered is not None:
                data["recovered"] = resumption.recovered
        return _event("pusher_internal:subscription_succeeded", data, channel)

    def unsubscribed(self, name: str) -> None:
        """Unsubscribing is not answered."""

    def cache_miss(self, channel: Channel) -> bytes:
        """`{"event":"pusher:cache_miss","channel":"cache-…","data":"{}"}`"""
        return _event("pusher:cache_miss", {}, channel)

    def signed_in(self, user_data: str) -> bytes:
        """`{"event":"pusher:signin_success","data":"{\\"user_data\\":\\"{…}\\"}"}`, the user's data as it came."""
        return _event("pusher:signin_success", {"user_data": user_data})

    def error(self, code: int, message: str, context: Mapping[str, Any]) -> bytes:
        """`{"event":"pusher:error","data":{"code":4301,"message":"…"}}`"""
        return text_frame(orjson.dumps({"event": "pusher:error", "data": {"code": int(code), "message": message}}))

    def subscription_error(self, channel: str, code: int, message: str) -> bytes:
        """`{"event":"pusher:subscription_error","channel":"private-…","data":{"type":"AuthError","error":"…","status":401}}`"""
        kind, status = _SUBSCRIPTION_ERRORS.get(code, ("Error", 500))
        data = {"type": kind, "error": message, "status": status}
        return text_frame(orjson.dumps({"event": "pusher:subscription_error", "channel": channel, "data": data}))

    def farewell(self, code: int, reason: str) -> bytes | None:
        """An error event with the close code, for versions that cannot do with the close frame alone."""
        return self.error(code, reason, {}) if self._error_before_close else None


_COMMANDS: dict[str, Callable[[dict[str, Any]], Command]] = {
    "pusher:ping": lambda data: Ping(),
    "pusher:pong": lambda data: Pong(),
    "pusher:subscribe": lambda data: SubscribeSigned(*map(data.get, SubscribeSigned._fields)),
    "pusher:unsubscribe": lambda data: Unsubscribe(data.get("channel")),
    "pusher:signin": lambda data: SignIn(data.get("auth"), data.get("user_data")),
}

_SUBSCRIPTION_ERRORS: dict[int, tuple[str, int]] = {
    ErrorCode.UNAUTHORIZED: ("AuthError", 401),
    ErrorCode.BAD_MESSAGE: ("BadRequest", 400),
    ErrorCode.TOO_LONG: ("LimitReached", 413),
    ErrorCode.TOO_MANY: ("LimitReached", 429),
    ErrorCode.HANDLER_FAILED: ("ServerError", 500),
}


def _object(data: Any) -> dict[str, Any]:
    """Read the data of a protocol event: an object, or a text that holds one."""
    if isinstance(data, str):
        try:
            data = orjson.loads(data)
        except ValueError:
            return {}
    return data if isinstance(data, dict) else {}


def _event(name: str, data: dict[str, Any], channel: Channel | None = None) -> bytes:
    text = orjson.dumps(data, option=orjson.OPT_NON_STR_KEYS).decode()
    return _frame(orjson.dumps(name), channel.json_name if channel is not None else None, orjson.dumps(text))


def _frame(
    json_event: bytes, json_channel: bytes | None, json_data: bytes, kept: Kept | None = None, more: bytes = b""
) -> bytes:
    # Put together from finished pieces of JSON: the data is encoded once, whoever gets it.
    pieces = [b'{"event":', json_event]
    if json_channel is not None:
        pieces += (b',"channel":', json_channel)
    pieces += (b',"data":', json_data, more, b"}" if kept is None else kept.json_end)
    return text_frame(b"".join(pieces))


_PONG = _event("pusher:pong", {})
