"""Connections that are written to together: the subscribers of a channel, a user's connections, everybody."""

from __future__ import annotations

from array import array
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from alphavel.websocket.connections import Connection
    from alphavel.websocket.protocols import Protocol


class Row(NamedTuple):
    """
    An audience as fan-out walks it: four bytes for each connection, where the objects would be five cache lines.

    Attributes:
        fds: Their descriptors, a C `int` each. True until the audience changes: then a descriptor may be another connection's.
        size: How many they are.
        protocols: What they speak, and how many of them each.
    """

    fds: bytes
    size: int
    protocols: Counter[Protocol]


class Audience(dict[str, "Connection"]):
    """Connections by socket id. Changed by `[]=`, `del` and `pop` alone: those forget the row."""

    __slots__ = ("_row",)

    def __init__(self) -> None:
        super().__init__()
        self._row: Row | None = None

    def row(self) -> Row:
        """Return those who take part in channels, the same object until something changes."""
        if self._row is None:
            listed = [connection for connection in self.values() if connection.protocol.has_channels]
            fds = array("i", [connection.transport.fd for connection in listed])
            self._row = Row(fds.tobytes(), len(fds), Counter(connection.protocol for connection in listed))
        return self._row

    def __setitem__(self, socket_id: str, connection: Connection) -> None:
        self._row = None
        super().__setitem__(socket_id, connection)

    def __delitem__(self, socket_id: str) -> None:
        self._row = None
        super().__delitem__(socket_id)

    def pop(self, socket_id: str, default: Connection | None = None) -> Connection | None:  # type: ignore[override]
        """Take a connection out; return it, or `default` where it is not there."""
        self._row = None
        return super().pop(socket_id, default)
