"""
Pushing events to channels, users and everybody, Laravel style:

    WebSocket.to_channel("chat.room.1").except_([socket_id]).push({"event": "new-message", "data": {"text": "hi"}})
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from alphavel.websocket.auth.signatures import is_socket_id
from alphavel.websocket.protocols import Message
from alphavel.websocket.protocols.messages import Delivery

NOBODY: frozenset[str] = frozenset()


class Broadcaster:
    """What can be pushed through: the server for its default app, and each `App` for itself."""

    def to_channel(self, name: str) -> Broadcast:
        """Address the subscribers of a channel. Raises TypeError for what is no text."""
        return Broadcast(self, channels=(_channel(name),))

    def to_channels(self, names: Iterable[str]) -> Broadcast:
        """Address the subscribers of several channels; who is on two of them gets the event twice. Raises TypeError."""
        return Broadcast(self, channels=tuple(map(_channel, _several(names, "to_channels", "to_channel"))))

    def to_user(self, user_id: str | int) -> Broadcast:
        """Address all connections of a user; `to_user(123)` and `to_user("123")` are one. Raises TypeError for None."""
        return Broadcast(self, users=(_user(user_id),))

    def to_users(self, user_ids: Iterable[str | int]) -> Broadcast:
        """Address all connections of several users. Raises TypeError for a text."""
        return Broadcast(self, users=tuple(map(_user, _several(user_ids, "to_users", "to_user"))))

    def to_all(self) -> Broadcast:
        """Address every connection."""
        return Broadcast(self, everybody=True)

    def publish(
        self,
        message: Message,
        channels: Iterable[str] = (),
        users: Iterable[str] = (),
        everybody: bool = False,
        excluded: frozenset[str] = NOBODY,
    ) -> int:
        """
        Queue a message from the application; see `Broadcast.push`, which everybody calls.

        Args:
            message: The event.
            channels: Names of channels; `#server-to-user-7` stands for the user 7.
            users: Ids of users.
            everybody: Whether all connections get it.
            excluded: Socket ids of those who do not.

        Returns:
            How many connections of this process it was queued for.
        """
        raise NotImplementedError

    def requesting_socket_id(self) -> str | None:
        """Socket id that the client named whose HTTP request is being served, None where there is no such."""
        raise NotImplementedError


class Broadcast:
    """
    An event's audience, and the way to reach it. Made by `WebSocketServer.to_channel` and its siblings; each method
    returns a new object, so one can be kept and used again.
    """

    __slots__ = ("_broadcaster", "_channels", "_everybody", "_excluded", "_users")

    def __init__(
        self,
        broadcaster: Broadcaster,
        channels: tuple[str, ...] = (),
        users: tuple[str, ...] = (),
        everybody: bool = False,
        excluded: frozenset[str] = NOBODY,
    ) -> None:
        self._broadcaster = broadcaster
        self._channels = channels
        self._users = users
        self._everybody = everybody
        self._excluded = excluded

    def except_(self, socket_ids: str | Iterable[str]) -> Broadcast:
        """Leave out the connections with these socket ids; unknown ones are ignored, and what can be none."""
        ids = (socket_ids,) if isinstance(socket_ids, str) else socket_ids
        # A page that is not connected yet sends `X-Socket-ID: undefined`, which a server's HTTP API would refuse.
        excluded = self._excluded.union(filter(is_socket_id, ids))
        return Broadcast(self._broadcaster, self._channels, self._users, self._everybody, excluded)

    def to_others(self) -> Broadcast:
        """
        Leave out the connection of the client whose HTTP request is being served: it named its socket id in the
        `X-Socket-ID` header, as Laravel Echo and alphavel.js do. Without that header nobody is left out.
        """
        socket_id = self._broadcaster.requesting_socket_id()
        return self.except_(socket_id) if socket_id else self

    def push(self, message: Mapping[str, Any], ttl: float | None = None, idempotency_key: str | None = None) -> int:
        """
        Queue an event for the audience and return at once; it leaves when the calling greenlet next yields.

        Args:
            message: `{"event": …, "data": …}`. `data` is anything JSON can hold; further members travel along.
            ttl: Seconds after which it is not given any more to those who come back to a channel with history.
            idempotency_key: Names what is published: a second push of the same key within `broadcasting.idempotency_window`
                seconds is dropped, whichever worker it comes from.

        Returns:
            How many connections of this process it was queued for.

        Raises:
            NotRunningError: No server runs in this process.
            TypeError, ValueError: The message has not that shape or cannot be turned into JSON; ttl or key make no sense.
        """
        checked = Message(message)
        if ttl is not None or idempotency_key is not None:
            checked.delivery = Delivery.read(ttl, idempotency_key)
        return self._broadcaster.publish(checked, self._channels, self._users, self._everybody, self._excluded)


def _channel(name: str) -> str:
    if not isinstance(name, str):
        raise TypeError(f"to_channel() takes a channel's name; got {name!r}. For several there is to_channels().")
    return name


def _user(user_id: Any) -> str:
    if user_id is None:
        raise TypeError("to_user() takes a user's id; got None, as of one who is not logged in or not saved yet.")
    return str(user_id)


def _several(given: Iterable[Any], method: str, of_one: str) -> Iterable[Any]:
    if isinstance(given, str):  # or each of its letters would be one
        raise TypeError(f"{method}() takes several; for {given!r} alone there is {of_one}().")
    return given


def run_timer(seconds: float, handler: Callable[[], Any], sleep: Callable[[float], Any], clock: Callable[[], float]) -> None:
    """Call `handler` every `seconds`, by the clock: a slow call delays the next, and does not shift all that follow."""
    due = clock() + seconds
    while True:
        sleep(max(0.0, due - clock()))
        handler()
        due = max(due + seconds, clock())
