"""The bus: two servers of a fleet, and a real Redis between them."""

from __future__ import annotations

import json
import logging
import uuid

import gevent
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alphavel.foundation import ConfigurationError
from alphavel.websocket import WebSocketServer, clock
from alphavel.websocket.bus import Envelopes, ForgedError, MalformedError, numbering
from alphavel.websocket.bus.envelope import write
from alphavel.websocket.bus.kept import Published
from alphavel.websocket.bus.local import _listen
from alphavel.websocket.bus.numbering import Numbering, Numbers
from alphavel.websocket.bus.outbox import Outbox
from alphavel.websocket.bus.pushes import push_content, read_push, write_push
from alphavel.websocket.bus.replaying import Message as Told
from alphavel.websocket.bus.replaying import Missing
from alphavel.websocket.protocols import Message
from alphavel.websocket.settings import AppSettings, BroadcastingSettings, RedisSettings, WebSocketSettings
from tests.redis_server import running_redis
from tests.support import wait_until
from tests.websocket.conftest import SECRET
from tests.websocket.pusher import PusherClient
from tests.websocket.tokens import bearer

FLEET_SECRET = "the whole fleet knows it"
APP = AppSettings("1", "app-key", "app-secret", client_events=True)


@pytest.fixture(scope="module")
def redis():
    with running_redis() as server:
        yield server


@pytest.fixture
def fleet(serve, redis):
    """`fleet(n)` starts servers that share a bus, `fleet.publish(bytes)` puts something on it."""
    prefix = f"{uuid.uuid4()}:"

    def start(size=2, **given):
        redis_settings = RedisSettings(redis.url, prefix=prefix, **given)
        settings = {"broadcasting": BroadcastingSettings("redis", redis_settings), "secret": SECRET, "anonymous": True}
        return [serve(apps=(APP,), **settings) for _ in range(size)]

    def publish(data):
        with redis.client() as client:
            return client.publish(f"{prefix}bus", data)

    start.publish = publish
    start.prefix = prefix
    return start


# Envelopes


@pytest.mark.parametrize("secret", [None, FLEET_SECRET])
def test_an_envelope_is_versioned_json_that_its_own_node_ignores(secret):
    ours, theirs = Envelopes("node-1", secret), Envelopes("node-2", secret)
    sealed = ours.seal("push", {"n": [1, "é"]})
    assert json.loads(sealed)["v"] == 1
    assert ("signature" in json.loads(sealed)) == (secret is not None)
    assert theirs.open(sealed) == {"origin": "node-1", "kind": "push", "n": [1, "é"]}
    assert ours.open(sealed) is None


def test_a_signed_envelope_is_refused_when_one_bit_of_it_is_another():
    sealed = Envelopes("node-1", FLEET_SECRET).seal("push", {"n": 1})
    envelopes = Envelopes("node-2", FLEET_SECRET)
    for position in range(len(sealed) - 1):
        changed = bytearray(sealed)
        changed[position] ^= 1
        with pytest.raises((ForgedError, MalformedError)):
            envelopes.open(bytes(changed))


@pytest.mark.parametrize(
    ("sealed", "error"),
    [
        (Envelopes("node-1").seal("push", {}), ForgedError),
        (Envelopes("node-1", "another secret").seal("push", {}), ForgedError),
        (b'{"v":1,"signature":"","payload":{}}', MalformedError),
        (b'{"v":2,"payload":{}}', MalformedError),
        (b"", MalformedError),
        (b"\xff" * 100, MalformedError),
    ],
)
def test_what_is_not_signed_with_the_fleets_secret_is_refused(sealed, error):
    with pytest.raises(error):
        Envelopes("node-2", FLEET_SECRET).open(sealed)


@pytest.mark.parametrize(
    "sealed",
    [b'{"v":1,"payload":[]}', b'{"v":1,"payload":{"kind":"push"}}', b'{"v":1,"payload":{"origin":"x"}}', b'{"v":1,"payload":{'],
)
def test_an_envelope_names_its_origin_and_kind(sealed):
    with pytest.raises(MalformedError):
        Envelopes("node-2").open(sealed)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(), children, max_size=3),
    max_leaves=10,
)


@given(st.text(min_size=1, max_size=30), JSON, st.dictionaries(st.text(max_size=5), JSON, max_size=2), st.booleans())
def test_a_message_is_the_same_on_the_other_side(event, data, members, as_text):
    members = {key: value for key, value in members.items() if key not in ("event", "channel", "data")}
    if as_text:
        message = Message.of_text(event, json.dumps(data) if members else str(data), members)
    else:
        message = Message({"event": event, "data": data, **members})
    sealed = Envelopes("node-1").seal("push", push_content("1", message, ["a"], ["7"], False, frozenset(("1.2",))))
    push = read_push(Envelopes("node-2").open(sealed))
    assert (push.app, push.channels, push.users, push.everybody, push.excluded) == ("1", ["a"], ["7"], False, {"1.2"})
    arrived = push.message
    for attribute in ("event", "json_data", "json_rest", "json_text"):
        assert getattr(arrived, attribute) == getattr(message, attribute)

    to_one = read_push(Envelopes("node-2").open(Envelopes("node-1").wrap(write_push("1", message, "a"))))
    assert to_one._replace(message=message) == ("1", message, ["a"], [], False, frozenset())
    assert to_one.message.written() == message.written()


def test_what_was_published_is_kept_within_bounds():
    published = Published(1000)
    for number in range(1, 31):
        published.add([(float(number), b"key", b"x" * 100, number, number, number % 3 == 0)])
    assert [kept.number for kept in published.after(0)] == list(range(21, 31))
    assert [kept.number for kept in published.after(28)] == [kept.number for kept in published.since(28.5)] == [29, 30]
    published.add([(89.5, b"key", b"x", 31, 31, False)])
    assert [kept.number for kept in published.after(0)] == [30, 31], "a minute later"
    published.add([(89.5, b"key", b"x" * 5000, 32, 32, False)])
    assert published.after(0) == []


def test_places_are_remembered_of_the_last_keys(monkeypatch):
    monkeypatch.setattr(numbering, "MAX_KEYS", 3)
    numbers = Numbering()
    assert [numbers.next(key) for key in (b"a", b"b", b"a", b"c", b"d", b"a")] == [
        (1, 1),
        (2, 1),
        (3, 2),
        (4, 1),
        (5, 1),
        (6, 3),
    ]
    assert [numbers.next(key)[1] for key in (b"e", b"f", b"g", b"b")] == [1, 1, 1, 1]
    assert numbers.next(b"a") == (11, 4)


def test_a_message_without_data_stays_without():
    message = Message({"event": "x"})
    assert message.text == "{}"
    arrived = read_push(json.loads(Envelopes("").seal("push", push_content("", message, [], [], True, frozenset())))["payload"])
    assert arrived.message.json_data is None


# Two servers


def test_a_push_reaches_the_clients_of_all_workers_once_and_in_order(fleet):
    one, two = fleet()
    with one.connect() as here, two.connect() as there:
        here.subscribe("a")
        there.subscribe("a")
        for number in range(1000):
            assert one.to_channel("a").push({"event": "n", "data": number, "more": True}) == 1
        for client in (here, there):
            expected = [{"event": "n", "channel": "a", "data": number, "more": True} for number in range(1000)]
            assert [client.receive() for _ in range(1000)] == expected
        two.to_channel("a").push({"event": "end"})
        assert here.receive()["event"] == there.receive()["event"] == "end"
    wait_until(lambda: two.counters.bus_received == 1000)
    assert (one.counters.bus_published, one.counters.bus_received, two.counters.bus_published) == (1000, 1, 1)
    assert one.get_stats()["bus_dropped"] == 0


def test_users_everybody_and_exceptions_mean_the_same_on_all_workers(fleet):
    one, two = fleet()
    with two.connect("/", bearer("7")) as seven, two.connect("/", bearer("8")) as eight:
        eight.subscribe("a")
        seven.subscribe("a")
        one.to_user(7).push({"event": "to 7"})
        one.to_all().except_(seven.socket_id).push({"event": "to all but 7"})
        one.to_channel("a").except_([eight.socket_id]).push({"event": "to a but 8"})
        one.app("1").publish(Message.of_text("text", '{"a": 1}'), ["a", "#server-to-user-8"])
        assert [seven.receive()["event"] for _ in range(3)] == ["to 7", "to a but 8", "text"]
        assert [eight.receive()["event"] for _ in range(3)] == ["to all but 7", "text", "text"]
        assert one.app("1").terminate_user("7") == 0
        assert seven.closed().code == 4009
        assert eight.silent()


def test_what_a_client_sends_reaches_the_others_on_all_workers(fleet):
    one, two = fleet()
    with PusherClient(one.port) as ann, PusherClient(two.port) as bob, PusherClient(two.port) as cy:
        ann.join("presence-room", {"user_id": "ann"})
        wait_until(lambda: two.get_presence("presence-room"))
        bob.join("presence-room", {"user_id": "bob"})
        cy.join("private-room")
        ann.whisper("presence-room", data={"n": 1}, user_id="forged")
        whisper = {"event": "client-typing", "channel": "presence-room", "data": {"n": 1}, "user_id": "ann"}
        assert bob.receive() == whisper
        assert ann.receive()["event"] == "pusher_internal:member_added"
        assert ann.silent()
        assert cy.silent()


def test_a_cache_channel_keeps_its_event_on_all_workers(fleet):
    one, two = fleet()
    one.to_channel("cache-a").push({"event": "x", "data": {"n": 1}})
    wait_until(lambda: two.app("1").info("cache-a", ("cache",))["cache"])
    assert two.app("1").info("cache-a", ("cache",))["cache"]["data"] == '{"n":1}'


def test_a_fleet_with_another_prefix_or_another_app_is_another_fleet(fleet, serve, redis):
    (one,) = fleet(1)
    stranger = serve(
        broadcasting=BroadcastingSettings("redis", RedisSettings(redis.url, prefix="another:")),
        apps=(AppSettings("1", "k", "s"),),
    )
    neighbour = serve(
        broadcasting=BroadcastingSettings("redis", RedisSettings(redis.url, prefix=fleet.prefix)),
        apps=(AppSettings("2", "k", "s"),),
    )
    with stranger.connect() as far, neighbour.connect() as near:
        far.subscribe("a")
        near.subscribe("a")
        one.to_channel("a").push({"event": "x"})
        one.to_all().push({"event": "y"})
        wait_until(
            lambda: neighbour.counters.bus_received == 1
        )  # what is for everybody comes to all nodes, and after the first
        assert near.silent()
        assert far.silent()


# What does not belong there


def test_forged_and_malformed_messages_are_dropped_and_counted(fleet, caplog):
    one, two = fleet(secret=FLEET_SECRET)
    push = {"app": "1", "channels": ["a"], "users": [], "everybody": False, "except": [], "message": {"event": "x"}}
    good = Envelopes("somebody", FLEET_SECRET)
    with two.connect() as client, caplog.at_level(logging.WARNING):
        client.subscribe("a")
        bad = [
            b"",
            b"{}",
            Envelopes("somebody").seal("push", push),
            Envelopes("somebody", "another").seal("push", push),
            good.seal("push", {**push, "message": {}}),
            good.seal("push", {**push, "message": {"event": "x", "text": 5}}),
            good.seal("push", {**push, "message": {"event": "x", "members": []}}),
            good.seal("push", {**push, "channels": "a"}),
            good.seal("push", {**push, "channels": ["a b"]}),
            good.seal("push", {**push, "app": None}),
            good.seal("terminate", {"app": "1", "user": 7}),
            good.seal("client_event", push),
            good.seal("client_event", {**push, "except": ["1.1"], "user": 7}),
            good.seal("dance", {}),
        ]
        for data in bad:
            assert fleet.publish(data) == 2
        fleet.publish(good.seal("push", push))
        assert client.receive() == {"event": "x", "channel": "a"}
        assert client.silent()
    wait_until(lambda: one.counters.bus_refused == two.counters.bus_refused == len(bad))
    assert two.counters.bus_received == 1
    assert two.counters.errors == 0
    assert 0 < len([record for record in caplog.records if "is refused" in record.message]) <= 20


def test_a_message_whose_delivery_fails_does_not_make_the_worker_deaf(fleet, monkeypatch):
    one, two = fleet()
    with two.connect() as client:
        client.subscribe("a")
        with monkeypatch.context() as patch:
            patch.setattr(two.apps.default, "deliver", None)
            one.to_channel("a").push({"event": "lost"})
            wait_until(lambda: two.counters.errors == 1)
        one.to_channel("a").push({"event": "heard"})
        assert client.receive()["event"] == "heard"


# Redis comes and goes


def test_workers_start_serve_and_find_each_other_again_while_redis_comes_and_goes(serve, caplog):
    with running_redis() as redis:
        redis.stop()
        broadcasting = BroadcastingSettings("redis", RedisSettings(redis.url, timeout=0.3))
        one, two = (serve(broadcasting=broadcasting) for _ in range(2))
        with one.connect() as here, two.connect() as there:
            here.subscribe("a")
            there.subscribe("a")
            for _ in range(2):
                assert one.to_channel("a").push({"event": "alone"}) == 1
                assert here.receive()["event"] == "alone"
                redis.start()
                with redis.client() as client:
                    wait_until(lambda: client.pubsub_numsub("alphavel:bus")[0][1] == 2, 30)
                one.to_channel("a").push({"event": "together"})
                assert here.receive()["event"] == "together"
                there.events("together")  # what waited for Redis may come before
                redis.stop()
        assert "redis" in caplog.text.lower()


def test_what_waits_for_redis_is_bounded(serve):
    with running_redis() as redis:
        redis.stop()
        server = serve(broadcasting=BroadcastingSettings("redis", RedisSettings(redis.url, timeout=0.2, max_queue=4096)))
        for _ in range(10):
            server.to_channel("a").push({"event": "x", "data": "y" * 1000})
        assert server.get_stats()["bus_dropped"] == 7
        assert server.counters.bus_published == 10


def test_what_waits_is_published_before_the_server_stops(fleet):
    one, two = fleet()
    with two.connect() as client:
        client.subscribe("a")
        for number in range(500):
            one.to_channel("a").push({"event": "n", "data": number})
        one.stop()
        assert [client.receive()["data"] for _ in range(500)] == list(range(500))


@pytest.mark.parametrize(
    ("broadcasting", "text"),
    [
        (BroadcastingSettings("redis", RedisSettings("http://localhost")), "broadcasting.redis.url: expected redis://"),
        (BroadcastingSettings("http"), "broadcasting.driver: with http this process only sends"),
    ],
)
def test_a_server_says_what_it_cannot_start_with(broadcasting, text):
    with pytest.raises(ConfigurationError, match=text):
        WebSocketServer(WebSocketSettings(broadcasting=broadcasting))


@pytest.mark.parametrize("url", ["redis://:hunter2/x@127.0.0.1/0", "redis+sentinel://:hunter2/x@127.0.0.1:hunter2/shop"])
def test_a_url_that_makes_no_sense_shows_nothing_of_its_password(url):
    """A password with a slash in it ends the host and port for a parser, which quotes what it takes for the port."""
    with pytest.raises(ConfigurationError) as caught:
        WebSocketServer(WebSocketSettings(broadcasting=BroadcastingSettings("redis", RedisSettings(url))))
    assert "In a password / is %2F" in str(caught.value)
    assert "hunter2" not in str(caught.value)


# What others build on it


def test_workers_whose_sockets_would_have_names_too_long_to_connect_to_do_not_start(tmp_path):
    """The name it was bound under was a little shorter: they ran, and never met."""
    folder = tmp_path / ("x" * (107 - len(f"{tmp_path}//worker.sock")))
    folder.mkdir()
    _listen(folder, "worker").close()
    with pytest.raises(OSError, match="Name another folder in ALPHAVEL_RUN_DIR"):
        _listen(folder, "workers")


def test_nodes_tell_each_other_things_and_hear_when_the_bus_comes_and_goes(serve):
    with running_redis() as redis:
        one, two = (serve(broadcasting=BroadcastingSettings("redis", RedisSettings(redis.url, timeout=0.3))) for _ in range(2))
        heard, went = [], []
        two.relay.handle("rumour", heard.append)
        two.relay.bus.on_down.append(lambda: went.append("down"))
        two.relay.bus.on_up.append(lambda: went.append("up"))
        one.relay.bus.on_echo.append(lambda: heard.append("echo"))
        for number in range(3):
            one.relay.tell("rumour", {"n": number})
        wait_until(lambda: len(heard) >= 6 and heard.count("echo") >= 3)
        assert [content for content in heard if content != "echo"] == [
            {"kind": "rumour", "origin": one.relay.bus.name, "n": number} for number in range(3)
        ]
        redis.stop()
        wait_until(lambda: went == ["down"] and not two.relay.bus.is_up)
        redis.start()
        wait_until(lambda: went == ["down", "up"] and two.relay.bus.is_up)


def test_a_node_that_publishes_before_it_first_asks_is_waited_for():
    """What it publishes after its question was delivered before what it had published first, which then was dropped."""
    delivered = []
    missing = Missing(lambda message: delivered.append(message.numbers.number))
    missing.begin()
    missing.over()  # the others have answered
    first, second = (Told(Numbers(1, number, number), b"key", {"origin": "one"}) for number in (1, 2))
    assert missing.met("one", is_new=False)
    missing.hold(first)
    assert missing.met("one", is_new=True), "the question to it was before it listened"
    assert missing.awaits("one")
    missing.hold(second)
    missing.told("one", missing.session, [first], is_last=True)
    assert delivered == [1, 1, 2]
    assert not missing.met("two", is_new=True), "it has published nothing"


# What a node publishes


class Redis:
    """Takes what an outbox sends, and calls what a test wants done meanwhile."""

    def __init__(self):
        self.taken = []
        self.meanwhile = lambda: None

    def send(self, messages):
        meanwhile, self.meanwhile = self.meanwhile, lambda: None
        meanwhile()
        contents = [Envelopes("two").open(envelope) for _, envelope in messages]
        self.taken += [content["item"][4]["n"] if content["kind"] == "late" else content["n"] for content in contents]
        return [2] * len(messages)


def test_what_turns_out_to_be_doubtful_while_it_is_passed_over_is_told_late():
    """What was queued, and was for nobody, was not kept yet when all that was for nobody was looked for."""
    outbox, redis = Outbox(Envelopes("one"), 1 << 20, 1 << 20), Redis()
    outbox.alone.keys.add(b"a")
    outbox.put(b"b", write("push", {"n": 1}))
    for number in (2, 3):
        outbox.put(b"a", write("push", {"n": number}))
    outbox.put(b"b", write("push", {"n": 4}))

    def doubt():
        outbox.tell_late(0.0)
        outbox.alone.until = 0.0
        outbox.put(b"a", write("push", {"n": 5}))

    outbox.alone.until, redis.meanwhile = clock.now() + 60, doubt
    running = gevent.spawn(outbox.run, lambda: None, redis.send)
    outbox.finish(5)
    running.join()
    assert redis.taken == [1, 4, 2, 3, 5]


def test_what_is_doubtful_again_before_it_was_told_is_told_once():
    outbox, redis = Outbox(Envelopes("one"), 1 << 20, 1 << 20), Redis()
    outbox.alone.keys.add(b"a")
    outbox.alone.until = clock.now() + 60
    for number in (1, 2, 3):
        outbox.put(b"a", write("push", {"n": number}))
        outbox.tell_late(0.0)
    running = gevent.spawn(outbox.run, lambda: None, redis.send)
    outbox.finish(5)
    running.join()
    assert redis.taken == [1, 2, 3]
