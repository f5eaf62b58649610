"""
What all transports of a process share: the loop, the read buffer, and what waits to be written.

Pushes do not write. They leave a batch (for the subscribers of a channel) or an entry in an outbox (for one
connection), and one callback of the loop writes it all when the turn ends: frames that came together leave in one
system call. The callback works in slices, so that however many there are to write to, other greenlets get their turn.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import gevent
from gevent.event import Event
from gevent.monkey import get_original

from alphavel.websocket.frames import Opcode, Parser
from alphavel.websocket.heartbeat import Heartbeat
from alphavel.websocket.transports.batch import BYTES_AT_ONCE, Batch
from alphavel.websocket.transports.descriptors import Descriptors
from alphavel.websocket.transports.reading import new_read
from alphavel.websocket.transports.unfinished import Unfinished
from alphavel.websocket.transports.writing import open_writer

if TYPE_CHECKING:
    from alphavel.websocket.channels import Channel
    from alphavel.websocket.channels.audience import Audience
    from alphavel.websocket.connections import Connection
    from alphavel.websocket.frames import Deflate
    from alphavel.websocket.protocols import Message
    from alphavel.websocket.settings import WebSocketSettings
    from alphavel.websocket.stats import Counters
    from alphavel.websocket.transports.base import Transport

T = TypeVar("T")

# Those of the operating system's threads, whatever is monkey-patched.
_thread_id = get_original("_thread", "get_ident")
_new_lock = get_original("_thread", "allocate_lock")

_READ_BUFFER = 64 * 1024


class Receiver(Protocol):
    """Who is told what happens on the sockets. Called in the hub: nothing here may block or switch."""

    def received(self, connection: Connection, message: str | bytes) -> None:
        """A whole message has come: a text, or a binary one."""

    def pinged(self, connection: Connection, opcode: Opcode, payload: bytes) -> None:
        """A ping or a pong has come."""

    def in_turn(self, connection: Connection, action: Callable[[], None]) -> None:
        """Call `action`, which begins to close the connection, once all that came before has been handled."""

    def closed(self, connection: Connection, code: int, reason: str) -> None:
        """The connection has ended or begun to close. Called once for each."""

    def too_slow(self, connection: Connection, waiting: int) -> None:
        """It is about to be closed because `waiting` bytes are more than an outbox holds."""


class Reactor:
    """
    The sockets of one process, on the hub of the greenlet that makes it.

    Attributes:
        sockets: How many transports hold a descriptor, closing ones included.
        blocked: Transports whose peers take no more at the moment.
        unfinished: Messages that have begun.
        descriptors: What fan-out asks of every socket.
        read: How bytes get out of the sockets and into `view`, see `reading.Read`.
        writer: How frames get into the sockets.
        parser: The parser of all connections that are between two messages.
    """

    def __init__(self, settings: WebSocketSettings, receiver: Receiver, stats: Counters) -> None:
        self.loop = gevent.get_hub().loop
        self._thread = _thread_id()
        self.receiver = receiver
        self.stats = stats
        self.sockets = 0
        self.blocked: set[Transport] = set()
        self.descriptors = Descriptors()
        self.heartbeat = Heartbeat(self.loop)
        self.unfinished = Unfinished(settings.options.max_unfinished_messages)
        self._buffer = bytearray(_READ_BUFFER)
        self.view = memoryview(self._buffer)
        self._dirty: deque[Transport] = deque()
        self._batches: deque[Batch] = deque()
        # A timer of no time and not loop.run_callback: callbacks may run a thousand times before the loop looks at its sockets.
        self._timer = self.loop.timer(0.0)
        self._flushed = Event()
        self.writer = open_writer(settings.broadcasting.writer)
        self.configure(settings)

    def configure(self, settings: WebSocketSettings) -> None:
        """Take the settings, at the start and whenever they are read anew."""
        self.max_outbox = settings.options.max_outbox
        self.close_timeout = settings.options.close_timeout
        self.unfinished.limit = settings.options.max_unfinished_messages
        self._max_message_size = settings.options.max_message_size
        self._max_batch = settings.broadcasting.max_batch
        self._slice = settings.broadcasting.slice
        self.parser = self.new_parser()
        self.read = new_read(self._buffer, self._max_message_size)
        self.heartbeat.configure(settings.options)

    def new_parser(self, deflate: Deflate | None = None) -> Parser:
        """Return a parser for one connection."""
        return Parser(self._max_message_size, deflate)

    def call(self, function: Callable[..., T], *arguments: Any) -> T:
        """
        Call a function that does not switch, from whatever thread this is: in the reactor's own at once, in another
        one by handing it to the loop and waiting for the answer.

        Raises:
            Whatever the function raises.
        """
        if _thread_id() == self._thread:
            return function(*arguments)
        result: T = _HandedOver(function, arguments).run_in(self.loop)
        return result

    # Writing

    def publish(self, message: Message, subscribers: Audience, channel: Channel | None, excluded: frozenset[str]) -> None:
        """
        Queue a message for many connections.

        Args:
            message: What to send.
            subscribers: Connections by socket id. Read when the turn ends; `settle` before changing it.
            channel: The channel it goes to, None for none.
            excluded: Socket ids of those who do not get it.
        """
        batches = self._batches
        batch = batches[-1] if batches else None
        if batch is None or not batch.takes(subscribers, excluded):
            batch = Batch(self, subscribers, channel, excluded)
            batches.append(batch)
            self._schedule()
        batch.add(message)
        if batch.size > self._max_batch:
            self.flush(within=None)

    def mark_dirty(self, transport: Transport) -> None:
        """Note that a transport has something to write."""
        self._dirty.append(transport)
        self._schedule()

    def settle(self, subscribers: Mapping[str, Connection]) -> None:
        """Give what is queued for these subscribers to those who are among them now: the mapping is about to change."""
        if any(batch.subscribers is subscribers for batch in self._batches):
            self._settle()

    def settle_before(self, connection: Connection) -> None:
        """Keep the order: what was pushed to the connection's channels goes before what it is sent now."""
        for batch in self._batches:
            if connection.socket_id in batch.subscribers:
                self._settle()
                return

    def flush(self, within: float | None) -> None:
        """
        Write what waits.

        Args:
            within: Seconds after which to leave the rest to the loop's next turn; None: write all.
        """
        deadline = None if within is None else time.perf_counter() + within
        batches, dirty = self._batches, self._dirty
        while batches:
            batch = batches[0]
            if not batch.write(deadline):
                self._schedule()
                return
            if batches and batches[0] is batch:
                batches.popleft()
        while dirty:
            self._flush_some()
            if deadline is not None and time.perf_counter() > deadline:
                break
        if dirty or batches:
            self._schedule()
        else:
            self._flushed.set()

    def written(self, size: int, rest: list[tuple[int, bytes, int]]) -> None:
        """
        Take note of what the writer did.

        Args:
            size: Bytes that went out.
            rest: Descriptor, frame, and how much of it went out or minus an error's number, where it did not go out whole.
        """
        self.stats.bytes_out += size
        gone = []
        for fd, frame, result in rest:
            transport = self.descriptors.transports[fd]
            assert transport is not None
            if result < 0:
                gone.append(transport)
            else:
                transport.keep(frame[result:])
        for transport in gone:  # last: who is told may push, and what did not go out now goes before that
            transport.end_of_stream()

    def drain(self, below: int, timeout: float | None) -> bool:
        """
        Wait until no outbox holds more than `below` bytes. Blocks the calling greenlet.

        Returns:
            False where `timeout` seconds went by first.
        """
        with gevent.Timeout(timeout, False):
            while self._batches or self._dirty or any(transport.outbox_bytes > below for transport in self.blocked):
                self._flushed.clear()
                self._flushed.wait()
            return True
        return False

    def progressed(self) -> None:
        """Some outbox became smaller."""
        self._flushed.set()

    def unblocked(self, transport: Transport) -> None:
        """A peer takes data again, or is gone."""
        self.blocked.discard(transport)
        self._flushed.set()

    def _flush_some(self) -> None:
        dirty, at_once, size = self._dirty, self.writer.at_once, 0
        fds: list[int] = []
        frames: list[bytes] = []
        while dirty and len(fds) < at_once and size < BYTES_AT_ONCE:
            transport = dirty.popleft()
            data = transport.take()
            if data:
                fds.append(transport.fd)
                frames.append(data)
                size += len(data)
        written, rest = self.writer.write(fds, frames)
        self.written(written, [(fds[position], frames[position], result) for position, result in rest])

    def _settle(self) -> None:
        batches = self._batches
        while batches:
            batches.popleft().queue()

    def _schedule(self) -> None:
        if not self._timer.active:
            self._timer.start(self._turn_ended, update=False)

    def _turn_ended(self) -> None:
        self.flush(within=self._slice)

    def stop(self) -> None:
        """Stop the timers and give back the writer. Transports are closed by then."""
        self.writer.close()
        self._timer.stop()
        self.heartbeat.stop()


class _HandedOver:
    """A call from another thread, and its result."""

    def __init__(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        self._function = function
        self._arguments = arguments
        self._done = _new_lock()
        self._result: Any = None
        self._error: BaseException | None = None

    def run_in(self, loop: Any) -> Any:
        self._done.acquire()
        loop.run_callback_threadsafe(self._run)
        self._done.acquire()  # the thread waits here, until the loop has released it
        if self._error is not None:
            raise self._error
        return self._result

    def _run(self) -> None:
        try:
            self._result = self._function(*self._arguments)
        except BaseException as error:  # noqa: BLE001 (it is raised again, where it belongs)
            self._error = error
        finally:
            self._done.release()
