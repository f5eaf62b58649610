"""What travels on the wire of the Pusher protocol. The mistakes that are made most easily come first."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from alphavel.websocket import WebSocketServer
from alphavel.websocket.auth.signatures import channel_auth
from alphavel.websocket.channels import Channel, Member
from alphavel.websocket.frames import Opcode
from alphavel.websocket.protocols import ClientEvent, Custom, Message, Ping, Pong, Refused, SignIn, SubscribeSigned, Unsubscribe
from alphavel.websocket.settings import WebSocketSettings
from tests.websocket.clients import Client
from tests.websocket.pusher import KEY, PusherClient, app, succeeded

PROTOCOL = WebSocketServer(WebSocketSettings(apps=(app(),))).apps.default.pusher(7)


def read(frame):
    """The JSON of a server's text frame."""
    return json.loads(frame[frame.index(b"{") :])


# The five easy mistakes


def test_the_code_is_in_the_close_frame_and_nothing_comes_before_it(serve):
    server = serve(apps=(app(),))
    with PusherClient(server.port, "/app/another-key?protocol=7", greeted=False) as client:
        opcode, payload = client.receive_frame()
        assert (opcode, int.from_bytes(payload[:2], "big")) == (8, 4001)
        client.frame(Opcode.CLOSE)
        assert client.closed().code is None


def test_data_is_there_in_every_frame_as_a_text_and_is_taken_as_text_or_object(serve):
    server = serve(apps=(app(),))
    with Client(server.port, f"/app/{KEY}?protocol=7", greeted=False) as client:
        events = [client.receive()]
        client.send("pusher:ping")
        events.append(client.receive())
        client.send("pusher:subscribe", json.dumps({"channel": "as-text"}))
        client.send("pusher:subscribe", {"channel": "cache-object"})
        events += [client.receive() for _ in range(3)]
        server.to_channel("as-text").push({"event": "nothing"})
        server.to_channel("as-text").push({"event": "object", "data": {"a": [1]}})
        events += [client.receive(), client.receive()]
    assert all(isinstance(event["data"], str) for event in events), events
    assert [event["event"].partition(":")[2] or event["data"] for event in events] == [
        "connection_established", "pong", "subscription_succeeded", "subscription_succeeded", "cache_miss", "{}", '{"a":[1]}'
    ]  # fmt: skip


def test_signatures_are_checked_over_the_bytes_that_came_with_the_key_before_them(serve):
    server = serve(apps=(app(),))
    spaced = '{"user_id": "u1",  "user_info": {"name": "\\u0041nn"}}'
    with PusherClient(server.port) as client:
        assert client.join("presence-a", spaced)["data"]["presence"]["hash"] == {"u1": {"name": "Ann"}}
        auth = channel_auth(KEY, "app-secret", client.socket_id, "private-b")
        for wrong in (auth.replace(KEY, "other"), auth.partition(":")[2], auth[:-1], auth.upper(), f"{auth}:", "", None, 7):
            answer = client.join("private-b", auth=wrong)
            assert answer["event"] == "pusher:subscription_error", wrong
        assert client.join("private-b", auth=auth) == succeeded("private-b")


def test_a_refused_subscription_is_answered_and_the_connection_stays(serve):
    server = serve(apps=(app(),))
    with PusherClient(server.port) as client:
        answer = client.join("private-x", auth=f"{KEY}:{'0' * 64}")
        assert answer == {
            "event": "pusher:subscription_error",
            "channel": "private-x",
            "data": {
                "type": "AuthError",
                "error": "Invalid signature: expected HMAC-SHA256 of socket_id:channel in hex, made with the app's secret.",
                "status": 401,
            },
        }
        assert client.join("news") == succeeded("news")


def test_json_objects_stay_objects_when_they_are_empty(serve):
    server = serve(apps=(app(),))
    with PusherClient(server.port) as client:
        assert client.join("news")["data"] == {}
        client.sign_in()
    hall = read(PROTOCOL.subscribed(Channel("presence-hall"), 0.0))
    assert json.loads(hall["data"]) == {"presence": {"count": 0, "ids": [], "hash": {}}}


# From text to commands


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ('{"event":"pusher:ping","data":{}}', Ping()),
        ('{"event":"pusher:ping"}', Ping()),
        ('{"event":"pusher:pong","data":"{}"}', Pong()),
        ('{"event":"pusher:subscribe","data":{"auth":"","channel":"pub"}}', SubscribeSigned("pub", "", None)),
        ('{"event":"pusher:subscribe","data":"{\\"channel\\":\\"pub\\"}"}', SubscribeSigned("pub", None, None)),
        (
            '{"event":"pusher:subscribe","data":{"auth":"k:s","channel_data":"{\\"user_id\\":1}","channel":"presence-x"}}',
            SubscribeSigned("presence-x", "k:s", '{"user_id":1}'),
        ),
        ('{"event":"pusher:subscribe"}', SubscribeSigned(None, None, None)),
        ('{"event":"pusher:subscribe","data":"no JSON"}', SubscribeSigned(None, None, None)),
        ('{"event":"pusher:unsubscribe","data":{"channel":"pub"}}', Unsubscribe("pub")),
        ('{"event":"pusher:signin","data":{"auth":"k:s","user_data":"{}"}}', SignIn("k:s", "{}")),
        (
            '{"event":"client-x","channel":"private-a","data":{"z":1},"user_id":"forged"}',
            ClientEvent("client-x", "private-a", {"z": 1}),
        ),
        ('{"event":"my-event","data":1}', Custom("my-event", 1, None)),
    ],
)  # fmt: skip
def test_what_clients_send_becomes_a_command(text, command):
    assert PROTOCOL.decode(text) == command
    assert type(PROTOCOL.decode(text)) is type(command)


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (b"\x00", "binary"), ("", "Expected a JSON object"), ("[]", "Expected a JSON object"), ("{}", "Expected"),
        ('{"event":5}', "Expected"), ('{"event":""}', "Expected"), ("[" * 5000, "Expected"), ('{"event":"x"', "Expected"),
        ('{"event":"pusher:nonsense"}', "cannot send the event 'pusher:nonsense'"),
        ('{"event":"pusher:connection_established"}', "cannot send"),
        ('{"event":"pusher_internal:member_added","channel":"presence-a","data":"{}"}', "cannot send"),
    ],
)  # fmt: skip
def test_nonsense_is_refused_and_says_why(message, text):
    refused = PROTOCOL.decode(message)
    assert isinstance(refused, Refused)
    assert text in refused.message


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
names = st.sampled_from(["pusher:subscribe", "pusher:signin", "pusher:unsubscribe", "client-a", "pusher:", "x", "__proto__"])


@hypothesis_settings(max_examples=300, deadline=None)
@given(st.text() | st.binary() | st.fixed_dictionaries({"event": names | json_values, "data": json_values}).map(json.dumps))
def test_the_decoder_never_raises(message):
    assert isinstance(PROTOCOL.decode(message), tuple)


# From messages to frames


@given(st.text(), json_values)
@hypothesis_settings(max_examples=200, deadline=None)
def test_data_that_was_pushed_comes_out_of_the_text_as_it_went_in(event, data):
    try:
        message = Message({"event": event or "x", "data": data})
    except TypeError:  # integers over 64 bits, lone surrogates
        return
    whole = PROTOCOL.event(message, Channel("news"))
    frame = json.loads(whole[{126: 4, 127: 10}.get(whole[1], 2) :])
    assert frame["event"] == (event or "x")
    assert json.loads(frame["data"]) == json.loads(message.json_data)


@pytest.mark.parametrize("text", ["{}", '{"a" : 1}', "no JSON", "", '"1"', "[1, 2]", "\x00\n", "ü", "NaN", '{"a":1,"a":2}'])
def test_data_from_the_http_api_arrives_verbatim(text):
    frame = read(PROTOCOL.event(Message.of_text("App\\Events\\X", text), Channel("a")))
    assert frame == {"event": "App\\Events\\X", "channel": "a", "data": text}


def test_members_are_listed_once_with_texts_for_ids():
    hall = Channel("presence-hall")
    hall.members = {"1": Member("1", {"name": "Ann"}, 0.0), "2": Member("2", None, 0.0)}
    presence = {"count": 2, "ids": ["1", "2"], "hash": {"1": {"name": "Ann"}, "2": None}}
    assert json.loads(read(PROTOCOL.subscribed(hall, 0.0))["data"]) == {"presence": presence}
    assert json.loads(read(PROTOCOL.member_added(hall, hall.members["1"]))["data"]) == {
        "user_id": "1", "user_info": {"name": "Ann"}
    }  # fmt: skip
    assert json.loads(read(PROTOCOL.member_removed(hall, hall.members["1"]))["data"]) == {"user_id": "1"}


def test_what_other_clients_broadcast_cannot_be_taken_for_the_servers():
    room = Channel("presence-room")
    assert read(PROTOCOL.client_event(Message({"event": "OrderShipped", "data": {"a": 1}}), "7", room)) == {
        "event": "client-OrderShipped", "channel": "presence-room", "data": {"a": 1}, "user_id": "7"
    }  # fmt: skip
    assert read(PROTOCOL.client_event(Message({"event": "client-typing"}), None, Channel("private-a"))) == {
        "event": "client-typing", "channel": "private-a", "data": None
    }  # fmt: skip


# Pings


def test_pings_are_answered_and_pongs_taken(serve):
    server = serve(apps=(app(),))
    with PusherClient(server.port) as client:
        for text in ('{"event":"pusher:ping","data":{}}', '{"event":"pusher:ping"}', '{"event":"pusher:ping","data":"{}"}'):
            client.text(text)
            assert client.receive() == {"event": "pusher:pong", "data": {}}
        client.send("pusher:pong", {})
        assert client.silent()


def test_a_silent_client_is_asked_with_an_event_and_closed_where_it_does_not_answer(serve):
    server = serve(apps=(app(),), heartbeat_check_interval=1, heartbeat_idle_time=3)
    with PusherClient(server.port) as silent, PusherClient(server.port) as alive:
        for _ in range(4):
            assert alive.receive() == {"event": "pusher:ping", "data": {}}
            alive.send("pusher:pong", {})
        assert silent.receive() == {"event": "pusher:ping", "data": {}}
        assert silent.closed().code == 4201


def test_each_version_gets_a_greeting_with_the_time_after_which_to_ping(serve):
    server = serve(apps=(app(activity_timeout=30),))
    for version in (5, 6, 7):
        client = PusherClient(server.port, f"/app/{KEY}?client=js&protocol={version}&version=8.6.0&flash=false", greeted=False)
        greeting = client.receive()
        assert greeting["event"] == "pusher:connection_established"
        assert greeting["data"]["activity_timeout"] == 30
        client.close()
