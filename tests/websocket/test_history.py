"""Channels that keep a history: serials, positions, and coming back without having missed anything."""

from __future__ import annotations

import contextlib
import random

import gevent
import pytest

from alphavel.foundation.errors import ConfigurationError
from alphavel.websocket import WebSocketServer
from alphavel.websocket.channels import Histories, Position
from alphavel.websocket.channels.keys import Keys
from alphavel.websocket.protocols import Message
from alphavel.websocket.settings import ChannelSettings, HistorySettings
from tests.support import nothing_switches, python, run, wait_until
from tests.websocket.conftest import SECRET, settings
from tests.websocket.pusher import PusherClient, app, succeeded
from tests.websocket.tokens import token

KEEPING = {"chat.*": ChannelSettings(HistorySettings(size=100, ttl=300.0))}


@pytest.fixture
def pusher():
    """`pusher(server)`: one of Pusher's clients, closed when the test ends."""
    with contextlib.ExitStack() as clients:
        yield lambda server: clients.enter_context(PusherClient(server.port))


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def histories(clock, max_bytes=10**9, **rules):
    made = Histories(clock)
    made.configure({"chat.*": ChannelSettings(HistorySettings(**{"size": 100, **rules}))}, max_bytes)
    return made


def say(made, number, channel="chat.1", **more):
    return made.keep(channel, Message({"event": "e", "data": number}), **more)


def numbers(entries):
    return None if entries is None else [int(kept.message.json_data) for kept in entries]


# What is kept


def test_serials_count_from_one_within_an_epoch_of_the_channel(clock):
    made = histories(clock)
    assert [say(made, n).serial for n in range(3)] == [1, 2, 3]
    assert say(made, 0, "chat.2").serial == 1
    assert made.get("chat.1").position.epoch != made.get("chat.2").position.epoch


def test_channel_that_no_pattern_matches_keeps_nothing(clock):
    made = histories(clock)
    assert say(made, 1, "news") is None
    assert made.of("news") is None
    assert len(made) == 0


def test_first_pattern_that_matches_decides(clock):
    made = Histories(clock)
    keeps, none = ChannelSettings(HistorySettings(size=1)), ChannelSettings()
    made.configure({"chat.secret.*": none, "chat.*": keeps}, 10**6)
    assert made.rules("chat.secret.1") is None
    assert made.rules("chat.1").size == 1
    made.configure({"*": keeps}, 10**6)
    assert made.rules("#server-to-user-7") is None  # what is pushed to a user is on no channel


def test_ring_keeps_the_last_and_knows_what_it_has_lost(clock):
    made = histories(clock, size=3)
    for number in range(1, 6):
        say(made, number)
    history = made.get("chat.1")
    epoch = history.position.epoch
    assert numbers(history.entries()) == [3, 4, 5]
    assert numbers(history.since(Position(epoch, 2))) == [3, 4, 5]
    assert history.since(Position(epoch, 1)) is None
    assert history.since(Position(epoch, 5)) == []


def test_messages_are_forgotten_after_their_time(clock):
    made = histories(clock, ttl=60.0)
    say(made, 1)
    clock.now += 30
    say(made, 2)
    clock.now += 31
    history = made.get("chat.1")
    assert numbers(history.entries()) == [2]
    assert history.since(Position(history.position.epoch, 0)) is None


def test_message_that_its_publisher_wanted_forgotten_is_missed_by_nobody(clock):
    made = histories(clock)
    say(made, 1, ttl=5.0)
    say(made, 2)
    say(made, 3, ttl=5.0)
    clock.now += 6
    history = made.get("chat.1")
    assert numbers(history.since(Position(history.position.epoch, 0))) == [2]


def test_bytes_of_a_channel_are_bounded(clock):
    made = histories(clock, max_bytes=10**9)
    made.configure({"chat.*": ChannelSettings(HistorySettings(size=1000, max_bytes=10_000))}, 10**9)
    for _ in range(100):
        made.keep("chat.1", Message({"event": "e", "data": "x" * 1000}))
    assert 1 <= len(made.get("chat.1").entries()) <= 8
    assert made.bytes <= 10_000


def test_bytes_of_all_channels_are_bounded_and_the_one_longest_without_a_message_goes(clock):
    made = histories(clock, max_bytes=20_000)
    for number in range(100):
        say(made, number, f"chat.{number}")
        say(made, number, "chat.busy")
    assert made.bytes <= 20_000
    assert made.get("chat.busy") is not None
    assert made.get("chat.0") is None
    assert made.get("chat.99") is not None


@pytest.mark.parametrize("framed", [[], ["framed"]])
def test_kept_message_holds_on_to_no_more_than_its_own_bytes(framed):
    """What orjson returns looks like a hundred bytes and keeps a buffer of four kilobytes for as long as it lives."""
    done = run(python(), "-m", "benchmarks.scenarios.history_memory", "5000", *framed)
    assert float(done.stdout) < 2000, done.stdout + done.stderr


def test_message_larger_than_the_bound_is_numbered_and_not_kept(clock):
    made = histories(clock)
    made.configure({"chat.*": ChannelSettings(HistorySettings(size=10, max_bytes=1024))}, 10**9)
    kept = made.keep("chat.1", Message({"event": "e", "data": "x" * 5000}))
    history = made.get("chat.1")
    assert (kept.serial, history.entries(), made.bytes) == (1, [], 0)
    assert history.since(Position(history.position.epoch, 0)) is None


def test_history_is_forgotten_when_nothing_is_left_and_nobody_is_on_the_channel(clock):
    made = histories(clock, ttl=60.0)
    say(made, 1, "chat.live")
    say(made, 1, "chat.gone")
    live = made.get("chat.live").position
    for _ in range(130):
        clock.now += 1
        made.second_passed({"chat.live"}.__contains__)
    assert made.get("chat.gone") is None
    assert made.get("chat.live").position == live
    assert made.bytes == 0


def test_names_that_a_stranger_invents_take_no_more_than_so_much(clock, monkeypatch):
    monkeypatch.setattr("alphavel.websocket.channels.histories._MAX_SILENT", 10)
    made = histories(clock)
    for number in range(500):
        made.of(f"chat.{number}")
    live = {"chat.0", "chat.1", "chat.499"}
    say(made, 1, "chat.2")
    epochs = {name: made.get(name).position.epoch for name in live | {"chat.2"}}
    made.second_passed(live.__contains__)
    assert len(made) == 11
    assert {name: made.get(name).position.epoch for name in epochs} == epochs
    assert numbers(made.get("chat.2").entries()) == [1]


def test_channel_that_is_read_anew_again_and_again_is_looked_at_once(clock):
    made = histories(clock, ttl=60.0)
    for _ in range(100):
        made.replace("chat.1", Position("e" * 20, 5))
        clock.now += 1
        made.second_passed({"chat.1"}.__contains__)
    assert len(made._checks) == 1
    clock.now += 130
    made.second_passed(set().__contains__)
    assert len(made) == len(made._checks) == 0


def test_rules_taken_anew_forget_what_is_not_to_be_kept_any_more(clock):
    made = histories(clock)
    say(made, 1)
    made.configure({}, 10**6)
    assert (made.get("chat.1"), made.bytes, made.keeps) == (None, 0, False)


@pytest.mark.parametrize("seed", range(20))
def test_what_is_counted_is_what_is_held(clock, seed):
    """Whatever happens to it, in whatever order."""
    chance = random.Random(seed)
    made = histories(clock, 30_000, size=20)
    for _ in range(500):
        channel = f"chat.{chance.randrange(5)}"
        message = Message({"event": "e", "data": "x" * chance.randrange(2000)})
        kept = made.keep(channel, message, frozenset(), chance.choice([None, 1.0, 50.0]))
        if made.get(channel) is not None and chance.random() < 0.5:
            made.get(channel).grow(0)
            assert kept is not None
        clock.now += chance.random() * 3
        if chance.random() < 0.1:
            made.second_passed(lambda name: chance.random() < 0.5)
        held = sum(kept.held for history in made for _, kept in history._entries)
        assert made.bytes == held <= 30_000


def test_message_that_is_framed_when_it_is_kept_no_more_is_not_counted(serve):
    """In one turn of the loop more are published than the channel keeps; they are framed at its end."""
    server = serve(channels={"chat.*": ChannelSettings(HistorySettings(size=2, max_bytes=2048))})
    client, histories = server.connect(), server.apps.default.histories
    subscribe(client)

    def publish():
        for number in range(20):
            server.apps.default.publish(Message({"event": "e", "data": number}), ["chat.1"])

    for _ in range(10):
        server.reactor.call(publish)
        assert [client.receive()["data"] for _ in range(20)] == list(range(20))
    held = [kept for _, kept in histories.get("chat.1").all()]
    assert len(held) == 2
    assert histories.bytes == sum(kept.held for kept in held)


# Positions


@pytest.mark.parametrize(
    "value",
    [
        None,
        5,
        "x",
        [],
        {},
        {"epoch": "x"},
        {"serial": 1},
        {"epoch": 1, "serial": 1},
        {"epoch": "x", "serial": True},
        {"epoch": "x", "serial": 1.5},
        {"epoch": "x", "serial": -1},
        {"epoch": "x", "serial": 2**53},
        {"epoch": "é" * 20, "serial": 1},
    ],
)
def test_what_is_no_position_is_refused(value):
    with pytest.raises(ValueError, match=r"position|serial|epoch"):
        Position.read(value, "chat.1")


def test_position_of_another_channel_is_refused(clock):
    made = histories(clock)
    say(made, 1)
    position = made.get("chat.1").position
    assert Position.read(position._asdict(), "chat.1") == position
    with pytest.raises(ValueError, match=r"never was such an epoch on chat\.2"):
        Position.read(position._asdict(), "chat.2")


def test_keys_are_used_once_within_their_window(clock):
    keys = Keys(10.0, clock, max_keys=3)
    assert keys.use("a")
    assert not keys.use("a")
    clock.now += 10
    assert keys.use("a")
    assert all(map(keys.use, "bcd"))
    assert len(keys) == 3
    assert keys.use("a")  # the oldest had to go


# Over the wire


def push(server, number, channel="chat.1", **more):
    return server.to_channel(channel).push({"event": "m", "data": number}, **more)


def subscribe(client, channel="chat.1", **data):
    client.send("subscribe", {"channel": channel, **data})
    return client.receive()


def position_of(answer):
    return {name: answer["data"][name] for name in ("epoch", "serial")}


def test_subscriber_is_told_the_position_and_each_event_its_serial(serve):
    server = serve(channels=KEEPING)
    client = server.connect()
    answer = subscribe(client)
    assert answer["data"]["serial"] == 0
    assert "recovered" not in answer
    push(server, 1)
    push(server, 2)
    assert [client.receive() for _ in range(2)] == [
        {"event": "m", "channel": "chat.1", "data": 1, "serial": 1},
        {"event": "m", "channel": "chat.1", "data": 2, "serial": 2},
    ]
    assert position_of(subscribe(server.connect())) == {"epoch": answer["data"]["epoch"], "serial": 2}


def test_channel_without_history_is_as_it_was(serve):
    server = serve(channels=KEEPING)
    client = server.connect()
    answer = subscribe(client, "news")
    assert set(answer) == {"event", "channel", "timestamp"}
    push(server, 1, "news")
    assert client.receive() == {"event": "m", "channel": "news", "data": 1}


def test_who_comes_back_gets_what_it_missed_before_anything_new(serve):
    server = serve(channels=KEEPING)
    client = server.connect()
    position = position_of(subscribe(client))
    client.close()
    for number in range(1, 6):
        push(server, number)
    back = server.connect()
    position["serial"] = 2
    back.send("subscribe", {"channel": "chat.1", "recover": position})
    wait_until(lambda: server.connections.connections[back.socket_id].channels)
    push(server, 6)
    answer, *events = [back.receive() for _ in range(5)]
    assert answer["recovered"] is True
    assert answer["data"]["serial"] == 5
    assert [(event["serial"], event["data"]) for event in events] == [(3, 3), (4, 4), (5, 5), (6, 6)]


def test_who_missed_more_than_is_kept_is_told_so(serve, pusher):
    server = serve(channels={"chat.*": ChannelSettings(HistorySettings(size=2))}, apps=(app(),))
    position = position_of(subscribe(server.connect()))
    for number in range(3):
        push(server, number)
    back = server.connect()
    assert subscribe(back, recover=position)["recovered"] is False
    assert back.silent()
    other = pusher(server)
    assert other.join("chat.1", recover=position) == succeeded("chat.1", **position | {"serial": 3, "recovered": False})
    assert other.silent()


def test_unknown_epoch_is_not_recovered_and_nothing_is_replayed(serve):
    """A server that was started anew: the client has to load the state again."""
    first, second = serve(channels=KEEPING), serve(channels=KEEPING)
    position = position_of(subscribe(first.connect()))
    push(second, 1)
    client = second.connect()
    answer = subscribe(client, recover=position)
    assert answer["recovered"] is False
    assert answer["data"]["epoch"] != position["epoch"]
    assert client.silent()


@pytest.mark.parametrize(
    ("recover", "text"),
    [
        ("x", "A position is an object"),
        ({"epoch": "0" * 20, "serial": 0}, "never was such an epoch"),
        ({"epoch": None, "serial": 0}, "A position is an object"),
    ],
)
def test_bad_position_is_answered_by_an_error_and_nothing_else(serve, recover, text):
    server = serve(channels=KEEPING)
    push(server, 1)
    client = server.connect()
    answer = subscribe(client, recover=recover)
    assert (answer["event"], answer["code"], answer["channel"]) == ("error", 4400, "chat.1")
    assert text in answer["message"]
    push(server, 2)
    assert client.silent()
    assert subscribe(client)["event"] == "subscribed"  # the connection stays, and may do better


def test_position_from_the_future_and_of_another_channel_are_errors(serve):
    server = serve(channels=KEEPING)
    client = server.connect()
    position = position_of(subscribe(client))
    other = server.connect()
    assert "never was" in subscribe(other, "chat.2", recover=position)["message"]
    assert "The last message of chat.1 is number 0" in subscribe(other, recover={**position, "serial": 1})["message"]
    assert server.get_channel_stats("chat.1")["subscribers"] == 1


def test_position_on_a_channel_without_history_is_not_recovered(serve):
    server = serve(channels=KEEPING)
    made = histories(Clock())
    position = Position.read({**made.of("chat.1").position._asdict()}, "chat.1")
    client = server.connect()
    answer = subscribe(client, "news", recover={"epoch": position.epoch, "serial": 0})
    assert answer["event"] == "error"
    assert subscribe(client, "news", rewind=3)["event"] == "subscribed"


def test_rewind_gives_the_last_messages_first(serve):
    server = serve(channels=KEEPING)
    for number in range(10):
        push(server, number)
    client = server.connect()
    answer = subscribe(client, rewind=3)
    assert answer["data"]["serial"] == 10
    assert [client.receive()["data"] for _ in range(3)] == [7, 8, 9]
    assert subscribe(server.connect(), rewind=0)["event"] == "error"
    assert subscribe(server.connect(), rewind="all")["event"] == "error"


def test_who_subscribes_again_is_not_given_it_all_again(serve):
    server = serve(channels=KEEPING)
    push(server, 1)
    client = server.connect()
    position = {**position_of(subscribe(client)), "serial": 0}
    assert subscribe(client, recover=position)["event"] == "subscribed"
    assert client.silent()


def test_cache_channel_gives_who_comes_back_nothing_twice(serve):
    server = serve(channels={"cache-*": ChannelSettings(HistorySettings(size=100))})
    client = server.connect()
    position = position_of(subscribe(client, "cache-a"))
    for number in (1, 2):
        push(server, number, "cache-a")
    for asked in ({"recover": position}, {"rewind": 2}):
        other = server.connect()
        subscribe(other, "cache-a", **asked)
        assert [(event["serial"], event["data"]) for event in (other.receive(), other.receive())] == [(1, 1), (2, 2)]
        assert other.silent()
    seen = server.connect()
    assert subscribe(seen, "cache-a", recover=position | {"serial": 2})["recovered"] is True
    assert seen.silent()
    new = server.connect()
    subscribe(new, "cache-a")
    assert new.receive()["data"] == 2


def test_what_a_client_was_left_out_of_it_has_not_missed(serve):
    server = serve(channels=KEEPING)
    client = server.connect()
    position = position_of(subscribe(client))
    server.to_channel("chat.1").except_([client.socket_id]).push({"event": "m", "data": "my own"})
    push(server, "of another")
    assert client.receive()["serial"] == 2
    client.close()
    back = server.connect()
    assert subscribe(back, recover={**position, "socket_id": client.socket_id})["recovered"] is True
    assert back.receive()["data"] == "of another"
    assert back.silent()


def test_events_of_clients_are_kept_too(serve):
    def set_up(server):
        server.channel("chat.{room}")(lambda user: True)

    server = serve(set_up, channels=KEEPING, secret=SECRET)
    client = server.connect(f"/?token={token()}")
    position = position_of(subscribe(client))
    client.send("broadcast", {"channel": "chat.1", "message": {"event": "typing", "data": {"a": 1}}})
    client.send("ping")
    assert client.receive()["event"] == "pong"
    back = server.connect(f"/?token={token()}")
    assert subscribe(back, recover=position)["recovered"] is True
    assert back.receive() == {"event": "typing", "channel": "chat.1", "data": {"a": 1}, "serial": 1}


def test_pusher_client_that_does_not_ask_is_told_what_pusher_tells(serve, pusher):
    server = serve(channels=KEEPING, apps=(app(),))
    assert pusher(server).join("chat.1") == succeeded("chat.1")


def test_pusher_client_that_asks_gets_the_same(serve, pusher):
    server = serve(channels=KEEPING, apps=(app(),))
    client = pusher(server)
    position = client.join("chat.1", recover=True)["data"]
    assert set(position) == {"epoch", "serial"}
    push(server, {"text": "hi"})
    event = client.receive()
    assert event == {"event": "m", "channel": "chat.1", "data": {"text": "hi"}, "serial": 1}
    back = pusher(server)
    assert back.join("chat.1", recover=position) == succeeded("chat.1", **position | {"serial": 1, "recovered": True})
    assert back.receive() == event


def test_pusher_client_needs_its_signature_to_get_what_it_missed(serve, pusher):
    server = serve(channels={"private-*": ChannelSettings(HistorySettings(size=5))}, apps=(app(),))
    position = pusher(server).join("private-a", recover=True)["data"]
    push(server, "secret", "private-a")
    thief = pusher(server)
    assert thief.join("private-a", recover=position, auth="app-key:" + "0" * 64)["event"] == "pusher:subscription_error"
    assert thief.silent()


def test_members_come_along_on_presence_channels(serve):
    def set_up(server):
        server.channel("presence-{room}")(lambda user: True)

    server = serve(set_up, channels={"presence-*": ChannelSettings(HistorySettings(size=5))}, secret=SECRET)
    client = server.connect(f"/?token={token()}")
    answer = subscribe(client, "presence-a")
    assert answer["data"]["serial"] == 0
    assert [member["id"] for member in answer["data"]["members"]] == ["7"]


# Reading


def test_application_reads_a_history(serve):
    server = serve(channels=KEEPING)
    for number in range(5):
        push(server, number)
    answer = server.history("chat.1", limit=2)
    assert answer["messages"] == [{"serial": 4, "event": "m", "data": 3}, {"serial": 5, "event": "m", "data": 4}]
    since = {"epoch": answer["epoch"], "serial": 1}
    page = server.history("chat.1", limit=2, since=since)
    assert ([message["serial"] for message in page["messages"]], page["recovered"]) == ([2, 3], True)
    with pytest.raises(ValueError, match="keeps no history"):
        server.history("news")
    with pytest.raises(ValueError, match="limit"):
        server.history("chat.1", limit=0)


def test_client_reads_a_history_only_where_it_may_now(serve):
    allowed = []

    def set_up(server):
        server.channel("private-{room}")(lambda user: user.id in allowed)

    server = serve(set_up, channels={"private-*": ChannelSettings(HistorySettings(size=5))}, secret=SECRET)
    push(server, "secret", "private-a")
    client = server.connect(f"/?token={token()}")
    client.send("history", {"channel": "private-a"})
    assert (answer := client.receive())["event"] == "error"
    assert answer["code"] == 4009
    allowed.append("7")
    assert subscribe(client, "private-a")["event"] == "subscribed"
    client.send("history", {"channel": "private-a", "limit": 1})
    assert client.receive()["data"]["messages"] == [{"serial": 1, "event": "m", "data": "secret"}]
    allowed.clear()  # it is on the channel still, and may not read what was before
    client.send("history", {"channel": "private-a"})
    assert client.receive()["code"] == 4009


def test_client_is_told_whose_history_cannot_be_read_because_the_authorizer_fails(serve):
    """By the channel clients find which of their questions is answered: without one alphavel.js waited for ever."""

    def broken(user, room):
        raise RuntimeError("the database is away")

    rules = {"private-*": ChannelSettings(HistorySettings(size=5))}
    server = serve(lambda server: server.channel("private-{room}")(broken), channels=rules, secret=SECRET)
    client = server.connect(f"/?token={token()}")
    client.send("history", {"channel": "private-a"})
    answer = client.receive()
    assert (answer["event"], answer["code"], answer["channel"]) == ("error", 4500, "private-a")


@pytest.mark.parametrize(
    "data", [{}, {"channel": 5}, {"channel": "chat.1", "limit": "x"}, {"channel": "chat.1", "since": 1}, {"channel": "news"}]
)
def test_bad_question_about_a_history_is_an_error(serve, data):
    client = serve(channels=KEEPING).connect()
    client.send("history", data)
    assert client.receive()["event"] == "error"


# Delivery


def test_second_push_of_a_key_is_dropped(serve):
    server = serve(channels=KEEPING)
    client = server.connect()
    subscribe(client, "news")
    subscribe(client)
    assert push(server, 1, "news", idempotency_key="order-7") == 1
    assert push(server, 1, "news", idempotency_key="order-7") == 0
    assert push(server, 2, idempotency_key="order-8") == 1
    assert push(server, 2, idempotency_key="order-8") == 0
    assert [client.receive()["data"] for _ in range(2)] == [1, 2]
    assert client.silent()
    assert server.counters.deduplicated == 2


def test_message_that_is_refused_has_not_used_its_key(serve):
    server = serve()
    client = server.connect()
    subscribe(client, "news")
    with pytest.raises(ValueError, match="Cannot push"):
        server.to_channels(["news", "no such name"]).push({"event": "m"}, idempotency_key="k")
    assert push(server, 1, "news", idempotency_key="k") == 1


@pytest.mark.parametrize(
    "choice",
    [
        {"ttl": 0},
        {"ttl": -1},
        {"ttl": "x"},
        {"ttl": True},
        {"idempotency_key": ""},
        {"idempotency_key": 5},
        {"idempotency_key": "\ud800"},
    ],
)
def test_bad_choices_are_refused(serve, choice):
    server = serve()
    with pytest.raises(ValueError, match=r"ttl|idempotency_key"):
        push(server, 1, "news", **choice)


def test_message_past_its_ttl_is_not_given_to_who_comes_back(serve):
    server = serve(channels=KEEPING)
    position = position_of(subscribe(server.connect()))
    push(server, "short", ttl=0.05)
    push(server, "long")
    gevent.sleep(0.1)
    back = server.connect()
    assert subscribe(back, recover=position)["recovered"] is True
    assert back.receive()["data"] == "long"


def test_message_past_its_ttl_is_not_the_last_event_of_a_cache_channel(serve):
    server = serve()
    push(server, "short", "cache-a", ttl=0.05)
    push(server, "long", "cache-b", ttl=60)
    gevent.sleep(0.1)
    client = server.connect()
    subscribe(client, "cache-a")
    subscribe(client, "cache-b")
    assert client.receive()["data"] == "long"


def test_history_that_does_not_fit_into_an_outbox_is_refused_at_the_start(serve):
    channels = {"chat.*": ChannelSettings(HistorySettings(size=10, max_bytes=2**20))}
    with pytest.raises(ConfigurationError, match="max_outbox"):
        serve(channels=channels, max_outbox=2**20)


def test_a_history_that_only_redis_can_keep_is_refused_by_several_workers(tmp_path):
    with pytest.raises(ConfigurationError, match="Redis keeps the histories"):
        WebSocketServer(settings(channels=KEEPING, workers=2))
    one_of_gunicorns = WebSocketServer(settings(channels=KEEPING))
    with pytest.raises(ConfigurationError, match="Redis keeps the histories"):
        one_of_gunicorns.join(tmp_path)


def test_nothing_switches_while_a_subscriber_is_given_what_it_missed(serve):
    server = serve(channels=KEEPING)
    client = server.connect()
    for number in range(5):
        push(server, number)
    connection = next(iter(server.connections.connections.values()))
    command = connection.protocol.decode('{"event":"subscribe","data":{"channel":"chat.1","rewind":5}}')
    with nothing_switches():
        server._dispatcher._execute[type(command)](connection, command)
    assert [client.receive()["event"] for _ in range(6)] == ["subscribed", *"mmmmm"]


def test_clients_cut_at_random_miss_nothing_and_get_nothing_twice(serve, transport):
    """One publishes flat out; the truth is what it published."""
    total, chance = 3000, random.Random(7)
    channels = {"chat.*": ChannelSettings(HistorySettings(size=total, max_bytes=16 * 2**20))}
    server = serve(channels=channels, max_outbox=64 * 2**20, max_history=64 * 2**20)
    logs = [[] for _ in range(8)]

    def publish():
        for number in range(1, total + 1):
            push(server, number)
            if number % 10 == 0:
                gevent.sleep(0)

    def follow(log):
        position = None
        while not log or log[-1] != total:
            client = server.connect()
            answer = subscribe(client, **({"recover": position} if position else {}))
            assert answer.get("recovered") is not False
            position = position or position_of(answer)
            for _ in range(chance.randrange(1, 400)):
                event = client.receive()
                assert event["serial"] == position["serial"] + 1
                position["serial"] = event["serial"]
                log.append(event["data"])
                if event["data"] == total:
                    break
            client.close()

    followers = [gevent.spawn(follow, log) for log in logs]
    wait_until(lambda: server.get_channel_stats("chat.1")["subscribers"] == len(logs))
    publisher = gevent.spawn(publish)
    gevent.joinall([publisher, *followers], timeout=60, raise_error=True)
    assert all(log == list(range(1, total + 1)) for log in logs)
