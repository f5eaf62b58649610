"""Clients that mean harm: each gets a clear error, and afterwards everything is as it was."""

from __future__ import annotations

import json
import random

import pytest

from alphavel.websocket.auth.signatures import channel_auth, user_auth
from alphavel.websocket.frames import Opcode
from tests.support import wait_until
from tests.websocket.pusher import KEY, SECRET, PusherClient, app

OWN_EVENTS = ("pusher:error", "pusher:subscription_error", "pusher:pong", "pusher_internal:subscription_succeeded")


@pytest.fixture
def server(serve):
    """A server with a bystander, who must notice nothing."""
    server = serve(apps=(app(client_events=True),), max_messages_per_second=None)
    with PusherClient(server.port) as bystander:
        bystander.join("private-room")
        yield server
        assert bystander.silent(), "the bystander was told of it"
        bystander.send("pusher:ping", {})
        assert bystander.receive()["event"] == "pusher:pong"
        wait_until(lambda: len(server.connections.connections) == 1, what="connections other than the bystander's remain")
        assert list(server.connections.channels) == ["private-room"]
        assert server.connections.users == server.connections.watchers == {}
        assert server.counters.errors == 0


def answer_to(client, text):
    """What a client is told for a message, which has to be an error; and it still is connected."""
    client.text(text)
    event = client.receive()
    assert event["event"] in ("pusher:error", "pusher:subscription_error"), event
    data = event["data"]
    message = data.get("message") or data.get("error")
    assert isinstance(message, str)
    assert message.endswith(".")
    client.send("pusher:ping", {})
    assert client.receive()["event"] == "pusher:pong"
    return message


def subscribe(**data):
    return json.dumps({"event": "pusher:subscribe", "data": data})


def test_forged_signatures(server):
    with PusherClient(server.port) as client:
        for name in ("private-room", "private-encrypted-x", "presence-x"):
            for auth in (f"{KEY}:{random.randbytes(32).hex()}", f"{KEY}:" + "0" * 10**6, ":" * 100, {"key": 1}, [], True, None):
                answer_to(client, subscribe(channel=name, auth=auth, channel_data='{"user_id":"1"}'))
            answer_to(client, subscribe(channel=name, auth="\ud800", channel_data='{"user_id":"1"}'))
        assert len(server.connections.channels["private-room"].subscribers) == 1


def test_json_that_was_written_anew_is_other_json(server):
    with PusherClient(server.port) as client:
        signed = '{"user_id":"1","user_info":{"a":1,"b":2}}'
        auth = channel_auth(KEY, SECRET, client.socket_id, "presence-x", signed)
        for changed in (
            '{"user_info":{"a":1,"b":2},"user_id":"1"}', '{"user_id": "1", "user_info": {"a": 1, "b": 2}}',
            '{"user_id":"1","user_info":{"a":1,"b":2}} ', '{"user_id":"1","user_id":"2","user_info":{"a":1,"b":2}}',
            json.loads(signed),
        ):  # fmt: skip
            answer_to(client, subscribe(channel="presence-x", auth=auth, channel_data=changed))
        text = '{"id":"1","user_info":{}}'
        auth = user_auth(KEY, SECRET, client.socket_id, text)
        data = {"auth": auth, "user_data": '{"user_info":{},"id":"1"}'}
        assert "Invalid signature" in answer_to(client, json.dumps({"event": "pusher:signin", "data": data}))


def test_huge_channel_data(server):
    with PusherClient(server.port) as client:
        data = json.dumps({"user_id": "1", "user_info": "x" * 1_900_000})
        auth = channel_auth(KEY, SECRET, client.socket_id, "presence-x", data)
        assert "at most" in answer_to(client, subscribe(channel="presence-x", auth=auth, channel_data=data))


def test_data_that_is_signed_and_nested_too_deep(server):
    with PusherClient(server.port) as client:
        for depth in (300, 500):
            data = '{"user_id":"1","user_info":' + "[" * depth + "]" * depth + "}"
            auth = channel_auth(KEY, SECRET, client.socket_id, "presence-x", data)
            answer_to(client, subscribe(channel="presence-x", auth=auth, channel_data=data))


def test_ten_thousand_subscriptions(server):
    with PusherClient(server.port) as client:
        for begin in range(0, 10_000, 100):
            for number in range(begin, begin + 100):
                client.text(subscribe(channel=f"c{number}", auth=""))
            answers = [client.receive()["event"] for _ in range(100)]
            expected = "pusher_internal:subscription_succeeded" if begin == 0 else "pusher:subscription_error"
            assert set(answers) == {expected}
        assert len(server.connections.channels) == 101


@pytest.mark.parametrize(
    "name",
    ["__proto__", "a b", "a\n", "\x00", "#", "#server-to-user-1", "ü", "../x", "private-\u202e", "x" * 165, "x" * 1_000_000, "",
     None, 0, True, [], {}, ["private-room"], {"channel": "private-room"}],
)  # fmt: skip
def test_names_that_are_none(server, name):
    with PusherClient(server.port) as client:
        answer_to(client, subscribe(channel=name, auth=""))
        if name != "#server-to-user-1":
            answer_to(client, json.dumps({"event": "pusher:unsubscribe", "data": {"channel": name}}))
        answer_to(client, json.dumps({"event": "client-x", "channel": name, "data": {}}))


@pytest.mark.parametrize(
    "event", ["\x00", "client-\x07", "pusher:\x1b[31m", "pusher:" + "x" * 10**6, "a\nb", "__proto__", "x" * 10**6]
)
def test_events_that_are_none(server, event):
    with PusherClient(server.port) as client:
        client.join("private-x")
        assert len(answer_to(client, json.dumps({"event": event, "channel": "private-x", "data": {}}))) < 300


def test_prototypes(server):
    with PusherClient(server.port) as client:
        client.join("private-x")
        for data in ('{"__proto__":{"a":1}}', '{"constructor":{"prototype":{"a":1}}}'):
            answer_to(client, '{"event":"pusher:subscribe","data":' + data + "}")
            answer_to(client, '{"event":"pusher:signin","data":' + data + "}")
        answer_to(client, '{"event":"client-x","channel":{"__proto__":"private-x"},"data":{}}')
        answer_to(client, '{"__proto__":{"event":"pusher:ping"}}')
        answer_to(client, subscribe(channel="presence-x", **signed(client, "presence-x", '{"user_id":"__proto__"}')))


def signed(client, channel, data):
    return {"auth": channel_auth(KEY, SECRET, client.socket_id, channel, data), "channel_data": data}


def test_binary_messages_and_half_a_json(server):
    with PusherClient(server.port) as client:
        client.frame(Opcode.BINARY, b'{"event":"pusher:ping"}')
        assert "binary" in client.receive()["data"]["message"]
        for text in (
            "",
            " ",
            "null",
            "[]",
            '"x"',
            "{",
            '{"event"',
            "[" * 100_000,
            '{"event":"pusher:ping"}x',
            "NaN",
            "{'event':'x'}",
        ):
            answer_to(client, text)


def test_what_only_the_server_may_say(server):
    with PusherClient(server.port) as client:
        client.join("private-room")
        for event in ("pusher_internal:member_added", "pusher:connection_established", "pusher:error", "pusher_internal:x"):
            answer_to(client, json.dumps({"event": event, "channel": "private-room", "data": {"user_id": "1"}}))


def random_message(choose):
    names = ["private-room", "presence-x", "cache-x", "#server-to-user-1", "__proto__", "x" * 300, None, 5, {}, "news"]
    events = ["pusher:subscribe", "pusher:unsubscribe", "pusher:signin", "pusher:ping", "client-x", "x", "pusher:x", "", None]
    scraps = ["", "a:b", None, 7, [], {}, '{"user_id":"1"}', "{", "\u0000", f"{KEY}:{'0' * 64}", [[]] * 3]
    data = {
        "channel": choose(names), "auth": choose(scraps), "channel_data": choose(scraps), "user_data": choose(scraps)
    }  # fmt: skip
    whole = {"event": choose(events), "channel": choose(names), "data": choose([data, json.dumps(data), choose(scraps)])}
    text = json.dumps({name: value for name, value in whole.items() if choose([True] * 4 + [False])})
    return choose([text] * 8 + [text[: len(text) // 2], text.replace(":", ";", 1)])


def test_whatever_comes_the_server_stays_and_each_message_is_answered_or_harmless(server):
    dice = random.Random(20261125)
    with PusherClient(server.port) as client:
        for _ in range(40):
            for _ in range(50):
                client.text(random_message(dice.choice))
            client.send("pusher:ping", {"last": True})
            # Pings among the messages are answered as well: read until nothing is left.
            client.sock.settimeout(30)
            assert all(event["event"] in (*OWN_EVENTS, "pusher:cache_miss") for event in client.events("pusher:pong"))
        client.send("pusher:unsubscribe", {"channel": "cache-x"})
