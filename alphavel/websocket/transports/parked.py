"""
The parked transport: an idle connection is a libev watcher and a few slots; no greenlet, no buffer, no socket object.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from alphavel.websocket.transports.base import Transport

if TYPE_CHECKING:
    from alphavel.websocket.connections import Connection
    from alphavel.websocket.frames import Deflate
    from alphavel.websocket.transports.reactor import Reactor

_READ = 1  # libev's EV_READ


class ParkedTransport(Transport):
    """A plain TCP or Unix socket that has been detached from whatever accepted it. It owns the descriptor."""

    __slots__ = ("_reader",)

    def __init__(self, reactor: Reactor, fd: int, connection: Connection, deflate: Deflate | None = None) -> None:
        super().__init__(reactor, fd, connection, deflate)
        self._reader = reactor.loop.io(fd, _READ)

    def start(self) -> None:
        """Begin to read."""
        self._reader.start(self)  # the object itself: a bound method would be 64 bytes more for each connection

    resume = start

    def pause(self) -> None:
        """Stop reading: the kernel's buffer fills, and then the peer has to wait."""
        self._reader.stop()

    def __call__(self) -> None:
        """Read what has come. Called by libev."""
        reactor = self.reactor
        try:
            size = os.readv(self.fd, reactor.buffers)
        except BlockingIOError:
            return
        except OSError:
            size = 0
        if size == 0:
            self.end_of_stream()
            return
        reactor.stats.bytes_in += size
        self.received(reactor.view[:size])

    def _release(self) -> None:
        self._reader.stop()
        self._reader.close()
        os.close(self.fd)
        self.fd = -1
