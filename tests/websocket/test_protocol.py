"""Alphavel's own protocol over real sockets, on both transports."""

from __future__ import annotations

import time

import pytest

from alphavel.websocket.frames import Opcode
from tests.websocket.conftest import SECRET
from tests.websocket.tokens import bearer

pytestmark = pytest.mark.usefixtures("transport")


def rooms(server):
    @server.channel("presence-room.{room}")
    def join(user, room):
        return {"name": f"user {user.id}", "room": room}

    @server.channel("private-user.{user_id}")
    def own(user, user_id):
        return user.id == user_id

    @server.channel("private-talk")
    def talk(user):
        return True


def test_a_client_is_greeted_with_its_socket_id(serve):
    server = serve()
    with server.connect(greeted=False) as client:
        greeting = client.receive()
        assert greeting.keys() == {"event", "socket_id", "timestamp"}
        assert greeting["event"] == "connected"
        assert greeting["socket_id"] in server.connections.connections
        assert abs(greeting["timestamp"] - time.time()) < 5


def test_subscribe_push_unsubscribe(serve):
    server = serve()
    with server.connect() as client:
        answer = client.subscribe("chat.room.1")
        assert answer.keys() == {"event", "channel", "timestamp"}
        assert (answer["event"], answer["channel"]) == ("subscribed", "chat.room.1")
        assert server.to_channel("chat.room.1").push({"event": "new-message", "data": {"text": "hé"}}) == 1
        assert client.receive() == {"event": "new-message", "channel": "chat.room.1", "data": {"text": "hé"}}
        client.send("unsubscribe", {"channel": "chat.room.1"})
        assert client.receive() == {"event": "unsubscribed", "channel": "chat.room.1"}
        assert server.to_channel("chat.room.1").push({"event": "new-message"}) == 0
        assert client.silent()
        assert server.get_channels() == []


def test_subscribing_twice_is_answered_twice_and_counts_once(serve):
    server = serve()
    with server.connect() as client:
        client.subscribe("a")
        assert client.subscribe("a")["event"] == "subscribed"
        assert server.to_channel("a").push({"event": "x"}) == 1


def test_ping_is_answered_with_pong(serve):
    with serve().connect() as client:
        client.send("ping")
        answer = client.receive()
        assert answer["event"] == "pong"
        assert abs(answer["timestamp"] - time.time()) < 5
        client.frame(Opcode.PING, b"frame")
        assert client.receive_frame() == (Opcode.PONG, b"frame")


@pytest.mark.parametrize(
    ("text", "code", "part"),
    [
        ("", 4400, "JSON"),
        ("{", 4400, "JSON"),
        ("[]", 4400, "object"),
        ('"text"', 4400, "object"),
        ("{}", 4400, '"event"'),
        ('{"event": 5}', 4400, '"event"'),
        ('{"event": "nobody-knows"}', 4404, "nobody-knows"),
        ('{"event": "subscribe"}', 4400, "channel"),
        ('{"event": "subscribe", "data": []}', 4400, "channel"),
        ('{"event": "subscribe", "data": {"channel": 5}}', 4400, "channel"),
        ('{"event": "subscribe", "data": {"channel": ["private-x"]}}', 4400, "channel"),
        ('{"event": "subscribe", "data": {"channel": "a b"}}', 4400, "letters"),
        ('{"event": "subscribe", "data": {"channel": "%s"}}' % ("x" * 165), 4413, "164"),
        ('{"event": "unsubscribe", "data": {"channel": ""}}', 4400, "channel"),
        ('{"event": "%s"}' % ("x" * 201), 4413, "200"),
        ('{"event": "broadcast", "data": {"channel": "a"}}', 4400, "message"),
        ('{"event": "broadcast", "data": {"channel": "a", "message": {"event": "pong"}}}', 4400, "belongs"),
        ('{"event": "broadcast", "data": {"channel": "a", "message": {"event": "x"}}}', 4009, "subscribed"),
        ('{"event": "refresh", "data": {"token": "x"}}', 4009, "no tokens"),
        ("[" * 100_000, 4400, "JSON"),
    ],
)
def test_bad_messages_get_an_error_event_and_the_connection_stays(serve, text, code, part):
    with serve().connect() as client:
        client.text(text)
        error = client.receive()
        assert (error["event"], error["code"]) == ("error", code)
        assert part in error["message"]
        client.send("ping")
        assert client.receive()["event"] == "pong"


def test_a_binary_message_gets_an_error_event(serve):
    with serve().connect() as client:
        client.frame(Opcode.BINARY, b"\x00")
        assert client.receive()["code"] == 4400
        client.send("ping")
        assert client.receive()["event"] == "pong"


def test_a_violation_closes_with_the_code_of_the_rfc(serve):
    server = serve(max_message_size=1000)
    for data, code in ((b"\x81\x00", 1002), (b"\x81\x81\x00\x00\x00\x00\xff", 1007), (b"\x82\xfe\x7f\xff", 1009)):
        with server.connect() as client:
            client.raw(data + b"\x00" * 8)
            assert client.closed().code == code


def test_a_client_that_is_nobody_gets_no_private_and_no_presence_channel(serve):
    with serve(rooms).connect() as client:
        for name in ("private-user.7", "presence-room.1", "private-nobody-authorizes"):
            assert client.subscribe(name) == {"event": "error", "code": 4009, "message": "Unauthorized", "channel": name}


def test_a_channel_without_authorizer_is_refused_to_users_too(serve):
    server = serve(secret=SECRET)
    with server.connect("/", bearer()) as client:
        assert client.subscribe("private-x")["code"] == 4009
        assert client.subscribe("presence-x")["code"] == 4009
        assert client.subscribe("public-x")["event"] == "subscribed"


def test_an_authorizer_decides_who_gets_in(serve):
    server = serve(rooms, secret=SECRET)
    with server.connect("/", bearer("7")) as client:
        assert client.subscribe("private-user.7")["event"] == "subscribed"
        assert client.subscribe("private-user.8")["code"] == 4009


def test_presence_tells_who_comes_first_and_goes_last(serve):
    server = serve(rooms, secret=SECRET)
    watcher = server.connect("/", bearer("1"))
    joined = watcher.subscribe("presence-room.5")
    assert joined["data"]["members"] == [
        {"id": "1", "connected_at": pytest.approx(time.time(), abs=5), "info": {"name": "user 1", "room": "5"}}
    ]
    ada, ada_again = (server.connect("/", bearer("2")) for _ in range(2))
    members = [ada.subscribe("presence-room.5"), ada_again.subscribe("presence-room.5")][1]["data"]["members"]
    assert [member["id"] for member in members] == ["1", "2"]
    assert server.get_presence("presence-room.5") == members
    assert server.get_channel_stats("presence-room.5") == {
        "name": "presence-room.5", "subscribers": 3, "type": "presence", "members": 2
    }  # fmt: skip
    user = {"id": "2", "info": {"name": "user 2", "room": "5"}}
    assert watcher.receive() == {"event": "member_added", "channel": "presence-room.5", "data": {"user": user}}
    assert ada.silent(0.1), "nobody is told of a user's second connection, nor anybody of oneself"
    ada.close()
    assert watcher.silent()
    ada_again.send("unsubscribe", {"channel": "presence-room.5"})
    assert watcher.receive() == {"event": "member_removed", "channel": "presence-room.5", "data": {"user": user}}
    watcher.close()
    ada_again.close()


def test_client_broadcast_reaches_the_others_where_an_authorizer_grants_it(serve):
    server = serve(rooms, secret=SECRET)
    with server.connect("/", bearer("1")) as sender, server.connect("/", bearer("2")) as other:
        sender.subscribe("private-talk")
        other.subscribe("private-talk")
        sender.send("broadcast", {"channel": "private-talk", "message": {"event": "wave", "data": [1], "channel": "x"}})
        assert other.receive() == {"event": "wave", "channel": "private-talk", "data": [1]}
        assert sender.silent(0.1)
        for client in (sender, other):
            client.subscribe("open")
        sender.send("broadcast", {"channel": "open", "message": {"event": "wave"}})
        assert sender.receive()["code"] == 4009
        assert other.silent(0.1)


def test_what_was_sent_before_a_close_is_handled(serve):
    seen = []

    def slow(server):
        @server.event("note")
        def note(connection, data):
            time.sleep(0.05)
            seen.append(data)
            connection.send({"event": "noted", "data": data})

    with serve(slow).connect() as client:
        for number in range(3):
            client.send("note", number)
        client.frame(Opcode.CLOSE, b"\x03\xe8")
        assert [client.receive()["data"] for _ in range(3)] == [0, 1, 2]
        assert client.closed().code == 1000
    assert seen == [0, 1, 2]


def test_closing_handshake_is_answered_and_the_server_waits_for_the_peer_to_go(serve):
    server = serve()
    with server.connect() as client:
        client.frame(Opcode.CLOSE, b"\x0f\xa0bye")
        assert client.receive_frame() == (Opcode.CLOSE, b"\x0f\xa0")
        assert client.sock.recv(1) == b""
        assert server.connections.connections == {}


def test_server_closes_with_code_and_reason(serve):
    server = serve()
    with server.connect() as client:
        connection = server.connections.connections[client.socket_id]
        connection.close(4001, "go away")
        connection.close(4002, "again")
        assert not connection.send({"event": "late"})
        closed = client.closed()
        assert (closed.code, closed.reason) == (4001, "go away")
        with pytest.raises(ValueError, match="1005"):
            connection.close(1005)


def test_message_in_many_pieces_and_many_messages_in_one_piece(serve):
    with serve().connect() as client:
        from alphavel.websocket.frames import frame
        from tests.websocket.clients import MASK

        ping = frame(Opcode.TEXT, b'{"event":"ping"}', mask=MASK)
        for byte in ping:
            client.raw(bytes((byte,)))
            time.sleep(0.001)
        client.raw(ping * 50)
        assert [client.receive()["event"] for _ in range(51)] == ["pong"] * 51


def test_first_message_may_come_together_with_the_handshake(serve):
    """Not what the RFC allows a client, but what load balancers make of a fast one."""
    import socket

    from alphavel.websocket.frames import frame
    from tests.websocket.clients import MASK

    server = serve()
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as sock:
        request = (
            "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        sock.sendall(request.encode() + frame(Opcode.TEXT, b'{"event":"ping"}', mask=MASK))
        received = b""
        while b'"pong"' not in received:
            received += sock.recv(1000)
        assert received.index(b"connected") < received.index(b"pong")
