"""
Connections, and the books of who is connected, subscribed and present.

The books are plain dicts and need no lock: all greenlets of a process share one thread, and no method here switches
(no I/O, no logging, no callback of anybody). A greenlet sees each change whole or not at all.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from alphavel.websocket.channels.audience import Audience
from alphavel.websocket.channels.channel import Channel, Kind, Member
from alphavel.websocket.channels.everywhere import Everywhere
from alphavel.websocket.channels.rules import Rules

if TYPE_CHECKING:
    from alphavel.websocket.apps import App
    from alphavel.websocket.auth.users import User
    from alphavel.websocket.protocols import Protocol
    from alphavel.websocket.transports.base import Transport

_process_part = random.SystemRandom().randrange(1, 10**9)
_connection_part = itertools.count(1)


def new_socket_id() -> str:
    """
    Return a socket id that no other connection has: `process.connection`, both decimal.

    Pusher protocol: a socket id matches `^\\d+\\.\\d+$`. The process part is random, so that workers and restarts differ.
    """
    return f"{_process_part}.{next(_connection_part)}"


def renew_process_part() -> None:
    """Draw a new process part: a forked worker must not go on with its parent's."""
    global _process_part  # noqa: PLW0603 (one number of the process, like its pid)
    _process_part = random.SystemRandom().randrange(1, 10**9)


class Connection:
    """
    One open WebSocket, as the application sees it.

    An idle connection is all slots and shared objects: what it does not use is None.

    Attributes:
        socket_id: Its name, unique in the fleet: `"123.456"`.
        user: Who it is, None when anonymous.
        remote_addr: The client's IP address.
        protocol: What it speaks.
        transport: Its socket; use `send` and `close` instead.
        waiting: Commands that wait for a handler of this connection to end; None when none runs.
    """

    __slots__ = (
        "_channels",
        "_state",
        "protocol",
        "remote_addr",
        "socket_id",
        "transport",
        "user",
        "waiting",
    )

    transport: Transport

    def __init__(self, protocol: Protocol, user: User | None = None, remote_addr: str = "") -> None:
        self.socket_id = new_socket_id()
        self.protocol = protocol
        self.user = user
        self.remote_addr = remote_addr
        self.waiting: list[Any] | None = None  # short: reading pauses where it grows; a deque of one is 600 bytes
        self._channels: tuple[Channel, ...] = ()  # a tuple of one is 56 bytes, a set of one 216
        self._state: dict[str, Any] | None = None

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the channels it is subscribed to, in the order it subscribed."""
        return tuple(channel.name for channel in self._channels)

    @property
    def subscribed(self) -> tuple[Channel, ...]:
        """The channels themselves, in the order it subscribed."""
        return self._channels

    @property
    def app(self) -> App:
        """The app it belongs to."""
        return self.protocol.app

    @property
    def state(self) -> dict[str, Any]:
        """A dict of the application's own, gone with the connection."""
        if self._state is None:
            self._state = {}
        return self._state

    @property
    def has_state(self) -> bool:
        """Whether the application keeps something in `state`."""
        return bool(self._state)

    @property
    def is_open(self) -> bool:
        """Whether events can still be sent to it."""
        return self.transport.is_open

    def send(self, message: dict[str, Any] | str | bytes) -> bool:
        """
        Queue an event for this client alone. Returns at once; never raises for what the peer did.

        Args:
            message: `{"event": …, "data": …}`; on a raw route a `str` (text message) or `bytes` (binary message).

        Returns:
            False where the connection is closed already.

        Raises:
            TypeError, ValueError: The message has not that shape or cannot be turned into JSON.
        """
        transport = self.transport
        return transport.reactor.call(transport.send_frame, self.protocol.frame_for(message))

    def close(self, code: int = 1000, reason: str = "") -> None:
        """
        Close the connection. Does nothing where it is closed already.

        Args:
            code: 1000 to 4999; 4000-4099 tell clients to stay away, 4100-4199 to come back after a second, 4200-4299 at once.
            reason: At most 123 bytes in UTF-8.

        Raises:
            ValueError: The code or the reason cannot stand in a close frame.

        RFC 6455, section 7.
        """
        transport = self.transport
        transport.reactor.call(transport.close, code, reason)

    def __repr__(self) -> str:
        user = f" of user {self.user.id}" if self.user else ""
        return f"<Connection {self.socket_id}{user}, {self.protocol.name}>"


class ConnectionManager:
    """
    Who is connected (`connections`), subscribed (`channels`) and which connections a user has (`users`).

    Attributes:
        connections: Connection by socket id.
        channels: Channel by name; a channel exists while somebody is subscribed.
        users: A user's connections by socket id, by user id.
        watchers: Connections that watch a user, by socket id, by user id; whether somebody of that name exists or not.
        rules: What the configuration says of channels; where it is set anew, that of deltas holds for who joins from then on.
        everywhere: Who is subscribed, present and online on all workers of the server; None where this is the only one.
    """

    def __init__(self) -> None:
        self.connections = Audience()
        self.channels: dict[str, Channel] = {}
        self.users: dict[str, Audience] = {}
        self.watchers: dict[str, Audience] = {}
        self.rules = Rules({})
        self.everywhere: Everywhere | None = None
        self._watching: dict[str, tuple[str, ...]] = {}  # ids of users, by the watcher's socket id

    def add(self, connection: Connection) -> None:
        """Enter a new connection."""
        self.connections[connection.socket_id] = connection
        if connection.user is not None:
            self.users.setdefault(connection.user.id, Audience())[connection.socket_id] = connection

    def sign_in(self, connection: Connection, user: User) -> None:
        """Enter that a connection, which is in the books, belongs to a user. Raises ValueError for one of another user."""
        if connection.user is not None and connection.user.id != user.id:
            raise ValueError(f"{connection!r} cannot become one of user {user.id}.")
        connection.user = user
        self.users.setdefault(user.id, Audience())[connection.socket_id] = connection

    def watch(self, connection: Connection, user_ids: tuple[str, ...]) -> None:
        """Enter which users a connection, which is in the books, watches from now on; ids must not repeat."""
        for user_id in self._watching.pop(connection.socket_id, ()):
            theirs = self.watchers[user_id]
            del theirs[connection.socket_id]
            if not theirs:
                del self.watchers[user_id]
        if user_ids:
            self._watching[connection.socket_id] = user_ids
        for user_id in user_ids:
            self.watchers.setdefault(user_id, Audience())[connection.socket_id] = connection

    def watching(self, connection: Connection) -> tuple[str, ...]:
        """Ids of the users that a connection watches."""
        return self._watching.get(connection.socket_id, ())

    def remove(self, connection: Connection) -> list[tuple[Channel, Member]]:
        """
        Strike a connection from all books. Does nothing for one that is not in them.

        Returns:
            The presence channels its user is no longer on, each with the member that left.
        """
        if self.connections.pop(connection.socket_id, None) is None:
            return []
        left = []
        for channel in connection._channels:
            member = self._leave(connection, channel)
            if member is not None:
                left.append((channel, member))
        connection._channels = ()
        if connection.user is not None:
            theirs = self.users[connection.user.id]
            del theirs[connection.socket_id]
            if not theirs:
                del self.users[connection.user.id]
        self.watch(connection, ())
        return left

    def subscribe(self, connection: Connection, name: str, member: Member | None = None) -> tuple[Channel, Member | None]:
        """
        Put a connection on a channel. The caller has asked who may join.

        Args:
            connection: One that is in the books.
            name: Name of the channel.
            member: On a presence channel, who the connection is there; the books keep it for a user's first connection.

        Returns:
            The channel, and the member that it gained: None on channels without presence and for a user who was there already.
        """
        channel = self.channels.get(name)
        if channel is None:
            channel = self.channels[name] = Channel(name)
            if self.everywhere is not None:
                self.everywhere.seed(channel)
        if connection.socket_id in channel.subscribers:
            return channel, None
        # Nothing switches from here to the end (no I/O, no logging, no callback):
        # no greenlet can see a channel that lists a connection which does not list it.
        channel.subscribers[connection.socket_id] = connection
        connection._channels += (channel,)
        if connection.protocol.takes_deltas:
            self._follow(channel)
        if channel.members is None or channel.member_of is None or member is None:
            return channel, None
        present = channel.members.setdefault(member.id, member)
        present.connections += 1
        channel.member_of[connection.socket_id] = present
        return channel, member if present is member else None

    def unsubscribe(self, connection: Connection, name: str) -> tuple[Channel | None, Member | None]:
        """
        Take a connection off a channel.

        Returns:
            The channel (None where the connection was not on it), and the member it lost: None while the user is still there.
        """
        channel = self.channels.get(name)
        if channel is None or connection.socket_id not in channel.subscribers:
            return None, None
        connection._channels = tuple(other for other in connection._channels if other is not channel)
        return channel, self._leave(connection, channel)

    def is_subscribed(self, connection: Connection, name: str) -> bool:
        """Whether the connection is on the channel."""
        channel = self.channels.get(name)
        return channel is not None and connection.socket_id in channel.subscribers

    # Of all workers, where there are several

    @property
    def total(self) -> int:
        """
        How many connections there are. Exact for this worker; of the others it is what they have told, so that several workers
        can each let somebody in at the same moment, and exceed a limit by that.
        """
        return len(self.connections) + (self.everywhere.elsewhere if self.everywhere is not None else 0)

    def is_online(self, user_id: str) -> bool:
        """Whether a user is connected."""
        return user_id in (self.users if self.everywhere is None else self.everywhere.users)

    def connections_of(self, user_id: str) -> int:
        """How many connections a user has, see `total`; others tell it where `options.max_connections_per_user` is set."""
        here = len(self.users.get(user_id, ()))
        return here if self.everywhere is None else max(here, self.everywhere.connections_of(user_id))

    def names(self) -> list[str]:
        """Names of the channels somebody is subscribed to."""
        return list(self.channels if self.everywhere is None else self.everywhere.counts)

    def count(self, name: str) -> int:
        """How many subscribers a channel has."""
        if self.everywhere is not None:
            return self.everywhere.count(name)
        channel = self.channels.get(name)
        return len(channel.subscribers) if channel else 0

    def member_ids(self, name: str) -> Collection[str]:
        """Ids of the members of a presence channel."""
        if self.everywhere is not None:
            return self.everywhere.members.get(name, {})
        channel = self.channels.get(name)
        return (channel.members or {}) if channel else {}

    def roster(self, name: str) -> list[dict[str, Any]]:
        """Members of a presence channel: `[{"id": "123", "connected_at": 1732291200.5, "info": {...}}]`."""
        if self.everywhere is not None:
            return [member.as_dict() for member in self.everywhere.roster(name)]
        channel = self.channels.get(name)
        return channel.roster() if channel else []

    def stats_of(self, name: str) -> dict[str, Any]:
        """`{"name", "subscribers", "type"}` of a channel, with 0 subscribers for one that nobody is on."""
        if self.everywhere is not None:
            return self.everywhere.stats(name)
        channel = self.channels.get(name)
        return channel.stats() if channel else {"name": name, "subscribers": 0, "type": Kind.of(name).value}

    def _follow(self, channel: Channel) -> None:
        """Have one more subscriber of a channel, who is entered already, follow it by deltas, where there are any."""
        if channel.chain is not None:
            channel.chain.followers += 1
            return
        rules = self.rules.of(channel.name)
        if rules is not None and rules.delta:
            from alphavel.websocket.channels.deltas import Chain

            channel.chain = Chain()
            # Those who came before deltas were configured follow, too: what comes next is sent whole.
            channel.chain.followers = sum(other.protocol.takes_deltas for other in channel.subscribers.values())

    def _leave(self, connection: Connection, channel: Channel) -> Member | None:
        del channel.subscribers[connection.socket_id]
        if not channel.subscribers:
            del self.channels[channel.name]
        if channel.chain is not None and connection.protocol.takes_deltas:
            channel.chain.followers -= 1
            if not channel.chain.followers:
                channel.chain = None
        if channel.members is None or channel.member_of is None:
            return None
        member = channel.member_of.pop(connection.socket_id)
        member.connections -= 1
        if member.connections:
            return None
        del channel.members[member.id]
        return member
