"""Every limit: what is over it is refused clearly, and costs nobody else anything."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import resource
import socket
import time
import urllib.request

import gevent
import pytest

from alphavel.websocket.files import SPARE_FILES, raise_file_limit
from alphavel.websocket.frames import Opcode
from alphavel.websocket.settings import PresenceSettings
from tests.support import Program, script, wait_until
from tests.websocket.clients import Client, Closed, Refused
from tests.websocket.conftest import SECRET
from tests.websocket.pusher import KEY, PusherClient
from tests.websocket.pusher import SECRET as APP_SECRET
from tests.websocket.tokens import bearer


def test_over_max_connections_the_handshake_is_answered_with_503_and_retry_after(serve):
    server = serve(max_connections=2)
    clients = [server.connect(), server.connect()]
    with pytest.raises(Refused) as caught:
        server.connect()
    assert caught.value.status == 503
    assert int(caught.value.headers["retry-after"]) > 0
    clients.pop().close()
    wait_until(lambda: server.reactor.sockets == 1)
    server.connect().close()
    clients[0].close()


@pytest.fixture
def small(tmp_path):
    """A server in a process that may open files for four connections; `.port` is where."""
    (tmp_path / "config").mkdir()
    config = f"options: {{handshake_timeout: 3}}\napps: [{{id: 1, key: {KEY}, secret: {APP_SECRET}}}]"
    (tmp_path / "config/websocket.yaml").write_text(config)
    serve = f"ulimit -n {SPARE_FILES + 4}; exec {script('alpha')} websocket:serve --host 127.0.0.1 --port 0"
    with Program("sh", "-c", serve, cwd=tmp_path) as program:
        program.port = int(re.search(r":(\d+)/", program.wait_for("auth")).group(1))
        yield program
        assert "Traceback" not in program.output


def test_past_the_limit_of_open_files_newcomers_are_answered_with_503_too(small):
    """They used to wait for an answer that never came, and each attempt to accept one wrote a traceback."""
    with contextlib.ExitStack() as clients:
        first, *_ = [clients.enter_context(Client(small.port)) for _ in range(4)]
        for _ in range(2 * SPARE_FILES):
            with pytest.raises(Refused) as caught:
                Client(small.port)
            assert caught.value.status == 503
        first.send("ping")
        assert first.receive()["event"] == "pong"


def test_past_the_limit_of_open_files_pushers_clients_are_told_to_come_back(small):
    """They were let in until no file was left for anybody."""
    with contextlib.ExitStack() as clients:
        first, *_ = [clients.enter_context(PusherClient(small.port)) for _ in range(4)]
        for _ in range(2 * SPARE_FILES):
            with PusherClient(small.port, greeted=False) as refused:
                assert refused.closed().code == 4100
        first.send("pusher:ping", {})
        assert first.receive()["event"] == "pusher:pong"


def test_who_never_finishes_a_request_takes_no_file_that_newcomers_need(small):
    with contextlib.ExitStack() as slow:
        for _ in range(4 * SPARE_FILES):
            slow.enter_context(socket.create_connection(("127.0.0.1", small.port), timeout=30)).sendall(b"GET / HTTP/1.1\r\n")
        with Client(small.port, timeout_s=60) as client:
            client.send("ping")
            assert client.receive()["event"] == "pong"
    assert "Nobody can be accepted" not in small.output


def test_where_no_file_is_left_that_is_said_and_who_waits_gets_in_once_there_is_one(small):
    with contextlib.ExitStack() as uploads:
        for _ in range(2 * SPARE_FILES):
            sock = uploads.enter_context(socket.create_connection(("127.0.0.1", small.port), timeout=30))
            sock.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n")
        small.wait_for("Nobody can be accepted until a file is closed: Too many open files")
    with Client(small.port, timeout_s=60) as client:
        client.send("ping")
        assert client.receive()["event"] == "pong"


@pytest.mark.parametrize(
    ("settings", "path", "headers", "status"),
    [
        ({"secret": SECRET}, "/", {}, 401),
        ({"allowed_origins": ("https://a.test",)}, "/", {"Origin": "https://evil.test"}, 403),
        ({"max_connections": 1}, "/", {}, 503),
        ({}, "/", {"Sec-WebSocket-Version": "8"}, 426),
        ({}, "/", {"Sec-WebSocket-Key": "x"}, 400),
    ],
)
def test_who_is_refused_and_goes_on_sending_gets_nothing(serve, settings, path, headers, status):
    server = serve(**settings)
    first = server.connect() if "max_connections" in settings else None
    fields = {
        "Host": "x", "Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", **headers,
    }  # fmt: skip
    request = f"GET {path} HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in fields.items()) + "\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as sock:
        sock.sendall(request.encode())
        received = sock.recv(65536)
        assert received.startswith(f"HTTP/1.1 {status} ".encode())
        try:
            for _ in range(3):
                sock.sendall(b'\x81\x90\x00\x00\x00\x00{"event":"ping"}')
                time.sleep(0.02)
            rest = sock.recv(65536)
        except OSError:
            rest = b""
        assert b"pong" not in received + rest
        assert b"101" not in received.split(b"\r\n")[0]
    assert len(server.connections.connections) == (1 if first else 0)
    if first:
        first.close()


@pytest.mark.usefixtures("transport")
def test_a_message_over_the_size_is_closed_with_1009(serve):
    server = serve(max_message_size=1000)
    with server.connect() as client:
        client.text('{"event":"ping","fill":"' + "x" * 900 + '"}')
        assert client.receive()["event"] == "pong"
        client.text("x" * 1001)
        assert client.closed().code == 1009


def test_channels_of_one_connection(serve):
    with serve(max_channels_per_connection=3).connect() as client:
        for number in range(3):
            assert client.subscribe(f"c{number}")["event"] == "subscribed"
        error = client.subscribe("c3")
        assert (error["code"], error["channel"]) == (4429, "c3")
        assert client.subscribe("c1")["event"] == "subscribed", "one it is on already"
        client.send("unsubscribe", {"channel": "c0"})
        client.receive()
        assert client.subscribe("c3")["event"] == "subscribed"


def test_lengths_of_names(serve):
    with serve(max_channel_name_length=10, max_event_name_length=12).connect() as client:
        assert client.subscribe("x" * 10)["event"] == "subscribed"
        assert client.subscribe("x" * 11)["code"] == 4413
        client.send("e" * 13)
        assert client.receive()["code"] == 4413
        client.send("e" * 12)
        assert client.receive()["code"] == 4404


def test_messages_a_second(serve):
    server = serve(max_messages_per_second=20)
    with server.connect() as client, server.connect() as other:
        for _ in range(60):
            client.send("ping")
        wait_until(lambda: server.counters.rate_limited >= 20)
        other.send("ping")
        assert other.receive()["event"] == "pong"
        time.sleep(1.1)
        client.send("ping")
        client.send("subscribe", {"channel": "end"})
        events = client.events("subscribed")
        limited = [event for event in events if event["event"] == "error"]
        assert {event["code"] for event in limited} == {4301}
        assert 1 <= len(limited) <= 2
        assert 20 < len([event for event in events if event["event"] == "pong"]) <= 41


def test_a_flood_is_closed(serve):
    server = serve(max_messages_per_second=10)
    with server.connect() as client:
        with pytest.raises((OSError, Closed)):
            for _ in range(200):
                client.frame(Opcode.PING)
            raise client.closed()
        assert server.connections.connections == {}


@pytest.mark.usefixtures("transport", "writer")
def test_a_slow_consumer_is_closed_counted_logged_and_delays_nobody(serve, caplog):
    server = serve(max_outbox=200_000)
    with server.connect(receive_buffer=4096) as slow, server.connect() as fast:
        slow.subscribe("a")
        fast.subscribe("a")
        big = "x" * 50_000
        received = gevent.spawn(lambda: [fast.receive() for _ in range(400)])
        with caplog.at_level(logging.WARNING):
            for _ in range(400):
                server.to_channel("a").push({"event": "n", "data": big})
                gevent.sleep(0)
                if slow.socket_id not in server.connections.connections:
                    server.drain(below=100_000, timeout=5)
            assert len(received.get(timeout=60)) == 400
            wait_until(lambda: "reads too slowly" in caplog.text)
        assert slow.socket_id not in server.connections.connections
        assert server.counters.slow_consumers == 1
        closed = slow.closed()
        assert closed.code in (4200, None)
        if closed.code:
            assert closed.reason == "slow consumer"


@pytest.mark.usefixtures("writer")
def test_a_slow_consumer_that_reads_at_last_gets_whole_frames_and_the_close_code(serve):
    server = serve(max_outbox=200_000, close_timeout=20.0)
    with server.connect(receive_buffer=4096) as slow:
        slow.subscribe("a")
        while server.counters.slow_consumers == 0:
            server.to_channel("a").push({"event": "n", "data": "x" * 50_000})
            gevent.sleep(0)
        assert slow.closed().code == 4200


def test_handshake_time(serve):
    server = serve(handshake_timeout=1.5)
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n")
        started = time.monotonic()
        for _ in range(3):
            time.sleep(0.1)
            sock.sendall(b"X: y\r\n")
        assert sock.recv(1000).startswith(b"HTTP/1.1 408 ")
        assert time.monotonic() - started < 20
        assert sock.recv(1000) == b""
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as sock:
        assert sock.recv(1000) == b"", "one that says nothing is closed without a word"


def test_handshake_time_does_not_limit_what_comes_after(serve):
    def application(environ, start_response):
        gevent.sleep(0.6)
        start_response("200 OK", [("Content-Length", "4")])
        return [b"slow"]

    server = serve(application=application, handshake_timeout=0.3)
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as sock:
        sock.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        assert sock.recv(1000).endswith(b"slow")
    with server.connect() as client:
        time.sleep(0.6)
        client.send("ping")
        assert client.receive()["event"] == "pong"


def test_header_size(serve):
    server = serve(max_header_size=2000)
    for headers in (b"X: " + b"y" * 3000 + b"\r\n", b"X: y\r\n" * 500, b"X: y" * 3000):
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n" + headers + b"\r\n")
            received = b""
            try:
                while piece := sock.recv(1000):
                    received += piece
            except ConnectionResetError:
                pass
            assert received.startswith(b"HTTP/1.1 431 ")
    server.connect("/", {"X-Fine": "y" * 1000}).close()


def test_pending_handshakes_make_room_for_newcomers(serve):
    """Thirty clients that never finish their request do not keep others from connecting."""
    server = serve(max_pending_handshakes=10, handshake_timeout=10)
    slow = [socket.create_connection(("127.0.0.1", server.port), timeout=30) for _ in range(30)]
    for sock in slow:
        sock.sendall(b"GET / HTTP/1.1\r\n")
    with server.connect() as client:
        client.send("ping")
        assert client.receive()["event"] == "pong"
    assert slow[0].recv(1000) == b"", "the oldest had to go"
    for sock in slow:
        sock.close()


def test_presence_members_and_info(serve):
    def rooms(server):
        @server.channel("presence-{size}")
        def join(user, size):
            return {"fill": "x" * int(size)}

    server = serve(rooms, secret=SECRET, presence=PresenceSettings(max_members=2, max_info_size=100))
    clients = [server.connect("/", bearer(user)) for user in ("1", "1", "2", "3")]
    answers = [client.subscribe("presence-5") for client in clients]
    assert answers[3]["code"] == 4429
    assert [answer["event"] for answer in answers[:2]] == ["subscribed", "subscribed"]
    assert clients[0].events("member_added")[-1]["data"]["user"]["id"] == "2"
    assert clients[3].subscribe("presence-200")["code"] == 4429
    for client in clients:
        client.close()


def test_small_answers_and_frames_leave_at_once(serve, transport):
    """With Nagle's algorithm on, the body of each answer on a kept connection came 40 ms after its headers."""
    held_back = []

    def application(environ, start_response):
        sock = environ["wsgi.input"].rfile.raw._sock
        held_back.append(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 0)
        start_response("200 OK", [])
        return [b"ok"]

    server = serve(application=application)
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/page", timeout=30) as response:
        assert response.read() == b"ok"
    with (
        server.connect() as client,
        socket.socket(fileno=os.dup(server.connections.connections[client.socket_id].transport.fd)) as sock,
    ):
        held_back.append(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 0)
    assert held_back == [False, False]


def test_the_limit_of_open_files_is_raised_or_explained():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
        assert raise_file_limit(1500) is None
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= 1500
        sentence = raise_file_limit(hard * 2)
        assert str(hard) in sentence
        assert "ulimit -n" in sentence
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
