"""One timer wheel for all connections."""

from __future__ import annotations

import json
import re
import resource
import socket
import time

import pytest

from alphavel.websocket.frames import Opcode
from tests.support import Program, run, script, wait_until
from tests.websocket.clients import Client


@pytest.mark.usefixtures("transport")
def test_a_silent_connection_is_pinged_and_then_closed(serve):
    server = serve(heartbeat_check_interval=1, heartbeat_idle_time=3)
    started = time.monotonic()
    with server.connect() as client:
        pings = 0
        while (got := client.receive_frame())[0] == Opcode.PING:
            pings += 1
        assert got == (Opcode.CLOSE, b"\x10\x69nothing received for too long")
        assert pings >= 1
        assert 2 <= time.monotonic() - started < 25


def test_a_connection_that_answers_pings_stays(serve):
    server = serve(heartbeat_check_interval=1, heartbeat_idle_time=2)
    with server.connect() as client:
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            opcode, payload = client.receive_frame()
            assert opcode == Opcode.PING
            client.frame(Opcode.PONG, payload)
        assert len(server.connections.connections) == 1


def test_a_connection_that_talks_is_not_pinged(serve):
    server = serve(heartbeat_check_interval=2, heartbeat_idle_time=5)
    with server.connect() as client:
        for _ in range(12):
            client.send("ping")
            assert client.receive()["event"] == "pong"
            time.sleep(0.25)


def test_the_wheel_watches_sockets_and_not_subscriptions(serve):
    """Many sockets that never subscribe to anything are pinged and pruned like any other."""
    server = serve(heartbeat_check_interval=1, heartbeat_idle_time=5, max_pending_handshakes=5000)
    clients = [Client(server.port, greeted=False) for _ in range(300)]
    assert len(list(server.reactor.heartbeat.transports())) == 300
    wait_until(lambda: not server.connections.connections)
    for client in clients:
        opcodes = []
        while not opcodes or opcodes[-1] != Opcode.CLOSE:
            opcodes.append(client.receive_frame()[0])
        assert Opcode.PING in opcodes
        client.close()


@pytest.mark.skipif(resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 10_500, reason="needs 10,500 open files")
def test_ten_thousand_silent_sockets_are_pinged_and_pruned(tmp_path):
    """In a process of its own, for the sake of the limit of open files: each socket is counted on both sides."""
    (tmp_path / "config").mkdir()
    (tmp_path / "config/websocket.yaml").write_text("options:\n  heartbeat_check_interval: 3\n  heartbeat_idle_time: 8\n")
    command = (script("alpha"), "websocket:serve", "--host", "127.0.0.1", "--port", "0")
    with Program(*command, cwd=tmp_path, ALPHAVEL_RUN_DIR=str(tmp_path / "run")) as program:
        port = int(re.search(r":(\d+)/", program.wait_for("auth")).group(1))
        request = (
            f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        ).encode()
        silent = []
        try:
            for number in range(10_000):
                silent.append(socket.create_connection(("127.0.0.1", port), 60, (f"127.0.0.{2 + number % 4}", 0)))
                silent[-1].sendall(request)
            for sock in silent:
                received = b""
                while not received.endswith(b"\x88\x1f\x10\x69nothing received for too long"):
                    piece = sock.recv(4096)
                    assert piece, received
                    received += piece
                assert received.startswith(b"HTTP/1.1 101 ")
                assert b"}\x89\x00" in received, "it was pinged before"
                sock.close()
        finally:
            for sock in silent:
                sock.close()
        environment = {"ALPHAVEL_RUN_DIR": str(tmp_path / "run")}
        stats = json.loads(run(script("alpha"), "websocket:stats", "--json", cwd=tmp_path, **environment).stdout)
        assert (stats["handshakes"], stats["connections"], stats["handshakes_refused"]) == (10_000, 0, 0)
        assert program.stop() == 0


def test_a_peer_that_never_ends_its_closing_handshake_is_let_go(serve):
    server = serve(close_timeout=1.0)
    with server.connect() as client:
        server.connections.connections[client.socket_id].close(4000, "go")
        assert server.reactor.sockets == 1
        wait_until(lambda: server.reactor.sockets == 0)


def test_those_who_left_leave_nothing_in_the_wheel(serve):
    """
    A set keeps the room of the most it ever held. Empty ones used to stay until their second came, and in half an hour of
    clients that came and went the server grew by half.
    """
    server = serve()
    for _ in range(20):
        server.connect().close()
    wait_until(lambda: not server.connections.connections and not server.reactor.sockets)
    assert not server.reactor.heartbeat._slots
