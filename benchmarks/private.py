"""
Clients of a private Pusher channel: each subscription is signed for the socket id that the server gives.

`python -m benchmarks.private PORT CONNECTIONS` opens them and holds them until its standard input ends; it answers as the
servers do, see servers/commands.py.
"""

from __future__ import annotations

import json
import re
import socket
import sys

from alphavel.websocket.auth.signatures import channel_auth
from alphavel.websocket.frames import Opcode, frame
from benchmarks.contestants import PUSHER_KEY, PUSHER_SECRET, Running
from benchmarks.processes import Program, python
from benchmarks.servers.commands import say

_OPENING_S = 300
_CHANNEL = "private-b"
_REQUEST = (
    f"GET /app/{PUSHER_KEY}?protocol=7 HTTP/1.1\r\nHost: bench\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
).encode()


def hold(running: Running, connections: int) -> None:
    """Have a server hold such connections until it is stopped."""
    clients = Program(python("benchmarks.private", str(running.port), str(connections)))
    running.others.append(clients)
    clients.hear(_OPENING_S)


def _subscribed(port: int) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port))
    sock.sendall(_REQUEST)
    socket_id = _read_until(sock, rb'socket_id\\":\\"(\d+\.\d+)')
    data = {"channel": _CHANNEL, "auth": channel_auth(PUSHER_KEY, PUSHER_SECRET, socket_id, _CHANNEL)}
    text = json.dumps({"event": "pusher:subscribe", "data": data}).encode()
    sock.sendall(frame(Opcode.TEXT, text, mask=b"mask"))
    _read_until(sock, b"(subscription_succeeded)")
    return sock


def _read_until(sock: socket.socket, pattern: bytes) -> str:
    received = b""
    while (found := re.search(pattern, received)) is None:
        piece = sock.recv(4096)
        if not piece:
            raise OSError(f"closed after {received!r}")
        received += piece
    return found[1].decode()


if __name__ == "__main__":
    say({"ready": True})
    held = [_subscribed(int(sys.argv[1])) for _ in range(int(sys.argv[2]))]
    say({"opened": len(held)})
    sys.stdin.read()
