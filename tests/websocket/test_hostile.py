"""Clients that mean harm: none may raise into the loop, cost another client its place, or fill the log."""

from __future__ import annotations

import logging
import socket
import struct
import time

import gevent
import pytest

from alphavel.websocket.frames import Opcode, frame
from alphavel.websocket.protocols import Message
from tests.support import wait_until
from tests.websocket.clients import MASK, Closed, Refused
from tests.websocket.conftest import SECRET
from tests.websocket.tokens import bearer

UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
DEEP = "[" * 500 + "]" * 500  # JSON that can be read, and not written again


def reset(client):
    """End a connection with a reset instead of a goodbye."""
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.sock.close()


def alive(client):
    client.send("ping")
    return client.events("pong")


# What it says


def test_a_long_name_is_refused_before_an_expression_is_matched_against_it(serve):
    """`private-{a}-{b}-{c}-{d}` takes the fourth power of the name's length; on a megabyte, for ever, in the hub."""

    def rooms(server):
        server.channel("{a}-{b}-{c}-{d}")(lambda user, **parts: True)

    server = serve(rooms)
    with server.connect() as client, server.connect() as other:
        for prefix in ("", "private-"):
            client.send("subscribe", {"channel": prefix + "-" * 1_000_000})
            assert alive(other)
            assert client.receive()["code"] == 4413


def test_data_too_deep_to_be_passed_on_is_the_clients_mistake(serve, caplog):
    server = serve(lambda server: server.channel("talk")(lambda user: True))
    with server.connect() as client, server.connect() as other:
        client.subscribe("talk")
        other.subscribe("talk")
        client.text('{"event":"broadcast","data":{"channel":"talk","message":{"event":"x","data":' + DEEP + "}}}")
        error = client.receive()
        assert (error["code"], error["channel"]) == (4400, "talk")
        assert "deep" in error["message"]
        assert [event["event"] for event in alive(other)] == ["pong"]
    assert server.counters.errors == 0
    assert caplog.text == ""


@pytest.mark.parametrize(
    "text",
    [
        '{"event":"broadcast","data":{"channel":' + DEEP + "}}",
        '{"event":"subscribe","data":{"channel":' + DEEP + "}}",
        '{"event":"subscribe","data":{"channel":"' + "x" * 500_000 + '"}}',
        '{"event":"' + "x\\n" * 200_000 + '"}',
    ],
)
def test_what_a_failing_message_handler_was_given_is_not_sent_back_and_hardly_logged(serve, caplog, text):
    """The answer used to hold whatever the client had named; JSON too deep for it ended the connection's greenlet."""
    closed = []

    def hooks(server):
        @server.on("message")
        def message(connection, event):
            raise RuntimeError("no")

        @server.on("close")
        def close(connection):
            closed.append(connection.socket_id)

    server = serve(hooks)
    with server.connect() as client, caplog.at_level(logging.ERROR):
        client.text(text)
        assert client.receive() == {"event": "error", "code": 4500, "message": "The server failed to handle this event."}
        client.send("ping")
        assert client.receive()["code"] == 4500, "later messages are handled too"
    wait_until(lambda: closed == [client.socket_id])
    assert all(len(record.getMessage()) < 500 and "\n" not in record.getMessage() for record in caplog.records)


def test_what_the_application_does_to_a_members_info_later_reaches_nobody(serve):
    """Members are told in the hub: an object in the info raised there, and no push of anybody left the server again."""
    infos = []

    def rooms(server):
        @server.channel("presence-room")
        def join(user):
            infos.append({"name": user.id})
            return infos[-1]

        @server.channel("presence-bad")
        def bad(user):
            return {"object": object()}

    server = serve(rooms, secret=SECRET)
    with server.connect("/", bearer("1")) as first, server.connect("/", bearer("2")) as second:
        first.subscribe("presence-room")
        infos[0]["thing"] = object()
        assert second.subscribe("presence-room")["data"]["members"][0]["info"] == {"name": "1"}
        assert first.receive()["data"]["user"] == {"id": "2", "info": {"name": "2"}}
        infos[1]["thing"] = object()
        second.send("unsubscribe", {"channel": "presence-room"})
        assert first.receive()["event"] == "member_removed"
        assert second.subscribe("presence-bad")["event"] == "unsubscribed"
        assert second.receive()["code"] == 4500
        assert server.to_all().push({"event": "still-here"}) == 2
        assert first.receive()["event"] == second.receive()["event"] == "still-here"


@pytest.mark.parametrize("name", ["\ud800", "a\udfff"])
def test_a_user_id_that_is_no_text_does_not_get_in(serve, name):
    with pytest.raises(Refused) as caught:
        serve(secret=SECRET).connect("/", bearer(name))
    assert caught.value.status == 401


def test_claims_may_hold_integers_of_any_size(serve):
    server = serve(secret=SECRET)
    with server.connect("/", bearer("7", snowflake=2**90)) as client:
        assert server.connections.connections[client.socket_id].user.claims["snowflake"] == 2**90


@pytest.mark.usefixtures("transport")
def test_a_message_of_empty_fragments_ends(serve):
    server = serve(max_message_size=100_000, max_messages_per_second=None)
    with server.connect() as client, server.connect() as other:
        client.frame(Opcode.TEXT, b"", fin=False)
        empty = frame(Opcode.CONTINUATION, b"", fin=False, mask=MASK)
        with pytest.raises((OSError, Closed)):
            for _ in range(1000):
                client.raw(empty * 1000)
                assert alive(other)
            raise client.closed()
        wait_until(lambda: len(server.connections.connections) == 1)


# How it comes and goes


@pytest.mark.usefixtures("transport")
def test_a_connection_closed_while_its_reading_is_paused_ends_with_a_whole_closing_handshake(serve):
    """What a paused connection had not read made the kernel reset it, which can overtake the close frame."""
    gate = gevent.event.Event()

    def hooks(server):
        server.event("n")(lambda connection: gate.wait())

    server = serve(hooks, max_waiting_messages=1, max_messages_per_second=None, close_timeout=60.0)
    with server.connect() as client:
        connection = server.connections.connections[client.socket_id]
        for _ in range(20):
            client.send("n")
        gevent.sleep(0.1)
        connection.close(4000, "enough")
        assert client.receive_frame() == (Opcode.CLOSE, b"\x0f\xa0enough")
        client.frame(Opcode.CLOSE, b"\x0f\xa0")
        assert client.sock.recv(1) == b"", "an end, not a reset"
        client.close()
        gate.set()
        wait_until(lambda: not server.reactor.sockets)


@pytest.mark.usefixtures("transport")
def test_resets_during_a_fan_out_of_presence_changes(serve):
    """Each one that turns out to be gone while it is written to is one more change to tell the others of."""
    server = serve(
        lambda server: server.channel("presence-room")(lambda user: True), secret=SECRET, max_channels_per_connection=5
    )
    clients = [server.connect("/", bearer(str(number))) for number in range(120)]
    for client in clients:
        client.send("subscribe", {"channel": "presence-room"})
    wait_until(lambda: len(server.get_presence("presence-room")) == 120)
    for number in range(100):
        server.to_channel("presence-room").push({"event": "n", "data": number})
    for client in clients[:100]:
        reset(client)
    for number in range(100, 200):
        server.to_channel("presence-room").push({"event": "n", "data": number})
        if number % 10 == 0:
            gevent.sleep(0)
    wait_until(lambda: len(server.connections.connections) == 20)
    for client in clients[100:]:
        events = []
        while len(events) < 200:
            event = client.receive()
            if event["event"] == "n":
                events.append(event["data"])
        assert events == list(range(200))
    assert len(server.get_presence("presence-room")) == 20


@pytest.mark.usefixtures("transport")
def test_a_storm_of_subscriptions_during_a_fan_out_loses_and_doubles_nothing(serve):
    server = serve(max_messages_per_second=None)
    steady = [server.connect() for _ in range(20)]
    restless = [server.connect() for _ in range(10)]
    for client in steady:
        client.subscribe("a")
    storm = b"".join(
        frame(Opcode.TEXT, b'{"event":"%s","data":{"channel":"a"}}' % verb, mask=MASK)
        for verb in (b"subscribe", b"unsubscribe")
    )
    readers = [gevent.spawn(client.events, "end") for client in (*steady, *restless)]
    for number in range(300):
        restless[number % 10].raw(storm * 3)
        server.to_channel("a").push({"event": "n", "data": number})
        if number % 7 == 0:
            gevent.sleep(0.001)
    gevent.sleep(0.2)
    server.to_all().push({"event": "end"})
    seen = [reader.get(timeout=60) for reader in readers]
    for events in seen[:20]:
        assert [event["data"] for event in events if event["event"] == "n"] == list(range(300))
    for events in seen[20:]:
        subscribed = False
        numbers = []
        for event in events:
            if event["event"] == "n":
                assert subscribed, "nothing comes to those who have left"
                numbers.append(event["data"])
            else:
                subscribed = event["event"] == "subscribed"
        assert numbers == sorted(set(numbers))


@pytest.mark.parametrize(
    "request_",
    [
        b"GET /?token=opaque-secret HTTP/9.9\r\n\r\n",
        b"GET /?token=opaque-secret and more HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",  # TLS where none is spoken
        b"GET / HTTP/1.1\r\nno colon here\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
        b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\nzz\r\n",
        b"\x00" * 100 + b"\r\n\r\n",
    ],
)
def test_no_request_makes_a_stranger_write_into_the_log(serve, caplog, capfd, request_):
    server = serve(secret=SECRET)
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as sock, caplog.at_level(logging.INFO):
        sock.sendall(request_)
        assert sock.recv(1000).split()[1] in (b"400", b"404")
    written = "".join(capfd.readouterr())
    assert written == ""
    assert "opaque-secret" not in caplog.text


def test_half_frames_and_ends_at_every_byte(serve, capfd):
    server = serve()
    stream = UPGRADE + frame(Opcode.TEXT, b'{"event":"ping"}', mask=MASK) + frame(Opcode.CLOSE, b"\x03\xe8", mask=MASK)
    watcher = server.connect()
    for size in range(1, len(stream)):
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as sock:
            sock.sendall(stream[:size])
            if size % 2:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wait_until(lambda: server.reactor.sockets == 1)
    assert alive(watcher)
    assert "".join(capfd.readouterr()) == ""


def test_what_follows_a_refused_handshake_is_not_read_as_a_request(serve):
    """A refused handshake with a second request behind it: that one is not answered either."""
    asked = []

    def application(environ, start_response):
        asked.append(environ["PATH_INFO"])
        start_response("200 OK", [("Content-Length", "2")])
        return [b"ok"]

    server = serve(application=application, secret=SECRET)
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as sock:
        sock.sendall(UPGRADE + b"GET /push HTTP/1.1\r\nHost: x\r\n\r\n")
        received = b""
        try:
            while piece := sock.recv(65536):
                received += piece
        except ConnectionResetError:
            pass
    assert received.startswith(b"HTTP/1.1 401 ")
    assert received.count(b"HTTP/1.1") == 1
    assert asked == []


# While the server stops


def test_a_handshake_that_comes_when_the_server_has_stopped_does_not_start_it_again(serve):
    server = serve()
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as late:
        late.sendall(UPGRADE[:-2])
        gevent.sleep(0.05)
        assert server.stop(timeout=1.0)
        late.sendall(b"\r\n")
        assert late.recv(1000).startswith(b"HTTP/1.1 503 ")
    assert not server.is_running


def test_a_timers_handler_that_runs_when_the_server_stops_may_finish(serve):
    steps = []

    def hooks(server):
        @server.every(0.01)
        def work():
            steps.append("began")
            time.sleep(0.3)
            steps.append("ended")

    server = serve(hooks)
    wait_until(lambda: steps)
    assert server.stop(timeout=5.0)
    assert steps.count("began") == steps.count("ended")


def test_a_members_info_that_is_nested_too_deeply_is_refused(serve):
    """In the event that tells the others it stands some levels deeper than where it is checked."""
    depth = []

    def rooms(server):
        @server.channel("presence-room")
        def join(user):
            info = {}
            for _ in range(depth[-1]):
                info = {"a": info}
            return info

    server = serve(rooms, secret=SECRET)
    with server.connect("/", bearer("1")) as watcher:
        depth.append(0)
        watcher.subscribe("presence-room")
        for levels in (*range(235, 262, 2), 1000):
            depth.append(levels)
            with server.connect("/", bearer("2")) as client:
                answer = client.subscribe("presence-room")
                assert answer["event"] == "subscribed" or answer["code"] == 4500
                here = [member["id"] for member in server.get_presence("presence-room")]
                assert here == (["1", "2"] if answer["event"] == "subscribed" else ["1"])
            if answer["event"] == "subscribed":
                assert [watcher.receive()["event"] for _ in range(2)] == ["member_added", "member_removed"]
        assert answer["event"] == "error"
        server.to_all().push({"event": "still-here"})
        assert watcher.receive()["event"] == "still-here"


def test_a_message_that_cannot_be_framed_keeps_nobody_elses_back(serve, caplog):
    """It cannot happen; if it does all the same, it must not be the end of every push to come."""
    server = serve()
    with server.connect() as client:
        client.subscribe("a")
        channel = server.connections.channels["a"]
        broken = Message({"event": "broken"})
        broken.json_event = None
        for message in (Message({"event": "before"}), broken, Message({"event": "after"})):
            server.reactor.publish(message, channel.subscribers, channel, frozenset())
        assert [client.receive()["event"] for _ in range(2)] == ["before", "after"]
        wait_until(lambda: "cannot be framed" in caplog.text)
