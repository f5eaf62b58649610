"""Pusher's clients on channels of all kinds, beside Alphavel's."""

from __future__ import annotations

import json

import gevent
import pytest

from alphavel.websocket.auth.signatures import channel_auth
from alphavel.websocket.channels import Channel
from alphavel.websocket.connections import ConnectionManager
from alphavel.websocket.counts import SubscriptionCounts
from alphavel.websocket.protocols import Message
from tests.support import wait_until
from tests.websocket.conftest import SECRET as JWT_SECRET
from tests.websocket.pusher import KEY, SECRET, PusherClient, app, succeeded
from tests.websocket.tokens import bearer

ANN = {"user_id": "u1", "user_info": {"name": "Ann"}}
BOB = {"user_id": "u2", "user_info": {"name": "Bob"}}


def connect(server, count=2):
    return [PusherClient(server.port) for _ in range(count)]


@pytest.mark.usefixtures("transport")
@pytest.mark.parametrize("name", ["news", "private-orders.7", "private-encrypted-x", "cache-x", "private-cache-x"])
def test_who_is_subscribed_gets_what_is_pushed_and_who_has_left_does_not(serve, name):
    server = serve(apps=(app(),))
    with PusherClient(server.port) as client:
        assert client.join(name) == succeeded(name)
        if "cache" in name:
            assert client.receive()["event"] == "pusher:cache_miss"
        assert server.to_channel(name).push({"event": "a", "data": {"n": 1}}) == 1
        assert client.receive() == {"event": "a", "channel": name, "data": {"n": 1}}
        client.send("pusher:unsubscribe", {"channel": name})
        client.send("pusher:ping", {})
        assert client.receive()["event"] == "pusher:pong"
        assert server.to_channel(name).push({"event": "b"}) == 0


@pytest.mark.parametrize("name", ["private-x", "private-encrypted-x", "presence-x", "private-cache-x", "presence-cache-x"])
def test_without_a_signature_only_public_channels_are_open(serve, name):
    server = serve(apps=(app(),))
    with PusherClient(server.port) as client:
        for auth in (
            "",
            None,
            "x",
            5,
            f"{KEY}:",
            channel_auth(KEY, SECRET, "1.1", name),
            channel_auth(KEY, "x", client.socket_id, name),
        ):
            answer = client.join(name, auth=auth)
            assert (answer["event"], answer["data"]["status"]) == ("pusher:subscription_error", 401)
        assert server.get_channels() == []


def test_a_signature_for_one_channel_or_app_is_good_for_no_other(serve):
    server = serve(apps=(app(), app(id="2", key="other", secret="other-secret")))
    with PusherClient(server.port) as client, PusherClient(server.port, "/app/other?protocol=7") as other:
        auth = channel_auth(KEY, SECRET, client.socket_id, "private-a")
        assert client.join("private-b", auth=auth)["data"]["status"] == 401
        assert client.join("private-encrypted-a", auth=auth)["data"]["status"] == 401
        assert client.join("presence-a", ANN, auth=auth)["data"]["status"] == 401
        assert other.join("private-a")["data"]["status"] == 401  # signed with the first app's secret
        signed = channel_auth("other", "other-secret", other.socket_id, "private-a")
        assert other.join("private-a", auth=signed)["event"] == "pusher_internal:subscription_succeeded"
        assert server.to_channel("private-a").push({"event": "x"}) == 0
        assert server.app("2").to_channel("private-a").push({"event": "x"}) == 1


def test_subscribing_twice_is_answered_twice_and_counts_once(serve):
    server = serve(apps=(app(),))
    with PusherClient(server.port) as client:
        assert client.join("news") == client.join("news") == succeeded("news")
        assert server.to_channel("news").push({"event": "x"}) == 1


def test_an_apps_names_may_be_longer_than_the_servers_own(serve):
    asked = []

    def guard(server):
        @server.channel("guarded-{name}")
        def guarded(user):
            gevent.sleep(0)  # as an authorizer that asks a database
            asked.append(user)
            return True

    server = serve(guard, apps=(app(channel_name_length=40),), max_channel_name_length=20)
    name, guarded_name = "news-".ljust(40, "x"), "guarded-".ljust(40, "x")
    with PusherClient(server.port) as client:
        assert client.join(name) == succeeded(name)
        assert client.join(guarded_name) == succeeded(guarded_name)
        assert client.join(name + "x")["data"]["status"] == 413
        assert asked == [None]
        assert server.to_channel(name).push({"event": "x"}) == 1
        assert client.receive()["event"] == "x"
        client.send("pusher:unsubscribe", {"channel": name})
        wait_until(lambda: server.get_channels() == [guarded_name])
        assert server.to_channel(name).push({"event": "x"}) == 0
        assert client.silent()


def test_a_public_channel_that_the_application_guards_is_not_open_to_pushers_clients_either(serve):
    asked = []

    def set_up(server):
        server.channel("club.{name}")(lambda user, name: asked.append(user) or (user is not None and user.id == "7"))

    server = serve(set_up, apps=(app(),))
    with PusherClient(server.port) as client:
        assert client.join("club.a")["data"]["status"] == 401
        client.sign_in("7")
        assert client.join("club.a") == succeeded("club.a")
    assert [user and user.id for user in asked] == [None, "7"]


def test_where_an_authorizer_fails_the_subscription_is_refused(serve):
    def set_up(server):
        server.channel("club")(lambda user: user.id == "7")  # nobody has signed in: user is None

    server = serve(set_up, apps=(app(),))
    with PusherClient(server.port) as client:
        answer = client.join("club")
        assert (answer["event"], answer["data"]["status"]) == ("pusher:subscription_error", 500)
        assert server.get_channels() == []


# Presence


@pytest.mark.usefixtures("transport")
def test_members_see_each_other_come_and_go(serve):
    server = serve(apps=(app(),))
    ann, bob = connect(server)
    assert ann.join("presence-room", ANN)["data"]["presence"] == {"count": 1, "ids": ["u1"], "hash": {"u1": {"name": "Ann"}}}
    presence = bob.join("presence-room", BOB)["data"]["presence"]
    assert presence == {"count": 2, "ids": ["u1", "u2"], "hash": {"u1": {"name": "Ann"}, "u2": {"name": "Bob"}}}
    assert ann.receive() == {"event": "pusher_internal:member_added", "channel": "presence-room", "data": BOB}
    bob.close()
    removed = {"event": "pusher_internal:member_removed", "channel": "presence-room", "data": {"user_id": "u2"}}
    assert ann.receive() == removed
    assert ann.silent()
    ann.close()


def test_a_user_of_two_connections_comes_with_the_first_and_goes_with_the_last(serve):
    server = serve(apps=(app(),))
    watcher, first, second = connect(server, 3)
    watcher.join("presence-room", ANN)
    first.join("presence-room", BOB)
    assert watcher.receive()["event"] == "pusher_internal:member_added"
    # The same user, however the id is written.
    assert second.join("presence-cache-x", {"user_id": 7})["data"]["presence"]["ids"] == ["7"]
    second.receive()
    assert second.join("presence-room", {**BOB, "user_info": "changed"})["data"]["presence"]["count"] == 2
    first.close()
    assert watcher.silent()
    second.send("pusher:unsubscribe", {"channel": "presence-room"})
    assert watcher.receive()["event"] == "pusher_internal:member_removed"
    for client in (watcher, second):
        client.close()


def test_numbers_and_texts_are_one_user(serve):
    server = serve(apps=(app(),))
    first, second = connect(server)
    first.join("presence-room", {"user_id": 7})
    assert second.join("presence-room", {"user_id": "7"})["data"]["presence"] == {"count": 1, "ids": ["7"], "hash": {"7": None}}
    assert first.silent()
    first.close()
    second.close()


def test_a_native_and_a_pusher_subscriber_of_one_presence_channel_see_each_other(serve):
    def set_up(server):
        server.channel("presence-room.{number}")(lambda user, number: {"name": "Cy"})

    server = serve(set_up, apps=(app(client_events=True),), secret=JWT_SECRET)
    with PusherClient(server.port) as ann, server.connect(headers=bearer("u3")) as cy:
        ann.join("presence-room.1", ANN)
        members = cy.subscribe("presence-room.1")["data"]["members"]
        assert [(member["id"], member["info"]) for member in members] == [("u1", {"name": "Ann"}), ("u3", {"name": "Cy"})]
        added = {"user_id": "u3", "user_info": {"name": "Cy"}}
        assert ann.receive() == {"event": "pusher_internal:member_added", "channel": "presence-room.1", "data": added}
        # A push reaches both, each in the words of its protocol.
        assert server.to_channel("presence-room.1").push({"event": "both", "data": [1]}) == 2
        assert cy.receive() == ann.receive() == {"event": "both", "channel": "presence-room.1", "data": [1]}
        # So does what one of them sends to the other.
        ann.whisper("presence-room.1", data={"z": 1})
        whisper = {"event": "client-typing", "channel": "presence-room.1", "data": {"z": 1}, "user_id": "u1"}
        assert cy.receive() == whisper
        cy.send("broadcast", {"channel": "presence-room.1", "message": {"event": "typing", "data": {"z": 2}}})
        assert ann.receive() == {**whisper, "data": {"z": 2}, "user_id": "u3"}
        ann.send("pusher:unsubscribe", {"channel": "presence-room.1"})
        assert cy.receive()["data"] == {"user": {"id": "u1", "info": {"name": "Ann"}}}
        ann.join("presence-room.1", {"user_id": "u4"})
        assert cy.receive()["data"] == {"user": {"id": "u4", "info": {}}}
        cy.close()
        assert ann.receive()["data"] == {"user_id": "u3"}


@pytest.mark.parametrize(
    ("member", "text"),
    [
        ("no JSON", "not JSON"), ("[]", '"user_id"'), ("{}", '"user_id"'), ({"user_id": None}, '"user_id"'),
        ({"user_id": ""}, '"user_id"'), ({"user_id": True}, '"user_id"'), ({"user_id": 1.5}, '"user_id"'),
        ({"user_id": ["a"]}, '"user_id"'), ({"user_id": "__proto__"}, "cannot be __proto__"),
        ({"user_id": "x" * 129}, "at most 128"), ({"user_id": "a", "user_info": "x" * 1024}, "larger than 1024"),
    ],
)  # fmt: skip
def test_channel_data_that_is_signed_and_wrong_is_refused(serve, member, text):
    server = serve(apps=(app(),))
    with PusherClient(server.port) as client:
        answer = client.join("presence-x", member)
        assert answer["event"] == "pusher:subscription_error"
        assert text in answer["data"]["error"]
        assert server.get_channels() == []


def test_a_presence_channel_takes_so_many_users_and_no_more(serve):
    server = serve(apps=(app(presence_members=2),))
    clients = connect(server, 4)
    answers = [client.join("presence-x", {"user_id": str(number)}) for number, client in enumerate(clients[:3])]
    assert [answer["event"].partition(":")[2] for answer in answers] == ["subscription_succeeded"] * 2 + ["subscription_error"]
    assert answers[2]["data"] == {"type": "LimitReached", "error": "The channel takes at most 2 members.", "status": 429}
    again = clients[3].join("presence-x", {"user_id": "0"})  # who is there already needs no room
    assert again["event"] == "pusher_internal:subscription_succeeded"
    for client in clients:
        client.close()


# Cache channels


@pytest.mark.parametrize("prefix", ["cache-", "private-cache-", "private-encrypted-cache-", "presence-cache-"])
def test_who_joins_a_cache_channel_gets_its_last_event_or_is_told_that_there_is_none(serve, prefix):
    server = serve(apps=(app(client_events=True),))
    told = []
    server.listeners.append(lambda app, what, payload: told.append(what))
    name, member = f"{prefix}x", ANN if prefix.startswith("presence") else None
    first, second = connect(server)
    first.join(name, member)
    assert first.receive() == {"event": "pusher:cache_miss", "channel": name, "data": {}}
    assert told.count("cache_miss") == 1
    server.to_channel(name).push({"event": "old"})
    server.app("1").publish(Message.of_text("new", '{"n": 2}'), [name])
    if prefix in ("private-cache-", "presence-cache-"):
        first.whisper(name, "client-not-kept", {})
    assert [first.receive()["event"] for _ in range(2)] == ["old", "new"]
    second.join(name, member)
    assert second.receive() == {"event": "new", "channel": name, "data": {"n": 2}}
    assert told.count("cache_miss") == 1
    for client in (first, second):
        client.close()


def test_an_event_is_kept_for_those_who_join_when_nobody_was_there(serve):
    server = serve(apps=(app(), app(id="2", key="other")))
    assert server.to_channel("cache-x").push({"event": "early", "data": 1}) == 0
    with PusherClient(server.port) as client, PusherClient(server.port, "/app/other?protocol=7") as other:
        client.join("cache-x")
        assert client.receive() == {"event": "early", "channel": "cache-x", "data": 1}
        other.join("cache-x")
        assert other.receive()["event"] == "pusher:cache_miss"  # another app's


def test_alphavels_clients_get_the_last_event_too(serve):
    server = serve(apps=(app(),))
    server.to_channel("cache-x").push({"event": "early", "data": 1})
    with server.connect() as client:
        client.subscribe("cache-x")
        assert client.receive() == {"event": "early", "channel": "cache-x", "data": 1}
        assert client.subscribe("cache-y")["event"] == "subscribed"
        assert client.silent()


# How many there are


def test_subscribers_are_told_how_many_they_are_where_the_app_wants_it(serve):
    server = serve(apps=(app(subscription_count=True), app(id="2", key="other")))
    told = []
    server.listeners.append(lambda app, what, payload: told.append(payload) if what == "subscription_count" else None)
    first, second = connect(server)
    with server.connect() as native:
        first.join("news")
        assert first.receive() == {
            "event": "pusher_internal:subscription_count",
            "channel": "news",
            "data": {"subscription_count": 1},
        }
        second.join("news")
        assert first.receive()["data"] == second.receive()["data"] == {"subscription_count": 2}
        native.subscribe("news")
        assert first.receive()["data"] == second.receive()["data"] == {"subscription_count": 3}
        assert native.silent()
    assert first.receive()["data"] == second.receive()["data"] == {"subscription_count": 2}
    second.close()
    assert first.receive()["data"] == {"subscription_count": 1}
    assert first.join("news") == succeeded("news")  # on it already: nobody is told anew
    first.join("presence-room", ANN)
    first.send("pusher:unsubscribe", {"channel": "news"})
    assert first.silent()
    assert [payload["subscription_count"] for payload in told] == [1, 2, 3, 2, 1]
    first.close()
    with PusherClient(server.port, "/app/other?protocol=7") as other:
        other.join("news")
        assert other.silent()


def test_a_crowd_is_told_every_five_seconds():
    told = []

    class FakeApp:
        settings = app(subscription_count=True)
        connections = ConnectionManager()
        siblings = None
        fan_out = staticmethod(lambda message, subscribers, channel: told.append(len(subscribers)))
        emit = staticmethod(lambda what, **payload: None)

    now = [0.0]
    counts = SubscriptionCounts(FakeApp, clock=lambda: now[0])
    channel = FakeApp.connections.channels["news"] = Channel("news")
    for number in range(150):
        channel.subscribers[str(number)] = None
        counts.changed("news")
    assert told == list(range(1, 102))
    now[0] = 4.9
    counts.second_passed()
    assert len(told) == 101
    now[0] = 5.0
    counts.second_passed()
    assert told[101:] == [150]
    now[0] = 20.0
    counts.second_passed()
    channel.subscribers.popitem()
    counts.changed("news")
    assert told[102:] == [149]


def test_what_happens_is_told_to_listeners_in_order(serve):
    server = serve(apps=(app(client_events=True),))
    told = []
    server.listeners.append(lambda app, what, payload: told.append((what, payload)))
    ann, bob = connect(server)
    ann.join("presence-room", ANN)
    bob.join("presence-room", BOB)
    bob.whisper("presence-room", data={"z": 1})
    ann.receive()
    ann.receive()
    bob.close()
    ann.receive()
    ann.close()
    wait_until(lambda: told and told[-1][0] == "channel_vacated")
    room = {"channel": "presence-room"}
    event = {**room, "event": "client-typing", "data": json.dumps({"z": 1}, separators=(",", ":")), "socket_id": bob.socket_id}
    assert told == [
        ("channel_occupied", room),
        ("member_added", {**room, "user_id": "u1"}),
        ("member_added", {**room, "user_id": "u2"}),
        ("client_event", {**event, "user_id": "u2"}),
        ("member_removed", {**room, "user_id": "u2"}),
        ("member_removed", {**room, "user_id": "u1"}),
        ("channel_vacated", room),
    ]
