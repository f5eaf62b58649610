"""Clients we did not write, on both transports, with and without compression, over TLS."""

from __future__ import annotations

import contextlib
import datetime
import json
import shutil
import ssl
import subprocess

import gevent
import pytest
import websocket
import websockets.sync.client
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from alphavel.websocket.settings import CompressionSettings
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
    wait_until(lambda: server.get_channels() == ["a"], 20)
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
    folder = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.timezone.utc)
    cert = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(cert.public_bytes(Encoding.PEM))
    (folder / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return str(folder / "cert.pem"), str(folder / "key.pem")


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
    assert len(reader.get(timeout=20)) == 100
    wait_until(lambda: server.counters.slow_consumers == 1)
    slow.close()
    fast.close()
    wait_until(lambda: not server.reactor.sockets and not server.reactor.blocked)
