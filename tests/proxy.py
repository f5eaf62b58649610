"""
A TCP proxy whose network can be made bad: cut, black-holed, slow, refusing.

A test puts it between a client and a real server and breaks the line at the moment it wants to:

    with RedisServer() as server, Proxy(server.port) as proxy:
        client = redis.Redis(port=proxy.port)
        proxy.black_hole()                     # nothing passes, nobody is told; what was sent is kept
        proxy.heal()                           # it passes now, as TCP would send it again
        proxy.cut()                            # all connections end with a reset; new ones are accepted
        proxy.strand()                         # those there are carry nothing any more, new ones do
        proxy.lead_to(other.port)              # new ones lead to another server, as after a failover
        proxy.refuse()                         # new ones are refused; `heal` accepts them again
        proxy.delay_s = 0.05                   # each byte arrives so much later, in each direction
        proxy.bytes_per_s = 100_000            # of each connection, in each direction
        proxy.black_hole("client")             # only what the server sends is held: it does as asked, the answer is lost
        proxy.cut()                            # ... for good

One thread that waits for all sockets; a greenlet in a process where gevent has patched everything. Any thread may call the
methods; what they say is so when they return.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType

_CHUNK_BYTES = 65536
_HELD_BYTES = 1 << 20
"""A direction that holds more does not read on: its sender notices that nothing moves, as it would in a network."""
_SLICE_S = 0.01
"""With a bandwidth, a direction sends what fits into so long at once."""
_RESET = struct.pack("ii", 1, 0)
BOTH, CLIENT, SERVER = "both", "client", "server"


class Proxy:
    """
    Stands between clients and a server on this machine; `with Proxy(port) as proxy: ...`.

    Attributes:
        host, port: Where clients connect.
        delay_s: How much later each byte arrives, in seconds.
        bytes_per_s: How much each direction of a connection carries, in bytes a second; 0: no limit.
        accepted: How many connections were made so far.
    """

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        """
        Args:
            port: Port of the server. It need not run yet: a client that comes meanwhile is reset.
            host: Address of the server, and of the proxy.
        """
        self.host = host
        self._server = (host, port)
        # Bound for as long as the proxy lives and never listening: nobody is given the port while the proxy refuses.
        self._holder = self._bound(0)
        self.port: int = self._holder.getsockname()[1]
        self.delay_s = 0.0
        self.bytes_per_s = 0.0
        self.accepted = 0
        self._lines: set[_Line] = set()
        self._held: set[str] = set()
        self._orders: deque[tuple[Callable[[], None], threading.Event]] = deque()
        self._selector = selectors.DefaultSelector()
        self._bell, self._ringer = socket.socketpair()
        self._bell.setblocking(False)
        self._selector.register(self._bell, selectors.EVENT_READ)
        self._door: socket.socket | None = None
        self._open_door()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)
        self._thread.start()

    @property
    def connections(self) -> int:
        """How many connections there are now."""
        return len(self._lines)

    def cut(self) -> None:
        """End all connections with a reset, on both sides; what was on its way is lost."""
        self._order(self._cut)

    def black_hole(self, towards: str = BOTH) -> None:
        """
        Let nothing pass, on present and new connections, and tell nobody. What is sent is kept until `heal`.

        Args:
            towards: `both`, or only what goes to the `client` or to the `server`.
        """
        self._order(lambda: self._held.update((CLIENT, SERVER) if towards == BOTH else (towards,)))

    def strand(self) -> None:
        """
        Let nothing pass on the connections there are, for good, and tell nobody, as a router does that has forgotten them.
        New ones work.
        """
        self._order(self._strand)

    def lead_to(self, port: int) -> None:
        """Have new connections lead to another server. Those there are stay."""
        self._order(lambda: setattr(self, "_server", (self.host, port)))

    def refuse(self) -> None:
        """Refuse new connections. Those there are stay."""
        self._order(self._close_door)

    def heal(self) -> None:
        """Take `black_hole` and `refuse` back, and set no delay and no limit."""
        self._order(self._heal)

    def close(self) -> None:
        """Cut everything and end."""
        if not self._closed:
            self._order(self._end)
            self._thread.join(10)
            self._ringer.close()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _order(self, what: Callable[[], None]) -> None:
        """Have the thread do something, and wait until it has."""
        done = threading.Event()
        self._orders.append((what, done))
        self._ringer.send(b"!")
        assert done.wait(10), "the proxy's thread does not answer"

    def _run(self) -> None:
        while not self._closed:
            now = time.monotonic()
            waits = [wait for line in tuple(self._lines) if (wait := line.turn(now)) is not None]
            for key, _ in self._selector.select(min(waits, default=None)):
                if key.fileobj is self._door:
                    self._accept()
                elif key.fileobj is self._bell:
                    self._bell.recv(_CHUNK_BYTES)
            # Whatever else is ready, the turns find out by trying.
            while self._orders:
                what, done = self._orders.popleft()
                what()
                done.set()

    def _accept(self) -> None:
        assert self._door is not None
        with contextlib.suppress(BlockingIOError, ConnectionError):
            client, _ = self._door.accept()
            self.accepted += 1
            try:
                server = socket.create_connection(self._server, timeout=5)
            except OSError:
                _reset(client)
                return
            self._lines.add(_Line(self, client, server))

    def holds(self, towards: str) -> bool:
        """Whether nothing passes that way."""
        return towards in self._held

    def watch(self, sock: socket.socket, events: int) -> None:
        """Wake up where one of the events comes; 0: none."""
        known = self._selector.get_map().get(sock)
        if known is not None and known.events == events:
            return
        if known is not None:
            self._selector.unregister(sock)
        if events:
            self._selector.register(sock, events)

    def forget(self, line: _Line) -> None:
        """Take note that a connection has ended."""
        self._lines.discard(line)

    def _cut(self) -> None:
        for line in tuple(self._lines):
            line.cut()

    def _strand(self) -> None:
        for line in self._lines:
            line.stranded = True

    def _bound(self, port: int) -> socket.socket:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((self.host, port))
        return sock

    def _open_door(self) -> None:
        if self._door is None:
            self._door = self._bound(self.port)
            self._door.listen(1024)
            self._door.setblocking(False)
            self._selector.register(self._door, selectors.EVENT_READ)

    def _close_door(self) -> None:
        if self._door is not None:
            self._selector.unregister(self._door)
            self._door.close()
            self._door = None

    def _heal(self) -> None:
        self._held.clear()
        self.delay_s = self.bytes_per_s = 0.0
        self._open_door()

    def _end(self) -> None:
        self._close_door()
        self._cut()
        self._closed = True
        self._selector.close()
        for sock in (self._holder, self._bell):
            sock.close()


class _Line:
    """
    One connection: two sockets and what is on its way between them.

    Attributes:
        stranded: Whether it carries nothing any more.
    """

    def __init__(self, proxy: Proxy, client: socket.socket, server: socket.socket) -> None:
        self._proxy = proxy
        self.stranded = False
        self._sockets = (client, server)
        for sock in self._sockets:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._ways = (_Way(proxy, client, server, SERVER), _Way(proxy, server, client, CLIENT))

    def turn(self, now: float) -> float | None:
        """Carry what can be carried; return in how many seconds there is more to do, None: when a socket is ready."""
        if self.stranded:
            for sock in self._sockets:
                self._proxy.watch(sock, 0)
            return None
        try:
            waits = [way.turn(now) for way in self._ways]
        except OSError:  # one end is gone: the other learns it the same way
            self.cut()
            return None
        if all(way.over for way in self._ways):
            self._end()
            return None
        for sock, out, back in zip(self._sockets, self._ways, reversed(self._ways), strict=True):
            self._proxy.watch(sock, selectors.EVENT_READ * out.reads | selectors.EVENT_WRITE * back.full)
        return min((wait for wait in waits if wait is not None), default=None)

    def cut(self) -> None:
        """End both sides with a reset."""
        self._end(_reset)

    def _end(self, how: Callable[[socket.socket], None] = socket.socket.close) -> None:
        self._proxy.forget(self)
        for sock in self._sockets:
            self._proxy.watch(sock, 0)
            how(sock)


class _Way:
    """
    One direction of a connection.

    Attributes:
        reads: Whether it wants more of its source.
        full: Whether its target takes no more at the moment.
        over: Whether the source has ended and the target has been told.
    """

    def __init__(self, proxy: Proxy, source: socket.socket, target: socket.socket, towards: str) -> None:
        self._proxy, self._source, self._target, self._towards = proxy, source, target, towards
        self._pieces: deque[tuple[float, bytes]] = deque()
        self._held = 0
        self._ended = False
        self._free_at = 0.0
        self.full = self.over = False

    @property
    def reads(self) -> bool:
        return not self._ended and self._held < _HELD_BYTES

    def turn(self, now: float) -> float | None:
        """Read and write what can be; return in how many seconds a piece is due."""
        self._read(now)
        self.full = False
        while self._pieces and not self.full and not self._proxy.holds(self._towards):
            due, piece = self._pieces[0]
            wait = max(due, self._free_at) - now
            if wait > 0:
                return wait
            self._write(due, piece, now)
        if self._ended and not self._pieces and not self.over:
            self.over = True
            with contextlib.suppress(OSError):
                self._target.shutdown(socket.SHUT_WR)
        return None

    def _read(self, now: float) -> None:
        with contextlib.suppress(BlockingIOError):
            while self.reads:
                piece = self._source.recv(_CHUNK_BYTES)
                if not piece:
                    self._ended = True
                    return
                self._held += len(piece)
                self._pieces.append((now + self._proxy.delay_s, piece))

    def _write(self, due: float, piece: bytes, now: float) -> None:
        rate = self._proxy.bytes_per_s
        try:
            sent = self._target.send(piece[: max(1, int(rate * _SLICE_S))] if rate else piece)
        except BlockingIOError:
            self.full = True
            return
        self._held -= sent
        self._pieces.popleft()
        if sent < len(piece):
            self._pieces.appendleft((due, piece[sent:]))
        if rate:
            self._free_at = now + sent / rate


def _reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    sock.close()
