"""
Servers that take what they broadcast over HTTP: starts one, and posts to it on one kept-alive connection, a burst at a time.

`python -m benchmarks.peers.http_publisher nchan|soketi PORT`
"""

from __future__ import annotations

import atexit
import hashlib
import hmac
import json
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.servers.commands import CHANNEL, EVENT, Publisher, message

HERE = Path(__file__).parent
KEY, SECRET = "bench-key", "bench-secret"

NGINX = """
load_module {modules}/ngx_nchan_module.so;
worker_processes 1; worker_rlimit_nofile 20000;
pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 15000; }}
http {{
    access_log off; keepalive_requests 100000000; tcp_nodelay on;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    nchan_shared_memory_size 128M;
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location = /publish {{ nchan_publisher; nchan_channel_id {channel}; nchan_message_buffer_length 1000; }}
        location = / {{ nchan_subscriber websocket; nchan_channel_id {channel}; nchan_subscriber_first_message newest; }}
    }}
}}
"""


def nchan(port: int, folder: Path) -> list[str]:
    """Write its configuration; the command that starts it."""
    modules = next(iter(Path("/usr/lib/nginx/modules").glob("*nchan*")), Path("/usr/lib/nginx/modules/none")).parent
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder, port=port, channel=CHANNEL, modules=modules))
    return ["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf"), "-g", "daemon off;"]


def soketi(port: int, folder: Path) -> list[str]:
    """Write its configuration; the command that starts it."""
    unlimited = {"maxBackendEventsPerSecond": -1, "maxClientEventsPerSecond": -1, "maxReadRequestsPerSecond": -1}
    app = {"id": "1", "key": KEY, "secret": SECRET, "enabled": True, **unlimited}
    configuration = {
        "host": "127.0.0.1",
        "port": port,
        "appManager.array.apps": [app],
        "eventLimits.maxBatchSize": 64,
        "metrics.enabled": False,
    }
    (folder / "soketi.json").write_text(json.dumps(configuration))
    return [str(HERE / "node/node_modules/.bin/soketi"), "start", f"--config={folder / 'soketi.json'}"]


def nchan_requests(burst: list[str]) -> list[bytes]:
    """A POST for each message."""
    return [_post("/publish", message(data).encode(), "text/plain") for data in burst]


def soketi_requests(burst: list[str]) -> list[bytes]:
    """One POST for all, to `events` or `batch_events`, signed as Pusher's HTTP API asks."""
    events = [{"name": EVENT, "channel": CHANNEL, "data": data} for data in burst]
    path = "/apps/1/events" if len(events) == 1 else "/apps/1/batch_events"
    body = json.dumps(events[0] if len(events) == 1 else {"batch": events}, separators=(",", ":")).encode()
    digest = hashlib.md5(body, usedforsecurity=False).hexdigest()
    query = f"auth_key={KEY}&auth_timestamp={int(time.time())}&auth_version=1.0&body_md5={digest}"
    signature = hmac.new(SECRET.encode(), f"POST\n{path}\n{query}".encode(), "sha256").hexdigest()
    return [_post(f"{path}?{query}&auth_signature={signature}", body, "application/json")]


def _post(path: str, body: bytes, kind: str) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


class Poster:
    """Posts a burst in one piece and reads all answers to it before the next."""

    def __init__(self, port: int, requests: Callable[[list[str]], list[bytes]]) -> None:
        self._port = port
        self._requests = requests
        self._connect()
        self._waiting: list[str] = []

    def add(self, data: str) -> None:
        """Put a message into the burst."""
        self._waiting.append(data)

    def _connect(self) -> None:
        self._sock = socket.create_connection(("127.0.0.1", self._port))
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._answers = self._sock.makefile("rb")
        self._closed = False

    def post(self) -> None:
        """Send the burst."""
        if self._waiting:
            if self._closed:
                self._connect()
            requests = self._requests(self._waiting)
            self._sock.sendall(b"".join(requests))
            for _ in requests:
                self._read_answer()
            self._waiting.clear()

    def _read_answer(self) -> None:
        status = self._answers.readline()
        if not status.startswith(b"HTTP/1.1 20"):
            raise RuntimeError(f"refused: {status!r}")
        size = 0
        while (line := self._answers.readline().lower()) not in (b"\r\n", b""):
            if line.startswith(b"content-length:"):
                size = int(line.partition(b":")[2])
            elif line.startswith(b"transfer-encoding:"):
                size = -1
            elif line.startswith(b"connection: close"):
                self._closed = True
        if size >= 0:
            self._answers.read(size)
            return
        while size := int(self._answers.readline(), 16):
            self._answers.read(size + 2)
        self._answers.readline()


def main() -> None:
    """Start the server and obey."""
    name, port = sys.argv[1], int(sys.argv[2])
    folder = Path(tempfile.mkdtemp(prefix="alphavel-bench-"))
    command, requests = {"nchan": (nchan, nchan_requests), "soketi": (soketi, soketi_requests)}[name]
    server = subprocess.Popen(command(port, folder), stdout=sys.stderr, stdin=subprocess.DEVNULL)
    atexit.register(server.terminate)
    _wait_for(port, server)
    poster = Poster(port, requests)

    def sleep(seconds: float) -> None:
        poster.post()
        time.sleep(seconds)

    Publisher(poster.add, poster.post, sleep).serve(sys.stdin)


def _wait_for(port: int, server: subprocess.Popen[bytes]) -> None:
    for _ in range(300):
        if server.poll() is not None:
            raise SystemExit(f"the server ended with {server.returncode}")
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise SystemExit("the server does not listen")


if __name__ == "__main__":
    main()
