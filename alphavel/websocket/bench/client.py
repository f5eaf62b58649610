"""A WebSocket client that does little and costs little: one greenlet, no compression, Alphavel's protocol or Pusher's."""

from __future__ import annotations

import base64
import os
import ssl
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from urllib.parse import SplitResult, urlsplit

import gevent
import orjson
from gevent import socket

from alphavel.websocket.frames import Opcode, frame
from alphavel.websocket.handshake import accept_value

_MAX_HEAD = 64 * 1024
_READ = 64 * 1024


class BenchError(Exception):
    """A connection could not be made, or has ended; the text is for people."""


class Target(NamedTuple):
    """
    Where to.

    Attributes:
        url: The URL as it was given, split.
        token: What to show, in the header `Authorization`; None for nothing.
        verify: Whether the certificate is checked.
        timeout: Seconds a connection may take.
    """

    url: SplitResult
    token: str | None
    verify: bool
    timeout: float

    @classmethod
    def of(cls, url: str, token: str | None = None, verify: bool = True, timeout: float = 10.0) -> Target:
        """Raises BenchError for what is no WebSocket URL."""
        split = urlsplit(url)
        try:
            port = split.port
        except ValueError:
            port = 0
        if split.scheme not in ("ws", "wss") or not split.hostname or port == 0:
            raise BenchError(f"Expected a URL such as ws://127.0.0.1:9501/ or wss://example.com/app/KEY; got {url!r}.")
        return cls(split, token, verify, timeout)

    @property
    def is_pusher(self) -> bool:
        """Whether Pusher's protocol is spoken there."""
        return self.url.path.startswith("/app/")

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        return self.url.hostname or "", self.url.port or (443 if self.url.scheme == "wss" else 80)

    @property
    def resource(self) -> str:
        """Path and query, with the protocol's version where Pusher's clients have to name it."""
        query = self.url.query
        if self.is_pusher and "protocol=" not in query:
            query = f"{query}&protocol=7" if query else "protocol=7"
        return (self.url.path or "/") + (f"?{query}" if query else "")

    def tls(self) -> ssl.SSLContext | None:
        """The settings of TLS, None for none."""
        if self.url.scheme != "wss":
            return None
        context = ssl.create_default_context()
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


class Client:
    """
    One connection.

    Attributes:
        ended: Why it ended; empty while it is open.
        sent_at: When the ping left that is not answered yet; None where none is on its way.
    """

    def __init__(self, target: Target, on_event: Callable[[Client, str, Any], None], source: str | None = None) -> None:
        """
        Args:
            target: Where to.
            on_event: Told of events: `on_event(client, name, data)`, in this client's greenlet.
            source: Address of this machine to connect from; None: the system chooses.
        """
        self.ended = ""
        self.sent_at: float | None = None
        self._target = target
        self._on_event = on_event
        self._source = source
        self._ping = b'{"event":"pusher:ping","data":{}}' if target.is_pusher else b'{"event":"ping"}'
        self._sock: Any = None
        self._buffer = bytearray()
        self._reader: gevent.Greenlet | None = None

    def connect(self, tls: ssl.SSLContext | None) -> None:
        """Connect, shake hands, wait for the greeting. Raises BenchError."""
        try:
            with gevent.Timeout(self._target.timeout, BenchError(f"It took longer than {self._target.timeout:g} s.")):
                source = (self._source, 0) if self._source else None
                self._sock = socket.create_connection(self._target.address, source_address=source)
                self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if tls is not None:
                    self._sock = tls.wrap_socket(self._sock, server_hostname=self._target.url.hostname)
                self._shake_hands()
                name, data = next(self._events())
        except socket.gaierror as error:
            self.close()
            raise BenchError(f"The name {self._target.url.hostname} cannot be looked up: {error.strerror}.") from error
        except (OSError, ValueError, StopIteration) as error:
            self.close()
            raise BenchError(str(error) or self.ended or "The connection was closed.") from error
        except BenchError:
            self.close()
            raise
        if name not in ("connected", "pusher:connection_established"):
            self.close()
            raise BenchError(f"Expected a greeting; got {name}: {str(data)[:200]}")
        self._reader = gevent.spawn(self._read)

    def subscribe(self, channel: str) -> None:
        """Ask for a public channel; the answer is an event."""
        name = "pusher:subscribe" if self._target.is_pusher else "subscribe"
        self.send(orjson.dumps({"event": name, "data": {"channel": channel}}))

    def ping(self, now: float) -> None:
        """Send a ping of the protocol, which the server answers itself."""
        self.sent_at = now
        self.send(self._ping)

    def send(self, text: bytes) -> None:
        """Send a text message."""
        try:
            self._sock.sendall(frame(Opcode.TEXT, text, mask=os.urandom(4)))
        except OSError as error:
            self._end(str(error))

    def close(self) -> None:
        """End the connection."""
        if self._reader is not None:
            self._reader.kill(block=False)
        if self._sock is not None:
            self._sock.close()

    def _shake_hands(self) -> None:
        key = base64.b64encode(os.urandom(16)).decode()
        host, port = self._target.address
        lines = [
            f"GET {self._target.resource} HTTP/1.1",
            f"Host: {f'[{host}]' if ':' in host else host}:{port}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Version: 13",
            f"Sec-WebSocket-Key: {key}",
            "User-Agent: alpha-websocket-bench",
        ]
        if self._target.token:
            lines.append(f"Authorization: Bearer {self._target.token}")
        self._sock.sendall("\r\n".join([*lines, "", ""]).encode())
        while b"\r\n\r\n" not in self._buffer:
            self._receive()
            if len(self._buffer) > _MAX_HEAD:
                raise BenchError("The answer to the handshake is too long.")
        head, _, rest = bytes(self._buffer).partition(b"\r\n\r\n")
        self._buffer = bytearray(rest)
        status, *fields = head.decode("latin-1").split("\r\n")
        if status.split(" ")[1:2] != ["101"]:
            said = (
                f": {rest[:200].decode(errors='replace').strip()}" if b"text/plain" in head.lower() else ""
            )  # a page says no more
            raise BenchError(f"The handshake was answered {status.partition(' ')[2]}{said}")
        answered = {name.lower(): value.strip() for name, _, value in (field.partition(":") for field in fields)}
        if answered.get("sec-websocket-accept") != accept_value(key):
            raise BenchError("The handshake was not answered by a WebSocket server.")

    def _read(self) -> None:
        try:
            for name, data in self._events():
                self._on_event(self, name, data)
        except (OSError, ValueError) as error:
            self._end(str(error))

    def _events(self) -> Iterator[tuple[str, Any]]:
        while True:
            opcode, payload = self._frame()
            if opcode == Opcode.TEXT:
                event = orjson.loads(payload)
                if not isinstance(event, dict):
                    raise ValueError(f"Expected an event, a JSON object; got {payload[:200].decode(errors='replace')}")
                yield str(event.get("event")), event.get("data")
            elif opcode == Opcode.PING:
                self._sock.sendall(frame(Opcode.PONG, payload, mask=os.urandom(4)))
            elif opcode == Opcode.CLOSE:
                code = int.from_bytes(payload[:2], "big") if payload else None
                self._end(f"closed with {code}: {payload[2:].decode(errors='replace')}" if code else "closed")
                return

    def _frame(self) -> tuple[int, bytes]:
        header = self._take(2)
        size = header[1] & 0x7F
        if size > 125:
            size = int.from_bytes(self._take(2 if size == 126 else 8), "big")
        return header[0] & 0x0F, self._take(size)

    def _take(self, size: int) -> bytes:
        while len(self._buffer) < size:
            self._receive()
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken

    def _receive(self) -> None:
        data = self._sock.recv(_READ)
        if not data:
            raise ConnectionResetError("The server closed the connection.")
        self._buffer += data

    def _end(self, why: str) -> None:
        self.ended = self.ended or why or "closed"
