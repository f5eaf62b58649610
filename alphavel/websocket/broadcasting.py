"""
Pushing events to channels, users and everybody, Laravel style:

    WebSocket.to_channel("chat.room.1").except_([socket_id]).push({"event": "new-message", "data": {"text": "hi"}})
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from alphavel.websocket.protocols import Message

if TYPE_CHECKING:
    from alphavel.websocket.server import WebSocketServer


class Broadcast:
    """
    An event's audience, and the way to reach it. Made by `WebSocketServer.to_channel` and its siblings; each method
    returns a new object, so one can be kept and used again.
    """

    __slots__ = ("_channels", "_everybody", "_excluded", "_server", "_users")

    def __init__(
        self,
        server: WebSocketServer,
        channels: tuple[str, ...] = (),
        users: tuple[str, ...] = (),
        everybody: bool = False,
        excluded: frozenset[str] = frozenset(),
    ) -> None:
        self._server = server
        self._channels = channels
        self._users = users
        self._everybody = everybody
        self._excluded = excluded

    def except_(self, socket_ids: str | Iterable[str]) -> Broadcast:
        """Leave out the connections with these socket ids; unknown ones are ignored."""
        ids = (socket_ids,) if isinstance(socket_ids, str) else socket_ids
        return Broadcast(self._server, self._channels, self._users, self._everybody, self._excluded.union(ids))

    def to_others(self) -> Broadcast:
        """
        Leave out the connection of the client whose HTTP request is being served: it named its socket id in the
        `X-Socket-ID` header, as Laravel Echo and alphavel.js do. Without that header nobody is left out.
        """
        socket_id = self._server.current_socket_id()
        return self.except_(socket_id) if socket_id else self

    def push(self, message: Mapping[str, Any]) -> int:
        """
        Queue an event for the audience and return at once; it leaves when the calling greenlet next yields.

        Args:
            message: `{"event": …, "data": …}`. `data` is anything JSON can hold; further members travel along.

        Returns:
            How many connections of this process it was queued for.

        Raises:
            NotRunningError: No server runs in this process.
            TypeError, ValueError: The message has not that shape or cannot be turned into JSON.
        """
        return self._server.publish(Message(message), self._channels, self._users, self._everybody, self._excluded)


def run_timer(seconds: float, handler: Callable[[], Any], sleep: Callable[[float], Any], clock: Callable[[], float]) -> None:
    """Call `handler` every `seconds`, by the clock: a slow call delays the next, and does not shift all that follow."""
    due = clock() + seconds
    while True:
        sleep(max(0.0, due - clock()))
        handler()
        due = max(due + seconds, clock())
