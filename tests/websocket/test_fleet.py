"""Servers of a fleet, with a real Redis between them: what one does, all do as one."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import uuid

import gevent
import pusher
import pytest

from alphavel.websocket.bus.facts import Fact
from alphavel.websocket.handshake import HandshakeError
from alphavel.websocket.settings import AppLimits, AppSettings, BroadcastingSettings, RedisSettings, WebhookSettings
from tests.redis_server import running_redis
from tests.support import Program, run, script, wait_until
from tests.websocket.clients import Client, Refused
from tests.websocket.conftest import SECRET
from tests.websocket.pusher import PusherClient
from tests.websocket.tokens import bearer

PATIENCE_S = 60.0
LEASE_S = 3.0


@pytest.fixture(scope="module")
def redis():
    with running_redis() as server:
        yield server


@pytest.fixture
def fleet(serve, redis):
    """`fleet(n)` starts servers of one fleet; called again, further ones."""
    prefix = f"{uuid.uuid4()}:"

    def start(size=2, webhooks=(), limits=None, set_up=None, options=None, **given):
        app = AppSettings(
            "1", "app-key", "app-secret", client_events=True, subscription_count=True,
            webhooks=tuple(WebhookSettings(url) for url in webhooks), limits=limits or AppLimits(),
        )  # fmt: skip
        broadcasting = BroadcastingSettings("redis", RedisSettings(redis.url, prefix=prefix, **given))
        given = {"apps": (app,), "broadcasting": broadcasting, "secret": SECRET, "anonymous": True, **(options or {})}
        servers = [serve(set_up, **given) for _ in range(size)]
        for server in servers:
            server.channel("presence-{room}")(lambda user, room: {"name": user.id})
        return servers

    start.prefix = prefix
    return start


APP = """
from flask import Flask
from alphavel.websocket import WebSocket, blueprint

app = Flask(__name__)
app.register_blueprint(blueprint)

@WebSocket.channel("presence-{room}")
def room(user, room):
    return {"name": user.id}
"""


@pytest.fixture
def process(fleet, redis, tmp_path):
    """`process()` starts a server of the fleet in a process of its own and returns the program and its port."""
    (tmp_path / "config").mkdir()
    (tmp_path / "shop.py").write_text(APP)
    settings = {"url": redis.url, "prefix": fleet.prefix, "lease": LEASE_S}
    config = {
        "auth": {"anonymous": True}, "apps": [{"id": 1, "key": "app-key", "secret": "app-secret"}],
        "broadcasting": {"driver": "redis", "redis": settings},
    }  # fmt: skip
    (tmp_path / "config/websocket.yaml").write_text(json.dumps(config))
    with contextlib.ExitStack() as stack:

        def start():
            program = stack.enter_context(
                Program(
                    script("alpha"), "websocket:serve", "--app", "shop:app", "--host", "127.0.0.1", "--port", "0",
                    cwd=tmp_path, ALPHAVEL_JWT_SECRET=SECRET, ALPHAVEL_RUN_DIR=str(tmp_path / "run"),
                )
            )  # fmt: skip
            output = program.wait_for("auth  ", PATIENCE_S)
            return program, int(output.split("ws://127.0.0.1:")[1].split("/")[0])

        yield start


@pytest.fixture
def pusher_client():
    """`pusher_client(server)` connects one of Pusher's clients."""
    clients = []

    def connect(server, **options):
        clients.append(PusherClient(server.port, **options))
        return clients[-1]

    yield connect
    for client in clients:
        client.close()


def agree(servers, what, expected):
    """Wait until all servers say the same."""
    wait_until(lambda: all(what(server) == expected for server in servers), PATIENCE_S, f"{expected}, not {what(servers[0])}")


def ids(server, channel="presence-room"):
    return [member["id"] for member in server.get_presence(channel)]


# Presence


def test_a_user_on_two_servers_comes_once_and_goes_once(fleet):
    one, two = fleet()
    watchers = [server.connect("/", bearer(f"watcher-{name}")) for name, server in (("1", one), ("2", two))]
    watchers[0].subscribe("presence-room")
    agree((one, two), ids, ["watcher-1"])
    assert [member["id"] for member in watchers[1].subscribe("presence-room")["data"]["members"]] == ["watcher-1", "watcher-2"]
    assert watchers[0].receive()["event"] == "member_added"

    first, second = one.connect("/", bearer("7")), two.connect("/", bearer("7"))
    first.subscribe("presence-room")
    for watcher in watchers:
        event = watcher.receive()
        assert (event["event"], event["data"]["user"]) == ("member_added", {"id": "7", "info": {"name": "7"}})
    second.subscribe("presence-room")
    agree((one, two), lambda server: len(server.connections.everywhere.members["presence-room"]["7"]), 2)
    assert one.get_presence("presence-room") == two.get_presence("presence-room")
    assert ids(one) == ["watcher-1", "watcher-2", "7"]

    first.close()
    agree((one, two), lambda server: len(server.connections.everywhere.members["presence-room"]["7"]), 1)
    assert all(watcher.silent() for watcher in watchers), "the user is still there"
    second.close()
    for watcher in watchers:
        event = watcher.receive()
        assert (event["event"], event["data"]["user"]["id"]) == ("member_removed", "7")
        assert watcher.silent()
    agree((one, two), ids, ["watcher-1", "watcher-2"])


def test_both_protocols_see_one_roster(fleet, pusher_client):
    one, two = fleet()
    native, pushers = one.connect("/", bearer("ann")), pusher_client(two)
    native.subscribe("presence-room")
    agree((one, two), ids, ["ann"])
    answer = pushers.join("presence-room", {"user_id": "bob", "user_info": {"name": "Bob"}})
    assert answer["data"]["presence"]["ids"] == ["ann", "bob"]
    assert native.receive()["data"]["user"] == {"id": "bob", "info": {"name": "Bob"}}
    native.close()
    assert pushers.receive() == {
        "event": "pusher_internal:member_removed", "channel": "presence-room", "data": {"user_id": "ann"}
    }  # fmt: skip


def test_a_newcomer_knows_everything_when_it_has_started(fleet):
    (one,) = fleet(1)
    clients = [one.connect("/", bearer(str(number))) for number in range(20)]
    for client in clients:
        client.subscribe("presence-room")
        client.subscribe("talk")
    one.to_channel("cache-news").push({"event": "last", "data": 5})
    (two,) = fleet(1)
    assert sorted(ids(two), key=int) == [str(number) for number in range(20)]
    assert two.get_channel_stats("talk") == {"name": "talk", "subscribers": 20, "type": "public"}
    assert set(two.get_channels()) == {"presence-room", "talk"}
    wait_until(lambda: two.apps.default.cache.get("cache-news"), PATIENCE_S)
    late = two.connect()
    late.subscribe("cache-news")
    assert late.receive()["data"] == 5


def test_a_server_that_stops_takes_its_members_along_at_once(fleet):
    one, two = fleet()
    watcher, leaving = one.connect("/", bearer("1")), two.connect("/", bearer("2"))
    watcher.subscribe("presence-room")
    agree((one, two), ids, ["1"])
    leaving.subscribe("presence-room")
    assert watcher.receive()["event"] == "member_added"
    two.stop(timeout=1.0)
    assert watcher.receive()["event"] == "member_removed"
    agree((one,), lambda server: server.siblings.bus.membership.nodes, [])


# Counts, users, limits


def test_what_others_still_say_is_nothing_to_a_server_that_has_left(fleet):
    """While it ends, the bus goes on for a moment; each rolling restart of a busy server logged tracebacks."""
    one, two = fleet()
    siblings, app = two.siblings, two.apps.default
    two.stop()
    siblings.said(one.siblings.name, [(Fact("channel", app.id, "late", ""), 1)], are_all=False)
    siblings.said(one.siblings.name, [(Fact("member", app.id, "presence-late", "7"), [{}, 1.0])], are_all=True)
    assert two.get_channels() == []


def test_who_is_back_while_its_going_is_still_entered_is_known_whole_and_can_go_again(fleet):
    """With more to say than one turn takes, what it said anew was left half entered, and stayed for ever when it went again."""
    (server,) = fleet(1)
    siblings, app = server.siblings, server.apps.default
    facts = [(Fact("channel", app.id, f"room-{number}", ""), 1) for number in range(500)]
    siblings.said("another", facts, are_all=True)
    going = gevent.spawn(siblings.gone, "another")
    gevent.sleep(0)
    assert 0 < len(server.get_channels()) < 500
    siblings.said("another", facts, are_all=True)
    going.join()
    assert len(server.get_channels()) == 500
    siblings.gone("another")
    assert server.get_channels() == []


def test_counts_users_and_watchlists_are_of_all_servers(fleet, pusher_client):
    one, two = fleet()
    clients = [pusher_client(server) for server in (one, two, two)]
    for client in clients:
        client.join("counted")
    agree((one, two), lambda server: server.get_channel_stats("counted")["subscribers"], 3)
    counts = {client.receive()["data"]["subscription_count"] for client in clients[:1] for _ in range(2)}
    assert counts <= {1, 2, 3}
    library = pusher.Pusher(app_id="1", key="app-key", secret="app-secret", ssl=False, host="127.0.0.1", port=one.port)
    answer = library.channel_info("counted", ["subscription_count"])
    assert (answer["occupied"], answer["subscription_count"]) == (True, 3)

    watcher, friend = pusher_client(one), pusher_client(two)
    watcher.sign_in("watcher", watchlist=["friend"], answer=False)
    assert watcher.events("pusher_internal:watchlist_events")
    friend.sign_in("friend")
    event = watcher.receive()
    assert event["data"]["events"] == [{"name": "online", "user_ids": ["friend"]}]
    friend.close()
    assert watcher.receive()["data"]["events"] == [{"name": "offline", "user_ids": ["friend"]}]
    for client in (*clients, watcher):
        client.close()
    agree((one, two), lambda server: server.get_channels(), [])


def test_an_apps_limit_of_connections_holds_over_all_servers(fleet, pusher_client):
    one, two = fleet(limits=AppLimits(connections=2))
    clients = [pusher_client(server) for server in (one, two)]
    agree((one, two), lambda server: server.connections.total, 2)
    refused = pusher_client(two, greeted=False)
    assert refused.closed().code == 4004
    clients[0].close()
    agree((one, two), lambda server: server.connections.total, 1)
    pusher_client(two)


def test_what_one_user_may_have_holds_over_all_servers_and_both_protocols(fleet, pusher_client):
    one, two = fleet(options={"max_connections_per_user": 3})
    clients = [one.connect("/", bearer("7")), one.connect("/", bearer("7"))]
    pusher_client(two).sign_in("7")
    many = lambda server: server.connections.connections_of("7")  # noqa: E731
    agree((one, two), many, 3)
    for server in (one, two):
        with pytest.raises(Refused) as refused:
            server.connect("/", bearer("7"))
        assert refused.value.status == 429
        another = pusher_client(server)
        another.sign_in("7", answer=False)
        assert another.closed().code == 4004
    clients[0].close()
    agree((one, two), many, 2)
    two.connect("/", bearer("7"))
    agree((one, two), many, 3)
    one.stop(timeout=1.0)
    agree((two,), many, 2)
    two.connect("/", bearer("7"))


def test_what_one_address_may_have_holds_over_all_servers(fleet):
    one, two = fleet(options={"max_connections_per_address": 2})
    clients = [one.connect(), two.connect()]

    def is_full(server):
        try:
            server.addresses.check_open("127.0.0.1")
        except HandshakeError:
            return True
        return False

    agree((one, two), is_full, True)
    for server in (one, two):
        with pytest.raises(Refused) as refused:
            server.connect()
        assert refused.value.status == 429
    clients.pop().close()
    agree((one, two), is_full, False)
    one.connect()
    agree((one, two), is_full, True)
    one.stop(timeout=1.0)
    agree((two,), is_full, False)
    two.connect()


# Leading


def test_webhooks_are_sent_once_and_timers_run_on_one(fleet, receiver):
    calls = []

    def set_up(server):
        server.every(0.05)(lambda: calls.append(server))

    servers = fleet(3, webhooks=[receiver.url], set_up=set_up)
    clients = [server.connect("/", bearer("7")) for server in servers]
    for client in clients:
        client.subscribe("presence-room")
    agree(servers, lambda server: len(server.connections.everywhere.members["presence-room"]["7"]), 3)
    wait_until(lambda: len(receiver.events) == 2, PATIENCE_S)
    for client in clients:
        client.close()
    wait_until(lambda: len(receiver.events) == 4, PATIENCE_S)
    assert [event["name"] for event in receiver.events] == [
        "channel_occupied", "member_added", "member_removed", "channel_vacated"
    ]  # fmt: skip
    wait_until(lambda: len(calls) > 20, PATIENCE_S)
    assert len(set(calls)) == 1
    (leading,) = {server for server in servers if server.siblings.leader.leads}
    assert leading in set(calls)
    agree(servers, lambda server: len(server.siblings.webhooks.ledger), 0)

    leading.stop(timeout=1.0)
    calls.clear()
    wait_until(lambda: len(calls) > 5, PATIENCE_S)
    assert leading not in calls


def test_what_a_server_alone_ends_with_is_told_too(fleet, receiver):
    (one,) = fleet(1, webhooks=[receiver.url])
    client = one.connect("/", bearer("7"))
    client.subscribe("presence-room")
    one.stop(timeout=2.0)
    assert sorted(event["name"] for event in receiver.events) == [
        "channel_occupied", "channel_vacated", "member_added", "member_removed"
    ]  # fmt: skip


# Several workers


def test_workers_of_one_machine_are_nodes_of_the_fleet(fleet, redis, tmp_path):
    (tmp_path / "config").mkdir()
    broadcasting = {"driver": "redis", "redis": {"url": redis.url, "prefix": fleet.prefix}}
    config = {"auth": {"anonymous": True}, "apps": [{"id": 1, "key": "app-key", "secret": "app-secret"}]}
    (tmp_path / "config/websocket.yaml").write_text(json.dumps({**config, "broadcasting": broadcasting}))
    with Program(
        script("alpha"), "websocket:serve", "--host", "127.0.0.1", "--port", "0", "--workers", "2",
        cwd=tmp_path, ALPHAVEL_RUN_DIR=str(tmp_path / "run"),
    ) as program:  # fmt: skip
        output = program.wait_for("auth  ", PATIENCE_S)
        port = int(output.split("ws://127.0.0.1:")[1].split("/")[0])
        library = pusher.Pusher(app_id="1", key="app-key", secret="app-secret", ssl=False, host="127.0.0.1", port=port)
        clients = [Client(port, timeout_s=PATIENCE_S) for _ in range(8)]
        for client in clients:
            client.subscribe("talk")
        assert len({client.socket_id.split(".")[0] for client in clients}) <= 2

        def all_say(count):
            answers = [library.channel_info("talk", ["subscription_count"])["subscription_count"] for _ in range(10)]
            return set(answers) == {count}

        wait_until(lambda: all_say(8), PATIENCE_S)
        library.trigger("talk", "hello", {"n": 1})
        assert {client.receive()["event"] for client in clients} == {"hello"}

        (elsewhere,) = fleet(1)
        elsewhere.connect()
        stats = lambda *more: run(script("alpha"), "websocket:stats", *more, ALPHAVEL_RUN_DIR=str(tmp_path / "run")).stdout  # noqa: E731
        wait_until(lambda: json.loads(stats("--json"))["connections_everywhere"] == 9, PATIENCE_S)
        assert json.loads(stats("--json"))["connections"] == 8
        assert "fleet           9 connections\n" in stats()
        for client in clients:
            client.close()
        assert program.stop(PATIENCE_S) == 0
        assert "Traceback" not in program.output, program.output


# Servers that die or stand still


def watching(one):
    client = one.connect("/", bearer("watcher"))
    client.subscribe("presence-room")
    client.subscribe("news")
    return client


def test_a_server_that_stands_still_for_longer_than_its_lease_is_gone_and_puts_its_members_back_once(fleet, process):
    (one,) = fleet(1, lease=LEASE_S)
    watcher = watching(one)
    program, port = process()
    there = Client(port, "/", bearer("7"), timeout_s=PATIENCE_S)
    there.subscribe("presence-room")
    there.subscribe("news")
    assert watcher.receive()["event"] == "member_added"

    os.kill(program.process.pid, signal.SIGSTOP)
    gone = watcher.receive()
    assert (gone["event"], gone["data"]["user"]["id"]) == ("member_removed", "7")
    assert ids(one) == ["watcher"]
    one.to_channel("news").push({"event": "meanwhile"})
    assert watcher.receive()["event"] == "meanwhile"
    os.kill(program.process.pid, signal.SIGCONT)

    back = watcher.receive()
    assert (back["event"], back["data"]["user"]["id"]) == ("member_added", "7")
    assert there.receive()["event"] == "meanwhile"
    agree((one,), ids, ["watcher", "7"])
    assert watcher.silent()
    assert there.silent(), "for its own clients nobody has left"
    there.close()


def test_a_server_that_is_killed_under_load_is_gone_once_and_those_who_stay_miss_nothing(fleet, process):
    one, two = fleet(2, lease=LEASE_S)
    watchers = [watching(one), two.connect("/", bearer("other"))]
    watchers[1].subscribe("news")
    program, port = process()
    there = [Client(port, "/", bearer(str(number)), timeout_s=PATIENCE_S) for number in range(5)]
    for client in there:
        client.subscribe("presence-room")
        client.subscribe("news")
    assert [watchers[0].receive()["event"] for _ in there] == ["member_added"] * 5
    agree((one, two), lambda server: len(ids(server)), 6)

    sent = {}

    def publish(server):
        while True:
            sent[server.port] = sent.get(server.port, 0) + 1
            server.to_channel("news").push({"event": "n", "data": [server.port, sent[server.port]]})
            gevent.sleep(0.002)

    publishers = [gevent.spawn(publish, server) for server in (one, two)]
    assert there[-1].receive()["event"] == "n"
    os.kill(program.process.pid, signal.SIGKILL)
    agree((one, two), ids, ["watcher"])
    gevent.killall(publishers)
    for watcher in watchers:
        got, left = {port: [] for port in sent}, []
        while any(len(got[port]) < sent[port] for port in sent):
            event = watcher.receive()
            if event["event"] == "n":
                got[event["data"][0]].append(event["data"][1])
            else:
                left.append((event["event"], event["data"]["user"]["id"]))
        assert got == {port: list(range(1, last + 1)) for port, last in sent.items()}
        expected = [("member_removed", str(number)) for number in range(5)] if watcher is watchers[0] else []
        assert sorted(left) == expected
        assert watcher.silent()
    for client in there:
        client.close()
