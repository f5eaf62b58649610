"""
A fleet whose Redis, or the way to it, is bad: who is where, who leads and what webhooks are told, on two servers, in the end
and meanwhile. What becomes of messages is in test_redis_bus, servers that die and stand still in test_fleet.
"""

from __future__ import annotations

import uuid

import pytest

from alphavel.websocket.settings import AppSettings, BroadcastingSettings, RedisSettings, WebhookSettings
from tests.proxy import Proxy
from tests.redis_server import running_redis
from tests.support import wait_until
from tests.websocket.conftest import SECRET
from tests.websocket.tokens import bearer

PATIENCE_S = 60.0
TIMEOUT_S, LEASE_S = 1.0, 2.0
ROOM = "presence-room"


@pytest.fixture
def redis():
    with running_redis() as server:
        yield server


@pytest.fixture
def node(proxies, redis, receiver, serve):
    """`node()` starts a server of the fleet that reaches Redis through a proxy of its own, `.proxy`."""
    prefix = f"{uuid.uuid4()}:"

    def start(**given):
        proxies.append(Proxy(redis.port))
        url = f"redis://127.0.0.1:{proxies[-1].port}/0"
        settings = RedisSettings(url, **{"prefix": prefix, "timeout": TIMEOUT_S, "lease": LEASE_S, **given})
        app = AppSettings("1", "app-key", "app-secret", webhooks=(WebhookSettings(receiver.url),))
        server = serve(apps=(app,), secret=SECRET, anonymous=True, broadcasting=BroadcastingSettings("redis", settings))
        server.channel("presence-{room}")(lambda user, room: {"name": user.id})
        server.proxy = proxies[-1]
        return server

    yield start
    for proxy in proxies:
        proxy.heal()


def ids(server):
    return [member["id"] for member in server.get_presence(ROOM)]


def agree(servers, expected):
    """Wait until all servers say that these are in the room, of which one leads."""
    wait_until(lambda: all(sorted(ids(server)) == sorted(expected) for server in servers), PATIENCE_S, f"{expected}")
    wait_until(lambda: sum(server.siblings.leader.leads for server in servers) == 1, PATIENCE_S, "one that leads")


def join(server, user):
    client = server.connect("/", bearer(user), timeout_s=PATIENCE_S)
    client.subscribe(ROOM)
    return client


def user_of(event, kind):
    assert event["event"] == kind, event
    return event["data"]["user"]["id"]


def changes(receiver, user):
    """What webhooks were told of a user."""
    return [event["name"] for event in receiver.events if event.get("user_id") == user]


def are_one(one, two, watcher, users):
    """Whoever comes and goes, on one or on two, is seen by the watcher on one, once; what two pushes arrives."""
    for server, user in zip((one, two), users, strict=True):
        client = join(server, user)
        assert user_of(watcher.receive(), "member_added") == user
        agree((one, two), ["watcher", user])
        client.close()
        assert user_of(watcher.receive(), "member_removed") == user
    two.to_channel(ROOM).push({"event": "hello"})
    assert watcher.receive()["event"] == "hello"
    assert watcher.silent()


# Redis


def test_a_redis_that_is_full_holds_up_nobody(node, redis):
    one, two = node(), node()
    watcher = join(one, "watcher")
    agree((one, two), ["watcher"])
    with redis.client() as client:
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", 1)
        with pytest.raises(Exception, match="maxmemory"):
            client.set("a", "b")
        are_one(one, two, watcher, ("1", "2"))
        two.proxy.cut()
        wait_until(lambda: two.get_stats()["bus_reconnects"] == 1 and two.relay.bus.is_up, PATIENCE_S)
        are_one(one, two, watcher, ("3", "4"))
        # Whoever leads goes on, as nothing has to be written for that; somebody else can begin to once there is room.
        (leading,) = (server for server in (one, two) if server.siblings.leader.leads)
        leading.siblings.leader.stand_back()
        client.config_set("maxmemory", 0)
    agree((one, two), ["watcher"])
    are_one(one, two, watcher, ("5", "6"))


@pytest.mark.parametrize("seconds", [TIMEOUT_S / 2, LEASE_S * 2])
def test_nobody_leaves_while_redis_pauses_its_clients(node, redis, seconds):
    one, two = node(), node()
    watcher, there = join(one, "watcher"), join(two, "there")
    assert user_of(watcher.receive(), "member_added") == "there"
    agree((one, two), ["watcher", "there"])
    redis.command("CLIENT", "PAUSE", str(int(seconds * 1000)), "ALL")
    late = join(two, "late")
    two.to_channel(ROOM).push({"event": "hello"})
    assert there.events("hello")[-1]["event"] == "hello"
    assert {event["event"] for event in (watcher.receive(), watcher.receive())} == {"member_added", "hello"}
    agree((one, two), ["watcher", "there", "late"])
    for client, user in ((there, "there"), (late, "late")):
        client.close()
        assert user_of(watcher.receive(), "member_removed") == user
    are_one(one, two, watcher, ("1", "2"))


def test_nothing_is_forgotten_when_all_that_redis_holds_is_deleted(node, redis, receiver):
    one, two = node(), node()
    watcher = join(one, "watcher")
    agree((one, two), ["watcher"])
    wait_until(lambda: changes(receiver, "watcher") == ["member_added"], PATIENCE_S)
    for users in (("1", "2"), ("3", "4")):
        redis.command("FLUSHALL")
        are_one(one, two, watcher, users)
    agree((one, two), ["watcher"])
    watcher.close()
    wait_until(lambda: changes(receiver, "watcher") == ["member_added", "member_removed"], PATIENCE_S)
    assert all(changes(receiver, user) in ([], ["member_added", "member_removed"]) for user in "1234")


def test_servers_that_start_while_redis_is_away_are_one_once_it_is_there(node, redis):
    redis.stop()
    one, two = node(), node()
    watcher, there = join(one, "watcher"), join(two, "there")
    one.to_channel(ROOM).push({"event": "early"})
    assert watcher.receive()["event"] == "early"
    assert (ids(one), ids(two)) == (["watcher"], ["there"])
    assert not any(server.siblings.leader.leads for server in (one, two))
    redis.start()
    assert {event["event"] for event in (there.receive(), there.receive())} == {"member_added", "early"}
    assert user_of(watcher.receive(), "member_added") == "there"
    agree((one, two), ["watcher", "there"])
    there.close()
    assert user_of(watcher.receive(), "member_removed") == "there"
    are_one(one, two, watcher, ("1", "2"))


# The way to it


def test_a_server_that_missed_what_webhooks_were_told_tells_nothing_twice_and_leaves_nothing_out(node, receiver):
    """Its own change had reached the one that leads; that it was told, it could only hear from that one."""
    patient = {"timeout": 10.0, "lease": 60.0}
    one = node(**patient)
    watcher = join(one, "watcher")
    agree((one,), ["watcher"])
    two = node(**patient)
    first, there = join(two, "first"), two.connect("/", bearer("there"), timeout_s=PATIENCE_S)
    assert user_of(watcher.receive(), "member_added") == "first"
    agree((one, two), ["watcher", "first"])
    # What it has sent is answered: else the next change would wait for that answer.
    wait_until(lambda: one.connections.total == 3 and two.relay.bus._outbox._empty.is_set(), PATIENCE_S)
    two.proxy.black_hole("client")
    there.subscribe(ROOM)  # at once: this server listens to the room already
    assert user_of(watcher.receive(), "member_added") == "there"
    wait_until(lambda: changes(receiver, "there") == ["member_added"], PATIENCE_S)
    two.proxy.cut()
    two.proxy.heal()
    wait_until(lambda: two.get_stats()["bus_reconnects"] == 1 and two.relay.bus.is_up, PATIENCE_S)
    wait_until(lambda: not len(two.siblings.webhooks.ledger), PATIENCE_S, "what was told to be known")
    one.stop(timeout=1.0)
    agree((two,), ["first", "there"])
    for client in (there, first):
        client.close()
    wait_until(lambda: changes(receiver, "there") == ["member_added", "member_removed"], PATIENCE_S)
