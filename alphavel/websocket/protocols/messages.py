"""
An event on its way to many: checked and turned into JSON once, then framed once for each protocol.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from alphavel.websocket.compact import compact

if TYPE_CHECKING:
    from alphavel.websocket.channels import Channel, Kept, Member
    from alphavel.websocket.protocols.contract import Protocol

MAX_TTL_S = 7 * 86400
MAX_KEY = 200
_OPTIONS = orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY


def to_json(value: Any, what: str) -> bytes:
    """
    Turn a value into JSON text, UTF-8.

    Args:
        value: dicts, lists, texts, numbers, bools, None, dates, UUIDs, dataclasses, enums, numpy arrays.
        what: What it is, for the error.

    Raises:
        TypeError: It holds something else.
    """
    try:
        return orjson.dumps(value, option=_OPTIONS)
    except TypeError as error:  # orjson.JSONEncodeError is a TypeError too
        raise TypeError(f"{what} cannot be turned into JSON: {error}") from error


class Delivery(NamedTuple):
    """
    How a message is to be delivered, where it is not as usual.

    Attributes:
        ttl: Seconds after which it is given to nobody any more who was away; None: as long as its channels keep it.
        idempotency_key: A second message of the same app with the same key is dropped; None: there is no key.
    """

    ttl: float | None = None
    idempotency_key: str | None = None

    @classmethod
    def read(cls, ttl: Any, idempotency_key: Any) -> Delivery | None:
        """
        Check what is asked for; None where nothing is.

        Raises:
            ValueError: It makes no sense.
        """
        if ttl is None and idempotency_key is None:
            return None
        if ttl is not None and (not isinstance(ttl, (int, float)) or isinstance(ttl, bool) or not 0 < ttl <= MAX_TTL_S):
            raise ValueError(f"The ttl is a number of seconds up to {MAX_TTL_S}; got {ascii(ttl)[:40]}.")
        if idempotency_key is not None and not _is_key(idempotency_key):
            raise ValueError(f"The idempotency_key is a text of 1 to {MAX_KEY} characters; got {ascii(idempotency_key)[:40]}.")
        # Like what the message holds they are made such that nothing can fail where it is written, which may be much later.
        return cls(None if ttl is None else float(ttl), idempotency_key)


class Message:
    """
    One event. What the caller passed is copied into JSON here: changing it later changes nothing.

    Attributes:
        event: Name of the event.
        json_event: The name as JSON text.
        json_data: The data as JSON text, None where the event has none.
        json_rest: Further members as JSON text that starts with a comma, or empty.
        delivery: How it is to be delivered; None: as usual.
    """

    __slots__ = ("_json_text", "delivery", "event", "json_data", "json_event", "json_rest")

    def __init__(self, message: Mapping[str, Any]) -> None:
        """
        Raises:
            TypeError: Not a mapping, or something in it cannot be turned into JSON.
            ValueError: It has no event name.
        """
        if not isinstance(message, Mapping):
            raise TypeError(
                f'A message is a dict such as {{"event": "new-message", "data": {{...}}}}; got {type(message).__name__}.'
            )
        event = message.get("event")
        if not isinstance(event, str) or not event:
            raise ValueError(f'A message names its event: {{"event": "new-message", "data": {{...}}}}; got event={event!r}.')
        self.event = event
        self.json_event = to_json(event, "The event's name")
        self.delivery: Delivery | None = None
        self._json_text: bytes | None = None
        self.json_data = to_json(message["data"], f"The data of {event!r}") if "data" in message else None
        self.json_rest = b""
        if len(message) > 1 + (self.json_data is not None):
            rest = {key: value for key, value in message.items() if key not in ("event", "channel", "data")}
            if rest:
                self.json_rest = b"," + to_json(rest, f"The message {event!r}")[1:-1]

    @classmethod
    def of_text(cls, event: str, text: str, members: Mapping[str, Any] | None = None) -> Message:
        """
        Make a message of data that is a text, as Pusher's HTTP API takes it: Pusher clients get the very text, others what
        it says where it is JSON.

        Args:
            event: Name of the event.
            text: Its data.
            members: Further members.

        Raises:
            ValueError: There is no event name.
        """
        message = cls({**(members or {}), "event": event, "data": None})
        message._json_text = orjson.dumps(text)
        message.json_data = text.encode() if _is_json(text) else message._json_text
        return message

    @property
    def json_text(self) -> bytes:
        """The data as Pusher clients get it: JSON of a text that holds JSON. Made once, however many channels it goes to."""
        if self._json_text is None:
            self._json_text = compact(orjson.dumps((self.json_data or b"{}").decode()))  # a history may keep the message
        return self._json_text

    @property
    def text(self) -> str:
        """The data as a text, `{}` where there is none."""
        text: str = orjson.loads(self.json_text)
        return text

    def compact(self) -> None:
        """
        Take no more memory than it must, before it is kept.
        """
        self.json_event, self.json_rest = compact(self.json_event), compact(self.json_rest)
        if self.json_data is not None:
            self.json_data = compact(self.json_data)
        if self._json_text is not None:
            self._json_text = compact(self._json_text)

    def written(self) -> bytes:
        """Return the JSON that another process can make it of again, see `of_content`."""
        if self.json_data is not None and not (self._json_text or self.delivery or self.json_rest):
            return b'{"event":%b,"data":%b}' % (self.json_event, self.json_data)  # nearly every push
        parts = [b'{"event":', self.json_event]
        if self.json_data is not None:
            # Where the text is known it says all: the data is what it holds.
            text = self._json_text
            parts += (b',"data":', self.json_data) if text is None else (b',"text":', text)
        if self.json_rest:
            parts += (b',"members":{', self.json_rest[1:], b"}")
        if self.delivery is not None:
            parts += (b',"delivery":', orjson.dumps(list(self.delivery)))
        parts.append(b"}")
        return b"".join(parts)

    def as_content(self) -> orjson.Fragment:
        """Return what was `written`, as a part of what `orjson.dumps` takes."""
        return orjson.Fragment(self.written())

    @classmethod
    def of_content(cls, content: Any) -> Message:
        """
        Make it again.

        Raises:
            TypeError, ValueError: It was not `written`.
        """
        if not isinstance(content, dict) or not isinstance(content.get("members", {}), dict):
            raise TypeError("Expected a message.")
        members = content.get("members", {})
        if "text" in content:
            if not isinstance(content["text"], str):
                raise TypeError("Expected a message whose text is one.")
            message = cls.of_text(content["event"], content["text"], members)
        else:
            data = {"data": content["data"]} if "data" in content else {}
            message = cls({**members, "event": content.get("event"), **data})
        if "delivery" in content:
            message.delivery = Delivery.read(*content["delivery"])
        return message

    @property
    def size(self) -> int:
        """Bytes it takes on the wire, roughly."""
        return 64 + len(self.json_data or b"") + len(self.json_rest)

    def frame(self, protocol: Protocol, channel: Channel | None, kept: Kept | None = None) -> bytes:
        """Frame it for the subscribers of a channel who speak `protocol`; `kept`: see `Protocol.event`."""
        return protocol.event(self, channel, kept)


def _is_key(value: Any) -> bool:
    if not isinstance(value, str) or not 0 < len(value) <= MAX_KEY:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    return True


def _is_json(text: str) -> bool:
    try:
        orjson.loads(text)
    except ValueError:
        return False
    return True


class ToUser:
    """A message on its way to all connections of one user; stands in a batch like a message."""

    __slots__ = ("_message", "_user_id")

    def __init__(self, message: Message, user_id: str) -> None:
        self._message = message
        self._user_id = user_id

    @property
    def size(self) -> int:
        """Bytes it takes on the wire, roughly."""
        return self._message.size

    def frame(self, protocol: Protocol, channel: Channel | None) -> bytes:
        """Frame it for the user's connections that speak `protocol`."""
        return protocol.user_event(self._message, self._user_id)


class FromClient:
    """
    An event of a client on its way to the others on a channel; stands in a batch like a message.

    Attributes:
        message: The event.
        user_id: Who the client is on a presence channel, None on others.
    """

    __slots__ = ("message", "user_id")

    def __init__(self, message: Message, user_id: str | None) -> None:
        self.message = message
        self.user_id = user_id

    @property
    def size(self) -> int:
        """Bytes it takes on the wire, roughly."""
        return self.message.size

    def compact(self) -> None:
        """See `Message.compact`."""
        self.message.compact()

    def frame(self, protocol: Protocol, channel: Channel | None, kept: Kept | None = None) -> bytes:
        """Frame it for the subscribers of the channel who speak `protocol`; `kept`: see `Protocol.event`."""
        assert channel is not None
        return protocol.client_event(self.message, self.user_id, channel, kept)


class SubscriptionCount:
    """How many subscribers a channel has, on its way to them; stands in a batch like a message."""

    __slots__ = ("_count",)

    size = 128

    def __init__(self, count: int) -> None:
        self._count = count

    def frame(self, protocol: Protocol, channel: Channel | None) -> bytes:
        """Frame it for the subscribers of the channel who speak `protocol`."""
        assert channel is not None
        return protocol.subscription_count(channel, self._count)


class WatchlistChange:
    """A user who came online or went offline, on the way to those who watch; stands in a batch like a message."""

    __slots__ = ("_state", "_user_id")

    size = 128

    def __init__(self, state: str, user_id: str) -> None:
        self._state = state
        self._user_id = user_id

    def frame(self, protocol: Protocol, channel: Channel | None) -> bytes:
        """Frame it for the watchers, all of whom speak a protocol with watchlists."""
        return protocol.watchlist({self._state: [self._user_id]})  # type: ignore[attr-defined, no-any-return]


class PresenceChange:
    """A member that came or went, on its way to the others; stands in a batch like a message."""

    __slots__ = ("_change", "_member")

    size = 128

    def __init__(self, change: str, member: Member) -> None:
        self._change = change
        self._member = member

    def frame(self, protocol: Protocol, channel: Channel | None) -> bytes:
        """Frame it for the subscribers of the channel who speak `protocol`."""
        assert channel is not None
        encode = protocol.member_added if self._change == "member_added" else protocol.member_removed
        return encode(channel, self._member)
