"""
Fan-out: the messages that were pushed to the same subscribers in one turn of the loop.

Each message is framed once for each protocol, the frames of the turn are joined once, and every subscriber with
nothing else waiting gets the very same bytes in one system call.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from alphavel.websocket.channels import Channel
    from alphavel.websocket.connections import Connection
    from alphavel.websocket.frames import Deflate
    from alphavel.websocket.protocols import Message, Protocol
    from alphavel.websocket.transports.reactor import Reactor

_CLOCK_EVERY = 32  # writes between two looks at the clock


class Batch:
    """
    Messages for the same subscribers, in order.

    Attributes:
        subscribers: Connections by socket id, the channel's own mapping.
        size: Bytes of JSON data so far, roughly what one subscriber will be sent.
    """

    __slots__ = ("_channel", "_excluded", "_frames", "_messages", "_reactor", "_remaining", "_shared", "size", "subscribers")

    def __init__(
        self, reactor: Reactor, subscribers: Mapping[str, Connection], channel: Channel | None, excluded: frozenset[str]
    ) -> None:
        self._reactor = reactor
        self.subscribers = subscribers
        self._channel = channel
        self._excluded = excluded
        self._messages: list[Message] = []
        self._frames: dict[Protocol, bytes] = {}
        self._shared: dict[tuple[Protocol, tuple[int, int] | None], bytes] = {}  # deflated the same way for many
        self._remaining: Iterator[Connection] | None = None
        self.size = 0

    def takes(self, subscribers: Mapping[str, Connection], excluded: frozenset[str]) -> bool:
        """Whether a message for these can still be added: the batch is for the same and is not being written yet."""
        return self.subscribers is subscribers and self._remaining is None and self._excluded == excluded

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
        remaining = self._start()
        frames = self._frames
        write = os.write
        written = 0
        for connection in remaining:
            transport = connection.transport
            if transport.outbox is not None or transport.deflate is not None:
                self._queue_for(connection)
            else:
                data = frames.get(connection.protocol)
                if data is None:
                    data = self._frame(connection.protocol)
                try:
                    size = write(transport.fd, data)
                except BlockingIOError:
                    size = 0
                except OSError:
                    transport.end_of_stream()
                    continue
                self._reactor.stats.bytes_out += size
                if size != len(data):
                    transport.keep(data[size:])
            written += 1
            if deadline is not None and not written % _CLOCK_EVERY and time.perf_counter() > deadline:
                return False
        return True

    def queue(self) -> None:
        """Put everything into the outboxes of those who are left: something else is about to follow it."""
        for connection in self._start():
            self._queue_for(connection)

    def _start(self) -> Iterator[Connection]:
        if self._remaining is None:
            everyone = list(self.subscribers.values())  # a copy: a peer that turns out to be gone changes the books
            excluded = self._excluded
            if excluded:
                everyone = [connection for connection in everyone if connection.socket_id not in excluded]
            self._remaining = iter(everyone)
        return self._remaining

    def _queue_for(self, connection: Connection) -> None:
        transport = connection.transport
        if not transport.is_open:
            return
        if transport.deflate is None:
            data = self._frames.get(connection.protocol) or self._frame(connection.protocol)
        else:
            data = self._deflated(connection.protocol, transport.deflate)
        if data:
            transport.queue(data)

    def _frame(self, protocol: Protocol) -> bytes:
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
        return [message.frame(protocol, self._channel) for message in self._messages] if protocol.has_channels else []
