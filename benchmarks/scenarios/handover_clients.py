"""
`python -m benchmarks.scenarios.handover_clients PORT COUNT`: clients that ping all the time. For each line on standard input
says, as JSON, the longest wait of each client for a pong since the last line.
"""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import json  # noqa: E402
import os  # noqa: E402
import socket  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402

import gevent  # noqa: E402
from gevent.fileobject import FileObject  # noqa: E402

from alphavel.websocket.frames import Opcode, frame  # noqa: E402

_REQUEST = (
    "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
_PING = frame(Opcode.TEXT, b'{"event":"ping"}', mask=b"mask")
_EVERY_S = 0.01


class Client:
    """One that pings, waits for the pong, and pings again."""

    def __init__(self, port: int) -> None:
        self.longest = 0.0
        self.is_closed = False
        self._sock = socket.create_connection(("127.0.0.1", port))
        self._sock.sendall(_REQUEST.encode())
        self._read_until(b'"connected"')

    def ask_forever(self) -> None:
        """Ping until the connection ends."""
        while True:
            began = time.perf_counter()
            try:
                self._sock.sendall(_PING)
                self._read_until(b'"pong"')
            except OSError:
                self.is_closed = True
                return
            self.longest = max(self.longest, time.perf_counter() - began)
            gevent.sleep(_EVERY_S)

    def _read_until(self, text: bytes) -> None:
        received = b""
        while text not in received:
            piece = self._sock.recv(65536)
            if not piece:
                raise OSError("closed")
            received += piece


def main() -> None:
    """Ask, and tell."""
    port, count = map(int, sys.argv[1:])
    clients = [Client(port) for _ in range(count)]
    for client in clients:
        gevent.spawn(client.ask_forever)
    print("ready", flush=True)
    for _ in FileObject(sys.stdin.buffer, "rb"):
        longest = sorted(client.longest * 1000 for client in clients)
        closed = sum(client.is_closed for client in clients)
        for client in clients:
            client.longest = 0.0
        print(json.dumps({"p50": longest[count // 2], "p99": longest[count * 99 // 100], "closed": closed}), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
