"""
The parked transport: an idle connection is a libev watcher and a few slots; no greenlet, no buffer, no socket object.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gevent.monkey import get_original

from alphavel.websocket.transports.base import CLOSED, OPEN, Transport

if TYPE_CHECKING:
    from alphavel.websocket.connections import Connection
    from alphavel.websocket.frames import Deflate
    from alphavel.websocket.transports.reactor import Reactor

_READ = 1  # libev's EV_READ

# gevent's own leaves the descriptor open until the loop turns again, up to a second later, in case somebody still watches it.
# Here nobody does.
_close = get_original("os", "close")


class ParkedTransport(Transport):
    """A plain TCP or Unix socket that has been detached from whatever accepted it. It owns the descriptor."""

    __slots__ = ("_reader",)

    def __init__(self, reactor: Reactor, fd: int, connection: Connection, deflate: Deflate | None = None) -> None:
        super().__init__(reactor, fd, connection, deflate)
        self._reader = reactor.loop.io(fd, _READ)

    def start(self) -> None:
        """Begin to read."""
        if self._state is not CLOSED:
            self._reader.start(self)  # the object itself: a bound method would be 64 bytes more for each connection

    resume = start

    def pause(self) -> None:
        """Stop reading: the kernel's buffer fills, and then the peer has to wait."""
        self._reader.stop()

    @property
    def can_move(self) -> bool:
        """See `Transport.can_move`. zlib's state cannot be taken along."""
        return self._state is OPEN and self.deflate is None

    def __call__(self) -> None:
        """Read what has come. Called by libev."""
        reactor = self.reactor
        size, messages = reactor.read(self.fd, self.parser is None)
        if size == 0:
            self.end_of_stream()
        elif size > 0:
            reactor.stats.bytes_in += size
            if messages is None:
                self.received(reactor.view[:size])
            else:
                self.received_messages(messages)

    def _release(self) -> None:
        self._reader.stop()
        self._reader.close()
        _close(self.fd)
        self.fd = -1
