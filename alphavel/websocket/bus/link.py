"""
The way from one worker of a server to another: frames over a socket.

    frame   4 bytes size, little endian, of what follows; 1 byte kind; content
    kinds   H {"v":1,"name":…}, first of all    S all facts    F facts that changed    E an envelope    C an event that is kept
            B nothing, to show that the worker goes on    A a question for all facts
            K a question for all events that are kept, which D ends the answer to
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import Any

import gevent
from gevent.event import Event

from alphavel.websocket.bus.envelope import MalformedError
from alphavel.websocket.bus.facts import Fact, write_facts
from alphavel.websocket.bus.wants import TheirWants

MAX_QUEUE = 16 * 1024 * 1024
_MAX_FRAME = 256 * 1024 * 1024
_READ = 256 * 1024


class Link:
    """
    The way to one other worker.

    Attributes:
        queue: What waits: frames, and facts, which are written when it is their turn; further ones join those at the end.
        is_sending: Whether something is on its way.
        waiting: Bytes of the frames that wait or are on their way, the facts not counted.
    """

    def __init__(self, name: str, sock: socket.socket, wants: TheirWants, sent: Event, broken: Callable[[Link], None]) -> None:
        self.name = name
        self.wants = wants
        self.table = wants.table
        self.queue: list[bytes | dict[Fact, Any]] = []
        self.is_sending = False
        self.waiting = 0
        self._sock = sock
        self._sent = sent
        self._broken = broken
        self._wake = Event()
        self.greenlet = gevent.spawn(self._send_all)

    def put(self, kind: bytes, content: bytes) -> bool:
        """Queue a frame; return False where there is no room for an envelope."""
        if kind == b"E" and self.waiting + len(content) > MAX_QUEUE:
            return False
        written = frame(kind, content)
        self.queue.append(written)
        self.waiting += len(written)
        self._wake.set()
        return True

    def tell(self, fact: Fact, value: Any) -> None:
        """Queue a fact."""
        last = self.queue[-1] if self.queue else None
        if isinstance(last, dict):
            last.pop(fact, None)  # the order is that of the last changes
            last[fact] = value
        else:
            self.queue.append({fact: value})
            self._wake.set()

    def close(self) -> None:
        """Send no more."""
        if self.greenlet is not gevent.getcurrent():
            self.greenlet.kill(block=False)
        self._sock.close()
        self.wants.close()

    def _send_all(self) -> None:
        try:
            while True:
                self._wake.wait()
                self._wake.clear()
                while self.queue:
                    queue, self.queue = self.queue, []
                    self.is_sending = True
                    data = b"".join(
                        item if isinstance(item, bytes) else frame(b"F", write_facts(item.items())) for item in queue
                    )
                    self._sock.sendall(data)
                    self.waiting = sum(len(item) for item in self.queue if isinstance(item, bytes))
                    self._sent.set()
                self.is_sending = False
        except OSError:
            self.is_sending = False
            self._broken(self)


def frame(kind: bytes, content: bytes) -> bytes:
    """Write a frame."""
    return b"".join(((len(content) + 1).to_bytes(4, "little"), kind, content))


def frames(sock: socket.socket) -> Iterator[tuple[bytes, bytes]]:
    """
    Return kind and content of each frame that comes, until the end of the stream. Blocks the calling greenlet.

    Raises:
        MalformedError: Something else came.
        OSError: The connection broke.
    """
    buffer = bytearray()
    while piece := sock.recv(_READ):
        buffer += piece
        position = 0
        while len(buffer) - position >= 5:
            end = position + 4 + int.from_bytes(buffer[position : position + 4], "little")
            if not position + 5 <= end <= position + _MAX_FRAME:
                raise MalformedError("Expected a frame; got one of no or an absurd size.")
            if len(buffer) < end:
                break
            yield bytes(buffer[position + 4 : position + 5]), bytes(buffer[position + 5 : end])
            position = end
        del buffer[:position]
