"""The proxy with which other tests make a network bad."""

from __future__ import annotations

import socket
import sys
import threading
import time

import pytest

from tests.proxy import Proxy
from tests.support import run, wait_until


@pytest.fixture
def echo():
    """The port of a server that says back what it is told."""
    door = socket.create_server(("127.0.0.1", 0), backlog=100)
    heard = []

    def serve():
        while True:
            try:
                client, _ = door.accept()
            except OSError:
                return
            heard.append(client)
            threading.Thread(target=say_back, args=(client,), daemon=True).start()

    def say_back(client):
        try:
            while data := client.recv(65536):
                client.sendall(data)
            client.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield door.getsockname()[1]
    door.shutdown(socket.SHUT_RDWR)
    thread.join(10)
    door.close()
    for client in heard:
        client.close()


@pytest.fixture
def proxy(echo):
    with Proxy(echo) as proxy:
        yield proxy


@pytest.fixture
def client(proxy):
    with socket.create_connection((proxy.host, proxy.port), timeout=30) as client:
        yield client


def _exactly(client, many):
    data = b""
    while len(data) < many and (piece := client.recv(many - len(data))):
        data += piece
    return data


def test_everything_passes_whole_and_in_order_and_so_does_the_end(client):
    sent = bytes(range(256)) * 20_000  # more than the proxy holds: it must read on as it writes
    sender = threading.Thread(target=lambda: (client.sendall(sent), client.shutdown(socket.SHUT_WR)))
    sender.start()
    assert _exactly(client, len(sent)) == sent
    assert client.recv(1) == b""
    sender.join(30)


def test_cut_resets_what_is_there_and_accepts_what_comes(proxy, client):
    client.sendall(b"x")
    assert client.recv(1) == b"x"
    proxy.cut()
    assert proxy.connections == 0
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    with socket.create_connection((proxy.host, proxy.port), timeout=30) as other:
        other.sendall(b"y")
        assert other.recv(1) == b"y"


def test_black_hole_keeps_what_is_sent_until_it_is_healed(proxy, client):
    proxy.black_hole()
    client.sendall(b"x")
    client.settimeout(0.3)
    with pytest.raises(TimeoutError):
        client.recv(1)
    client.settimeout(30)
    proxy.heal()
    assert client.recv(1) == b"x"


def test_black_hole_towards_the_client_lets_the_server_do_what_it_is_asked():
    with socket.create_server(("127.0.0.1", 0)) as door, Proxy(door.getsockname()[1]) as proxy:
        client = socket.create_connection((proxy.host, proxy.port), timeout=30)
        server, _ = door.accept()
        with client, server:
            proxy.black_hole("client")
            client.sendall(b"ask")
            assert _exactly(server, 3) == b"ask"
            server.sendall(b"answer")
            client.settimeout(0.3)
            with pytest.raises(TimeoutError):
                client.recv(1)
            proxy.cut()
            with pytest.raises(ConnectionResetError):
                client.recv(1)


def test_stranded_connections_carry_nothing_and_new_ones_do(proxy, client):
    client.sendall(b"x")
    assert client.recv(1) == b"x"
    proxy.strand()
    proxy.heal()  # changes nothing for them
    client.sendall(b"y")
    with socket.create_connection((proxy.host, proxy.port), timeout=30) as other:
        other.sendall(b"z")
        assert other.recv(1) == b"z"
    client.settimeout(0.3)
    with pytest.raises(TimeoutError):
        client.recv(1)


def test_refuse_refuses_new_connections_and_leaves_the_others(proxy, client):
    client.sendall(b"x")
    assert client.recv(1) == b"x"
    proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((proxy.host, proxy.port), timeout=30)
    client.sendall(b"y")
    assert client.recv(1) == b"y"
    proxy.heal()
    with socket.create_connection((proxy.host, proxy.port), timeout=30) as other:
        other.sendall(b"z")
        assert other.recv(1) == b"z"


def test_delay_counts_in_both_directions(proxy, client):
    proxy.delay_s = 0.2
    began = time.monotonic()
    client.sendall(b"x")
    assert client.recv(1) == b"x"
    assert time.monotonic() - began >= 0.4


def test_bandwidth_is_kept(proxy, client):
    proxy.bytes_per_s = 100_000
    began = time.monotonic()
    client.sendall(bytes(50_000))
    assert len(_exactly(client, 50_000)) == 50_000
    assert time.monotonic() - began >= 0.4  # half a second, but for the last slice


def test_server_that_is_away_resets_clients():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))  # bound, and nobody listens
        with Proxy(probe.getsockname()[1]) as proxy:
            # So fast that `connect` may be the one to see it.
            with pytest.raises(ConnectionResetError), socket.create_connection((proxy.host, proxy.port), timeout=30) as client:
                client.recv(1)
            wait_until(lambda: proxy.connections == 0)
            assert proxy.accepted == 1


_IN_GEVENT = """
from gevent import monkey; monkey.patch_all()
import gevent, socket, threading
from tests.proxy import Proxy
door = socket.create_server(("127.0.0.1", 0))
def serve():
    while True:
        client, _ = door.accept()
        gevent.spawn(lambda: [client.sendall(data) for data in iter(lambda: client.recv(100), b"")])
gevent.spawn(serve)
with Proxy(door.getsockname()[1]) as proxy:
    client = socket.create_connection((proxy.host, proxy.port), timeout=30)
    client.sendall(b"x")
    assert client.recv(1) == b"x"
    proxy.black_hole()
    client.sendall(b"y")
    client.settimeout(0.2)
    try:
        raise SystemExit(client.recv(1))
    except TimeoutError:
        client.settimeout(30)
    proxy.heal()
    assert client.recv(1) == b"y"
    proxy.cut()
    try:
        raise SystemExit(client.recv(1))
    except ConnectionResetError:
        print("as without")
"""


def test_it_works_where_gevent_has_patched_everything():
    result = run(sys.executable, "-c", _IN_GEVENT)
    assert result.stdout == "as without\n", result.stderr
