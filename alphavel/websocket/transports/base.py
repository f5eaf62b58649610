"""
One socket after its handshake: bytes in to the parser, frames out through a bounded outbox, and one way to close.

Everything here runs in the hub or in a greenlet and never switches: reads and writes do not block.
"""

from __future__ import annotations

import enum
import os
import socket
from functools import partial
from typing import TYPE_CHECKING, Any

from gevent.monkey import get_original

from alphavel.websocket.frames import Close, CloseCode, Opcode, Parser, ProtocolError, close_frame

if TYPE_CHECKING:
    from alphavel.websocket.connections import Connection
    from alphavel.websocket.frames import Deflate
    from alphavel.websocket.transports.reactor import Reactor

_native_socket = get_original("socket", "socket")
_WRITE = 2  # libev's EV_WRITE


class State(enum.Enum):
    """Where a connection is in its life. RFC 6455, section 7."""

    OPEN = "open"
    CLOSING = "closing"  # our close frame is on its way; the application has been told already
    CLOSED = "closed"  # the descriptor is no longer ours


class Transport:
    """
    Writing and closing, the same for all transports; a subclass brings the reading.

    Attributes:
        fd: File descriptor, non-blocking.
        connection: The connection it carries.
        parser: A parser with something in it; None between messages, when the reactor's shared one serves.
        deflate: permessage-deflate as agreed in the handshake, or None.
        outbox: Frames that wait. None: nothing does, it is open, and its descriptor may be written to directly.
        outbox_bytes: Size of the outbox.
        left_by_peer: Whether the peer went away by itself: what it had sent before still counts.
        seen: The reactor's tick when something was last received.
        due: The tick at which the heartbeat looks at it.
    """

    __slots__ = (
        "_finishing",
        "_state",
        "_write_watcher",
        "connection",
        "deflate",
        "due",
        "fd",
        "left_by_peer",
        "outbox",
        "outbox_bytes",
        "parser",
        "reactor",
        "seen",
    )

    outbox: list[bytes] | None

    def __init__(self, reactor: Reactor, fd: int, connection: Connection, deflate: Deflate | None = None) -> None:
        self.reactor = reactor
        self.fd = fd
        self.connection = connection
        self.deflate = deflate
        self.parser: Parser | None = None if deflate is None else reactor.new_parser(deflate)
        self.outbox = None
        self.outbox_bytes = 0
        self.left_by_peer = False
        self.seen = reactor.heartbeat.tick
        self.due = 0
        self._state = State.OPEN
        self._finishing = False
        self._write_watcher: Any = None
        connection.transport = self
        reactor.sockets += 1

    @property
    def is_open(self) -> bool:
        """Whether the application may still send."""
        return self._state is State.OPEN

    # Reading

    def start(self) -> None:
        """Begin to read."""
        raise NotImplementedError

    def pause(self) -> None:
        """Stop reading, until `resume`."""
        raise NotImplementedError

    def resume(self) -> None:
        """Read again."""
        raise NotImplementedError

    def received(self, data: bytes | bytearray | memoryview) -> None:
        """Take bytes from the peer. `data` may be a view of a buffer that is reused afterwards."""
        reactor = self.reactor
        self.left_by_peer = False
        self.seen = reactor.heartbeat.tick
        parser = self.parser
        if parser is None:
            parser = reactor.parser
            events = parser.feed(data)
            if not parser.idle:  # it holds a part of a message now: it is this connection's until that is whole
                self.parser = parser
                reactor.parser = reactor.new_parser()
        else:
            events = parser.feed(data)
            if parser.idle:
                self.parser = None
        for event in events:
            if isinstance(event, ProtocolError):
                reactor.receiver.in_turn(self.connection, partial(self._fail, event))
                return
            opcode, payload = event
            if opcode is Opcode.CLOSE:
                reactor.receiver.in_turn(self.connection, partial(self._peer_closed, payload))
                return
            if self._state is State.OPEN:
                reactor.receiver.received(self.connection, opcode, payload)

    def end_of_stream(self) -> None:
        """The peer is gone, with or without a closing handshake."""
        self.left_by_peer = True
        self.abort(CloseCode.ABNORMAL_CLOSURE, "connection lost")

    # Writing

    def send_frame(self, frame: bytes) -> bool:
        """
        Queue one complete frame for this connection, after all that was queued for it before.

        Returns:
            False where the connection is closed or closing.
        """
        if self._state is not State.OPEN:
            return False
        self.reactor.settle_before(self.connection)
        self.queue(frame if self.deflate is None else self.deflate.compress_frame(frame))
        return self._state is State.OPEN

    def queue(self, data: bytes) -> None:
        """Append whole frames to the outbox; they are written at the end of the loop's turn."""
        outbox = self.outbox
        if outbox is None:
            self.outbox = [data]
            self.outbox_bytes = len(data)
            self.reactor.mark_dirty(self)
            return
        outbox.append(data)
        self.outbox_bytes += len(data)
        if self.outbox_bytes > self.reactor.max_outbox:
            if self._write_watcher is None:
                self.flush()  # it has not been tried in this turn
            if self.outbox_bytes > self.reactor.max_outbox and self._state is State.OPEN:
                self._too_slow()

    def flush(self) -> None:
        """Write what waits, as much as the kernel takes; wait for the rest in a write watcher."""
        outbox = self.outbox
        if not outbox or self._state is State.CLOSED:
            return
        data = outbox[0] if len(outbox) == 1 else b"".join(outbox)
        try:
            written = os.write(self.fd, data)
        except BlockingIOError:
            written = 0
        except OSError:
            self.end_of_stream()
            return
        self.reactor.stats.bytes_out += written
        if written == len(data):
            self._all_written()
        else:
            self.keep(data[written:])

    def keep(self, rest: bytes) -> None:
        """Hold what the kernel did not take, until it takes more."""
        self.outbox = [rest]
        self.outbox_bytes = len(rest)
        self.reactor.progressed()
        if self._write_watcher is None:
            self._write_watcher = self.reactor.loop.io(self.fd, _WRITE)
            self._write_watcher.start(self.flush)
            self.reactor.blocked.add(self)

    def _all_written(self) -> None:
        self.outbox = None if self._state is State.OPEN else []
        self.outbox_bytes = 0
        self._stop_write_watcher()
        if self._finishing:
            self._shut_down_writing()

    # Closing

    def close(self, code: int = CloseCode.NORMAL_CLOSURE, reason: str = "") -> None:
        """Begin the closing handshake. Does nothing where it has begun. RFC 6455, section 7.1.2."""
        frame = close_frame(code, reason)
        if self._state is State.OPEN:
            self.reactor.settle_before(self.connection)
            self._begin_closing(code, reason, frame)

    def abort(self, code: int = CloseCode.ABNORMAL_CLOSURE, reason: str = "") -> None:
        """Let go of the socket now. The one place where a descriptor is given back."""
        if self._state is State.CLOSED:
            return
        was_open, self._state = self._state is State.OPEN, State.CLOSED
        self._stop_write_watcher()
        self.outbox = []  # never None again: nobody may write to a descriptor that is no longer ours
        self.outbox_bytes = 0
        self.parser = None
        self.reactor.heartbeat.forget(self)
        self.reactor.sockets -= 1
        self._release()
        if was_open:
            self.reactor.receiver.closed(self.connection, code, reason)

    def _begin_closing(self, code: int, reason: str, frame: bytes) -> None:
        self._state = State.CLOSING
        self.reactor.heartbeat.schedule(self, self.reactor.close_timeout)
        self.queue(frame)
        self.reactor.receiver.closed(self.connection, code, reason)

    def _too_slow(self) -> None:
        waiting = self.outbox_bytes
        assert self.outbox is not None
        # A frame that the kernel took half of must be ended, or the close frame would be read as its payload.
        del self.outbox[1:]
        self.outbox_bytes = sum(map(len, self.outbox))
        self._finishing = True
        self.reactor.receiver.too_slow(self.connection, waiting)
        self._begin_closing(*SLOW_CONSUMER, close_frame(*SLOW_CONSUMER))

    def _fail(self, error: ProtocolError) -> None:
        if self._state is State.CLOSED:
            return
        self._finishing = True
        if self._state is State.OPEN:
            self._begin_closing(error.code, error.reason, close_frame(error.code, error.reason))
        self._finish_if_written()

    def _peer_closed(self, close: Close) -> None:
        if self._state is State.CLOSED:
            return
        self._finishing = True
        if self._state is State.OPEN:
            echo = close_frame() if close.code == CloseCode.NO_STATUS_RECEIVED else close_frame(close.code)
            self._begin_closing(close.code, close.reason, echo)
        self._finish_if_written()

    def _finish_if_written(self) -> None:
        if not self.outbox:
            self._shut_down_writing()

    def _shut_down_writing(self) -> None:
        # Not close(): what the peer still sends would make the kernel answer with a reset that can overtake our close frame.
        native = _native_socket(fileno=self.fd)
        try:
            native.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # gone already: reading says so
        finally:
            native.detach()

    def _stop_write_watcher(self) -> None:
        if self._write_watcher is not None:
            self._write_watcher.stop()
            self._write_watcher.close()
            self._write_watcher = None
            self.reactor.unblocked(self)

    def _release(self) -> None:
        """Stop reading and give the descriptor back."""
        raise NotImplementedError


SLOW_CONSUMER = (4200, "slow consumer")
"""Close code and reason of a client that does not read fast enough: Pusher's 4200-4299 mean "reconnect at once"."""
