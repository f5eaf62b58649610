"""Very many clients that connect at once, as after a restart: accepting is paced, and nobody else notices much."""

from __future__ import annotations

import time

import gevent
import pytest
from gevent import socket

from tests.support import wait_until
from tests.websocket.clients import Client
from tests.websocket.several_workers import PATIENCE_S, Server

CLIENTS = 2000
AT_A_TIME = 40
REQUEST = (
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)

# Counts, in each worker, how many connections were accepted whose requests had not come, at most.
WATCH = """

from alphavel.websocket.http_server import HttpServer

class Watched(dict):
    most = 0

    def __setitem__(self, handler, since):
        super().__setitem__(handler, since)
        self.most = max(self.most, len(self))

from alphavel.websocket.upgrade import Upgrades
HttpServer.waiting_for_headers = Upgrades._pending = Watched()
"""


@pytest.fixture
def start(tmp_path):
    started = []

    def start_one(handshake_timeout):
        options = f"max_pending_handshakes: {AT_A_TIME}, handshake_timeout: {handshake_timeout}"
        started.append(Server(tmp_path, options=options, app=WATCH))
        return started[-1]

    yield start_one
    for server in started:
        server.close()


def come(port, source, stay):
    """One client of the storm: return how it was answered, and stay until it is told to go."""
    with socket.socket() as sock:
        sock.bind((source, 0))
        sock.settimeout(PATIENCE_S)
        sock.connect(("127.0.0.1", port))
        gevent.sleep(0.02)  # many are connected before the first of them says a word
        sock.sendall(REQUEST)
        received = b""
        while b'"connected"' not in received:
            piece = sock.recv(4096)
            if not piece:
                return received
            received += piece
        stay.wait()
        return received


def test_two_thousand_clients_at_once_all_get_in_a_few_at_a_time_while_pushes_go_on(start):
    server = start(handshake_timeout=600)
    listeners = [server.connect(worker=pid) for pid in server.pids]
    for listener in listeners:
        listener.subscribe("news")
    began = time.monotonic()
    stay = gevent.event.Event()
    storm = [gevent.spawn(come, server.port, f"127.0.0.{1 + number % 4}", stay) for number in range(CLIENTS)]
    total = "WebSocket.connections.total"
    pushes = 0
    while server.do(total, server.pids[0]) < CLIENTS + 2:
        assert not [answer for answer in storm if answer.ready()], "each of them stays"
        assert time.monotonic() - began < PATIENCE_S, "everybody is in within a bounded time"
        sent_at = time.monotonic()
        server.do(f'WebSocket.to_channel("news").push({{"event": "n", "data": {pushes}}})', server.pids[pushes % 2])
        for listener in listeners:
            assert listener.receive()["data"] == pushes
        assert time.monotonic() - sent_at < 10, "others' pushes arrive meanwhile"
        pushes += 1
    stay.set()
    answers = [greenlet.get(timeout=PATIENCE_S) for greenlet in storm]
    assert all(answer.startswith(b"HTTP/1.1 101 ") for answer in answers)
    most = [server.do("HttpServer.waiting_for_headers.most", pid) for pid in server.pids]
    assert all(1 < count <= AT_A_TIME for count in most), most
    wait_until(lambda: server.do(total, server.pids[0]) == 2, PATIENCE_S)


def test_those_who_connect_and_say_nothing_do_not_keep_others_from_getting_in_for_long(start):
    server = start(handshake_timeout=2)
    silent = [socket.create_connection(("127.0.0.1", server.port), PATIENCE_S) for _ in range(10 * AT_A_TIME)]
    try:
        with Client(server.port, timeout_s=PATIENCE_S) as client:
            assert client.subscribe("a")["event"] == "subscribed"
    finally:
        for sock in silent:
            sock.close()
