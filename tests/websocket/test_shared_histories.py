"""Histories of a fleet: Redis numbers and keeps what is published, and every node gives it to those who come back."""

from __future__ import annotations

import contextlib
import dataclasses
import random
import uuid

import gevent
import pytest
from redis.exceptions import ConnectionError as LostError

from alphavel.websocket.bus.envelope import EnvelopeError
from alphavel.websocket.bus.journal import Journal
from alphavel.websocket.settings import (
    AppSettings,
    BroadcastingSettings,
    ChannelSettings,
    HistorySettings,
    RedisSettings,
)
from tests.proxy import Proxy
from tests.redis_server import running_redis, running_sentinel
from tests.support import wait_until
from tests.websocket.conftest import SECRET
from tests.websocket.test_event_stream import Stream
from tests.websocket.test_history import position_of, push, subscribe
from tests.websocket.tokens import bearer

RULES = HistorySettings(size=1000)


@pytest.fixture(scope="module")
def redis():
    with running_redis() as server:
        yield server


@pytest.fixture
def fleet(serve, redis):
    """`fleet(n)` starts servers of one fleet; called again, further ones."""
    prefix = f"{uuid.uuid4()}:"

    def start(size=2, rules=RULES, set_up=None, pattern="chat.*", **given):
        app = AppSettings("1", "app-key", "app-secret", client_events=True)
        broadcasting = BroadcastingSettings("redis", RedisSettings(redis.url, prefix=prefix, **given))
        channels = {pattern: ChannelSettings(rules)}
        return [
            serve(set_up, apps=(app,), broadcasting=broadcasting, channels=channels, secret=SECRET, anonymous=True)
            for _ in range(size)
        ]

    start.settings = RedisSettings(redis.url, prefix=prefix)
    return start


def numbers(client, count):
    return [client.receive()["data"] for _ in range(count)]


# Redis' part


@pytest.fixture
def journal(redis):
    with redis.client() as client:
        yield Journal(client, RedisSettings(redis.url, prefix=f"{uuid.uuid4()}:"), "node")


def append(journal, number, rules=RULES, again=False, message_id=None, channel="chat.1"):
    sealed = journal.seal({"message": {"event": "m", "data": number}, "except": []})
    return journal.append("1", channel, rules, sealed, message_id or f"id-{number}", again)


def kept(journal, after=0):
    loaded = journal.load("1", "chat.1", after)
    return [entry.content["message"]["data"] for entry in loaded.entries]


def test_redis_numbers_what_is_kept_and_gives_it_back(journal):
    places = [append(journal, number) for number in range(3)]
    assert [place.serial for place in places] == [1, 2, 3]
    (epoch,) = {place.epoch for place in places}
    assert places[0].number < places[1].number < places[2].number
    loaded = journal.load("1", "chat.1")
    assert (loaded.epoch, loaded.serial, [entry.place for entry in loaded.entries]) == (epoch, 3, places)
    assert kept(journal, after=2) == [2]


def test_channel_that_nobody_has_published_on_has_an_epoch(journal):
    first, second = (journal.load("1", "chat.1") for _ in range(2))
    assert (first.epoch, first.serial, second.epoch) == (second.epoch, 0, first.epoch)
    assert journal.load("1", "chat.2").epoch != first.epoch
    assert append(journal, 1).epoch == first.epoch


@pytest.mark.parametrize("forget", ["expiry", "FLUSHALL"])
def test_epoch_is_not_used_again_after_redis_has_forgotten(journal, forget):
    """A message of the first counting is not taken for one of the second."""
    first = append(journal, 1)
    client, meta = journal._client, journal._keys("1", "chat.1")[0]
    origin = f"{journal._prefix}history:origin"
    assert 0 < client.pttl(origin) <= 43_200_000 < client.pttl(meta) - 43_000_000, "where a meta is over the origin is, too"
    client.flushall() if forget == "FLUSHALL" else client.delete(origin, meta)
    assert journal.load("1", "chat.1").serial == 0
    second = append(journal, 2)
    assert second.serial == 1
    assert second.epoch != first.epoch
    assert kept(journal) == [2]


@pytest.mark.parametrize("left_s", [None, 86_400])
def test_origin_that_could_outlive_a_meta_is_drawn_anew(journal, left_s):
    """One of a version that let it stand for ever, or of before Redis' clock was set back."""
    client, origin = journal._client, f"{journal._prefix}history:origin"
    client.set(origin, "old", ex=left_s)
    journal.load("1", "chat.1")
    assert client.get(origin) != b"old"
    assert 0 < client.pttl(origin) <= 43_200_000


def test_epoch_is_not_used_again_where_redis_has_evicted_it():
    with running_redis("--maxmemory-policy", "allkeys-random") as redis, redis.client() as client:
        journal = Journal(client, RedisSettings(redis.url, prefix="evicted:"), "node")
        first = append(journal, 1)
        origin = client.get("evicted:history:origin")
        client.config_set("maxmemory", 1)
        wait_until(lambda: client.dbsize() == 0)
        client.config_set("maxmemory", 0)
        client.set("evicted:history:origin", origin)  # it might have been spared
        assert append(journal, 2).epoch != first.epoch


def test_step_whose_answer_was_lost_is_made_again_and_changes_nothing(journal):
    first = append(journal, 1)
    append(journal, 2)
    assert append(journal, 1, again=True) == first
    assert append(journal, 3, again=True).serial == 3
    assert kept(journal) == [1, 2, 3]
    assert journal.use("1", "key", "a", 60)
    assert journal.use("1", "key", "a", 60)
    assert not journal.use("1", "key", "b", 60)


def test_number_bytes_and_age_are_bounded_in_redis(journal):
    for number in range(10):
        append(journal, number, HistorySettings(size=3))
    assert kept(journal) == [7, 8, 9]
    assert append(journal, 10, HistorySettings(size=3, max_bytes=250)).serial == 11
    assert len(kept(journal)) < 3
    for number in range(3):
        append(journal, number)
    gevent.sleep(1.1)
    append(journal, 99, HistorySettings(size=100, ttl=1.0))
    assert kept(journal) == [99]


def test_bytes_of_a_stream_that_has_expired_do_not_count(journal):
    rules = HistorySettings(size=100, max_bytes=250)
    append(journal, 1, rules)
    journal._client.delete(journal._keys("1", "chat.1")[1])
    append(journal, 2, rules)
    assert kept(journal) == [2]


def test_forged_message_is_not_read(redis):
    prefix = f"{uuid.uuid4()}:"
    with redis.client() as client:
        honest = Journal(client, RedisSettings(redis.url, prefix=prefix, secret="fleet"), "node")
        forger = Journal(client, RedisSettings(redis.url, prefix=prefix, secret="other"), "node")
        append(honest, 1)
        assert kept(honest) == [1]
        append(forger, 2)
        with pytest.raises(ValueError, match="signature is wrong"):
            kept(honest)


# The fleet's


def test_entry_of_somebody_else_is_not_read(redis, journal):
    append(journal, 1)
    with redis.client() as client:
        client.xadd(journal._keys("1", "chat.1")[1], {"e": "x"})
    with pytest.raises(EnvelopeError):
        kept(journal)


def test_all_nodes_agree_on_serials_and_deliver_in_order(fleet):
    servers = fleet(3)
    clients = [server.connect() for server in servers]
    answers = [subscribe(client) for client in clients]
    assert len({answer["data"]["epoch"] for answer in answers}) == 1
    chance = random.Random(3)
    for number in range(60):
        assert push(chance.choice(servers), number) == 1
    gots = [[(event["serial"], event["data"]) for event in (client.receive() for _ in range(60))] for client in clients]
    assert gots[0] == gots[1] == gots[2]
    assert [serial for serial, _ in gots[0]] == list(range(1, 61))
    assert sorted(data for _, data in gots[0]) == list(range(60))
    for server in servers:
        assert server.history("chat.1", limit=1)["messages"][0]["serial"] == 60


def test_who_comes_back_to_another_node_misses_nothing(fleet):
    one, two = fleet()
    client = one.connect()
    position = position_of(subscribe(client))
    push(one, 1)
    assert client.receive()["serial"] == 1
    client.close()
    push(one, 2)
    push(two, 3)
    wait_until(lambda: two.history("chat.1")["serial"] == 3)
    back = two.connect()
    answer = subscribe(back, recover=position | {"serial": 1})
    assert (answer["recovered"], answer["data"]["serial"]) == (True, 3)
    assert sorted(numbers(back, 2)) == [2, 3]
    push(one, 4)
    assert back.receive()["serial"] == 4


def test_history_outlives_all_servers(fleet):
    (one,) = fleet(1)
    client = one.connect()
    position = position_of(subscribe(client))
    push(one, 1)
    assert client.receive()["data"] == 1
    push(one, 2)
    wait_until(lambda: one.history("chat.1")["serial"] == 2)
    one.stop(timeout=0.5)
    (new,) = fleet(1)
    back = new.connect()
    assert subscribe(back, recover=position | {"serial": 1})["recovered"] is True
    assert back.receive() == {"event": "m", "channel": "chat.1", "data": 2, "serial": 2}


def test_position_beyond_what_redis_knows_is_an_error(fleet):
    one, two = fleet()
    position = position_of(subscribe(one.connect()))
    assert "The last message of chat.1 is number 0" in subscribe(two.connect(), recover=position | {"serial": 5})["message"]


def test_events_of_clients_and_exceptions_hold_on_all_nodes(fleet):
    def set_up(server):
        server.channel("chat.{room}")(lambda user: True)

    one, two = fleet(set_up=set_up)
    here, there = one.connect("/", bearer("7")), two.connect("/", bearer("8"))
    subscribe(here)
    position = position_of(subscribe(there))
    here.send("broadcast", {"channel": "chat.1", "message": {"event": "wave", "data": 1}})
    assert there.receive() == {"event": "wave", "channel": "chat.1", "data": 1, "serial": 1}
    two.to_channel("chat.1").except_([there.socket_id]).push({"event": "m", "data": 2})
    assert here.receive() == {"event": "m", "channel": "chat.1", "data": 2, "serial": 2}
    assert there.silent()
    there.close()
    back = one.connect("/", bearer("8"))
    assert subscribe(back, recover={**position, "socket_id": there.socket_id})["recovered"] is True
    assert back.receive()["event"] == "wave"
    assert back.silent()


def test_key_is_used_once_in_the_whole_fleet(fleet):
    one, two = fleet()
    client = one.connect()
    subscribe(client)
    subscribe(client, "news")
    for server in (one, two):
        push(server, "kept", idempotency_key="a")
        push(server, "plain", "news", idempotency_key="b")
    assert sorted(numbers(client, 2)) == ["kept", "plain"]
    wait_until(lambda: one.counters.deduplicated + two.counters.deduplicated == 2)
    assert client.silent()


def test_key_of_a_message_that_redis_refuses_can_be_used_again(fleet, redis):
    (server,) = fleet(1)
    client, shared = server.connect(), server.apps.default.ordering.shared
    subscribe(client)
    meta = shared._journal._keys("1", "chat.1")[0]
    with redis.client() as other:
        other.set(meta, "no hash")
        push(server, 1, idempotency_key="once")
        wait_until(lambda: shared.dropped == 1 and not shared.queued_bytes)
        other.delete(meta)
    push(server, 2, idempotency_key="once")
    assert client.receive()["data"] == 2


def test_node_whose_rules_are_others_delivers_nevertheless(fleet):
    """The configuration is changed on one after the other."""
    one, two = fleet()
    client, settings = two.connect(), two.settings
    subscribe(client)
    for number, channels in enumerate([settings.channels, {}, settings.channels], 1):
        two.configure(dataclasses.replace(settings, channels=channels))
        push(one, number)
        event = client.receive()
        assert (event["data"], event.get("serial")) == (number, number if channels else None)
    push(two, 4)
    assert client.receive()["serial"] == 4


def test_event_stream_goes_on_at_another_node(fleet):
    one, two = fleet()
    stream = Stream(one.port, "chat.1,chat.2")
    stream.opened(1, 2)
    push(one, 1)
    assert stream.receive()["data"] == 1
    seen = stream.last_event_id
    stream.close()
    for number in (2, 3, 4):
        push(two, number, f"chat.{1 + number % 2}")
    wait_until(lambda: two.history("chat.1")["serial"] + two.history("chat.2")["serial"] == 4)
    back = Stream(two.port, "chat.1,chat.2", last_event_id=seen)
    assert [answer["recovered"] for answer in back.opened(1, 2)] == [True, True]
    assert [back.receive()["data"] for _ in range(3)] == [2, 3, 4]
    back.close()


def test_nothing_is_lost_or_doubled_while_redis_is_away_and_clients_are_cut(serve):
    """Two nodes publish, clients are cut at random and go to whichever node; Redis is out of reach for a while."""
    with running_redis() as redis, Proxy(redis.port) as proxy:
        settings = RedisSettings(f"redis://127.0.0.1:{proxy.port}/0", prefix="away:", timeout=1.0)
        channels = {"chat.*": ChannelSettings(HistorySettings(size=5000, max_bytes=16 * 2**20))}
        servers = [
            serve(
                broadcasting=BroadcastingSettings("redis", settings),
                channels=channels,
                max_outbox=64 * 2**20,
                max_history=64 * 2**20,
            )
            for _ in range(2)
        ]
        each, chance = 600, random.Random(11)
        logs = [[] for _ in range(4)]

        def publish(server, name):
            for number in range(each):
                push(server, [name, number])
                gevent.sleep(0.002)

        def follow(log):
            position = None
            while len(log) < 2 * each:
                client = chance.choice(servers).connect()
                client.sock.settimeout(60)
                answer = subscribe(client, **({"recover": position} if position else {}))
                assert answer["event"] == "subscribed", answer
                if "data" not in answer:  # Redis is away, and nobody here is on the channel
                    client.close()
                    gevent.sleep(0.1)
                    continue
                assert answer.get("recovered") is not False
                position = position or position_of(answer)
                for _ in range(chance.randrange(1, 200)):
                    if len(log) == 2 * each:
                        break
                    event = client.receive()
                    assert event["serial"] == position["serial"] + 1
                    position["serial"] = event["serial"]
                    log.append(event["data"])
                client.close()

        followers = [gevent.spawn(follow, log) for log in logs]
        wait_until(lambda: sum(server.get_channel_stats("chat.1")["subscribers"] for server in servers) >= 4)
        publishers = [gevent.spawn(publish, server, name) for server, name in zip(servers, "ab", strict=True)]
        wait_until(lambda: len(logs[0]) > 100)
        proxy.refuse()
        proxy.cut()
        gevent.sleep(1.0)
        proxy.heal()
        gevent.joinall([*publishers, *followers], timeout=120, raise_error=True)
        assert all(log == logs[0] for log in logs)
        for name in "ab":
            assert [number for of, number in logs[0] if of == name] == list(range(each))


def test_redis_that_has_lost_everything_begins_a_new_epoch(serve):
    with running_redis() as redis:
        broadcasting = BroadcastingSettings("redis", RedisSettings(redis.url, prefix="lost:", timeout=1.0))
        channels = {"chat.*": ChannelSettings(HistorySettings(size=100))}
        one, two = (serve(broadcasting=broadcasting, channels=channels) for _ in range(2))
        client = two.connect()
        position = position_of(subscribe(client))
        push(one, 1)
        assert client.receive()["serial"] == 1
        redis.stop()
        redis.start()
        push(one, 2)
        push(one, 3)
        assert [(event["serial"], event["data"]) for event in (client.receive() for _ in range(2))] == [(1, 2), (2, 3)]
        answer = subscribe(one.connect(), recover=position | {"serial": 1})
        assert (answer["recovered"], answer["data"]["epoch"] == position["epoch"]) == (False, False)


def test_who_joins_or_reads_what_nobody_has_published_on_writes_nothing(fleet, redis):
    one, two = fleet()
    client, other = one.connect(), two.connect()
    keys = f"{fleet.settings.prefix}history:*"
    told = {}
    for number in range(50):
        told[number] = position_of(subscribe(client, f"chat.{number}"))
        assert position_of(subscribe(other, f"chat.{number}")) == told[number]
        assert one.history(f"chat.read-{number}")["serial"] == 0
    stream = Stream(two.port, "chat.streamed")
    stream.opened(1)
    with redis.client() as looking:
        assert looking.keys(keys) == [f"{fleet.settings.prefix}history:origin".encode()]
    stream.close()
    client.close()
    other.close()
    wait_until(lambda: not any(server.apps.default.connections.channels for server in (one, two)))
    push(one, "first", "chat.7")
    wait_until(lambda: two.history("chat.7")["serial"] == 1)
    back = two.connect()
    assert subscribe(back, "chat.7", recover=told[7])["recovered"] is True
    assert back.receive()["data"] == "first"
    assert subscribe(back, "chat.8", recover=told[8])["recovered"] is True


def restarted_with_less(redis, lost):
    """Save what Redis has, have more come, and go on with what was saved."""
    with redis.client() as client:
        client.save()
        lost()
    redis.stop()
    redis.start()


def node_on(serve, redis):
    broadcasting = BroadcastingSettings("redis", RedisSettings(redis.url, prefix="less:", timeout=1.0))
    return serve(broadcasting=broadcasting, channels={"chat.*": ChannelSettings(HistorySettings(size=100))})


def test_redis_that_has_lost_the_last_messages_loses_no_new_one_and_says_who_may_have_missed_some(serve):
    with running_redis("--dbfilename", "kept.rdb") as redis:
        one, two = (node_on(serve, redis) for _ in range(2))
        client, quiet = two.connect(), one.connect()
        position = position_of(subscribe(client))
        push(one, 1)
        push(one, 2)
        assert numbers(client, 2) == [1, 2]

        def lost():
            for number in (3, 4, 5):
                push(one, number)
            assert numbers(client, 3) == [3, 4, 5]

        restarted_with_less(redis, lost)
        for number in (6, 7):
            push(one, number)
        assert [(event["serial"], event["data"]) for event in (client.receive() for _ in range(2))] == [(3, 6), (4, 7)]
        # Who had seen no more than Redis still knows goes on; who saw what was lost cannot.
        assert subscribe(quiet, recover=position | {"serial": 2})["recovered"] is True
        assert numbers(quiet, 2) == [6, 7]
        for serial in (3, 4, 5, 9):
            answer = subscribe(one.connect(), recover=position | {"serial": serial})
            assert (answer["recovered"], answer["data"]["serial"]) == (False, 4)
        now = position_of(answer)
        assert subscribe(two.connect(), recover=now)["recovered"] is True
        push(two, 8)
        assert [client.receive()["data"], quiet.receive()["data"]] == [8, 8]


def test_who_comes_back_before_anything_is_published_on_a_redis_that_has_lost_some_is_not_refused(serve):
    with running_redis("--dbfilename", "kept.rdb") as redis:
        one = node_on(serve, redis)
        client = one.connect()
        position = position_of(subscribe(client))
        push(one, 1)
        assert client.receive()["serial"] == 1

        def lost():
            push(one, 2)
            assert client.receive()["serial"] == 2

        restarted_with_less(redis, lost)
        client.close()
        two = node_on(serve, redis)  # it has nothing but what Redis knows
        ahead, level = two.connect(), two.connect()
        assert subscribe(ahead, recover=position | {"serial": 2})["recovered"] is False
        assert subscribe(level, recover=position | {"serial": 1})["recovered"] is True
        push(two, 3)
        assert [ahead.receive()["data"], level.receive()["data"]] == [3, 3]


def is_master(client):
    with contextlib.suppress(LostError):  # the Sentinel throws clients out then
        return client.info("replication")["role"] == "master"
    return False


def test_replica_that_takes_over_without_the_last_messages_goes_on_with_new_ones(serve):
    with running_sentinel() as (master, replica, sentinel):
        place = f"redis+sentinel://127.0.0.1:{sentinel.port}/mymaster/0"
        settings = RedisSettings(place, prefix="over:", timeout=1.0)
        channels = {"chat.*": ChannelSettings(HistorySettings(size=100))}
        one, two = (serve(broadcasting=BroadcastingSettings("redis", settings), channels=channels) for _ in range(2))
        client = two.connect()
        position = position_of(subscribe(client))
        push(one, 1)
        assert client.receive()["serial"] == 1
        with master.client() as there, replica.client() as here:
            assert there.wait(1, 5000) == 1
            here.replicaof("127.0.0.1", 1)  # cut off: what comes now is lost with the master
            for number in (2, 3, 4):
                push(one, number)
            assert numbers(client, 3) == [2, 3, 4]
            master.stop()
            wait_until(lambda: is_master(here), 60, "the replica to take over")
        wait_until(lambda: one.relay.bus.is_up and two.relay.bus.is_up, 60, "the new master to be found")
        push(one, 5)
        client.sock.settimeout(60)
        event = client.receive()
        assert (event["serial"], event["data"]) == (2, 5)
        answer = subscribe(one.connect(), recover=position | {"serial": 4})
        assert answer["recovered"] is False


def test_who_joins_while_redis_is_away_gets_what_is_published_afterwards(serve):
    with running_redis() as redis, Proxy(redis.port) as proxy:
        settings = RedisSettings(f"redis://127.0.0.1:{proxy.port}/0", prefix="joins:", timeout=1.0)
        channels = {"chat.*": ChannelSettings(HistorySettings(size=100))}
        server = serve(broadcasting=BroadcastingSettings("redis", settings), channels=channels)
        proxy.refuse()
        proxy.cut()
        wait_until(lambda: not server.relay.bus.is_up)
        client = server.connect()
        assert "data" not in subscribe(client)  # no position: nobody can tell it
        proxy.heal()
        wait_until(lambda: server.relay.bus.is_up)
        push(server, 1)
        assert client.receive()["data"] == 1
        second = server.connect()
        assert position_of(subscribe(second))["serial"] == 1
        push(server, 2)
        assert [each.receive()["data"] for each in (client, second)] == [2, 2]


def test_who_joins_a_channel_whose_others_joined_while_redis_was_away_is_told_a_position(serve):
    with running_redis() as redis, Proxy(redis.port) as proxy:
        settings = RedisSettings(f"redis://127.0.0.1:{proxy.port}/0", prefix="joins:", timeout=1.0)
        channels = {"chat.*": ChannelSettings(HistorySettings(size=100))}
        server = serve(broadcasting=BroadcastingSettings("redis", settings), channels=channels)
        proxy.refuse()
        proxy.cut()
        wait_until(lambda: not server.relay.bus.is_up)
        client = server.connect()
        assert "data" not in subscribe(client)
        proxy.heal()
        wait_until(lambda: server.relay.bus.is_up)
        second = server.connect()
        assert position_of(subscribe(second))["serial"] == 0
        push(server, 1)
        assert [each.receive()["data"] for each in (client, second)] == [1, 1]


def in_the_middle_of_reading(server, monkeypatch, action):
    """Have something happen once, when Redis has answered what is kept and the server has not taken the answer yet."""
    journal = server.apps.default.ordering.shared._journal
    load, actions = journal.load, [action]

    def slow(*arguments):
        loaded = load(*arguments)
        if actions:
            actions.pop()()
        return loaded

    monkeypatch.setattr(journal, "load", slow)


def test_message_that_comes_while_the_first_joiner_reads_is_not_missed(fleet, monkeypatch):
    one, two = fleet()
    shared, came = two.apps.default.ordering.shared, []
    told = shared._came
    monkeypatch.setattr(shared, "_came", lambda *given: (told(*given), came.append(given)))

    def publish():
        push(one, 1)
        wait_until(lambda: came)

    in_the_middle_of_reading(two, monkeypatch, publish)
    assert position_of(subscribe(two.connect()))["serial"] == 1


def test_message_that_comes_while_those_before_it_are_read_waits_for_no_other(fleet, monkeypatch):
    one, two = fleet()
    client, app = two.connect(), two.apps.default
    subscribe(client)
    shared = app.ordering.shared
    sealed = shared._journal.seal({"message": {"event": "m", "data": 1}, "except": []})
    shared._journal.append(app.id, "chat.1", RULES, sealed, "lost on the bus", False)

    def publish():
        push(one, 2)
        wait_until(lambda: shared._early.get((app.id, "chat.1")))

    in_the_middle_of_reading(two, monkeypatch, publish)
    shared._read_on(app, app.histories.get("chat.1"))
    assert [(event["serial"], event["data"]) for event in (client.receive() for _ in range(2))] == [(1, 1), (2, 2)]


def test_cache_channel_with_a_history_has_its_last_message_on_all_nodes(fleet):
    one, two = fleet(pattern="cache-*")
    listener = two.connect()
    subscribe(listener, "cache-chat")
    for number in (1, 2):
        push(one, number, "cache-chat")
        assert listener.receive()["data"] == number
    for server in (one, two):
        wait_until(lambda server=server: server.apps.default.cache.get("cache-chat") is not None)
        client = server.connect()
        subscribe(client, "cache-chat")
        assert client.receive()["data"] == 2
