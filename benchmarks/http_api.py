"""
Events a second that the HTTP API takes: `python -m benchmarks.http_api`.

Subscribers of the Pusher protocol are spread over channels, and a few connections post signed events to them, one channel
after the other; they are kept where the server keeps them. A run counts when every subscriber has received every event of
its channel. Beside ours, soketi in
the same run, where npm has installed it (`SOKETI` names its program).
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import platform
import resource
import selectors
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlencode

from alphavel.websocket.auth.signatures import sign_request
from alphavel.websocket.frames import Opcode, frame

APP = {"id": "1", "key": "bench-key", "secret": "bench-secret"}
DATA = json.dumps({"n": 1, "text": "x" * 40})
SERVER = """
from gevent import monkey
monkey.patch_all()
import sys
import gevent
from alphavel.websocket import WebSocketServer
from alphavel.websocket.serve import Service
from alphavel.websocket.settings import AppSettings, WebSocketSettings
app = AppSettings({id!r}, {key!r}, {secret!r})
server = WebSocketServer(WebSocketSettings(host="127.0.0.1", port=int(sys.argv[1]), apps=(app,)))
Service(server, lambda environ, start_response: (start_response("404 Not Found", []), [])[1]).start()
gevent.sleep(1e9)
"""


class Figures(NamedTuple):
    """What was measured of one server."""

    events_per_s: float
    deliveries_per_s: float
    cpu_us_per_event: float
    p50_ms: float
    p99_ms: float


class Publisher:
    """A connection that posts."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.answer = b""
        self.posted_at = 0.0
        self.is_closed = False


def servers(folder: Path) -> Iterator[tuple[str, list[str], int]]:
    """Name, command and port of each contestant that is here."""
    port = _free_port()
    yield "alphavel", [sys.executable, "-c", SERVER.format(**APP), str(port)], port
    beside = Path(__file__).parent / "peers/node/node_modules/.bin/soketi"
    soketi = os.environ.get("SOKETI") or shutil.which("soketi") or (str(beside) if beside.exists() else None)
    if soketi is None:
        print("soketi is not installed here")
        return
    port = _free_port()
    unlimited = {"maxBackendEventsPerSecond": -1, "maxClientEventsPerSecond": -1, "maxReadRequestsPerSecond": -1}
    settings = {"host": "127.0.0.1", "port": port, "appManager.array.apps": [{**APP, "enabled": True, **unlimited}]}
    (folder / "soketi.json").write_text(json.dumps({**settings, "metrics.enabled": False}))
    yield "soketi", [soketi, "start", f"--config={folder / 'soketi.json'}"], port


class Load:
    """Subscribers and publishers of one server, in one thread."""

    def __init__(self, port: int, subscribers: int, channels: int, publishers: int) -> None:
        self.subscribers, self.channels = subscribers, channels
        self.received = 0
        self.latencies: list[float] = []
        self._port = port
        self._selector = selectors.EpollSelector()
        self._frame_size = 0
        self._sockets = [self._subscriber(f"bench-{number % channels}") for number in range(subscribers)]
        self._requests = [self._request(f"bench-{number}") for number in range(channels)]
        self._next = 0
        self._publishers = [self._publisher() for _ in range(publishers)]

    def run(self, seconds: float) -> tuple[int, float]:
        """Post for so long, then wait until everything has arrived; return events and seconds."""
        self.received, self.latencies, posted, open_requests = 0, [], 0, 0
        started = time.perf_counter()
        for number in range(len(self._publishers)):
            self._post(number)
            open_requests += 1
        expected = 0
        while open_requests or self.received < expected:
            now = time.perf_counter()
            if now > started + seconds + 60:
                raise RuntimeError(f"{expected - self.received:.0f} of {expected:.0f} deliveries did not come")
            for key, _ in self._selector.select(1.0):
                if key.data is None:
                    self.received += len(key.fileobj.recv(1 << 16))  # type: ignore[union-attr]
                elif self._answered(number := self._publishers.index(key.data)):
                    posted += 1
                    if time.perf_counter() < started + seconds:
                        self._post(number)
                    else:
                        open_requests -= 1
            expected = posted * (self.subscribers // self.channels) * self._frame_size
        return posted, time.perf_counter() - started

    def measure_frame(self) -> None:
        """Learn how long the frame of an event is, and let the server warm up."""
        while self._next % self.channels or not self._frame_size:
            self._frame_size = self._frame_size or self._learn()

    def close(self) -> None:
        """Close all connections."""
        for sock in [*self._sockets, *(publisher.sock for publisher in self._publishers)]:
            sock.close()
        self._selector.close()

    def _learn(self) -> int:
        subscriber = self._sockets[0]
        self._next = 0
        self._post(0)
        while not self._answered(0):
            pass
        time.sleep(0.2)
        size = len(subscriber.recv(1 << 16))
        for sock in self._sockets[self.channels :: self.channels]:
            sock.recv(1 << 16)
        self._next = 0
        return size

    def _subscriber(self, channel: str) -> socket.socket:
        sock = socket.create_connection(("127.0.0.1", self._port))
        key = base64.b64encode(os.urandom(16)).decode()
        sock.sendall(
            f"GET /app/{APP['key']}?protocol=7&client=bench&version=1.0 HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
        )
        _read_until(sock, b"connection_established")
        subscribe = json.dumps({"event": "pusher:subscribe", "data": {"channel": channel}}).encode()
        sock.sendall(frame(Opcode.TEXT, subscribe, mask=b"\1\2\3\4"))
        _read_until(sock, b"subscription_succeeded")
        self._selector.register(sock, selectors.EVENT_READ, None)
        return sock

    def _request(self, channel: str) -> bytes:
        body = json.dumps({"name": "bench-event", "channels": [channel], "data": DATA}).encode()
        path = f"/apps/{APP['id']}/events"
        query = urlencode(sign_request(APP["key"], APP["secret"], "POST", path, {}, body, time.time()))
        head = f"POST {path}?{query} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nAccept: */*\r\n"
        return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body

    def _publisher(self) -> Publisher:
        publisher = Publisher(socket.create_connection(("127.0.0.1", self._port)))
        publisher.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._selector.register(publisher.sock, selectors.EVENT_READ, publisher)
        return publisher

    def _post(self, number: int) -> None:
        publisher = self._publishers[number]
        if publisher.is_closed:
            self._selector.unregister(publisher.sock)
            publisher.sock.close()
            publisher = self._publishers[number] = self._publisher()
        publisher.posted_at = time.perf_counter()
        publisher.sock.sendall(self._requests[self._next % self.channels])
        self._next += 1

    def _answered(self, number: int) -> bool:
        publisher = self._publishers[number]
        publisher.answer += publisher.sock.recv(1 << 16)
        head, found, body = publisher.answer.partition(b"\r\n\r\n")
        lines = head.lower()
        size = lines.partition(b"content-length: ")[2].partition(b"\r\n")[0]
        if not found or len(body) < int(size or 0):
            return False
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"refused: {publisher.answer[:500]!r}")
        self.latencies.append(time.perf_counter() - publisher.posted_at)
        publisher.answer, publisher.is_closed = b"", b"connection: close" in lines
        return True


def measure(command: list[str], port: int, given: argparse.Namespace) -> list[Figures]:
    """Start a server, load it several times, and end it."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_for(port, process)
        load = Load(port, given.subscribers, given.channels, given.connections)
        load.measure_frame()
        figures = []
        for _ in range(given.rounds):
            before = _cpu_s(process.pid)
            events, seconds = load.run(given.seconds)
            latencies = sorted(load.latencies)
            figures.append(
                Figures(
                    events / seconds,
                    events * (given.subscribers // given.channels) / seconds,
                    (_cpu_s(process.pid) - before) / events * 1e6,
                    latencies[len(latencies) // 2] * 1e3,
                    latencies[int(len(latencies) * 0.99)] * 1e3,
                )
            )
        load.close()
        return figures
    finally:
        process.terminate()
        process.wait()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.http_api", description=__doc__)
    parser.add_argument("--subscribers", type=int, default=1000)
    parser.add_argument("--channels", type=int, default=100)
    parser.add_argument("--connections", type=int, default=8, help="kept connections that post")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of a round")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, given.subscribers + 200)), hard))
    print(
        f"{given.subscribers} subscribers over {given.channels} channels, {given.connections} connections that post, median of "
        f"{given.rounds} rounds of {given.seconds:g} s; Python {platform.python_version()}, Linux {platform.release()}, "
        f"{os.cpu_count()} cores shared with the client"
    )
    print(f"{'':<10}{'events/s':>10}{'deliveries/s':>14}{'CPU µs/event':>14}{'p50 ms':>8}{'p99 ms':>8}")
    with tempfile.TemporaryDirectory() as folder:
        for name, command, port in servers(Path(folder)):
            figures = Figures(*map(statistics.median, zip(*measure(command, port, given), strict=True)))
            print(
                f"{name:<10}{figures.events_per_s:>10,.0f}{figures.deliveries_per_s:>14,.0f}{figures.cpu_us_per_event:>14.0f}"
                f"{figures.p50_ms:>8.2f}{figures.p99_ms:>8.2f}"
            )


def _read_until(sock: socket.socket, words: bytes) -> None:
    sock.settimeout(20)
    received = b""
    while words not in received:
        piece = sock.recv(1 << 16)
        if not piece:
            raise RuntimeError(f"closed instead of {words!r}: {received[-500:]!r}")
        received += piece


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError(f"{process.args!r} does not listen")


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
