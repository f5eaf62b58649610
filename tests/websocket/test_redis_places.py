"""Where Redis is: with a user, a password, TLS, behind Sentinels, in a cluster; always real servers."""

from __future__ import annotations

import contextlib
import itertools
import uuid

import pytest
import redis as redis_py

from alphavel.foundation import ConfigurationError
from alphavel.websocket.bus.connecting import check
from alphavel.websocket.bus.envelope import write
from alphavel.websocket.bus.subscriber import slot_of
from alphavel.websocket.senders import Sender
from alphavel.websocket.settings import (
    AppSettings,
    BroadcastingSettings,
    RedisSettings,
    RedisTlsSettings,
    WebSocketSettings,
)
from tests.certificates import make_certificate
from tests.redis_server import running_cluster, running_redis, running_sentinel
from tests.support import free_port, wait_until
from tests.websocket.conftest import SECRET
from tests.websocket.tokens import bearer

APP = AppSettings("1", "app-key", "app-secret")


@pytest.fixture
def fleet(serve):
    """`fleet(url, …)` starts two servers that reach each other there."""

    def start(url, size=2, **given):
        settings = RedisSettings(url, **{"prefix": f"{uuid.uuid4()}:", "timeout": 2.0, **given})
        start.settings = settings
        broadcasting = BroadcastingSettings("redis", settings)
        servers = [serve(apps=(APP,), secret=SECRET, anonymous=True, broadcasting=broadcasting) for _ in range(size)]
        for server in servers:
            server.channel("presence-{room}")(lambda user, room: {"name": user.id})
        return servers

    return start


def assert_one(one, two, channels=("a",)):
    """Both servers are one: what is pushed on one arrives on the other, once."""
    with one.connect("/", bearer("7")) as here, two.connect() as there:
        for name in channels:
            here.subscribe(name)
            there.subscribe(name)
        for name in channels:
            one.to_channel(name).push({"event": "from one"})
            assert there.receive() == {"event": "from one", "channel": name}
            assert here.receive() == {"event": "from one", "channel": name}
            two.to_channel(name).push({"event": "from two"})
            assert here.receive() == {"event": "from two", "channel": name}
            assert there.receive() == {"event": "from two", "channel": name}
        two.to_user(7).push({"event": "to 7"})
        assert here.receive()["event"] == "to 7"
        two.to_all().push({"event": "all"})
        assert here.receive()["event"] == there.receive()["event"] == "all"
        assert here.silent(0.05)
        assert there.silent(0.05)


@contextlib.contextmanager
def members(one, two):
    """Somebody is in a room on each server, during what happens in the block; afterwards both say so, and who goes is gone."""

    def agree(expected):
        said = lambda server: sorted(member["id"] for member in server.get_presence("presence-room"))  # noqa: E731
        wait_until(lambda: said(one) == said(two) == expected, 60, f"{expected}")

    with one.connect("/", bearer("ann"), timeout_s=60) as ann, two.connect("/", bearer("bob"), timeout_s=60) as bob:
        ann.subscribe("presence-room")
        bob.subscribe("presence-room")
        agree(["ann", "bob"])
        yield
        agree(["ann", "bob"])
        with two.connect("/", bearer("cid"), timeout_s=60) as cid:
            cid.subscribe("presence-room")
            agree(["ann", "bob", "cid"])
        agree(["ann", "bob"])
        changes = [(event["event"], event["data"]["user"]["id"]) for event in (ann.receive() for _ in range(3))]
        assert changes == [("member_added", "bob"), ("member_added", "cid"), ("member_removed", "cid")]
    wait_until(lambda: sum(server.siblings.leader.leads for server in (one, two)) == 1, 60, "one that leads")


# A user and a password


ACL = (
    *("--user", "default", "off"),
    *("--user", "bus", "on", ">open-sesame", "~fleet:*", "resetchannels", "&fleet:*", "+@all", "-@admin", "-@dangerous"),
)


@pytest.mark.parametrize("where", ["in the url", "in settings of their own"])
def test_servers_meet_with_a_user_who_may_do_no_more_than_they_need(fleet, where):
    with running_redis(*ACL) as redis:
        if where == "in the url":
            one, two = fleet(f"redis://bus:open-sesame@127.0.0.1:{redis.port}/0", prefix="fleet:")
        else:
            one, two = fleet(redis.url, prefix="fleet:", username="bus", password="open-sesame")
        assert_one(one, two)


def test_a_password_of_the_whole_redis_is_enough(fleet):
    with running_redis("--requirepass", "open sesame") as redis:
        assert_one(*fleet(redis.url, password="open sesame"))


def test_a_wrong_password_is_told_in_the_log_and_shown_nowhere(fleet, caplog):
    with running_redis("--requirepass", "right") as redis:
        (one,) = fleet(redis.url, 1, password="hidden", timeout=0.3)
        assert one.to_channel("a").push({"event": "x"}) == 0
        wait_until(lambda: "invalid username-password pair" in caplog.text)
        assert one.get_stats()["bus_up"] is False
        assert "hidden" not in caplog.text


def test_what_a_user_may_not_publish_is_dropped_counted_and_logged(fleet, caplog):
    with running_redis(*ACL) as redis:
        one, two = fleet(f"redis://bus:open-sesame@127.0.0.1:{redis.port}/0", prefix="fleet:")
        one.relay.bus.publish(write("push", {}), (b"another:bus",))
        wait_until(lambda: one.get_stats()["bus_dropped"] == 1)
        wait_until(lambda: "Redis refuses them" in caplog.text)
        assert_one(one, two)


# TLS


@pytest.fixture
def tls(tmp_path):
    """A Redis that speaks TLS and nothing else."""
    cert, key = make_certificate(tmp_path)
    port = free_port()
    options = ("--tls-port", str(port), "--tls-cert-file", cert, "--tls-key-file", key, "--tls-ca-cert-file", cert)
    with running_redis(*options, "--tls-auth-clients", "optional") as server:
        server.tls_port, server.cert, server.key = port, cert, key
        yield server


def test_servers_meet_over_tls(fleet, tls):
    one, two = fleet(f"rediss://localhost:{tls.tls_port}/0", tls=RedisTlsSettings(ca_file=tls.cert))
    assert_one(one, two)
    with tls.client() as client:
        client.config_set("tls-auth-clients", "yes")
    with_certificate = RedisTlsSettings(tls.cert, tls.cert, tls.key)
    assert_one(*fleet(f"rediss://127.0.0.1:{tls.tls_port}/0", tls=with_certificate))


def test_a_certificate_of_somebody_else_is_refused_unless_it_is_not_checked(fleet, tls, caplog):
    (stranger,) = fleet(f"rediss://localhost:{tls.tls_port}/0", 1, timeout=0.5)
    wait_until(lambda: "certificate verify failed" in caplog.text.lower())
    assert not stranger.get_stats()["bus_up"]
    assert_one(*fleet(f"rediss://localhost:{tls.tls_port}/0", tls=RedisTlsSettings(verify=False)))


# Sentinels


def test_servers_follow_the_master_that_sentinels_name(fleet):
    with running_sentinel() as (master, replica, sentinel):
        nobody = free_port()
        url = f"redis+sentinel://127.0.0.1:{nobody},127.0.0.1:{sentinel.port}/mymaster/0"
        one, two = fleet(url)
        assert_one(one, two)
        with members(one, two), two.connect(timeout_s=60) as there:
            there.subscribe("a")
            master.stop()
            for number in range(50):
                one.to_channel("a").push({"event": "n", "data": number})
            assert [there.receive()["data"] for _ in range(50)] == list(range(50))
        with replica.client() as client:
            assert client.info("replication")["role"] == "master"
        assert_one(one, two)
        assert two.get_stats()["bus_missed"] == 0


# A cluster


def names_of(servers, settings):
    """Return a channel for each master of a cluster."""
    names = []
    with redis_py.RedisCluster.from_url(servers[0].url) as cluster:
        for node in cluster.get_primaries():
            key = f"{settings.prefix}channel:1:"
            slots = cluster.nodes_manager
            names.append(
                next(
                    name
                    for name in (f"c-{number}" for number in itertools.count())
                    if slots.get_node_from_slot(slot_of(f"{key}{name}".encode())).name == node.name
                )
            )
    return names


def test_servers_meet_over_all_shards_of_a_cluster(fleet):
    with running_cluster() as servers:
        one, two = fleet(servers[0].url, cluster=True)
        channels = names_of(servers, fleet.settings)
        assert len(set(channels)) == 3
        assert_one(one, two, channels)
        with one.connect() as here, two.connect() as there:
            here.subscribe(channels[0])
            there.subscribe(channels[1])
            sender = Sender(WebSocketSettings(apps=(APP,), broadcasting=one.settings.broadcasting))
            assert sender.to_channels(channels).push({"event": "from elsewhere"}) > 0
            assert sender.to_all().push({"event": "all"}) == 2
            assert [event["event"] for event in here.events("all")] == ["from elsewhere", "all"]
            assert [event["event"] for event in there.events("all")] == ["from elsewhere", "all"]
        for server in servers:
            with server.client() as client:
                assert client.pubsub_channels() == []
                assert client.execute_command("PUBSUB", "SHARDCHANNELS")


def test_servers_that_start_while_a_cluster_is_down_meet_when_it_is_there(fleet):
    with running_cluster() as servers:
        for server in servers:
            server.stop()
        one, two = fleet(servers[0].url, cluster=True)
        assert not one.relay.bus.is_up
        with one.connect() as client:
            client.subscribe("a")  # nobody waits for a Redis that is not there
            one.to_channel("a").push({"event": "here"})
            assert client.receive()["event"] == "here"
        for server in servers:
            server.start()
        wait_until(lambda: one.relay.bus.is_up and two.relay.bus.is_up, 60)
        assert_one(one, two)


def test_servers_that_take_servers_of_a_cluster_for_single_ones_meet_all_the_same(serve):
    """What one of them says of how many take a message counts only those who listen on itself."""
    prefix = f"{uuid.uuid4()}:"
    with running_cluster() as servers:
        settings = [RedisSettings(server.url, prefix=prefix, timeout=2.0) for server in servers[:2]]
        buses = [BroadcastingSettings("redis", each) for each in settings]
        one, two = (serve(apps=(APP,), secret=SECRET, anonymous=True, broadcasting=bus) for bus in buses)
        with one.connect() as here, two.connect() as there:
            here.subscribe("a")
            there.subscribe("a")
            for number in range(20):
                one.to_channel("a").push({"event": "n", "data": number})
                wait_until(lambda: not one.relay.bus.buffered_bytes)
                assert there.receive()["data"] == number


def test_servers_follow_a_slot_that_moves_to_another_shard(fleet):
    with running_cluster() as servers:
        one, two = fleet(servers[0].url, cluster=True)
        (name, *_) = names_of(servers, fleet.settings)
        slot = slot_of(f"{fleet.settings.prefix}channel:1:{name}".encode())
        with two.connect() as there:
            there.subscribe(name)
            numbers = itertools.count()

            def push(times):
                for _ in range(times):
                    one.to_channel(name).push({"event": "n", "data": next(numbers)})

            push(10)
            move(slot, servers)
            push(10)
            wait_until(lambda: one.relay.bus.is_up and two.relay.bus.is_up and not one.relay.bus.buffered_bytes, 30)
            push(10)
            assert [there.receive()["data"] for _ in range(30)] == list(range(30))
        assert_one(one, two, [name])


def move(slot, servers):
    """Give a slot to another master than the one that has it."""
    with redis_py.RedisCluster.from_url(servers[0].url) as cluster:
        owner = cluster.nodes_manager.get_node_from_slot(slot)
        source = next(server for server in servers if server.port == owner.port)
        target = next(server for server in servers if server.port != owner.port)
    ids = {server.port: server.command("CLUSTER", "MYID").split(b"\r\n")[1].decode() for server in (source, target)}
    for server in (target, source, *servers):
        answer = server.command("CLUSTER", "SETSLOT", str(slot), "NODE", ids[target.port])
        assert answer == b"+OK\r\n", answer


def test_servers_go_on_when_a_replica_takes_a_dead_masters_place(fleet):
    with running_cluster(replicas=1) as servers:
        one, two = fleet(servers[0].url, cluster=True)
        channels = names_of(servers, fleet.settings)
        with redis_py.RedisCluster.from_url(servers[0].url) as cluster:
            owner = cluster.nodes_manager.get_node_from_slot(
                slot_of(f"{fleet.settings.prefix}channel:1:{channels[0]}".encode())
            )
        with members(one, two), two.connect() as there:
            for name in channels:
                there.subscribe(name)
            next(server for server in servers if server.port == owner.port).stop()
            for number in range(20):
                for name in channels:
                    one.to_channel(name).push({"event": "n", "data": number})
            got = {name: [] for name in channels}
            there.sock.settimeout(40)
            while any(len(numbers) < 20 for numbers in got.values()):
                event = there.receive()
                got[event["channel"]].append(event["data"])
            assert got == {name: list(range(20)) for name in channels}
        wait_until(lambda: one.relay.bus.is_up and two.relay.bus.is_up, 40)
        assert_one(one, two, channels)


# What makes no sense


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (RedisSettings("http://localhost"), "broadcasting.redis.url: expected redis://HOST:PORT/DATABASE"),
        (RedisSettings("redis+sentinel://localhost:1"), "redis.sentinel://HOST:PORT,HOST:PORT/SERVICE/DATABASE"),
        (RedisSettings("redis+sentinel://localhost:x/mymaster"), "broadcasting.redis.url"),
        (RedisSettings("redis+sentinel://localhost/mymaster/first"), "broadcasting.redis.url"),
        (RedisSettings("redis+sentinel://localhost/mymaster", cluster=True), "without Sentinels"),
    ],
)
def test_a_place_that_makes_no_sense_is_told_at_the_start(settings, text):
    with pytest.raises(ConfigurationError, match=text):
        check(settings)
