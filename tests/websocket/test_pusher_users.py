"""Pusher's users: signing in, what is pushed to a user, and who watches whom."""

from __future__ import annotations

import json

import pytest

from alphavel.websocket.auth.signatures import user_auth
from alphavel.websocket.protocols import Message
from tests.support import wait_until
from tests.websocket.conftest import SECRET as JWT_SECRET
from tests.websocket.pusher import KEY, SECRET, PusherClient, app, succeeded
from tests.websocket.tokens import bearer


def watched(**states):
    events = [{"name": name, "user_ids": ids} for name, ids in states.items()]
    return {"event": "pusher_internal:watchlist_events", "data": {"events": events}}


def failed(answer):
    assert answer["event"] == "pusher:error", answer
    return answer["data"]["code"], answer["data"]["message"]


@pytest.mark.usefixtures("transport")
def test_who_signs_in_is_told_so_with_the_data_that_came_and_gets_what_is_pushed_to_the_user(serve):
    server = serve(apps=(app(),), secret=JWT_SECRET)
    with PusherClient(server.port) as client, server.connect(headers=bearer("u1")) as native:
        text = '{"id": "u1",  "user_info": {"name": "Ann"}}'
        assert client.sign_in(user_data=text) == {"event": "pusher:signin_success", "data": {"user_data": text}}
        assert client.join("#server-to-user-u1") == succeeded("#server-to-user-u1")
        # One user, two connections of two protocols.
        assert server.to_user("u1").push({"event": "hi", "data": {"n": 1}}) == 2
        assert client.receive() == {"event": "hi", "channel": "#server-to-user-u1", "data": {"n": 1}}
        assert native.receive() == {"event": "hi", "data": {"n": 1}}
        others = frozenset((client.socket_id,))
        server.app("1").publish(Message.of_text("hey", '{"n":2}'), ["#server-to-user-u1"], excluded=others)
        assert native.receive() == {"event": "hey", "data": {"n": 2}}
        # An application may leave what pusher-js joins by itself, like any other channel.
        client.send("pusher:unsubscribe", {"channel": "#server-to-user-u1"})
        assert client.silent()
        assert server.get_channels() == []
        connection = server.connections.connections[client.socket_id]
        assert connection.user.id == "u1"
        assert connection.user.claims["user_info"] == {"name": "Ann"}
    wait_until(lambda: not server.connections.users)


def test_only_the_user_who_is_signed_in_may_join_the_users_channel(serve):
    server = serve(apps=(app(),))
    with PusherClient(server.port) as client:
        assert client.join("#server-to-user-u1")["data"]["status"] == 401
        client.sign_in("u2")
        assert client.join("#server-to-user-u1")["data"]["status"] == 401
        assert client.join("#server-to-user-")["data"]["status"] == 401
        assert client.join("#other")["data"]["status"] == 400
        server.to_user("u1").push({"event": "secret"})
        assert client.silent()


def test_a_forged_signature_signs_nobody_in(serve):
    server = serve(apps=(app(), app(id="2", key="other", secret="other-secret")))
    with PusherClient(server.port) as client:
        text = '{"id":"u1"}'
        good = user_auth(KEY, SECRET, client.socket_id, text)
        for auth in (
            f"{KEY}:{'0' * 64}", good[:-1], good.partition(":")[2], user_auth(KEY, SECRET, "1.1", text), "x", 7, {"a": 1},
            user_auth("other", "other-secret", client.socket_id, text), f"{KEY}::user::{good.partition(':')[2]}",
        ):  # fmt: skip
            code, message = failed(client.sign_in(user_data=text, auth=auth))
            assert code == 4009
            assert "Signing in failed." in message
        assert failed(client.sign_in(user_data='{"id": "u1"}', auth=good))[0] == 4009  # other bytes
        assert server.connections.users == {}
        assert client.join("news") == succeeded("news")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("no JSON", "needs an"), ("[]", "needs an"), ("{}", "needs an"), ('{"id":7}', "needs an"), ('{"id":""}', "needs an"),
        ('{"id":"a b"}', "made of letters"), ('{"id":"__proto__"}', "cannot be __proto__"),
        ('{"id":"' + "x" * 129 + '"}', "at most 128"), ('{"id":"u1","x":"' + "x" * 20000 + '"}', "at most 16384"),
        (5, "a text that holds JSON"), ({"id": "u1"}, "a text that holds JSON"),
    ],
)  # fmt: skip
def test_user_data_that_names_no_user_signs_nobody_in(serve, text, problem):
    server = serve(apps=(app(),))
    with PusherClient(server.port) as client:
        assert problem in failed(client.sign_in(user_data=text))[1]
        assert server.connections.users == {}


def test_a_connection_stays_with_its_user(serve):
    server = serve(apps=(app(),))
    with PusherClient(server.port) as client:
        assert client.sign_in("u1")["event"] == "pusher:signin_success"
        assert failed(client.sign_in("u2")) == (4009, "Another user is signed in on this connection.")
        assert client.sign_in("u1")["event"] == "pusher:signin_success"
        assert list(server.connections.users) == ["u1"]


def test_a_presence_channel_takes_the_signed_in_user_where_no_channel_data_comes(serve):
    server = serve(apps=(app(),))
    with PusherClient(server.port) as client:
        answer = client.join("presence-room")
        assert (answer["data"]["status"], "signed in" in answer["data"]["error"]) == (401, True)
        client.sign_in("u1", user_info={"name": "Ann"})
        presence = client.join("presence-room")["data"]["presence"]
        assert presence == {"count": 1, "ids": ["u1"], "hash": {"u1": {"name": "Ann"}}}


def test_a_users_connections_can_all_be_ended(serve):
    server = serve(apps=(app(),))
    clients = [PusherClient(server.port) for _ in range(3)]
    for client, user_id in zip(clients, ("u1", "u1", "u2"), strict=True):
        client.sign_in(user_id)
    assert server.app("1").terminate_user("u1") == 2
    assert [client.closed().code for client in clients[:2]] == [4009, 4009]
    assert list(server.connections.users) == ["u2"]
    for client in clients:
        client.close()


# Watchlists


def test_who_signs_in_with_a_watchlist_learns_who_is_online_and_then_what_changes(serve):
    server = serve(apps=(app(),), secret=JWT_SECRET)
    ann, bob, bob_too = (PusherClient(server.port) for _ in range(3))
    bob.sign_in("bob")
    ann.sign_in("ann", watchlist=["bob", "cy", "bob"])
    assert ann.receive() == watched(online=["bob"], offline=["cy"])
    bob_too.sign_in("bob")
    bob.close()
    assert ann.silent()
    bob_too.close()
    assert ann.receive() == watched(offline=["bob"])
    with server.connect(headers=bearer("cy")):
        assert ann.receive() == watched(online=["cy"])
    assert ann.receive() == watched(offline=["cy"])
    ann.sign_in("ann", watchlist=["dan"], answer=False)
    assert [ann.receive()["event"] for _ in range(2)] == ["pusher:signin_success", "pusher_internal:watchlist_events"]
    with PusherClient(server.port) as bob_again:
        bob_again.sign_in("bob")
        assert ann.silent()  # not watched any more
    ann.close()
    wait_until(lambda: not server.connections.watchers)


def test_the_first_hundred_of_a_longer_watchlist_are_watched(serve):
    server = serve(apps=(app(),))
    ids = [f"u{number}" for number in range(101)]
    with PusherClient(server.port) as client, PusherClient(server.port) as other:
        assert client.sign_in("me", watchlist=ids)["event"] == "pusher:signin_success"
        assert client.receive() == watched(offline=ids[:100])
        assert failed(client.receive()) == (4302, "A watchlist has at most 100 users; the first 100 are watched.")
        other.sign_in("u100")
        assert client.silent()
    assert server.counters.errors == 0


@pytest.mark.parametrize("watchlist", [None, "u2", {"u2": 1}, 7, [], [None, 1, "", "__proto__", ["u2"], {}]])
def test_a_watchlist_that_is_none_watches_nobody(serve, watchlist):
    server = serve(apps=(app(),))
    with PusherClient(server.port) as client:
        text = json.dumps({"id": "u1", "watchlist": watchlist})
        assert client.sign_in(user_data=text)["event"] == "pusher:signin_success"
        assert client.silent()
        assert server.connections.watchers == {}


def test_one_apps_users_are_no_users_of_another(serve):
    server = serve(apps=(app(), app(id="2", key="other")))
    with PusherClient(server.port) as ann, PusherClient(server.port, "/app/other?protocol=7") as bob:
        ann.sign_in("ann", watchlist=["bob"])
        ann.receive()
        bob.send(
            "pusher:signin", {"auth": user_auth("other", SECRET, bob.socket_id, '{"id":"bob"}'), "user_data": '{"id":"bob"}'}
        )
        assert bob.receive()["event"] == "pusher:signin_success"
        assert ann.silent()
        assert server.to_user("bob").push({"event": "x"}) == 0
        assert server.app("2").to_user("bob").push({"event": "x"}) == 1
