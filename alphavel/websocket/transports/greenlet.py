"""
The greenlet transport: one greenlet blocked in `recv`, for sockets that cannot be parked.

These are TLS sockets ended in this process, and those of servers that keep the socket for themselves, such as
gevent-websocket's handler and gunicorn worker. `run` is called in the greenlet that the server gave the request.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import gevent
from gevent.event import Event

from alphavel.websocket.transports.base import CLOSED, CLOSING, Transport

if TYPE_CHECKING:
    from alphavel.websocket.connections import Connection
    from alphavel.websocket.frames import Deflate
    from alphavel.websocket.transports.reactor import Reactor

_READ_SIZE = 64 * 1024


class GreenletTransport(Transport):
    """A plain socket that belongs to somebody else, who closes it after `run` has returned."""

    __slots__ = ("_readable", "_sock")

    def __init__(self, reactor: Reactor, sock: Any, connection: Connection, deflate: Deflate | None = None) -> None:
        super().__init__(reactor, sock.fileno(), connection, deflate)
        self._sock = sock
        self._readable = Event()

    def start(self) -> None:
        """Let `run` read."""
        self._readable.set()

    resume = start

    def pause(self) -> None:
        """Stop `run` before its next read."""
        self._readable.clear()

    def run(self) -> None:
        """Read until the connection is closed. Blocks the calling greenlet."""
        try:
            while self._state is not CLOSED:
                self._readable.wait()
                data = self._sock.recv(_READ_SIZE)
                if not data:
                    break
                self.reactor.stats.bytes_in += len(data)
                self.received(data)
        except OSError:
            pass  # reset by the peer: the same as its end
        finally:
            self.end_of_stream()

    def _release(self) -> None:
        self._readable.set()
        if self._sock.fileno() >= 0:
            self._shut_down(socket.SHUT_RDWR)  # wakes `run`; its caller closes the socket


class TlsTransport(GreenletTransport):
    """A TLS socket: its records are made by the socket object, so that its outbox is written by a greenlet."""

    __slots__ = ("_writer",)

    outbox: list[bytes]

    def __init__(self, reactor: Reactor, sock: Any, connection: Connection, deflate: Deflate | None = None) -> None:
        super().__init__(reactor, sock, connection, deflate)
        self.outbox = []  # never None: nobody may write to the descriptor directly
        self._writer: gevent.Greenlet | None = None

    def run(self) -> None:
        """Read until the connection is closed. Blocks the calling greenlet."""
        super().run()
        if self._writer is not None:
            self._writer.join()  # the caller closes the socket now, and it may be in the middle of a write

    def _set_ready(self) -> None:
        pass

    def queue(self, data: bytes) -> None:
        """Append whole frames to the outbox."""
        if not self.outbox:
            self.reactor.mark_dirty(self)
        super().queue(data)

    def take(self) -> bytes:
        """Write by itself, and hand over nothing."""
        self.flush()
        return b""

    def flush(self) -> None:
        """Have a greenlet write what waits."""
        if self.outbox and self._writer is None and self._state is not CLOSED:
            self.reactor.blocked.add(self)
            self._writer = gevent.spawn(self._write_all)

    def _write_all(self) -> None:
        try:
            while self.outbox and self._state is not CLOSED:
                data, self.outbox = b"".join(self.outbox), []
                self._sock.sendall(data)  # until the peer has taken it, it counts as waiting
                self.outbox_bytes = max(0, self.outbox_bytes - len(data))
                self.reactor.stats.bytes_out += len(data)
        except OSError:
            self.end_of_stream()
        finally:
            self._writer = None
            self.reactor.unblocked(self)
        if self._finishing and self._state is CLOSING:
            self._shut_down(socket.SHUT_WR)
