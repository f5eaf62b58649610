"""
What a channel is. No I/O and no rules of who may join: see `authorizers`.

Names and kinds are those of Pusher Channels, so that both protocols mean the same channel by the same name.
"""

from __future__ import annotations

import enum
import re
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from alphavel.websocket.connections import Connection

_NAME = re.compile(r"[A-Za-z0-9_\-=@,.;]+")


class Kind(enum.Enum):
    """Kind of a channel, told by its name's prefix."""

    PUBLIC = "public"
    PRIVATE = "private"
    PRESENCE = "presence"

    @classmethod
    def of(cls, name: str) -> Kind:
        """Return the kind of the channel called `name`."""
        if name.startswith("private-"):
            return cls.PRIVATE
        if name.startswith("presence-"):
            return cls.PRESENCE
        return cls.PUBLIC


def name_error(name: object, max_length: int) -> str | None:
    """
    Say what is wrong with a channel's name.

    Returns:
        A sentence, or None where the name is good: a text of 1 to `max_length` characters out of `A-Z a-z 0-9 _ - = @ , . ;`.

    Pusher Channels, "Channel naming conventions".
    """
    if not isinstance(name, str) or not name:
        return "A channel's name is a text of at least one character."
    if len(name) > max_length:
        return f"A channel's name has at most {max_length} characters; this one has {len(name)}."
    if not _NAME.fullmatch(name):
        return "A channel's name is made of letters, digits and _ - = @ , . ; only."
    return None


class Member:
    """
    A user on a presence channel, however many connections the user has there.

    Attributes:
        id: The user's id.
        info: What the authorizer tells of the user, JSON-able.
        connected_at: When the first connection joined, seconds since the epoch.
        connections: How many of the user's connections are on the channel.
    """

    __slots__ = ("connected_at", "connections", "id", "info")

    def __init__(self, user_id: str, info: dict[str, Any], connected_at: float) -> None:
        self.id = user_id
        self.info = info
        self.connected_at = connected_at
        self.connections = 0

    def as_dict(self) -> dict[str, Any]:
        """`{"id": "123", "connected_at": 1732291200.5, "info": {...}}`"""
        return {"id": self.id, "connected_at": self.connected_at, "info": self.info}


class Channel:
    """
    A channel that somebody is subscribed to; one nobody is on does not exist.

    Attributes:
        name: Its name.
        kind: Public, private or presence.
        json_name: The name as JSON text, kept because every event carries it.
        subscribers: Connections by socket id.
        members: Users by id on a presence channel, None on others.
        member_of: The same members by socket id: who a connection is there, which need not be who it is elsewhere.
    """

    __slots__ = ("json_name", "kind", "member_of", "members", "name", "subscribers")

    def __init__(self, name: str) -> None:
        self.name = name
        self.kind = Kind.of(name)
        self.json_name = orjson.dumps(name)
        self.subscribers: dict[str, Connection] = {}
        self.members: dict[str, Member] | None = None
        self.member_of: dict[str, Member] | None = None
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
