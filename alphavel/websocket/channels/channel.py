"""
What a channel is. No I/O and no rules of who may join: see `authorizers`.

Names and kinds are those of Pusher Channels, so that both protocols mean the same channel by the same name.
"""

from __future__ import annotations

import enum
import re
from typing import TYPE_CHECKING, Any

import orjson

from alphavel.websocket.channels.audience import Audience
from alphavel.websocket.compact import compact

if TYPE_CHECKING:
    from alphavel.websocket.channels.deltas import Chain

_NAME = re.compile(r"[A-Za-z0-9_\-=@,.;]+")
_CACHE_PREFIXES = ("cache-", "private-cache-", "private-encrypted-cache-", "presence-cache-")
_USER_PREFIX = "#server-to-user-"

# A name that means something else to every JavaScript client that keeps what it knows in a plain object.
POISON = "__proto__"


class Kind(enum.Enum):
    """Kind of a channel, told by its name's prefix."""

    PUBLIC = "public"
    PRIVATE = "private"
    ENCRYPTED = "private-encrypted"
    PRESENCE = "presence"

    @classmethod
    def of(cls, name: str) -> Kind:
        """Return the kind of the channel called `name`."""
        if name.startswith("private-encrypted-"):  # first: an encrypted channel is no mere private one
            return cls.ENCRYPTED
        if name.startswith("private-"):
            return cls.PRIVATE
        if name.startswith("presence-"):
            return cls.PRESENCE
        return cls.PUBLIC


def is_cached(name: str) -> bool:
    """Whether the last event of the channel called `name` is kept for those who join later."""
    return name.startswith(_CACHE_PREFIXES)


def user_channel(user_id: str) -> str:
    """Return the name by which Pusher clients know what is pushed to a user: `#server-to-user-7`."""
    return _USER_PREFIX + user_id


def user_of(name: str) -> str | None:
    """Return the id of the user that `#server-to-user-7` stands for, None for the name of a channel."""
    return name[len(_USER_PREFIX) :] if name.startswith(_USER_PREFIX) else None


def name_error(name: object, max_length: int, what: str = "A channel's name") -> str | None:
    """
    Say what is wrong with a channel's name, or with what is to be a part of one.

    Args:
        name: Anything.
        max_length: Characters it may have.
        what: What it is, to begin the sentence with.

    Returns:
        A sentence, or None where the name is good: a text of 1 to `max_length` characters out of `A-Z a-z 0-9 _ - = @ , . ;`.

    Pusher Channels, "Channel naming conventions".
    """
    if not isinstance(name, str) or not name:
        return f"{what} is a text of at least one character."
    if len(name) > max_length:
        return f"{what} has at most {max_length} characters; this one has {len(name)}."
    if not _NAME.fullmatch(name):
        return f"{what} is made of letters, digits and _ - = @ , . ; only."
    if name == POISON:
        return f"{what} cannot be {POISON}."
    return None


def info_to_json(info: Any) -> bytes:
    """
    Turn a member's info into JSON.

    Raises:
        TypeError: JSON cannot hold it, or it is nested too deeply to be told to others.
    """
    orjson.dumps([[[[[[[[info]]]]]]]], option=orjson.OPT_NON_STR_KEYS)  # in events it stands some levels below the top
    return orjson.dumps(info, option=orjson.OPT_NON_STR_KEYS)


class Member:
    """
    A user on a presence channel, however many connections the user has there.

    Attributes:
        id: The user's id.
        info: What the authorizer, or the signed channel data, tells of the user, JSON-able; None where nothing is told.
        connected_at: When the first connection joined, seconds since the epoch.
        connections: How many of the user's connections are on the channel.
    """

    __slots__ = ("connected_at", "connections", "id", "info")

    def __init__(self, user_id: str, info: Any, connected_at: float) -> None:
        self.id = user_id
        self.info = info
        self.connected_at = connected_at
        self.connections = 0

    @property
    def shown_info(self) -> Any:
        """The info as Alphavel's own protocol shows it: `{}` where nothing is told."""
        return {} if self.info is None else self.info

    def as_dict(self) -> dict[str, Any]:
        """`{"id": "123", "connected_at": 1732291200.5, "info": {...}}`"""
        return {"id": self.id, "connected_at": self.connected_at, "info": self.shown_info}


class Channel:
    """
    A channel that somebody is subscribed to; one nobody is on does not exist.

    Attributes:
        name: Its name.
        kind: Public, private, encrypted or presence.
        is_cached: Whether its last event is kept for those who join later.
        json_name: The name as JSON text, kept because every event carries it.
        subscribers: Connections by socket id.
        members: Users by id on a presence channel, None on others.
        member_of: The same members by socket id: who a connection is there, which need not be who it is elsewhere.
        chain: The messages that some follow by deltas, None where nobody does.
    """

    __slots__ = ("chain", "is_cached", "json_name", "kind", "member_of", "members", "name", "subscribers")

    def __init__(self, name: str) -> None:
        self.name = name
        self.kind = Kind.of(name)
        self.is_cached = is_cached(name)
        self.json_name = compact(orjson.dumps(name))
        self.subscribers = Audience()
        self.members: dict[str, Member] | None = None
        self.member_of: dict[str, Member] | None = None
        self.chain: Chain | None = None
        if self.kind is Kind.PRESENCE:
            self.members, self.member_of = {}, {}

    def roster(self) -> list[dict[str, Any]]:
        """Members in the order they joined; empty on a channel without presence."""
        return [member.as_dict() for member in (self.members or {}).values()]

    def stats(self) -> dict[str, Any]:
        """`{"name": …, "subscribers": 2, "type": "presence", "members": 1}`; `members` on presence channels only."""
        stats: dict[str, Any] = {"name": self.name, "subscribers": len(self.subscribers), "type": self.kind.value}
        if self.members is not None:
            stats["members"] = len(self.members)
        return stats
