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
    from collections.abc import Callable

    from alphavel.websocket.connections import Connection
    from alphavel.websocket.frames import Deflate
    from alphavel.websocket.transports.reactor import Reactor

_native_socket = get_original("socket", "socket")
_WRITE = 2  # libev's EV_WRITE


class State(enum.Enum):
    """Where a connection is in its life. RFC 6455, section 7."""

    OPEN = "open"
    CLOSING = "closing"  # our close frame is on its way; the application has been told already
    MOVING = "moving"  # another process is about to go on with it
    CLOSED = "closed"  # the descriptor is no longer ours


# In Python before 3.12 a member is looked up in its enum as slowly as a function is called.
OPEN, CLOSING, MOVING, CLOSED = State
_CLOSE = Opcode.CLOSE


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
    parser: Parser | None

    def __init__(self, reactor: Reactor, fd: int, connection: Connection, deflate: Deflate | None = None) -> None:
        self.reactor = reactor
        self.fd = fd
        self.connection = connection
        self.deflate = deflate
        self.parser = _first_parser(reactor, connection, deflate)
        self.outbox = None
        self.outbox_bytes = 0
        self.left_by_peer = False
        self.seen = reactor.heartbeat.tick
        self.due = 0
        self._state = OPEN
        self._finishing = False
        self._write_watcher: Any = None
        connection.transport = self
        reactor.sockets += 1
        reactor.descriptors.enter(self)
        self._set_ready()

    @property
    def is_open(self) -> bool:
        """Whether the application may still send."""
        return self._state is OPEN

    # Reading

    def start(self) -> None:
        """Begin to read."""
        raise NotImplementedError

    def pause(self) -> None:
        """Stop reading, until `resume`."""
        raise NotImplementedError

    def resume(self) -> None:
        """Read again. Does nothing where it reads, or is closed."""
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
                reactor.unfinished.note(self, parser)
        else:
            events = parser.feed(data)
            if parser.idle:
                self.parser = None
            reactor.unfinished.note(self, parser)
        for event in events:
            if isinstance(event, ProtocolError):
                self.give_up(event)
                return
            opcode, payload = event
            if opcode is _CLOSE:
                self._in_turn(partial(self._peer_closed, payload))
                return
            if self._state is not OPEN:
                continue
            if opcode < _CLOSE:
                reactor.receiver.received(self.connection, payload)
            else:
                reactor.receiver.pinged(self.connection, opcode, payload)

    def received_messages(self, messages: list[str | bytes]) -> None:
        """Take messages that came whole, and with nothing before or between them that is for the parser."""
        reactor, connection = self.reactor, self.connection
        self.left_by_peer = False
        self.seen = reactor.heartbeat.tick
        for message in messages:
            if self._state is OPEN:
                reactor.receiver.received(connection, message)

    def give_up(self, error: ProtocolError) -> None:
        """Read no message any more, and close once all that came before has been handled."""
        self._in_turn(partial(self._fail, error))

    def _in_turn(self, action: Callable[[], None]) -> None:
        if self._state is OPEN:
            self.reactor.receiver.in_turn(self.connection, action)
        else:
            action()  # the application has been told already, there is nothing to wait for

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
        if self._state is not OPEN:
            return False
        self.reactor.settle_before(self.connection)
        self.queue(frame if self.deflate is None else self.deflate.compress_frame(frame))
        return self._state is OPEN

    def send_frames(self, frames: list[bytes]) -> bool:
        """Queue several frames, see `send_frame`; they take one place in the outbox."""
        if self._state is not OPEN:
            return False
        self.reactor.settle_before(self.connection)
        deflate = self.deflate
        self.queue(b"".join(frames if deflate is None else map(deflate.compress_frame, frames)))
        return self._state is OPEN

    def queue(self, data: bytes) -> None:
        """Append whole frames to the outbox; they are written at the end of the loop's turn."""
        outbox = self.outbox
        if outbox is None:
            self.outbox = [data]
            self.outbox_bytes = len(data)
            self.reactor.descriptors.ready[self.fd] = 0
            self.reactor.mark_dirty(self)
            return
        outbox.append(data)
        self.outbox_bytes += len(data)
        if self.outbox_bytes > self.reactor.max_outbox:
            if self._write_watcher is None:
                self.flush()  # it has not been tried in this turn
            if self.outbox_bytes > self.reactor.max_outbox and self._state is OPEN:
                self._too_slow()

    def take(self) -> bytes:
        """
        Hand over what waits, for the caller to write at once, together with what others have.

        Returns:
            Empty where nothing does, and where the transport writes by itself.
        """
        outbox = self.outbox
        if not outbox or self._write_watcher is not None:
            return b""
        if self._state is not OPEN:
            self.flush()
            return b""
        self.outbox = None
        self.outbox_bytes = 0
        self._set_ready()
        return outbox[0] if len(outbox) == 1 else b"".join(outbox)

    def flush(self) -> None:
        """Write what waits, as much as the kernel takes; wait for the rest in a write watcher."""
        outbox = self.outbox
        if not outbox or self._state is CLOSED:
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
        self.reactor.descriptors.ready[self.fd] = 0
        self.reactor.progressed()
        if self._write_watcher is None:
            self._write_watcher = self.reactor.loop.io(self.fd, _WRITE)
            self._write_watcher.start(self.flush)
            self.reactor.blocked.add(self)

    def _all_written(self) -> None:
        self.outbox_bytes = 0
        if self._state is OPEN:
            self.outbox = None
            self._set_ready()
        else:
            self.outbox = []
        self._stop_write_watcher()
        if self._finishing:
            self._shut_down(socket.SHUT_WR)

    def _set_ready(self) -> None:
        if self.deflate is None:
            self.reactor.descriptors.ready[self.fd] = self.connection.protocol.number

    # Closing

    def close(self, code: int = CloseCode.NORMAL_CLOSURE, reason: str = "") -> None:
        """Begin the closing handshake. Does nothing where it has begun. RFC 6455, section 7.1.2."""
        frame = close_frame(code, reason)
        if self._state is OPEN:
            farewell = self.connection.protocol.farewell(code, reason)
            if farewell is not None:
                self.send_frame(farewell)
            self.reactor.settle_before(self.connection)
            self._begin_closing(code, reason, frame)

    def abort(self, code: int = CloseCode.ABNORMAL_CLOSURE, reason: str = "") -> None:
        """Let go of the socket now. The one place where a descriptor is given back."""
        if self._state is CLOSED:
            return
        was_open, self._state = self._state is OPEN, CLOSED
        self._stop_write_watcher()
        self.outbox = []  # never None again: nobody may write to a descriptor that is no longer ours
        self.outbox_bytes = 0
        self.reactor.heartbeat.forget(self)
        self._leave()
        if was_open:
            self.reactor.receiver.closed(self.connection, code, reason)

    # Moving to another process

    @property
    def can_move(self) -> bool:
        """Whether another process could go on with it now: its socket is a plain one, and so is its state."""
        return False

    def move(self) -> tuple[bytes, dict[str, Any] | None]:
        """
        Read and write no more, so that another process can. Nothing is closed, and nobody is told.

        Returns:
            What waits to be written, and what of a message has been read (see `Parser.suspended`), None between messages.
        """
        waiting = b"".join(self.outbox or ())
        read = None if self.parser is None or self.parser.idle else self.parser.suspended()
        self._state = MOVING
        self.pause()
        self._stop_write_watcher()
        self.outbox, self.outbox_bytes = [], 0
        self.reactor.heartbeat.forget(self)
        self.reactor.descriptors.ready[self.fd] = 0
        return waiting, read

    def stay(self, waiting: bytes) -> None:
        """Go on after all: no other process has taken it; `waiting`: what `move` returned."""
        self._state = OPEN
        self.outbox = None
        self._set_ready()
        self.go_on(waiting)

    def go_on(self, waiting: bytes, read: dict[str, Any] | None = None) -> None:
        """Begin where `move` has stopped, in whatever process that was; `start` begins to read."""
        if read is not None:
            self.parser = self.reactor.new_parser()
            self.parser.resume(read)
            self.reactor.unfinished.note(self, self.parser)
        if waiting:
            self.queue(waiting)
        self.reactor.heartbeat.watch(self)

    def let_go(self) -> None:
        """Another process has it: close the descriptor here, which ends nothing."""
        self._state = CLOSED
        self._leave()

    def _leave(self) -> None:
        """Leave the reactor's books and give the descriptor back."""
        if self.parser is not None:
            self.reactor.unfinished.forget(self)
            self.parser = None
        self.reactor.sockets -= 1
        self.reactor.descriptors.leave(self)
        self._release()

    def _begin_closing(self, code: int, reason: str, frame: bytes) -> None:
        self._state = CLOSING
        self.reactor.heartbeat.schedule(self, self.reactor.close_timeout)
        if not self.connection.protocol.is_duplex:  # there is no closing handshake: the end of the stream says it
            frame, self._finishing = b"", True
        self.queue(frame)
        self.resume()  # the peer's close frame may stand behind what a paused connection has not read
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
        if self._state is CLOSED:
            return
        self._finishing = True
        if self._state is OPEN:
            self._begin_closing(error.code, error.reason, close_frame(error.code, error.reason))
        self._finish_if_written()

    def _peer_closed(self, close: Close) -> None:
        if self._state is CLOSED:
            return
        self._finishing = True
        if self._state is OPEN:
            echo = close_frame() if close.code == CloseCode.NO_STATUS_RECEIVED else close_frame(close.code)
            self._begin_closing(close.code, close.reason, echo)
        self._finish_if_written()

    def _finish_if_written(self) -> None:
        if not self.outbox:
            self._shut_down(socket.SHUT_WR)

    def _shut_down(self, how: int) -> None:
        # Not close(): what the peer still sends would make the kernel answer with a reset that can overtake our close frame.
        # And not a TLS socket's shutdown(), which takes its state away from under whoever reads or writes.
        native = _native_socket(fileno=self.fd)
        try:
            native.shutdown(how)
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


class _Silence:
    """The parser of a peer that has nothing to say; line breaks are nothing."""

    idle = False
    held = 0

    def feed(self, data: bytes | bytearray | memoryview) -> list[ProtocolError]:
        """Take bytes."""
        said = bytes(data).strip(b"\r\n")
        return [ProtocolError(CloseCode.PROTOCOL_ERROR, "an event stream goes one way")] if said else []

    def suspended(self) -> None:
        """See `Parser.suspended`: it holds nothing."""


_SILENCE = _Silence()


def _first_parser(reactor: Reactor, connection: Connection, deflate: Deflate | None) -> Any:
    if not connection.protocol.is_duplex:
        return _SILENCE
    return None if deflate is None else reactor.new_parser(deflate)


SLOW_CONSUMER = (4200, "slow consumer")
"""Close code and reason of a client that does not read fast enough: Pusher's 4200-4299 mean "reconnect at once"."""
