"""
Fan-out: the messages that were pushed to the same subscribers in one turn of the loop.

Each message is framed once for each protocol, the frames of the turn are joined once, and every subscriber with
nothing else waiting gets the very same bytes in one write. The writer walks descriptors in a row: the objects of a
connection are touched only where something is out of the ordinary.
"""

from __future__ import annotations

import logging
import time
from array import array
from collections.abc import Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from alphavel.websocket.later import log_later
from alphavel.websocket.logs import get_logger

if TYPE_CHECKING:
    from alphavel.websocket.channels import Channel
    from alphavel.websocket.channels.audience import Audience, Row
    from alphavel.websocket.connections import Connection
    from alphavel.websocket.frames import Deflate
    from alphavel.websocket.protocols import Message, Protocol
    from alphavel.websocket.transports.reactor import Reactor

logger = get_logger("alphavel.websocket")

BYTES_AT_ONCE = 256 * 1024  # between two looks at the clock
FEW = 16  # fewer go through their outboxes, which are written together with those of other channels


class Batch:
    """
    Messages for the same audience, in order.

    Attributes:
        subscribers: Who gets them, the channel's own mapping.
        size: Bytes of JSON data so far, roughly what one subscriber will be sent.
    """

    __slots__ = (
        "_behind",
        "_by_number",
        "_channel",
        "_end",
        "_excluded",
        "_fds",
        "_frames",
        "_left_out",
        "_messages",
        "_position",
        "_queued",
        "_reactor",
        "_row",
        "_shared",
        "size",
        "subscribers",
    )

    _by_number: list[bytes]
    _end: int
    _fds: bytes
    _left_out: list[int]
    _position: int

    def __init__(self, reactor: Reactor, subscribers: Audience, channel: Channel | None, excluded: frozenset[str]) -> None:
        self._reactor = reactor
        self.subscribers = subscribers
        self._channel = channel
        self._excluded = excluded
        self._messages: list[Message] = []
        self._frames: dict[Protocol, bytes] = {}
        self._shared: dict[tuple[Protocol, tuple[int, int] | None], bytes] = {}  # deflated the same way for many
        self._row: Row | None = None  # while it is written: to the descriptors in `_fds` from `_position` to `_end`
        self._queued: Iterator[Connection] | None = None  # while it goes into outboxes: those of these
        self._behind: list[Connection] = []  # of those just written to: who could not be, and has an outbox
        self.size = 0

    def takes(self, subscribers: Audience, excluded: frozenset[str]) -> bool:
        """Whether a message for these can still be added: the batch is for the same and is not on its way yet."""
        is_waiting = self._row is None and self._queued is None
        return is_waiting and self.subscribers is subscribers and self._excluded == excluded

    def add(self, message: Message) -> None:
        """Append a message."""
        self._messages.append(message)
        self.size += message.size

    def write(self, deadline: float | None) -> bool:
        """
        Write to those who are left.

        Args:
            deadline: `time.perf_counter()` at which to stop; None: never.

        Returns:
            False where some are left.
        """
        if self._row is None and len(self.subscribers) < FEW:
            self.queue()
        while self._queued is None:
            row = self.subscribers.row()
            if row is not self._row:
                self._follow(row)
            self._write_some()
            if self._position >= self._end:
                break
            if deadline is not None and time.perf_counter() > deadline:
                return False
        return True

    def queue(self) -> None:
        """Put everything into the outboxes of those who are left: something else is about to follow it."""
        # Who is told that a connection ends may come here while `write` or `queue` is at work, and takes over what is left.
        while self._behind:
            self._queue_for(self._behind.pop())
        if self._queued is None:
            self._queued = iter(self._those_left())
        for connection in self._queued:
            self._queue_for(connection)

    def _write_some(self) -> None:
        reactor, ready = self._reactor, self._reactor.descriptors.ready
        start, numbers = self._position, [ready[fd] for fd in self._left_out]
        self._position = stop = min(self._end, start + max(1, min(reactor.writer.at_once, BYTES_AT_ONCE // self.size)))
        for fd in self._left_out:
            ready[fd] = 0
        written, rest, behind = reactor.writer.write_row(self._fds, start, stop, ready, self._by_number)
        for fd, number in zip(self._left_out, numbers, strict=True):
            ready[fd] = number
        self._behind = self._connections(behind)
        reactor.written(written, [(fd, self._by_number[ready[fd]], size) for fd, size in rest])
        while self._behind:
            self._queue_for(self._behind.pop())

    def _follow(self, row: Row) -> None:
        """Begin; or go on after somebody has gone, whose descriptor may be another connection's by now."""
        fds, size = row.fds, row.size
        if self._row is not None:
            still = set(memoryview(fds).cast("i"))
            left = array("i", [fd for fd in self._fds_left() if fd in still])
            fds, size = left.tobytes(), len(left)
        self._row, self._fds, self._position, self._end = row, fds, 0, size
        self._left_out = [self.subscribers[name].transport.fd for name in self._excluded if name in self.subscribers]
        numbers = {protocol.number: protocol for protocol in row.protocols}
        self._by_number = [self._frame(numbers[n]) if n in numbers else b"" for n in range(max(numbers, default=0) + 1)]

    def _fds_left(self) -> Iterable[int]:
        return memoryview(self._fds).cast("i")[self._position : self._end]

    def _those_left(self) -> list[Connection]:
        if self._row is not None:
            return self._connections(self._fds_left())
        return [connection for connection in self.subscribers.values() if connection.socket_id not in self._excluded]

    def _connections(self, fds: Iterable[int]) -> list[Connection]:
        transports = self._reactor.descriptors.transports
        found = [transport.connection for transport in map(transports.__getitem__, fds) if transport is not None]
        names, excluded = self.subscribers, self._excluded
        return [one for one in found if one.socket_id in names and one.socket_id not in excluded]

    def _queue_for(self, connection: Connection) -> None:
        transport = connection.transport
        if not transport.is_open:
            return
        if transport.deflate is None:
            data = self._frame(connection.protocol)
        else:
            data = self._deflated(connection.protocol, transport.deflate)
        if data:
            transport.queue(data)

    def _frame(self, protocol: Protocol) -> bytes:
        data = self._frames.get(protocol)
        if data is None:
            data = self._frames[protocol] = b"".join(self._frames_for(protocol))
        return data

    def _deflated(self, protocol: Protocol, deflate: Deflate) -> bytes:
        key = (protocol, deflate.shared_key)
        data = self._shared.get(key) if deflate.shared_key is not None else None
        if data is None:
            data = b"".join(map(deflate.compress_frame, self._frames_for(protocol)))
            if deflate.shared_key is not None:
                self._shared[key] = data
        return data

    def _frames_for(self, protocol: Protocol) -> list[bytes]:
        return [*filter(None, map(partial(self._framed, protocol), self._messages))] if protocol.has_channels else []

    def _framed(self, protocol: Protocol, message: Message) -> bytes | None:
        try:
            return message.frame(protocol, self._channel)
        except Exception as error:  # noqa: BLE001 (a bug: it must not keep back what everybody pushes after it)
            log_later(logger, logging.ERROR, "A message cannot be framed and is left out", exc_info=error)
            return None
