"""
The Redis bus when Redis, or the way to it, is bad: servers in this process, a real Redis, and a TCP proxy for each server.

Whatever happens, a subscriber that stays connected gets each message once, and those of one publisher in order.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import time
import urllib.request
import uuid

import gevent
import pytest

from alphavel.circuit_breaker import CircuitBreakerManager
from alphavel.foundation import ConfigurationError, container
from alphavel.websocket.auth.signatures import user_auth
from alphavel.websocket.bus import reconnecting
from alphavel.websocket.bus.reconnecting import MAX_PAUSE_S, Reconnecting
from alphavel.websocket.frames import Opcode, frame
from alphavel.websocket.settings import AppSettings, BroadcastingSettings, RedisSettings
from tests.proxy import Proxy
from tests.redis_server import running_redis
from tests.support import Program, free_port, script, wait_until
from tests.websocket.clients import MASK, Client
from tests.websocket.conftest import SECRET
from tests.websocket.pusher import PusherClient
from tests.websocket.tokens import bearer

APP = AppSettings("1", "app-key", "app-secret", client_events=True)
TIMEOUT_S = 1.0


@pytest.fixture
def redis():
    with running_redis() as server:
        yield server


@pytest.fixture
def node(proxies, redis, serve):
    """`node()` starts a server that reaches Redis through a proxy of its own, `.proxy`."""
    prefix = f"{uuid.uuid4()}:"

    def start(**given):
        proxies.append(Proxy(redis.port))
        url = f"redis://127.0.0.1:{proxies[-1].port}/0"
        settings = RedisSettings(url, prefix=prefix, **{"timeout": TIMEOUT_S, **given})
        server = serve(apps=(APP,), secret=SECRET, anonymous=True, broadcasting=BroadcastingSettings("redis", settings))
        server.proxy = proxies[-1]
        return server

    start.prefix = prefix
    yield start
    for proxy in proxies:
        proxy.heal()


class Publisher:
    """Publishes numbers to a channel until it is told to stop, a few hundred a second."""

    def __init__(self, server, channel):
        self.numbers = itertools.count()
        self.sent = 0
        self._server, self._channel = server, channel
        self._greenlet = gevent.spawn(self._run)

    def _run(self):
        for number in self.numbers:
            self._server.to_channel(self._channel).push({"event": "n", "data": [self._server.port, number]})
            self.sent = number + 1
            gevent.sleep(0.003)

    def stop(self):
        self._greenlet.kill()
        return self.sent


def received(client, publishers):
    """Return the numbers that a client gets of each publisher, up to the last one of each."""
    last = {publisher._server.port: publisher.stop() - 1 for publisher in publishers}
    numbers = {port: [] for port in last}
    while any(not got or got[-1] < last[port] for port, got in numbers.items()):
        event = client.receive()
        if event["event"] == "n":
            port, number = event["data"]
            numbers[port].append(number)
    return numbers


def assert_whole(client, publishers):
    for port, numbers in received(client, publishers).items():
        assert numbers == list(range(len(numbers))), (port, gaps(numbers))


def gaps(numbers):
    return [(before, after) for before, after in itertools.pairwise(numbers) if after != before + 1]


def channels(redis):
    with redis.client() as client:
        return {name.decode() for name in client.pubsub_channels()}


def went_down(server):
    wait_until(lambda: not server.relay.bus.is_up, 30, "the bus to go down")


def came_up(server):
    wait_until(lambda: server.relay.bus.is_up, 30, "the bus to come up")


# Subscribing


def test_a_node_listens_to_the_channels_and_users_it_has_somebody_for_and_to_no_others(node, redis):
    one, two = node(), node()
    common = {f"{node.prefix}bus", *(f"{node.prefix}node:{server.relay.bus.name}" for server in (one, two))}
    assert channels(redis) == common
    with one.connect("/", bearer("7")) as seven, two.connect("/", bearer("7")):
        assert channels(redis) == {*common, f"{node.prefix}user:1:7"}
        seven.subscribe("a")
        assert channels(redis) == {*common, f"{node.prefix}user:1:7", f"{node.prefix}channel:1:a"}
        two.to_channel("b").push({"event": "nobody wants"})
        two.to_channel("a").push({"event": "x"})
        assert seven.receive()["event"] == "x"
        assert one.counters.bus_received == 1
        seven.send("unsubscribe", {"channel": "a"})
        wait_until(lambda: channels(redis) == {*common, f"{node.prefix}user:1:7"})
    wait_until(lambda: channels(redis) == common)


def test_who_was_told_subscribed_misses_nothing_from_then_on(node):
    one, two = node(), node()
    two.proxy.delay_s = 0.1  # a subscription that was not waited for would come later than the push
    with two.connect() as client:
        for number in range(5):
            name = f"channel-{number}"
            client.subscribe(name)
            one.to_channel(name).push({"event": "x", "data": number})
            assert client.receive() == {"event": "x", "channel": name, "data": number}
    with two.connect("/", bearer("7")) as seven:
        one.to_user(7).push({"event": "for 7"})
        assert seven.receive()["event"] == "for 7"


def test_only_the_first_subscriber_of_a_channel_waits_and_a_crowd_comes_in_a_few_commands(node, redis):
    server = node()
    server.proxy.delay_s = 0.2
    with redis.client() as client:
        client.config_resetstat()
        clients = [server.connect() for _ in range(20)]
        for number, each in enumerate(clients):
            each.send("subscribe", {"channel": f"c-{number}"})
        for each in clients:
            assert each.receive()["event"] == "subscribed"
        assert client.info("commandstats")["cmdstat_subscribe"]["calls"] <= 5
        server.proxy.black_hole()
        with server.connect() as late:
            late.subscribe("c-0")  # Redis cannot be asked, and is not
        server.proxy.heal()


def test_a_pusher_client_that_waits_for_redis_is_on_its_channel_or_gone(node):
    server = node()
    server.proxy.delay_s = 0.3
    with PusherClient(server.port) as ann:
        ann.send("pusher:subscribe", {"channel": "a"})
        gevent.sleep(0.05)
        assert server.app("1").get_channels() == []
        assert ann.receive()["event"] == "pusher_internal:subscription_succeeded"
        assert server.app("1").get_channels() == ["a"]
    server.proxy.delay_s = 0.3
    with PusherClient(server.port) as bob:
        bob.send("pusher:subscribe", {"channel": "b"})
        gevent.sleep(0.05)
    wait_until(lambda: not server.app("1").connections.connections)
    gevent.sleep(0.5)
    assert server.app("1").get_channels() == []


# The way to Redis breaks


@pytest.mark.parametrize("times", [1, 5])
def test_nothing_is_lost_doubled_or_out_of_order_when_connections_are_cut(node, times):
    one, two, three = node(), node(), node()
    with three.connect() as far, one.connect() as near:
        far.subscribe("a")
        near.subscribe("a")
        publishers = [Publisher(one, "a"), Publisher(two, "a")]
        for _ in range(times):
            for server in (one, two, three):
                wait_until(lambda: all(publisher.sent > 20 for publisher in publishers))
                server.proxy.cut()
                gevent.sleep(0.1)
        for server in (one, two, three):
            came_up(server)
        gevent.sleep(0.2)
        last = [publisher.stop() for publisher in publishers]
        assert min(last) > 20
        assert_whole(far, publishers)
        assert_whole(near, publishers)
    assert three.get_stats()["bus_missed"] == three.get_stats()["bus_dropped"] == 0
    assert three.get_stats()["bus_reconnects"] > 0


def test_what_a_lost_answer_leaves_in_doubt_is_sent_again_and_arrives_once(node):
    one, two = node(), node()
    with two.connect() as client:
        client.subscribe("a")
        publisher = Publisher(one, "a")
        for _ in range(3):
            before = publisher.sent
            wait_until(lambda before=before: publisher.sent > before + 10)
            one.proxy.black_hole("client")  # Redis does what it is told, and nobody hears that
            wait_until(lambda before=before: publisher.sent > before + 30)
            one.proxy.cut()
            one.proxy.heal()
            wait_until(lambda: one.relay.bus.is_up and one.relay.bus.buffered_bytes == 0, 30)
        assert_whole(client, [publisher])
    assert two.get_stats()["bus_duplicates"] > 0
    assert two.get_stats()["bus_missed"] == 0


def test_who_has_just_signed_in_joins_the_users_channel_when_redis_has_said_that_it_is_listened_to(node):
    """A client that was nearer than Redis was heard no more: it was the loop that waited for Redis, and the loop cannot."""
    one, two = node(), node()
    with PusherClient(one.port) as client:
        user = '{"id":"7"}'
        signing_in = {"auth": user_auth("app-key", "app-secret", client.socket_id, user), "user_data": user}
        at_once = [
            {"event": "pusher:signin", "data": signing_in},
            {"event": "pusher:subscribe", "data": {"auth": "", "channel": "#server-to-user-7"}},
        ]
        client.raw(b"".join(frame(Opcode.TEXT, json.dumps(command).encode(), mask=MASK) for command in at_once))
        assert client.receive()["event"] == "pusher:signin_success"
        assert client.receive()["event"] == "pusher_internal:subscription_succeeded"
        two.to_user(7).push({"event": "hello"})
        assert client.receive()["event"] == "hello"


@pytest.mark.parametrize("towards", ["both", "client", "server"])
@pytest.mark.parametrize("ends", ["heals", "is cut"])
def test_a_black_hole_is_noticed_and_nothing_is_lost_by_it(node, towards, ends):
    one, two = node(), node()
    with one.connect() as here, two.connect() as there:
        here.subscribe("a")
        there.subscribe("a")
        publishers = [Publisher(one, "a"), Publisher(two, "a")]
        wait_until(lambda: publishers[0].sent > 20)
        one.proxy.black_hole(towards)
        went_down(one)
        assert one.relay.bus.is_up is False
        assert two.relay.bus.is_up is True
        one.proxy.heal()
        if ends == "is cut":
            one.proxy.cut()
        came_up(one)
        wait_until(lambda: one.relay.bus.buffered_bytes == 0)
        assert_whole(here, publishers)
        assert_whole(there, publishers)
    for server in (one, two):
        assert server.get_stats()["bus_missed"] == server.get_stats()["bus_dropped"] == 0


# Redis itself


def test_nothing_is_lost_when_redis_is_restarted(node, redis):
    one, two = node(), node()
    with one.connect() as here, two.connect() as there:
        here.subscribe("a")
        there.subscribe("a")
        publishers = [Publisher(one, "a"), Publisher(two, "a")]
        for _ in range(3):
            before = publishers[0].sent
            wait_until(lambda before=before: publishers[0].sent > before + 20)
            redis.stop()
            went_down(one)
            went_down(two)
            assert (one.get_stats()["bus_up"], two.get_stats()["bus_up"]) == (False, False)
            redis.start()
            came_up(one)
            came_up(two)
        wait_until(lambda: one.relay.bus.buffered_bytes == two.relay.bus.buffered_bytes == 0)
        assert_whole(here, publishers)
        assert_whole(there, publishers)
    for server in (one, two):
        assert server.get_stats()["bus_missed"] == server.get_stats()["bus_dropped"] == 0


@pytest.mark.parametrize("seconds", [TIMEOUT_S / 2, TIMEOUT_S * 4])
def test_nothing_is_lost_when_redis_pauses_its_clients(node, redis, seconds):
    one, two = node(), node()
    with one.connect() as here, two.connect() as there:
        here.subscribe("a")
        there.subscribe("a")
        publishers = [Publisher(one, "a"), Publisher(two, "a")]
        wait_until(lambda: publishers[0].sent > 20)
        redis.command("CLIENT", "PAUSE", str(int(seconds * 1000)), "ALL")
        wait_until(lambda: one.relay.bus.buffered_bytes > 0)
        if seconds > TIMEOUT_S:
            went_down(one)
            went_down(two)
        wait_until(lambda: one.relay.bus.buffered_bytes == two.relay.bus.buffered_bytes == 0, 30)
        came_up(one)
        came_up(two)
        assert_whole(here, publishers)
        assert_whole(there, publishers)
    assert one.get_stats()["bus_missed"] == two.get_stats()["bus_missed"] == 0


def test_a_redis_that_is_full_carries_as_before(node, redis):
    one, two = node(), node()
    with redis.client() as client:
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", 1)
        with pytest.raises(Exception, match="maxmemory"):
            client.set("a", "b")
    with two.connect() as there:
        there.subscribe("a")
        publishers = [Publisher(one, "a")]
        wait_until(lambda: publishers[0].sent > 50)
        one.proxy.cut()
        two.proxy.cut()
        wait_until(lambda: two.get_stats()["bus_reconnects"] == 1)
        came_up(one)
        assert_whole(there, publishers)


def test_nothing_is_lost_when_the_way_to_redis_is_slow(node):
    one, two = node(timeout=5.0), node(timeout=5.0)
    one.proxy.delay_s, two.proxy.bytes_per_s = 0.2, 100_000
    with one.connect() as here, two.connect() as there:
        here.subscribe("a")
        there.subscribe("a")
        publishers = [Publisher(one, "a"), Publisher(two, "a")]
        wait_until(lambda: publishers[0].sent > 300, 30)
        assert_whole(here, publishers)
        assert_whole(there, publishers)
    assert one.get_stats()["bus_reconnects"] == two.get_stats()["bus_reconnects"] == 0


def test_a_node_that_redis_throws_out_because_it_does_not_read_is_told_again_what_it_missed(node, redis):
    one, two = node(), node()
    with redis.client() as client, two.connect() as there:
        client.config_set("client-output-buffer-limit", "pubsub 1mb 512kb 1")
        there.subscribe("a")
        listening = len(client.client_list("pubsub"))
        two.proxy.black_hole("client")
        for number in range(400):
            one.to_channel("a").push({"event": "n", "data": [one.port, number], "more": "x" * 20_000})
            if number % 20 == 0:
                gevent.sleep(0.001)
        wait_until(lambda: one.relay.bus.buffered_bytes == 0)
        wait_until(lambda: len(client.client_list("pubsub")) < listening, what="Redis to throw the node out")
        two.proxy.heal()
        numbers = [there.receive()["data"][1] for _ in range(400)]
        assert numbers == list(range(400))
    assert two.get_stats()["bus_reconnects"] >= 1
    assert two.get_stats()["bus_missed"] == 0


def push_numbers(server, numbers):
    for number in numbers:
        server.to_channel("a").push({"event": "n", "data": number})


def has_published(server):
    wait_until(lambda: server.relay.bus.buffered_bytes == 0, 30, "Redis to have what was published")


def is_away(server):
    server.proxy.refuse()
    server.proxy.cut()
    went_down(server)


def publish_five_while_away(one, two, there):
    """Have `two`, whose client `there` is, get 0 to 4 of `one` and miss 5 to 9; it is still away then."""
    there.subscribe("a")
    push_numbers(one, range(5))
    assert [there.receive()["data"] for _ in range(5)] == list(range(5))
    is_away(two)
    push_numbers(one, range(5, 10))
    has_published(one)


def test_a_question_that_is_on_its_way_for_long_leaves_nothing_out(node, redis):
    """A server asks what it missed for as long as it was away; how long others took to hear that must not count."""
    one, two = node(), node()
    with two.connect() as there:
        publish_five_while_away(one, two, there)
        redis.command("CLIENT", "PAUSE", "7000", "WRITE")  # who listens is answered, who publishes waits
        two.proxy.heal()
        wait_until(lambda: two.relay.bus._subscriber.is_up, 30)
        push_numbers(one, range(10, 12))
        assert [there.receive()["data"] for _ in range(7)] == list(range(5, 12))
    assert two.get_stats()["bus_missed"] == 0


def test_servers_that_were_away_one_after_the_other_tell_each_other_what_they_missed(node):
    one, two = node(), node()
    with two.connect() as there:
        publish_five_while_away(one, two, there)
        is_away(one)
        two.proxy.heal()
        came_up(two)
        wait_until(lambda: not two.relay.bus._missing._is_asking, 60, "nobody answers any more")
        push_numbers(one, range(10, 12))
        one.proxy.heal()
        came_up(one)
        assert [there.receive()["data"] for _ in range(7)] == list(range(5, 12))
    assert two.get_stats()["bus_missed"] == 0


# What no other node needs


def unneeded(server):
    return server.get_stats()["bus_unneeded"]


def is_alone(server, channel="a"):
    """Publish until nothing goes to Redis any more; return the numbers that were."""
    numbers = itertools.count()

    def publish():
        before = unneeded(server)
        server.to_channel(channel).push({"event": "n", "data": [server.port, next(numbers)]})
        return unneeded(server) > before

    wait_until(publish, 30, "publishing to cease")
    return next(numbers)


def test_what_no_other_node_listens_to_is_not_published_until_one_does(node, redis):
    one, two = node(), node()
    with (
        one.connect("/", bearer("7")) as here,
        two.connect() as there,
        two.connect("/", bearer("7")) as seven,
        redis.client() as client,
    ):
        here.subscribe("a")
        sent = is_alone(one)
        client.config_resetstat()
        for number in range(sent, sent + 100):
            one.to_channel("a").push({"event": "n", "data": [one.port, number]})
        assert client.info("commandstats").get("cmdstat_publish", {"calls": 0})["calls"] < 50  # beats, and what it tells itself
        there.subscribe("a")
        one.to_channel("a").push({"event": "n", "data": "for both"})
        assert there.receive()["data"] == "for both"
        one.to_user("7").push({"event": "n", "data": "for 7"})
        assert seven.receive()["data"] == "for 7"
        assert [here.receive()["data"][1] for _ in range(sent + 100)] == list(range(sent + 100))
        there.send("unsubscribe", {"channel": "a"})
        is_alone(one)  # again


def test_a_user_who_comes_to_another_node_is_sent_what_was_not_published_before(node):
    one, two = node(), node()
    with one.connect("/", bearer("7")) as here:

        def publish():
            one.to_user("7").push({"event": "n"})
            return unneeded(one)

        wait_until(publish, 30)
        with two.connect("/", bearer("7")) as there:
            wait_until(lambda: f"{node.prefix}user:1:7".encode() in two.relay.bus._subscriber._confirmed)
            one.to_user("7").push({"event": "for both"})
            assert there.receive()["event"] == "for both"
        while here.receive()["event"] != "for both":
            pass


@pytest.mark.parametrize("delay_s", [0.0, 0.05])
def test_who_joins_while_another_node_publishes_for_its_own_misses_nothing(node, delay_s):
    one, two = node(), node()
    with one.connect() as here, two.connect() as there:
        here.subscribe("a")
        publisher = Publisher(one, "a")
        one.proxy.delay_s = delay_s
        for _ in range(5):
            before = unneeded(one)
            wait_until(lambda before=before: unneeded(one) > before, 30)
            there.subscribe("a")
            first = publisher.sent
            numbers = []
            while len(numbers) < 50:
                event = there.receive()
                if event["event"] == "n":
                    numbers.append(event["data"][1])
            assert numbers[0] <= first
            assert numbers == list(range(numbers[0], numbers[0] + 50))
            there.send("unsubscribe", {"channel": "a"})
            while there.receive()["event"] != "unsubscribed":
                pass
        one.proxy.delay_s = 0.0
        assert_whole(here, [publisher])


def test_who_publishes_for_its_own_and_is_out_of_reach_keeps_for_others_what_they_joined_for(node):
    one, two = node(), node()
    with one.connect() as here, two.connect() as there:
        here.subscribe("a")
        is_alone(one)
        one.proxy.black_hole()
        there.subscribe("a")  # one cannot answer, and knows in time that it knows nothing
        for number in range(5):
            one.to_channel("a").push({"event": "m", "data": number})
        one.proxy.heal()
        assert [there.receive()["data"] for _ in range(5)] == list(range(5))


def test_who_joins_while_another_node_does_not_know_that_it_is_cut_off_is_told_late(node, redis):
    one, two = node(), node()
    with one.connect() as here, two.connect() as there, redis.client() as client:
        here.subscribe("a")
        is_alone(one)
        pubsubs = client.client_list(_type="pubsub")
        victim = max(pubsubs, key=lambda each: int(each["sub"]))  # it listens to the channel, too
        one.proxy.black_hole("client")
        gevent.sleep(0.4)  # what one publishes to itself is on its way back, and the end of the connection waits behind it
        client.client_kill_filter(_id=victim["id"])
        wait_until(lambda: client.pubsub_numsub(f"{node.prefix}watch:channel:1:a")[0][1] == 0)
        there.subscribe("a")  # at once: nobody is known to publish nothing
        for number in range(5):
            one.to_channel("a").push({"event": "m", "data": number})
        one.to_channel("b").push({"event": "m"})
        one.proxy.heal()
        assert [there.receive()["data"] for _ in range(5)] == list(range(5))
        came_up(one)
        one.to_channel("a").push({"event": "m", "data": 5})
        assert there.receive()["data"] == 5
    assert two.get_stats()["bus_missed"] == 0


def test_who_was_away_is_told_what_was_not_published_meanwhile(node):
    one, two = node(), node()
    with one.connect() as here, two.connect() as there:
        here.subscribe("a")
        there.subscribe("a")
        two.proxy.refuse()
        two.proxy.cut()
        went_down(two)
        sent = is_alone(one)
        for number in range(sent, sent + 200):
            one.to_channel("a").push({"event": "n", "data": [one.port, number, "x" * (20_000 if number % 70 == 0 else 1)]})
            if number % 90 == 0:
                one.to_channel("b").push({"event": "of another channel"})
        two.proxy.heal()
        came_up(two)
        one.to_channel("a").push({"event": "n", "data": [one.port, sent + 200]})
        assert [there.receive()["data"][1] for _ in range(sent + 201)] == list(range(sent + 201))
    assert two.get_stats()["bus_missed"] == 0


class Seconds(float):
    """Like numpy's floats one that orjson does not write."""


def test_what_is_written_later_than_it_was_pushed_can_be_written(node):
    one, two = node(), node()
    with one.connect() as here, two.connect() as there:
        here.subscribe("a")
        there.subscribe("b")
        is_alone(one)
        one.to_channel("a").push({"event": "of a time"}, ttl=Seconds(5))
        one.to_channel("b").push({"event": "m"})
        assert there.receive()["event"] == "m"


def test_what_is_pushed_is_counted_however_it_goes(node):
    one = node()
    with one.connect() as here:
        here.subscribe("a")
        is_alone(one)
        published, kept = one.counters.bus_published, unneeded(one)
        one.to_channel("a").push({"event": "n"})
        one.to_channel("a").except_("1.1").push({"event": "n"})
        one.to_channels(["a", "b"]).push({"event": "n"})
        assert (one.counters.bus_published, unneeded(one)) == (published + 4, kept + 3)


def test_who_listens_to_patterns_delays_nobody(node, redis):
    one, two = node(), node()
    with one.connect() as here, two.connect() as there, redis.client() as client, client.pubsub() as monitor:
        here.subscribe("a")
        is_alone(one)
        monitor.psubscribe("*")
        began = time.monotonic()
        there.subscribe("b")
        assert time.monotonic() - began < 1.0
        there.subscribe("a")
        one.to_channel("a").push({"event": "m"})
        assert there.receive()["event"] == "m"


def test_who_joins_many_channels_at_once_asks_who_publishes_to_them_over_one_connection(node, redis):
    one, two = node(), node()
    names = [f"channel-{number}" for number in range(20)]
    with one.connect() as here, contextlib.ExitStack() as stack, redis.client() as client:
        there = [stack.enter_context(two.connect()) for _ in names]
        for name in names:
            here.subscribe(name)
            is_alone(one, name)
        two.proxy.delay_s = 0.05
        before = client.info("stats")["total_connections_received"]
        for peer, name in zip(there, names, strict=True):
            peer.send("subscribe", {"channel": name})
        for peer in there:
            assert peer.receive()["event"] == "subscribed"
        assert client.info("stats")["total_connections_received"] == before


def test_who_listened_on_another_redis_than_it_published_on_misses_nothing_that_it_joined_for_there(node, redis):
    """As for a while after a failover: what it announced, nobody heard."""
    one, two = node(), node()
    with running_redis() as other, one.connect() as here, two.connect() as there, redis.client() as client:
        for server in (one, two):
            server.proxy.lead_to(other.port)
        one.proxy.cut()
        wait_until(lambda: one.relay.bus._reconnects == 1 and one.relay.bus.is_up)
        here.subscribe("a")
        is_alone(one)
        client.client_kill_filter(_type="pubsub")
        wait_until(lambda: two.relay.bus._reconnects == 1 and two.relay.bus.is_up)
        there.subscribe("a")
        one.to_channel("a").push({"event": "m", "data": 0})
        client.client_kill_filter(_type="normal", skipme=True)
        for number in range(1, 100):
            one.to_channel("a").push({"event": "m", "data": number})
            gevent.sleep(0.01)
        assert [there.receive()["data"] for _ in range(100)] == list(range(100))


# What does not fit


def test_what_is_lost_is_counted_and_logged_by_who_drops_it_and_by_who_misses_it(node, redis, caplog):
    one, two = node(max_queue=4096), node()
    with two.connect() as there:
        there.subscribe("a")
        one.to_channel("a").push({"event": "first"})
        assert there.receive()["event"] == "first"
        redis.stop()
        for _ in range(10):
            one.to_channel("a").push({"event": "x", "data": "y" * 1000})
        dropped = one.get_stats()["bus_dropped"]
        assert 0 < dropped < 10
        redis.start()
        came_up(one)
        wait_until(lambda: one.relay.bus.buffered_bytes == 0)
        for _ in range(10 - dropped):
            assert there.receive()["event"] == "x"
        one.to_channel("a").push({"event": "last"})
        assert there.receive()["event"] == "last"
    assert two.get_stats()["bus_missed"] == dropped
    assert "Messages to other nodes are lost: too many wait for Redis" in caplog.text
    wait_until(lambda: f"{dropped} messages of the node {one.relay.bus.name} did not come" in caplog.text)


def test_a_node_that_was_away_for_longer_than_others_remember_knows_how_much_it_missed(node):
    one, two = node(max_kept=0), node()
    with two.connect() as there:
        there.subscribe("a")
        one.to_channel("a").push({"event": "first"})
        assert there.receive()["event"] == "first"
        two.proxy.refuse()
        two.proxy.cut()
        went_down(two)
        for _ in range(7):
            one.to_channel("a").push({"event": "missed"})
        wait_until(lambda: one.relay.bus.buffered_bytes == 0)
        two.proxy.heal()
        came_up(two)
        one.to_channel("a").push({"event": "last"})
        assert there.receive()["event"] == "last"
    assert two.get_stats()["bus_missed"] == 7


def test_a_node_is_not_told_what_was_published_before_somebody_here_subscribed(node):
    one, two = node(), node()
    for number in range(50):
        one.to_channel("a").push({"event": "n", "data": [0, number]})
    wait_until(lambda: one.relay.bus.buffered_bytes == 0)
    gevent.sleep(1.0)  # what is on its way for longer than this counts as published later
    with two.connect() as there:
        there.subscribe("a")
        two.proxy.cut()
        wait_until(lambda: two.get_stats()["bus_reconnects"] == 1)
        came_up(two)
        one.to_channel("a").push({"event": "last"})
        assert there.receive()["event"] == "last"


# Through a circuit breaker


@pytest.fixture(params=["exception", "default_value"])
def breaker(request):
    """A breaker of this process; whatever it answers where a circuit is open, nothing counts as connected."""
    manager = CircuitBreakerManager({"fallbacks": {"default": request.param}})
    container().instance("circuit_breaker", manager)
    yield manager
    container().forget("circuit_breaker")


def test_reconnecting_goes_through_the_circuit_breaker_and_is_not_held_up_by_it(node, breaker):
    one = node()
    service = f"websocket-bus 127.0.0.1:{one.proxy.port}/0"
    assert breaker.get_stats(service)["total_successes"] >= 2, "one connection to listen, one to publish"
    assert breaker.service(service).rules.recovery_timeout < MAX_PAUSE_S
    one.proxy.refuse()
    one.proxy.cut()
    wait_until(lambda: breaker.get_state(service) == "open")
    wait_until(lambda: breaker.get_stats(service)["rejected"] > 0)
    one.proxy.heal()
    came_up(one)
    wait_until(lambda: breaker.get_state(service) == "closed")


def test_a_server_whose_circuit_is_isolated_stays_away_until_it_is_closed(node, breaker, caplog):
    caplog.set_level("INFO", "alphavel.websocket.bus")
    one, two = node(), node()
    service = f"websocket-bus 127.0.0.1:{two.proxy.port}/0"
    with two.connect() as there:
        there.subscribe("a")
        publisher = Publisher(one, "a")
        breaker.isolate(service)
        two.proxy.cut()
        went_down(two)
        wait_until(lambda: breaker.get_stats(service)["rejected"] > 4)
        assert not two.relay.bus.is_up
        assert "cannot be reached to listen" in caplog.text
        breaker.close(service)
        came_up(two)
        wait_until(lambda: caplog.text.count(f"Redis at 127.0.0.1:{two.proxy.port}/0 is reached") == 2)
        assert_whole(there, [publisher])


def test_an_hour_without_redis_is_a_dozen_lines(caplog, monkeypatch):
    monkeypatch.setattr(reconnecting, "MAX_PAUSE_S", 0.0001)
    attempts = iter(range(100))

    def work():
        raise OSError("away")

    Reconnecting("somewhere").keep(work, "listen", lambda: next(attempts, None) is not None)
    assert caplog.text.count("cannot be reached to listen") == 7


def test_a_breaker_that_cannot_be_made_keeps_a_server_away_only_as_long_and_is_named(node, caplog):
    def make(_):
        raise ConfigurationError("there is no such setting", key="thresholds.treshold")

    container().bind("circuit_breaker", make)
    try:
        one = node(timeout=0.2)
        wait_until(lambda: "thresholds.treshold" in caplog.text)
        assert not one.relay.bus.is_up
    finally:
        container().forget("circuit_breaker")
    came_up(one)


# Servers as processes of their own


APPLICATION = """
from flask import Flask, request
from alphavel.websocket import WebSocket, blueprint

app = Flask(__name__)
app.register_blueprint(blueprint)

@app.get("/push/<int:number>")
def push(number):
    WebSocket.to_channel("a").push({"event": "n", "data": number})
    return ""
"""


def test_servers_of_their_own_say_that_they_are_degraded_and_lose_nothing(tmp_path, redis):
    (tmp_path / "shop.py").write_text(APPLICATION)
    environment = {"ALPHAVEL_BROADCAST_DRIVER": "redis", "ALPHAVEL_REDIS_URL": redis.url}
    ports = [free_port() for _ in range(3)]
    with contextlib.ExitStack() as stack:
        programs = [
            stack.enter_context(
                Program(
                    *(script("alpha"), "websocket:serve", "--app", "shop:app", "--host", "127.0.0.1", "--port", str(port)),
                    cwd=tmp_path,
                    **environment,
                )
            )
            for port in ports
        ]
        for program, port in zip(programs, ports, strict=True):
            program.wait_for("listening", 60)
            wait_until(lambda port=port: health(port) == "ready", 60)
        client = stack.enter_context(contextlib.closing(Client(ports[1], timeout_s=60)))
        client.subscribe("a")
        for number in range(10):
            get(ports[0], f"/push/{number}")
        redis.stop()
        wait_until(lambda: health(ports[0]) == health(ports[1]) == "degraded", 60)
        programs[2].process.kill()
        for number in range(10, 20):
            get(ports[0], f"/push/{number}")
        redis.start()
        wait_until(lambda: health(ports[0]) == health(ports[1]) == "ready", 60)
        for number in range(20, 30):
            get(ports[0], f"/push/{number}")
        assert [client.receive()["data"] for _ in range(30)] == list(range(30))


def get(port, path):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
        return answer.read()


def health(port):
    return json.loads(get(port, "/health"))["status"]
