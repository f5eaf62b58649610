"""A client that can do everything wrong. The well-behaved ones in these tests are other people's."""

from __future__ import annotations

import base64
import json
import os
import socket
from typing import Any

from alphavel.websocket.frames import Opcode, frame

MASK = b"\x12\x34\x56\x78"


class Refused(Exception):
    """The server answered the handshake with something other than 101."""

    def __init__(self, status: int, headers: dict[str, str], body: str) -> None:
        super().__init__(status, body)
        self.status = status
        self.headers = headers
        self.body = body


class Closed(Exception):
    """The connection is closed, with a close frame (`code`) or without (None)."""

    def __init__(self, code: int | None, reason: str = "") -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason


class Client:
    """A WebSocket client on a plain socket: what it sends is up to the test, what it receives is checked strictly."""

    def __init__(
        self,
        port: int,
        path: str = "/",
        headers: dict[str, str] | None = None,
        *,
        greeted: bool | None = None,
        timeout_s: float = 30.0,
        receive_buffer: int | None = None,
        tls: Any = None,
    ) -> None:
        self.sock = socket.socket()
        if receive_buffer is not None:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self._timeout_s = timeout_s
        self.sock.settimeout(timeout_s)
        try:
            self.sock.connect(("127.0.0.1", port))
        except OSError:
            self.sock.close()
            raise
        if tls is not None:
            self.sock = tls.wrap_socket(self.sock, server_hostname="localhost")
        self.buffer = b""
        self.headers = self._handshake(port, path, headers or {})
        self.socket_id = None
        if greeted if greeted is not None else path.split("?", maxsplit=1)[0] == "/":
            self.socket_id = self.receive()["socket_id"]

    def _handshake(self, port: int, path: str, headers: dict[str, str]) -> dict[str, str]:
        fields = {
            "Host": f"127.0.0.1:{port}",
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
            **headers,
        }
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items() if value is not None)
        self.sock.sendall(f"GET {path} HTTP/1.1\r\n{lines}\r\n".encode())
        while b"\r\n\r\n" not in self.buffer:
            self._read()
        head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        status_line, *rest = head.decode().split("\r\n")
        answer = {name.lower(): value for name, _, value in (line.partition(": ") for line in rest)}
        status = int(status_line.split()[1])
        if status != 101:
            try:
                while len(self.buffer) < int(answer.get("content-length", 0)):
                    self._read()
            finally:
                self.sock.close()
            raise Refused(status, answer, self.buffer.decode())
        return answer

    # Sending

    def send(self, event: str, data: Any = None, **more: Any) -> None:
        """Send an event of Alphavel's protocol."""
        self.text(json.dumps({"event": event, **({} if data is None else {"data": data}), **more}))

    def text(self, text: str | bytes) -> None:
        self.frame(Opcode.TEXT, text.encode() if isinstance(text, str) else text)

    def frame(self, opcode: Opcode, payload: bytes = b"", **flags: Any) -> None:
        self.raw(frame(opcode, payload, mask=MASK, **flags))

    def raw(self, data: bytes) -> None:
        self.sock.sendall(data)

    # Receiving

    def receive(self) -> Any:
        """Return the next text message's JSON; raise `Closed` for a close frame or the end."""
        opcode, payload = self.receive_frame()
        if opcode == Opcode.CLOSE:
            raise Closed(int.from_bytes(payload[:2], "big") if payload else None, payload[2:].decode())
        assert opcode == Opcode.TEXT, (opcode, payload)
        return json.loads(payload)

    def receive_frame(self) -> tuple[int, bytes]:
        """Return `(opcode, payload)` of the next frame; raise `Closed(None)` at the end of the stream."""
        header = self._take(2)
        assert not header[1] & 0x80, "a server's frame is not masked"
        assert header[0] & 0x80, "the server does not fragment"
        size = header[1]
        if size > 125:
            size = int.from_bytes(self._take(2 if size == 126 else 8), "big")
        return header[0] & 0x7F, self._take(size)

    def events(self, until: str) -> list[Any]:
        """Return all events up to and with the first called `until`."""
        events = [self.receive()]
        while events[-1]["event"] != until:
            events.append(self.receive())
        return events

    def silent(self, seconds: float = 0.2) -> bool:
        """Whether nothing comes for so long."""
        self.sock.settimeout(seconds)
        try:
            return not self.buffer and not self.sock.recv(1, socket.MSG_PEEK)
        except TimeoutError:
            return True
        finally:
            self.sock.settimeout(self._timeout_s)

    def closed(self) -> Closed:
        """Read to the end; return how it was closed."""
        try:
            while True:
                opcode, payload = self.receive_frame()
                if opcode == Opcode.CLOSE:
                    return Closed(int.from_bytes(payload[:2], "big") if payload else None, payload[2:].decode())
        except Closed as closed:
            return closed

    def subscribe(self, channel: str) -> Any:
        """Subscribe and return the answer."""
        self.send("subscribe", {"channel": channel})
        return self.receive()

    def close(self) -> None:
        self.sock.close()

    def _take(self, size: int) -> bytes:
        while len(self.buffer) < size:
            self._read()
        taken, self.buffer = self.buffer[:size], self.buffer[size:]
        return taken

    def _read(self) -> None:
        try:
            data = self.sock.recv(65536)
        except ConnectionResetError:
            data = b""
        if not data:
            raise Closed(None)
        self.buffer += data

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
