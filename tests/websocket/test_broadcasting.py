"""Pushing to channels, users and everybody, from everywhere."""

from __future__ import annotations

import datetime
import time
import uuid

import gevent
import pytest
from gevent.monkey import get_original

from alphavel.websocket import NotRunningError, WebSocketServer, subscriptions
from tests.websocket.conftest import SECRET
from tests.websocket.tokens import bearer


@pytest.mark.usefixtures("transport", "writer")
def test_each_audience_gets_what_is_pushed_to_it(serve):
    server = serve(secret=SECRET)
    ada, ada_too, bob = (server.connect("/", bearer(user)) for user in ("1", "1", "2"))
    ada.subscribe("a")
    bob.subscribe("a")
    bob.subscribe("b")
    assert server.to_channel("a").push({"event": "one"}) == 2
    assert server.to_channels(["a", "b"]).push({"event": "two"}) == 3
    assert server.to_user(1).push({"event": "three", "data": None}) == 2
    assert server.to_users(["1", 2]).push({"event": "four"}) == 3
    assert server.to_all().push({"event": "five"}) == 3
    assert server.to_channel("nobody").push({"event": "x"}) == 0
    assert server.to_user("nobody").push({"event": "x"}) == 0
    assert ada.events("five") == [
        {"event": "one", "channel": "a"},
        {"event": "two", "channel": "a"},
        {"event": "three", "data": None},
        {"event": "four"},
        {"event": "five"},
    ]
    assert [event["event"] for event in ada_too.events("five")] == ["three", "four", "five"]
    assert [(event["event"], event.get("channel")) for event in bob.events("five")] == [
        ("one", "a"), ("two", "a"), ("two", "b"), ("four", None), ("five", None)
    ]  # fmt: skip
    for client in (ada, ada_too, bob):
        client.close()


@pytest.mark.usefixtures("writer")
def test_except_leaves_out_whom_it_names(serve):
    server = serve()
    clients = [server.connect() for _ in range(3)]
    for client in clients:
        client.subscribe("a")
    first, second, _third = clients
    assert server.to_channel("a").except_([first.socket_id, "9.9"]).push({"event": "x"}) == 2
    assert server.to_channel("a").except_(first.socket_id).except_(second.socket_id).push({"event": "y"}) == 1
    assert server.to_all().except_([client.socket_id for client in clients]).push({"event": "z"}) == 0
    server.to_channel("a").push({"event": "end"})
    assert [[event["event"] for event in client.events("end")] for client in clients] == [
        ["end"], ["x", "end"], ["x", "y", "end"]
    ]  # fmt: skip


def test_a_broadcast_can_be_kept_and_used_again(serve):
    server = serve()
    to_a = server.to_channel("a")
    with server.connect() as client:
        client.subscribe("a")
        assert to_a.except_(client.socket_id).push({"event": "x"}) == 0
        assert to_a.push({"event": "y"}) == 1
        assert client.receive()["event"] == "y"


def test_what_was_pushed_is_what_arrives_even_if_the_data_changes_afterwards(serve):
    server = serve()
    with server.connect() as client:
        client.subscribe("a")
        data = {"n": 1}
        server.to_channel("a").push({"event": "x", "data": data, "more": [1]})
        data["n"] = 2
        assert client.receive() == {"event": "x", "channel": "a", "data": {"n": 1}, "more": [1]}


def test_data_may_be_what_json_can_say(serve):
    server = serve()
    with server.connect() as client:
        client.subscribe("a")
        moment = datetime.datetime(2026, 1, 2, 3, 4, 5)
        one = uuid.UUID(int=1)
        server.to_channel("a").push({"event": "x", "data": {"at": moment, 1: one, "t": (1, 2.5, None, True)}})
        assert client.receive()["data"] == {"at": "2026-01-02T03:04:05", "1": str(one), "t": [1, 2.5, None, True]}


@pytest.mark.parametrize(
    "message",
    [
        *[None, "text", [], {}, {"data": 1}, {"event": ""}, {"event": 5}],
        *[{"event": "x", "data": object()}, {"event": "x", "more": {1, 2}}],
    ],
)
def test_a_bad_message_is_the_callers_error(serve, message):
    with pytest.raises((TypeError, ValueError)):
        serve().to_all().push(message)


def test_a_bad_channel_name_is_the_callers_error(serve):
    with pytest.raises(ValueError, match="letters"):
        serve().to_channel("a b").push({"event": "x"})


@pytest.mark.parametrize(
    ("address", "words"),
    [
        (lambda to: to.to_channel(5), "channel's name; got 5"),
        (lambda to: to.to_channel(["a", "b"]), "there is to_channels"),
        (lambda to: to.to_channels("chat"), "'chat' alone there is to_channel"),
        (lambda to: to.to_channels(["a", None]), "channel's name; got None"),
        (lambda to: to.to_user(None), "got None"),
        (lambda to: to.to_users("7"), "'7' alone there is to_user"),
        (lambda to: to.to_users([7, None]), "got None"),
    ],
)
def test_an_audience_that_cannot_be_meant_is_the_callers_error(address, words):
    """A text is several letters, and str(None) the id of nobody: both had found nobody, without a word."""
    with pytest.raises(TypeError, match=words):
        address(WebSocketServer())


def test_pushing_before_the_start_says_what_to_do():
    with pytest.raises(NotRunningError, match="websocket:serve"):
        WebSocketServer().to_channel("a").push({"event": "x"})


@pytest.mark.usefixtures("writer")
def test_pushes_of_one_turn_arrive_in_order_whoever_they_are_for(serve):
    server = serve(secret=SECRET)
    with server.connect("/", bearer("1")) as client:
        client.subscribe("a")
        client.subscribe("b")
        connection = server.connections.connections[client.socket_id]
        expected = []
        for number in range(200):
            push = (
                server.to_channel("a").push,
                server.to_channel("b").push,
                server.to_user(1).push,
                server.to_all().push,
                connection.send,
                server.to_channel("a").except_("1.1").push,
            )[number * 7 % 6]
            push({"event": "n", "data": number})
            expected.append(number)
        assert [client.receive()["data"] for _ in range(200)] == expected


@pytest.mark.usefixtures("writer")
def test_who_subscribes_gets_what_is_pushed_afterwards_and_who_leaves_what_was_pushed_before(serve):
    server = serve(secret=SECRET)
    with server.connect("/", bearer("1")) as client:
        client.subscribe("a")
        connection = server.connections.connections[client.socket_id]
        server.to_channel("a").push({"event": "before"})
        subscriptions.leave(connection.app, connection, "a")
        server.to_channel("a").push({"event": "after"})
        server.connections.subscribe(connection, "a")
        server.to_channel("a").push({"event": "again"})
        assert [client.receive()["event"], client.receive()["event"]] == ["before", "again"]


def test_push_from_another_thread_of_the_operating_system(serve):
    server = serve()
    start_thread = get_original("_thread", "start_new_thread")
    results = []

    def work():
        for number in range(100):
            results.append(server.to_channel("a").push({"event": "n", "data": number}))
        try:
            server.to_channel("a b").push({"event": "x"})
        except ValueError as error:
            results.append(error)

    with server.connect() as client:
        client.subscribe("a")
        start_thread(work, ())
        assert [client.receive()["data"] for _ in range(100)] == list(range(100))
        while len(results) < 101:
            time.sleep(0.01)
        assert results[:100] == [1] * 100
        assert isinstance(results[100], ValueError)


@pytest.mark.usefixtures("writer")
def test_a_huge_fan_out_lets_others_have_their_turn(serve):
    server = serve(max_outbox=8 << 20)
    clients = [server.connect() for _ in range(200)]
    for client in clients:
        client.subscribe("a")
    longest, last = 0.0, time.perf_counter()
    for number in range(300):
        server.to_channel("a").push({"event": "n", "data": number})
    for _ in range(200):
        gevent.sleep(0)
        now = time.perf_counter()
        longest, last = max(longest, now - last), now
    assert all(client.receive()["data"] == 0 for client in clients)
    assert server.drain(timeout=60)


@pytest.mark.usefixtures("writer")
def test_drain_waits_for_a_slow_reader_and_gives_up_in_time(serve):
    server = serve(max_outbox=32 << 20)
    with server.connect(receive_buffer=4096) as client:
        client.subscribe("a")
        big = "x" * 1_000_000
        for _ in range(16):
            server.to_channel("a").push({"event": "n", "data": big})
        assert not server.drain(timeout=0.2)
        reader = gevent.spawn(lambda: [client.receive() for _ in range(16)])
        assert server.drain(below=0, timeout=60)
        assert len(reader.get(timeout=60)) == 16
        assert server.drain(timeout=0)


def test_get_channels_and_stats(serve):
    server = serve()
    with server.connect() as client:
        client.subscribe("a")
        client.subscribe("private.not-really")
        assert server.get_channels() == ["a", "private.not-really"]
        assert server.get_channel_stats("a") == {"name": "a", "subscribers": 1, "type": "public"}
        stats = server.get_stats()
        assert stats["connections"] == 1
        assert stats["messages_in"] == 2
        assert stats["state"] == "ready"
