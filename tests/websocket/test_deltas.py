"""Deltas: of a message only what is not as in the one before, for those who asked."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import random

import pytest
from hypothesis import example
from hypothesis import given as for_all
from hypothesis import strategies as st

from alphavel.websocket.channels.deltas import patch
from alphavel.websocket.protocols.messages import to_json
from alphavel.websocket.settings import ChannelSettings, HistorySettings
from tests.websocket.conftest import SECRET
from tests.websocket.pusher import PusherClient, app, succeeded
from tests.websocket.several_workers import Server
from tests.websocket.test_event_stream import Stream
from tests.websocket.tokens import bearer

DELTA = {"tick.*": ChannelSettings(delta=True), "presence-tick": ChannelSettings(delta=True)}
KEPT = {"tick.*": ChannelSettings(HistorySettings(size=100), delta=True)}
EURUSD = {"pair": "EURUSD", "bid": 1.0831, "ask": 1.0833, "venue": {"name": "a venue with a long name", "open": True}}


def merge(target, change):
    """Apply a merge patch, word for word as RFC 7396, section 2, has it."""
    if not isinstance(change, dict):
        return change
    target = dict(target) if isinstance(target, dict) else {}
    for name, value in change.items():
        if value is None:
            target.pop(name, None)
        else:
            target[name] = merge(target.get(name), value)
    return target


class Follower:
    """What a client makes of the events of one channel that it follows."""

    def __init__(self, client, channel="tick.1", **data):
        self.client = client
        client.send("subscribe", {"channel": channel, **data})
        self.answer = client.receive()
        about = self.answer.get("data", {})
        self.follows, self.base = about.get("delta") is True, about.get("base")
        self.deltas = 0

    def receive(self):
        """Return the next event with whole data."""
        event = self.client.receive()
        if not self.follows or event.get("delta") is False:
            event.pop("delta", None)
            return event
        if "delta" in event:
            self.deltas += 1
            event["data"] = merge(self.base, event.pop("delta"))
        self.base = event.get("data")
        return event

    def data(self, count):
        return [self.receive().get("data") for _ in range(count)]


def follow(server, channel="tick.1", user=None, **data):
    return Follower(server.connect("/?delta=true", *([bearer(user)] if user else [])), channel, **data)


def push(server, data, channel="tick.1", **more):
    return server.to_channel(channel).push({"event": "tick", "data": data, **more})


# What a patch is


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abcd") | st.text(max_size=3), inner, max_size=4)
    ),
    max_leaves=12,
)
json_objects = st.dictionaries(st.sampled_from("abcdefgh"), json_values, max_size=8)


def is_same(one, other):
    """As JSON sees it: 1, 1.0 and true are not the same; the order of members means nothing."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


@for_all(json_objects, json_objects)
@example({"a": 1}, {"a": True})
@example({"a": 1}, {"a": 1.0})
@example({"a": 0.0}, {"a": -0.0})
@example({"a": [1, {"b": 1}]}, {"a": [True, {"b": 1}]})
@example({"a": {"b": 1}}, {"a": None})
@example({"a": 1}, {"a": {"b": None}})
@example({"a": {"x": 1}, "long": "y" * 99}, {"a": 5, "long": "y" * 99})
def test_who_applies_a_patch_has_the_very_data(base, new):
    try:
        before, after = to_json(base, "base"), to_json(new, "new")
    except TypeError:  # an integer of more than 64 bits
        return
    change = patch(before, after)
    if change is not None:
        assert len(change) < len(after)
        assert is_same(merge(json.loads(before), json.loads(change)), json.loads(after))


@pytest.mark.parametrize(
    ("base", "new", "expected"),
    [
        ('{"bid":1.5,"pair":"EURUSD"}', '{"bid":1.6,"pair":"EURUSD"}', {"bid": 1.6}),
        ('{"a":{"b":1,"c":2},"d":1}', '{"a":{"b":1,"c":3},"d":1}', {"a": {"c": 3}}),
        ('{"a":1,"b":"xxxxxxxxxxxxx"}', '{"b":"xxxxxxxxxxxxx"}', {"a": None}),
        ('{"a":1,"b":"xxxxxxxxxxxxx"}', '{"a":1,"b":"xxxxxxxxxxxxx"}', {}),
        ('{"a":[1,null],"b":"xxxxxxx"}', '{"a":[2,null],"b":"xxxxxxx"}', {"a": [2, None]}),
        ('{"a":1,"b":"xxxxxxxxxxxxx"}', '{"a":null,"b":"xxxxxxxxxxxxx"}', None),
        ('{"b":"xxxxxxxxxxxxx"}', '{"a":{"c":null},"b":"xxxxxxxxxxxxx"}', None),
        ('{"a":1,"b":"xxxxxxxxxxxxxxxxxxxx"}', '{"__proto__":1,"b":"xxxxxxxxxxxxxxxxxxxx"}', None),
        ('{"a":1,"b":"xxxxxxxxxxxxxxxxxxxx"}', '{"a":{"__proto__":1},"b":"xxxxxxxxxxxxxxxxxxxx"}', None),
        ('{"a":1,"b":"xxxxxxxxxxxxxxxxxxxx"}', '{"a":123456789012345678901234,"b":"xxxxxxxxxxxxxxxxxxxx"}', None),
        ('{"a":1,"b":"xxxxxxxxxxxxxxxxxxxx"}', '{"a":1e400,"b":"xxxxxxxxxxxxxxxxxxxx"}', None),
        ('{"a":1}', '{"b":2}', None),  # longer than the new one
        ("[1]", '{"b":2}', None),
        ('{"b":2}', "[1]", None),
    ],
)
def test_what_has_changed(base, new, expected):
    change = patch(base.encode(), new.encode())
    assert change == (None if expected is None else to_json(expected, "expected"))


def test_data_that_is_nested_deeply_is_sent_whole():
    new = b'{"a":' * 200 + b'"xxxx"' + b"}" * 200
    assert patch(new.replace(b"xxxx", b"yyyy"), new) is None


# What a subscriber gets


@pytest.mark.usefixtures("transport", "writer")
def test_after_the_first_message_only_what_has_changed_is_sent(serve):
    server = serve(channels=DELTA)
    first, plain = follow(server), server.connect()
    plain.subscribe("tick.1")
    assert first.answer["data"] == {"delta": True}
    told = [EURUSD, {**EURUSD, "bid": 1.0832}, {**EURUSD, "bid": 1.0832}]
    assert [push(server, data) for data in told] == [2, 2, 2]
    events = [first.client.receive() for _ in told]
    assert [(event.get("data"), event.get("delta")) for event in events] == [
        (EURUSD, None),
        (None, {"bid": 1.0832}),
        (None, {}),
    ]
    assert [plain.receive() for _ in told] == [{"event": "tick", "channel": "tick.1", "data": data} for data in told]


def test_who_joins_later_is_given_the_base(serve):
    server = serve(channels=DELTA)
    first = follow(server)
    push(server, EURUSD)
    late = follow(server)
    assert late.answer["data"] == {"delta": True, "base": EURUSD}
    news = {**EURUSD, "ask": 1.09}
    push(server, news)
    assert first.data(2) == [EURUSD, news]
    assert late.data(1) == [news]
    assert (first.deltas, late.deltas) == (1, 1)


def test_on_channels_without_deltas_and_for_who_did_not_ask_all_is_as_ever(serve):
    server = serve(channels=DELTA)
    asked, plain, other = follow(server, "news"), server.connect(), server.connect("/?delta=false")
    assert "data" not in asked.answer
    for client in (plain, other):
        assert "data" not in client.subscribe("tick.1")
    for channel in ("news", "tick.1"):
        for bid in (1, 2):
            push(server, {**EURUSD, "bid": bid}, channel)
    assert [event["data"]["bid"] for event in (asked.receive(), asked.receive())] == [1, 2]
    for client in (plain, other):
        assert [client.receive()["data"]["bid"] for _ in range(2)] == [1, 2]
    assert server.connections.channels["tick.1"].chain is None  # nobody follows: nothing is kept


def test_the_greeting_says_that_deltas_may_come(serve):
    server = serve(channels=DELTA)
    client = server.connect("/?delta=true", greeted=False)
    assert client.receive()["delta"] is True
    assert "delta" not in server.connect(greeted=False).receive()


def test_what_not_all_followers_get_is_no_base(serve):
    server = serve(channels=DELTA)
    first, second = follow(server), follow(server)
    plain = server.connect()
    plain.subscribe("tick.1")
    push(server, EURUSD)
    aside = {**EURUSD, "bid": 7}
    server.to_channel("tick.1").except_(first.client.socket_id).push({"event": "tick", "data": aside})
    server.to_channel("tick.1").except_(plain.socket_id).push({"event": "tick", "data": {**EURUSD, "bid": 8}})
    server.connections.connections[second.client.socket_id].send({"event": "own", "channel": "tick.1", "data": {"bid": 9}})
    push(server, {**EURUSD, "bid": 10})
    assert [data["bid"] for data in first.data(3)] == [1.0831, 8, 10]
    assert [data["bid"] for data in second.data(5)] == [1.0831, 7, 8, 9, 10]
    assert (first.deltas, second.deltas) == (2, 2)
    assert [plain.receive()["data"]["bid"] for _ in range(3)] == [1.0831, 7, 10]


@pytest.mark.parametrize("odd", [None, [1, 2], "text", 7, {"bid": None, "pair": "EURUSD"}, {}])
def test_after_data_of_another_kind_deltas_go_on(serve, odd):
    server = serve(channels=DELTA)
    one = follow(server)
    told = [EURUSD, odd, EURUSD, {**EURUSD, "bid": 2}]
    for data in told:
        push(server, data)
    assert one.data(4) == told
    assert one.deltas >= 1


def test_a_message_without_data_or_with_a_delta_of_its_own_breaks_nothing(serve):
    server = serve(channels=DELTA)
    one = follow(server)
    push(server, EURUSD)
    server.to_channel("tick.1").push({"event": "nothing"})
    push(server, EURUSD)
    push(server, {**EURUSD, "bid": 2}, delta={"bid": 3})
    push(server, {**EURUSD, "bid": 4})
    assert one.data(5) == [EURUSD, None, EURUSD, {**EURUSD, "bid": 2}, {**EURUSD, "bid": 4}]


def test_members_that_come_and_go_are_no_base(serve):
    def set_up(server):
        server.channel("presence-tick")(lambda user: {"n": user.id})

    server = serve(set_up, channels=DELTA, secret=SECRET)
    one = follow(server, "presence-tick", "1")
    push(server, EURUSD, "presence-tick")
    other = follow(server, "presence-tick", "2")
    assert other.answer["data"]["base"] == EURUSD
    assert [member["id"] for member in other.answer["data"]["members"]] == ["1", "2"]
    other.client.send("unsubscribe", {"channel": "presence-tick"})
    assert other.client.receive()["event"] == "unsubscribed"
    push(server, {**EURUSD, "bid": 2}, "presence-tick")
    events = [one.receive() for _ in range(4)]
    assert [event["event"] for event in events] == ["tick", "member_added", "member_removed", "tick"]
    assert events[1]["data"] == {"user": {"id": "2", "info": {"n": "2"}}}
    assert events[3]["data"] == {**EURUSD, "bid": 2}
    assert one.deltas == 1


def test_with_a_history_what_was_missed_comes_whole_and_before_what_is_new(serve):
    server = serve(channels=KEPT)
    one = follow(server)
    push(server, EURUSD)
    first = one.receive()
    position = {"epoch": one.answer["data"]["epoch"], "serial": first["serial"]}
    one.client.close()
    other = follow(server)
    for bid in (2, 3):
        push(server, {**EURUSD, "bid": bid})
    back = follow(server, recover=position)
    assert back.answer["recovered"] is True
    push(server, {**EURUSD, "bid": 4})
    events = [back.receive() for _ in range(3)]
    assert [(event["serial"], event["data"]["bid"]) for event in events] == [(2, 2), (3, 3), (4, 4)]
    assert [data["bid"] for data in other.data(3)] == [2, 3, 4]
    assert (back.deltas, other.deltas) == (1, 2)


def test_an_event_of_a_client_is_no_base(serve):
    def set_up(server):
        server.channel("tick.{number}")(lambda user, number: True)

    server = serve(set_up, channels=KEPT, apps=(app(),), secret=SECRET)
    one, loud = follow(server, user="1"), follow(server, user="2")
    push(server, EURUSD)
    push(server, {**EURUSD, "bid": 2})
    assert [data["bid"] for data in one.data(2)] == [1.0831, 2]
    loud.client.send("broadcast", {"channel": "tick.1", "message": {"event": "typing", "data": {"bid": 5}}})
    typing = one.receive()
    assert typing == {"event": "typing", "channel": "tick.1", "data": {"bid": 5}, "serial": 3}
    push(server, {**EURUSD, "bid": 6})
    assert one.receive()["data"] == {**EURUSD, "bid": 6}
    assert loud.data(3)[-1] == {**EURUSD, "bid": 6}
    assert (one.deltas, loud.deltas) == (2, 2)


def test_pushers_clients_and_event_streams_get_all(serve):
    server = serve(channels=DELTA, apps=(app(),))
    one = follow(server)
    stream = Stream(server.port, "tick.1")
    stream.opened("tick.1")
    with contextlib.closing(PusherClient(server.port)) as pusher:
        assert pusher.join("tick.1") == succeeded("tick.1")
        for bid in (1, 2):
            push(server, {**EURUSD, "bid": bid})
        assert [pusher.receive()["data"]["bid"] for _ in range(2)] == [1, 2]
    assert [stream.receive()["data"]["bid"] for _ in range(2)] == [1, 2]
    assert [data["bid"] for data in one.data(2)] == [1, 2]
    stream.close()


def test_what_is_kept_for_deltas_goes_with_the_last_who_follows(serve):
    server = serve(channels=DELTA)
    one, other, plain = follow(server), follow(server), server.connect()
    plain.subscribe("tick.1")
    channel = server.connections.channels["tick.1"]
    assert channel.chain.followers == 2
    one.client.send("unsubscribe", {"channel": "tick.1"})
    one.client.receive()
    assert channel.chain.followers == 1
    other.client.send("unsubscribe", {"channel": "tick.1"})
    other.client.receive()
    assert channel.chain is None
    push(server, EURUSD)
    assert plain.receive()["data"] == EURUSD
    again = follow(server)
    assert again.answer["data"] == {"delta": True}


def test_who_came_before_deltas_were_configured_understands_them_afterwards(serve):
    server = serve()
    early = follow(server)
    early.follows = True  # it has asked, and goes by what comes
    server.configure(dataclasses.replace(server.settings, channels=DELTA))
    late = follow(server)
    for bid in (1, 2):
        push(server, {**EURUSD, "bid": bid})
    assert [[data["bid"] for data in follower.data(2)] for follower in (early, late)] == [[1, 2], [1, 2]]
    assert server.connections.channels["tick.1"].chain.followers == 2


@pytest.mark.parametrize("seed", range(3))
def test_everybody_has_the_truth_whatever_happens(serve, seed):
    rng = random.Random(seed)
    server = serve(channels=rng.choice((DELTA, KEPT)))
    followers, expected, state = [], {}, {"pair": "EURUSD", "text": "x" * 50}
    for _ in range(200):
        kind = rng.random()
        if kind < 0.1 and len(followers) < 8:
            followers.append(follow(server))
            expected[followers[-1]] = []
        elif kind < 0.15 and followers:
            gone = followers.pop(rng.randrange(len(followers)))
            assert gone.data(len(expected[gone])) == expected.pop(gone)
            gone.client.close()
        else:
            change = rng.choice(("bid", "ask", "deep", "list", "gone"))
            state = {**state, change: rng.choice((rng.random(), {"a": rng.randrange(3)}, [1, rng.randrange(3)], "text", None))}
            if rng.random() < 0.3:
                state.pop(change)
            left_out = rng.sample(followers, 1) if followers and rng.random() < 0.2 else []
            names = [one.client.socket_id for one in left_out]
            server.to_channel("tick.1").except_(names).push({"event": "tick", "data": state})
            for one in followers:
                if one not in left_out:
                    expected[one].append(state)
    for one in followers:
        assert one.data(len(expected[one])) == expected[one]


def test_each_worker_makes_its_own(tmp_path):
    server = Server(tmp_path, more='channels: {"tick.*": {delta: true}}\n')
    try:
        pids = server.pids
        followers = []
        while {client.pid for client, _ in followers} != set(pids):
            client = server.connect(path="/?delta=true")
            followers.append((client, Follower(client)))
        data = [{**EURUSD, "bid": bid} for bid in range(20)]
        for number, each in enumerate(data):
            server.do(f"WebSocket.to_channel('tick.1').push({{'event': 'tick', 'data': {each!r}}})", pids[0])
            if number == 10:
                client = server.connect(worker=pids[1], path="/?delta=true")
                followers.append((client, Follower(client)))
        for _, follower in followers[:-1]:
            assert follower.data(20) == data
            assert follower.deltas >= 18
        late = followers[-1][1]
        while late.base != data[-1]:
            late.receive()
    finally:
        server.close()
