"""
Clients, handlers and pushes that take turns at random points: at every single switch between greenlets the books are
whole, and what each client is told fits together.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct

import gevent
import greenlet
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from alphavel.websocket import WebSocketServer
from alphavel.websocket.admission import admit
from alphavel.websocket.frames import Opcode, frame
from alphavel.websocket.upgrade import hand_over
from tests.websocket.clients import MASK
from tests.websocket.conftest import SECRET, settings
from tests.websocket.tokens import token

CHANNELS = ["news", "presence-room", "presence-hall"]
TOKENS = {user: token(user, exp=4_000_000_000) for user in ("1", "2")}

channel = st.sampled_from(CHANNELS)
step = st.one_of(
    st.tuples(st.sampled_from(["subscribe", "unsubscribe", "broadcast", "push"]), channel),
    st.tuples(st.sampled_from(["work", "kick", "switch"]), st.integers(0, 4)),
)
ending = st.sampled_from(["goodbye", "reset", "vanish", "violation"])
client = st.tuples(st.sampled_from(["1", "2", None]), st.lists(step, max_size=12), ending)


def check(manager):
    """Assert that the books agree with each other."""
    for name, found in manager.channels.items():
        assert found.subscribers, name
        for socket_id, connection in found.subscribers.items():
            assert manager.connections[socket_id] is connection
            assert found in connection._channels
        if found.members is not None:
            ids = [connection.user.id for connection in found.subscribers.values()]
            assert {member.id: member.connections for member in found.members.values()} == {i: ids.count(i) for i in ids}
    users = {}
    for socket_id, connection in manager.connections.items():
        assert len(set(connection.channels)) == len(connection.channels)
        for joined in connection._channels:
            assert manager.channels[joined.name] is joined
            assert socket_id in joined.subscribers
        if connection.user is not None:
            users.setdefault(connection.user.id, set()).add(socket_id)
    assert {user: set(theirs) for user, theirs in manager.users.items()} == users


@contextlib.contextmanager
def checked_at_every_switch(manager):
    """Check the books whenever one greenlet gives way to another; yields what counts the switches."""
    failures, switches = [], [0]

    def switched(event, pair):
        switches[0] += 1
        if not failures:
            try:
                check(manager)
            except BaseException as error:  # raised later: here it would end up in some greenlet
                failures.append(error)

    before = greenlet.settrace(switched)
    try:
        yield switches
    finally:
        greenlet.settrace(before)
    if failures:
        raise failures[0]


def a_server(switches):
    """A server whose application code switches as often as `switches` says."""
    server = WebSocketServer(settings(secret=SECRET, anonymous=True, max_waiting_messages=3))
    turn = iter(range(10**9))

    def switch():
        for _ in range(switches[next(turn) % len(switches)]):
            gevent.sleep(0)

    for pattern in ("news", "presence-{room}"):

        @server.channel(pattern)
        def join(user):
            switch()
            return True

    for name in ("open", "close"):
        server.on(name)(switch)
    server.event("work")(switch)
    server.start()
    return server


def connect(server, user, path="/"):
    """Hand one end of a socket pair to the server, as its HTTP server would; return the other."""
    ours, theirs = socket.socketpair()
    environ = {
        "REQUEST_METHOD": "GET", "SERVER_PROTOCOL": "HTTP/1.1", "HTTP_HOST": "x", "PATH_INFO": path.partition("?")[0],
        "HTTP_UPGRADE": "websocket", "HTTP_CONNECTION": "Upgrade", "HTTP_SEC_WEBSOCKET_VERSION": "13",
        "HTTP_SEC_WEBSOCKET_KEY": "dGhlIHNhbXBsZSBub25jZQ==", "REMOTE_ADDR": "127.0.0.1",
        "QUERY_STRING": path.partition("?")[2],
        **({"HTTP_AUTHORIZATION": f"Bearer {TOKENS[user]}"} if user else {}),
    }  # fmt: skip
    hand_over(server, admit(server, environ), theirs, b"")
    return ours


def run_client(server, user, steps, how_it_ends):
    sock = connect(server, user)
    reader = gevent.spawn(read_all, sock)

    def say(event, **data):
        sock.sendall(frame(Opcode.TEXT, json.dumps({"event": event, "data": data}).encode(), mask=MASK))

    with contextlib.suppress(OSError):
        for what, argument in steps:
            if what == "broadcast":
                say("broadcast", channel=argument, message={"event": "wave"})
            elif what == "push":
                server.to_channel(argument).push({"event": "pushed"})
            elif what == "work":
                say("work")
            elif what == "kick":
                everybody = list(server.connections.connections.values())
                if everybody:
                    everybody[argument % len(everybody)].close(4000, "kicked")
            elif what == "switch":
                for _ in range(argument):
                    gevent.sleep(0)
            else:
                say(what, channel=argument)
        end(sock, how_it_ends)
    events = reader.get(timeout=60)
    sock.close()
    follow(events, user)


def end(sock, how):
    if how == "goodbye":
        sock.sendall(frame(Opcode.CLOSE, b"\x03\xe8", mask=MASK))
    elif how == "violation":
        sock.sendall(b"\xff\xff\xff")
    elif how == "vanish":
        sock.shutdown(socket.SHUT_WR)
    else:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.shutdown(socket.SHUT_RDWR)


def read_all(sock):
    """Return the events that came before the end."""
    data = b""
    with contextlib.suppress(OSError):
        while piece := sock.recv(65536):
            data += piece
    data = data.partition(b"\r\n\r\n")[2]
    events = []
    while len(data) >= 2:
        size, begin = data[1], 2
        if size == 126:
            size, begin = int.from_bytes(data[2:4], "big"), 4
        if data[0] & 0x0F == Opcode.TEXT and len(data) >= begin + size:
            events.append(json.loads(data[begin : begin + size]))
        data = data[begin + size :]
    return events


def follow(events, user):
    """Assert that what one client was told fits together."""
    rosters = {}
    for event in events:
        name, kind = event.get("channel"), event["event"]
        if kind == "subscribed":
            ids = [member["id"] for member in event.get("data", {}).get("members", [])]
            assert len(set(ids)) == len(ids)
            assert user in ids or not name.startswith("presence-")
            rosters[name] = set(ids)
        elif kind == "unsubscribed":
            rosters.pop(name, None)
        elif kind == "member_added":
            assert event["data"]["user"]["id"] not in rosters[name], "nobody comes twice"
            rosters[name].add(event["data"]["user"]["id"])
        elif kind == "member_removed":
            rosters[name].remove(event["data"]["user"]["id"])
        elif kind in ("pushed", "wave"):
            assert name in rosters, "only where subscribed"


@hypothesis_settings(max_examples=int(os.environ.get("FUZZ_EXAMPLES", "600")) // 10)
@given(st.lists(client, min_size=2, max_size=6), st.lists(st.integers(0, 3), min_size=1, max_size=8))
def test_books_are_whole_at_every_switch_and_every_client_is_told_what_fits(clients, switches):
    server = a_server(switches)
    try:
        with checked_at_every_switch(server.connections) as seen:
            running = [gevent.spawn(run_client, server, *one) for one in clients]
            gevent.joinall(running, timeout=30, raise_error=True)
            while server.reactor.sockets or len(server.tasks):
                gevent.sleep(0.001)
        assert seen[0] > len(clients), "something was checked"
        assert not server.connections.connections
        assert not server.connections.channels
        assert not server.connections.users
    finally:
        server.stop(timeout=1.0)


def test_the_check_notices_books_that_are_not_whole():
    server = a_server([0])
    try:
        sock = connect(server, "1")
        (connection,) = server.connections.connections.values()
        server.connections.subscribe(connection, "news")
        check(server.connections)
        connection._channels = ()
        try:
            check(server.connections)
        except AssertionError:
            pass
        else:
            raise AssertionError("it noticed nothing")
        connection._channels = (server.connections.channels["news"],)
        sock.close()
    finally:
        server.stop(timeout=1.0)
