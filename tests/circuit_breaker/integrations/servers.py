"""Real servers that fail: HTTP by path, SMTP by mood; more in `examples.circuit_breaker.servers`."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading

from examples.circuit_breaker.servers import Postgres, free_port
from tests.support import wait_until

__all__ = ["BlackHole", "HttpServer", "Postgres", "SmtpServer", "free_port", "running"]


class HttpServer:
    """
    Answers `/200`, `/404`, `/429`, … with that status (`/429/retry`: with Retry-After), `/moved` with a redirect to `/200`;
    `/hang` never, `/half` stops in the middle of the body, `/slow-body` never ends it, `/reset` resets the connection.

    Attributes:
        hits: How many requests came, by path.
    """

    def __init__(self) -> None:
        self.port = free_port()
        self.hits: dict[str, int] = {}
        self._sock: socket.socket | None = None
        self._open: set[socket.socket] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def total(self) -> int:
        return sum(self.hits.values())

    def start(self) -> None:
        self._sock = sock = socket.create_server(("127.0.0.1", self.port), backlog=64)
        threading.Thread(target=self._accept, args=(sock,), daemon=True).start()

    def stop(self) -> None:
        """Refuse connections from now on, and end those that are open."""
        if self._sock is not None:
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)
            self._sock.close()
            self._sock = None
        for connection in tuple(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _accept(self, sock: socket.socket) -> None:
        while True:
            try:
                connection, _ = sock.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        self._open.add(connection)
        with connection, contextlib.suppress(OSError), connection.makefile("rb") as lines:
            while line := lines.readline():
                path = line.split()[1].decode()
                while lines.readline().strip():
                    pass
                self.hits[path] = self.hits.get(path, 0) + 1
                if not self._answer(connection, path):
                    break
        self._open.discard(connection)

    def _answer(self, connection: socket.socket, path: str) -> bool:
        if path == "/hang":
            wait_until(lambda: self._sock is None, 60)
            return False
        if path == "/reset":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return False
        if path in ("/half", "/slow-body"):
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
            if path == "/slow-body":
                wait_until(lambda: self._sock is None, 60)
            return False
        if path == "/moved":
            connection.sendall(b"HTTP/1.1 302 Found\r\nLocation: /200\r\nContent-Length: 0\r\n\r\n")
            return True
        status = path.split("/")[1]
        extra = b"Retry-After: 7\r\n" if path.endswith("/retry") else b""
        connection.sendall(b"HTTP/1.1 %s X\r\n%sContent-Length: 5\r\n\r\nhello" % (status.encode(), extra))
        return True


class SmtpServer:
    """
    An SMTP server (aiosmtpd).

    Attributes:
        mood: `fine`; or an answer to a message, such as `451 try again later`; or an answer to a recipient, such as
            `recipient 550 no such user`; or `drop`: it ends the connection in the middle of a message.
        received: How many messages it took.
    """

    def __init__(self) -> None:
        self.port = free_port()
        self.mood = "fine"
        self.received = 0
        self._controller: object | None = None

    def start(self) -> None:
        from aiosmtpd.controller import Controller

        self._controller = controller = Controller(self, hostname="127.0.0.1", port=self.port, ready_timeout=20)
        controller.start()

    def stop(self) -> None:
        if self._controller is not None:
            self._controller.stop()  # type: ignore[attr-defined]
            self._controller = None

    async def handle_RCPT(self, server, session, envelope, address, options):
        if self.mood.startswith("recipient "):
            return self.mood.removeprefix("recipient ")
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        if self.mood == "drop":
            server.transport.abort()
            return "421 gone"
        if self.mood != "fine":
            return self.mood
        self.received += 1
        return "250 OK"


@contextlib.contextmanager
def running(server):
    server.start()
    try:
        yield server
    finally:
        server.stop()


class BlackHole:
    """A port that takes connections and never says a word."""

    def __init__(self) -> None:
        self._sock = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._sock.getsockname()[1]

    def __enter__(self) -> BlackHole:
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()
