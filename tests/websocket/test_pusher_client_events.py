"""Events that Pusher's clients send to each other: the rules, one by one."""

from __future__ import annotations

import json

import pytest

from tests.websocket.pusher import PusherClient, app


@pytest.fixture
def pair(serve):
    """Two clients on one private channel of an app that allows client events."""
    server = serve(apps=(app(client_events=True),))
    with PusherClient(server.port) as sender, PusherClient(server.port) as other:
        sender.server = server
        for client in (sender, other):
            client.join("private-a")
        yield sender, other


def rejected(client):
    event = client.receive()
    assert (event["event"], event["data"]["code"]) == ("pusher:error", 4301), event
    return event["data"]["message"]


@pytest.mark.usefixtures("transport")
def test_it_goes_to_the_others_and_not_to_the_sender(pair):
    sender, other = pair
    for data in ({"z": 1}, [1], "text", 7, None):
        sender.whisper("private-a", data=data)
        assert other.receive() == {"event": "client-typing", "channel": "private-a", "data": data}
    assert sender.silent()


def test_it_is_built_anew_so_that_nothing_can_be_forged(pair):
    sender, other = pair
    sender.whisper("private-a", data={}, user_id="admin", socket_id="1.1", event_id=5)
    assert other.receive() == {"event": "client-typing", "channel": "private-a", "data": {}}


def test_on_a_presence_channel_it_names_the_user_who_was_signed(pair):
    sender, other = pair
    for user_id, client in (("u1", other), ("u2", sender)):
        client.join("presence-a", {"user_id": user_id})
    other.receive()
    sender.whisper("presence-a", data={}, user_id="u1")
    assert other.receive() == {"event": "client-typing", "channel": "presence-a", "data": {}, "user_id": "u2"}


@pytest.mark.parametrize(
    ("channel", "event", "text"),
    [
        ("news", "client-x", "private and presence channels only"),
        ("private-encrypted-a", "client-x", "not to encrypted ones"),
        ("private-b", "client-x", "not subscribed"),
        ("presence-a", "client-x", "not subscribed"),
        (None, "client-x", "private and presence channels only"),
        (["private-a"], "client-x", "private and presence channels only"),
        ("private-a", "client-" + "x" * 200, "at most 200 characters"),
        ("private-a", "client-\n", "control characters"),
        ("private-a", "client-\x00", "control characters"),
    ],
)
def test_what_breaks_a_rule_is_rejected_with_4301(pair, channel, event, text):
    sender, other = pair
    for name in ("news", "private-encrypted-a"):
        for client in pair:
            client.join(name)
    sender.whisper(channel, event, {})
    assert text in rejected(sender)
    assert other.silent()


def test_data_is_bounded_and_its_depth_too(pair):
    sender, other = pair
    sender.whisper("private-a", data="x" * (10 * 1024 - 2))
    assert len(other.receive()["data"]) == 10 * 1024 - 2
    sender.whisper("private-a", data="x" * (10 * 1024 - 1))
    assert "at most 10240 bytes" in rejected(sender)
    sender.text('{"event":"client-x","channel":"private-a","data":' + "[" * 500 + "]" * 500 + "}")
    assert "cannot be turned into JSON" in rejected(sender)
    assert other.silent()


def test_an_app_has_to_allow_them(serve):
    server = serve(apps=(app(),))
    with PusherClient(server.port) as sender, PusherClient(server.port) as other:
        for client in (sender, other):
            client.join("private-a")
        sender.whisper("private-a", data={})
        assert "not enabled" in rejected(sender)
        assert other.silent()


def test_more_than_ten_a_second_are_rejected(pair):
    sender, other = pair
    sender.server.counters.rate_limited = 0
    for number in range(35):
        sender.whisper("private-a", data=number)
    sender.send("pusher:ping", {})
    answers = [event for event in sender.events("pusher:pong") if event["event"] == "pusher:error"]
    # The count begins anew every second, which may have happened while they were on their way.
    assert 5 <= len(answers) <= 25
    assert {answer["data"]["code"] for answer in answers} == {4301}
    assert "rate limit" in answers[0]["data"]["message"]
    assert sender.server.counters.rate_limited == len(answers)
    assert [other.receive()["data"] for _ in range(10)] == list(range(10))


def test_what_does_not_begin_with_client_goes_to_the_application_alone(serve):
    got = []

    def set_up(server):
        server.event("my-event")(lambda connection, data: got.append((connection.protocol.name, data)))

    server = serve(set_up, apps=(app(client_events=True),))
    with PusherClient(server.port) as sender, PusherClient(server.port) as other:
        for client in (sender, other):
            client.join("private-a")
        sender.text(json.dumps({"event": "my-event", "channel": "private-a", "data": {"a": 1}}))
        sender.text(json.dumps({"event": "another", "channel": "private-a", "data": {}}))
        event = sender.receive()
        assert (event["event"], "no event 'another'" in event["data"]["message"]) == ("pusher:error", True)
        assert other.silent()
    assert got == [("pusher", {"a": 1})]
