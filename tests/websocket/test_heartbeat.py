"""One timer wheel for all connections."""

from __future__ import annotations

import time

import pytest

from alphavel.websocket.frames import Opcode
from tests.websocket.clients import Client


@pytest.mark.usefixtures("transport")
def test_a_silent_connection_is_pinged_and_then_closed(serve):
    server = serve(heartbeat_check_interval=1, heartbeat_idle_time=3)
    with server.connect() as client:
        started = time.monotonic()
        pings = 0
        while (got := client.receive_frame())[0] == Opcode.PING:
            pings += 1
        assert got == (Opcode.CLOSE, b"\x10\x69nothing received for too long")
        assert pings >= 1
        assert 2 <= time.monotonic() - started < 6


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
    server = serve(heartbeat_check_interval=1, heartbeat_idle_time=2, max_pending_handshakes=5000)
    clients = [Client(server.port, greeted=False) for _ in range(500)]
    assert len(list(server.reactor.heartbeat.transports())) == 500
    deadline = time.monotonic() + 10
    while server.connections.connections and time.monotonic() < deadline:
        time.sleep(0.1)
    assert server.connections.connections == {}
    for client in clients:
        opcodes = []
        while not opcodes or opcodes[-1] != Opcode.CLOSE:
            opcodes.append(client.receive_frame()[0])
        assert Opcode.PING in opcodes
        client.close()


def test_a_peer_that_never_ends_its_closing_handshake_is_let_go(serve):
    server = serve(close_timeout=1.0)
    with server.connect() as client:
        server.connections.connections[client.socket_id].close(4000, "go")
        assert server.reactor.sockets == 1
        deadline = time.monotonic() + 5
        while server.reactor.sockets and time.monotonic() < deadline:
            time.sleep(0.05)
        assert server.reactor.sockets == 0
