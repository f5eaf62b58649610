"""Clients we did not write, on both transports, with and without compression, over TLS."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import ssl
import struct
import subprocess

import gevent
import pytest
import websocket
import websockets.sync.client

from alphavel.websocket.settings import CompressionSettings
from tests.certificates import make_certificate
from tests.support import ROOT, wait_until
from tests.websocket.conftest import SECRET
from tests.websocket.tokens import token

COMPRESSION = {
    "off": CompressionSettings(),
    "frugal": CompressionSettings(enabled=True),
    "full": CompressionSettings(
        enabled=True, threshold=0, context_takeover=True, server_max_window_bits=15, client_max_window_bits=15
    ),
}
BIG = "héllo " * 50_000


def hooks(server):
    @server.event("say")
    def say(connection, data):
        connection.send({"event": "said", "data": data})


@pytest.mark.parametrize("compression", COMPRESSION)
def test_websockets(serve, transport, compression):
    server = serve(hooks, secret=SECRET, compression=COMPRESSION[compression])
    headers = {"Authorization": f"Bearer {token()}"}
    with websockets.sync.client.connect(server.url, additional_headers=headers) as client:
        assert json.loads(client.recv())["event"] == "connected"
        client.send('{"event":"subscribe","data":{"channel":"a"}}')
        assert json.loads(client.recv())["event"] == "subscribed"
        for data in ("x", BIG, "y"):
            client.send(json.dumps({"event": "say", "data": data}))
            assert json.loads(client.recv())["data"] == data
            server.to_channel("a").push({"event": "pushed", "data": data})
            assert json.loads(client.recv())["data"] == data
        client.send(piece for piece in ('{"event":', '"ping"}'))
        assert json.loads(client.recv())["event"] == "pong"
        client.ping().wait(5)
        extensions = [type(extension).__name__ for extension in client.protocol.extensions]
        assert extensions == ([] if compression == "off" else ["PerMessageDeflate"])
    assert client.close_code == 1000
    wait_until(lambda: not server.reactor.sockets)


def test_websocket_client(serve, transport):
    server = serve(hooks, secret=SECRET)
    client = websocket.create_connection(
        server.url, subprotocols=["alphavel.v1", f"bearer.{token()}"], suppress_origin=True, timeout=10
    )
    assert json.loads(client.recv())["event"] == "connected"
    assert client.getsubprotocol() == "alphavel.v1"
    client.send(json.dumps({"event": "say", "data": BIG}))
    assert json.loads(client.recv())["data"] == BIG
    client.ping("hello")
    assert client.recv_data_frame(control_frame=True)[1].data == b"hello"
    client.close(status=1000, reason=b"bye")
    wait_until(lambda: not server.reactor.sockets)


@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node.js: `make test` installs it")
@pytest.mark.parametrize("compression", COMPRESSION)
def test_ws_of_node(serve, transport, compression):
    server = serve(secret=SECRET, compression=COMPRESSION[compression])
    process = subprocess.Popen(
        ["node", str(ROOT / "tests/node/ws_client.mjs"), server.url, token(), "a", "private-x"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until(lambda: server.get_channels() == ["a"])
    for number in range(20):
        server.to_channel("a").push({"event": "n", "data": {"number": number, "fill": "ü" * number * 100}})
    server.to_all().push({"event": "end"})
    out, err = process.communicate(timeout=20)
    assert err == ""
    first, connected, *events, closed = [json.loads(line) for line in out.splitlines()]
    assert first["protocol"] == "alphavel.v1"
    assert ("permessage-deflate" in str(first["extensions"])) == (compression != "off")
    assert connected["event"] == "connected"
    assert [event["event"] for event in events if event["event"] not in ("n", "end")] == ["subscribed", "error"]
    pushed = [event for event in events if event["event"] == "n"]
    assert [event["data"]["number"] for event in pushed] == list(range(20))
    assert pushed[19]["data"]["fill"] == "ü" * 1900
    assert closed["closed"] == 1000


def test_many_compressed_connections_share_what_is_compressed_alike(serve):
    server = serve(compression=COMPRESSION["frugal"])
    plain = server.connect()
    plain.subscribe("a")
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(websockets.sync.client.connect(server.url)) for _ in range(5)]
        for client in clients:
            client.recv()
            client.send('{"event":"subscribe","data":{"channel":"a"}}')
            client.recv()
        for number in range(10):
            assert server.to_channel("a").push({"event": "n", "data": [number, "x" * 1000]}) == 6
            if number % 3 == 0:
                gevent.sleep(0)
        for client in clients:
            assert [json.loads(client.recv())["data"][0] for _ in range(10)] == list(range(10))
    assert [plain.receive()["data"][0] for _ in range(10)] == list(range(10))


# TLS ended in this process: the greenlet transport with a writer


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    return make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def context(certificate):
    return ssl.create_default_context(cafile=certificate[0])


def test_tls(serve, certificate, context):
    server = serve(hooks, tls=certificate)
    url = f"wss://localhost:{server.port}/"
    with websockets.sync.client.connect(url, ssl=context) as client:
        client.recv()
        client.send('{"event":"subscribe","data":{"channel":"a"}}')
        client.recv()
        for data in ("x", BIG * 2):
            client.send(json.dumps({"event": "say", "data": data}))
            assert json.loads(client.recv())["data"] == data
        for number in range(100):
            server.to_channel("a").push({"event": "n", "data": number})
        assert [json.loads(client.recv())["data"] for _ in range(100)] == list(range(100))
    assert client.close_code == 1000
    wait_until(lambda: not server.reactor.sockets)
    assert server.reactor.blocked == set()


def test_tls_slow_consumer_and_lost_connection(serve, certificate, context):
    server = serve(tls=certificate, max_outbox=300_000)
    slow = server.connect(tls=context, receive_buffer=4096)
    slow.subscribe("a")
    fast = server.connect(tls=context)
    fast.subscribe("a")
    reader = gevent.spawn(lambda: [fast.receive() for _ in range(100)])
    for _ in range(100):
        server.to_channel("a").push({"event": "n", "data": "x" * 50_000})
        gevent.sleep(0.002)
    assert len(reader.get(timeout=60)) == 100
    wait_until(lambda: server.counters.slow_consumers == 1)
    slow.close()
    fast.close()
    wait_until(lambda: not server.reactor.sockets and not server.reactor.blocked)


def test_a_tls_client_that_never_reads_is_let_go_in_the_middle_of_a_write(serve, certificate, context, capfd):
    """Its socket used to be closed under the greenlet that was writing to it."""
    server = serve(tls=certificate, max_outbox=300_000, close_timeout=1.0)
    slow = server.connect(tls=context, receive_buffer=4096)
    slow.subscribe("a")
    while not server.counters.slow_consumers:
        server.to_channel("a").push({"event": "n", "data": "x" * 50_000})
        gevent.sleep(0.002)
    wait_until(lambda: not server.reactor.sockets and not server.reactor.blocked)
    assert "".join(capfd.readouterr()) == ""


def test_tls_clients_that_reset_during_a_fan_out(serve, certificate, context, capfd):
    server = serve(tls=certificate)
    clients = [server.connect(tls=context) for _ in range(20)]
    for client in clients:
        client.subscribe("a")
    for client in clients:
        server.to_channel("a").push({"event": "n", "data": "x" * 50_000})
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.sock.close()
        gevent.sleep(0)
    wait_until(lambda: not server.reactor.sockets and not server.reactor.blocked)
    assert "".join(capfd.readouterr()) == ""


def test_what_is_no_tls_is_let_go_in_silence(serve, certificate, context, capfd):
    server = serve(tls=certificate, handshake_timeout=0.5)
    for data in (b"", b"\x16\x03\x01", b"GET / HTTP/1.1\r\n\r\n", b"\x00" * 100):
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as sock:
            sock.sendall(data)
            with contextlib.suppress(ConnectionResetError):
                while sock.recv(1000):  # an alert, perhaps
                    pass
    with server.connect(tls=context) as client:
        client.send("ping")
        assert client.receive()["event"] == "pong"
    assert "".join(capfd.readouterr()) == ""


def test_tls_handshakes_that_never_end_make_room_for_newcomers(serve, certificate, context, capfd):
    server = serve(tls=certificate, max_pending_handshakes=10, handshake_timeout=60.0)
    silent = [socket.create_connection(("127.0.0.1", server.port), timeout=30) for _ in range(15)]
    with server.connect(tls=context) as client:
        client.send("ping")
        assert client.receive()["event"] == "pong"
    assert silent[0].recv(1) == b"", "the oldest had to go"
    for sock in silent:
        sock.close()
    assert "".join(capfd.readouterr()) == ""
