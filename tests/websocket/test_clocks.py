"""
Wall clocks that are set while servers run: of one server of a fleet, of a server of several workers, of Redis. Who is where,
who leads, what is on its way and when timers run must not change by it; what a wall clock decides must follow it.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import time
import urllib.error
import urllib.parse
import urllib.request

import gevent
import pytest

from alphavel.websocket.auth.signatures import sign_request
from alphavel.websocket.frames import Opcode
from alphavel.websocket.settings import BroadcastingSettings, ChannelSettings, HistorySettings, RedisSettings
from tests.redis_server import running_redis
from tests.support import wait_until
from tests.wall_clock import WallClock
from tests.websocket.clients import Closed, Refused
from tests.websocket.several_workers import PATIENCE_S, Server
from tests.websocket.test_event_stream import Stream
from tests.websocket.test_history import position_of, push, subscribe
from tests.websocket.tokens import bearer

HOUR_S, DAY_S = 3600, 86_400
LEASE_S = 3.0
JUMPS = (HOUR_S, -2 * HOUR_S)
ROOM = "presence-room"
OPTIONS = "heartbeat_check_interval: 3, heartbeat_idle_time: 30, max_messages_per_second: 50"

APP = """
import itertools
import gevent

SENT, PUBLISHING = [], []

def publish(name):
    def forever():
        for number in itertools.count(1):
            for channel in ("news", "kept"):
                WebSocket.to_channel(channel).push({"event": "said", "data": [name, number]})
            SENT.append(number)
            gevent.sleep(0.01)
    PUBLISHING.append(gevent.spawn(forever))

def pause():
    gevent.killall(PUBLISHING)
    return len(SENT)
"""

KEEPING = "channels: {kept: {history: {size: 100000, ttl: 300}}}\n"
FLEET = KEEPING + "broadcasting: {driver: redis, redis: {url: '%s', lease: %s, timeout: 1}}\n"


@pytest.fixture
def clock(tmp_path):
    """Of the one whose clock is set."""
    return WallClock(tmp_path)


@pytest.fixture
def start(tmp_path):
    """`start(workers, more, **environment)` starts a server; its first client's `publish` begins the load."""
    with contextlib.ExitStack() as servers:

        def one(workers=1, more=KEEPING, **environment):
            folder = tmp_path / str(sum(1 for path in tmp_path.iterdir() if path.is_dir()))  # short: Unix sockets are in it
            folder.mkdir()
            server = Server(folder, workers, more=more, options=OPTIONS, app=APP, **environment)
            servers.callback(server.close)
            return server

        yield one


class Follower:
    """
    Somebody on all channels, whose events are read as they come, and who answers pings.

    Attributes:
        events: What has come.
        pings: How many pings came.
        code: With what it was closed; None: it is connected.
    """

    def __init__(self, server, user, worker=None, exp=None):
        self.events, self.pings, self.code = [], 0, None
        self._client = server.connect(bearer(user, exp=exp or time.time() + DAY_S), worker)
        self._client.sock.settimeout(None)
        gevent.spawn(self._read)
        for channel in (ROOM, "news", "kept"):
            self.send("subscribe", {"channel": channel})
        wait_until(lambda: len(self.named("subscribed")) == 3, PATIENCE_S, f"{user} to be on all channels: {self.events}")

    def _read(self):
        with contextlib.suppress(Closed, OSError):
            while True:
                opcode, payload = self._client.receive_frame()
                if opcode == Opcode.PING:
                    self.pings += 1
                    self._client.frame(Opcode.PONG, payload)
                elif opcode == Opcode.CLOSE:
                    self.code = int.from_bytes(payload[:2], "big")
                    break
                else:
                    self.events.append(json.loads(payload))

    def send(self, *arguments):
        self._client.send(*arguments)

    def named(self, *names):
        return [event for event in self.events if event["event"] in names]

    def numbers(self, channel, publisher):
        """Return the numbers that have come of what somebody published on a channel."""
        said = [event["data"] for event in self.named("said") if event["channel"] == channel]
        return [number for name, number in said if name == publisher]

    def has_missed_nothing(self, sent):
        """Wait until all has come that was published on both channels; fail unless it came once and in order."""
        for channel, publisher in itertools.product(("news", "kept"), sent):
            every = list(range(1, sent[publisher] + 1))
            wait_until(lambda of=(channel, publisher), every=every: len(self.numbers(*of)) >= len(every), PATIENCE_S, f"{sent}")
            assert self.numbers(channel, publisher) == every, (channel, publisher)


def ticks(*servers):
    """Return how often the servers' timers have run."""
    files = [server.folder / "ticks" for server in servers]
    return sum(len(file.read_bytes().splitlines()) for file in files if file.exists())


def live_on(seconds, *servers):
    """Wait for so long; fail unless exactly one timer has run meanwhile, as often as it should."""
    before, began = ticks(*servers), time.monotonic()
    time.sleep(seconds)
    ran, took = ticks(*servers) - before, time.monotonic() - began
    assert 0.3 * took / 0.1 < ran <= took / 0.1 + 2, f"{ran} ticks in {took} s"


def is_well(server):
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/health", timeout=PATIENCE_S) as answer:
        return json.load(answer) == {"status": "ready"}


def leading(servers):
    """Return those who say that they lead."""
    return [server for server in servers if server.do("WebSocket.siblings.leader.leads")]


def roster(server, worker=None):
    return sorted(member["id"] for member in server.do(f"WebSocket.get_presence({ROOM!r})", worker))


def all_see(there, places):
    """Wait until all servers, or workers, say that these are in the room."""
    seen = {}  # told where they do not

    def agreed():
        seen.update({(server.port, *worker): roster(server, *worker) for server, *worker in places})
        return all(members == there for members in seen.values())

    wait_until(agreed, PATIENCE_S, seen)


# One server of a fleet


@pytest.fixture
def fleet(start):
    """`fleet(redis, *environments)` starts servers, and says what all of them must be after whatever has happened."""

    def one(redis, *environments):
        return Fleet([start(more=FLEET % (redis.url, LEASE_S), **environment) for environment in environments])

    return one


class Fleet:
    """Servers under load, and those who are on them."""

    def __init__(self, servers):
        self.servers = servers
        self.everybody = [Follower(server, f"{name}-{n}") for name, server in enumerate(servers) for n in range(2)]
        self._there = sorted(f"{name}-{n}" for name in range(len(servers)) for n in range(2))
        all_see(self._there, [(server,) for server in servers])
        (self._leader,) = wait_until(lambda: leading(servers), PATIENCE_S)
        for name, server in enumerate(servers):
            server.do(f"publish({name})")

    def lives_on(self):
        """For longer than a lease: nobody leaves, and the same one leads."""
        live_on(LEASE_S + 0.5, *self.servers)
        assert leading(self.servers) == [self._leader]
        assert all(roster(server) == self._there for server in self.servers)
        assert all(is_well(server) for server in self.servers)

    def has_lost_nothing(self):
        """Everything has come once and in order, and nobody was told of anybody who left."""
        sent = {name: server.do("pause()") for name, server in enumerate(self.servers)}
        for follower in self.everybody:
            follower.has_missed_nothing(sent)
            assert follower.code is None
            assert not follower.named("member_removed", "error")
            assert follower.pings
        for server in self.servers:
            assert server.do("WebSocket.get_channel_stats('news')['subscribers']") == len(self.everybody)
            assert server.do("WebSocket.relay.bus.dropped") == 0
            assert server.do("WebSocket.relay.bus.figures()")["bus_missed"] == 0
            wait_until(lambda server=server: server.do("WebSocket.relay.bus.buffered_bytes") == 0, PATIENCE_S)
            assert "leads no more" not in server.program.output
            assert "Traceback" not in server.program.output, server.program.output


def test_a_server_of_a_fleet_whose_clock_is_set_loses_nobody_and_nothing(fleet, clock):
    with running_redis() as redis:
        servers = fleet(redis, clock.environment, {})
        for seconds in JUMPS:
            clock.jump(seconds)
            assert abs(servers.servers[0].do("time.time()") - clock.now()) < HOUR_S / 2
            servers.lives_on()
        servers.has_lost_nothing()


def test_a_redis_whose_clock_is_set_loses_nobody_and_nothing(fleet, clock):
    with running_redis(**clock.environment) as redis:
        servers = fleet(redis, {}, {})
        for seconds in (2 * DAY_S, -3 * DAY_S):  # all that has a time to live is over by then
            clock.jump(seconds)
            servers.lives_on()
        servers.has_lost_nothing()


# Histories in Redis


@pytest.fixture
def node(serve, clock):
    """A server whose Redis' clock is set."""
    with running_redis(**clock.environment) as redis:
        channels = {"chat.*": ChannelSettings(HistorySettings(size=100))}
        server = serve(broadcasting=BroadcastingSettings("redis", RedisSettings(redis.url)), channels=channels)
        server.redis = redis
        yield server


@pytest.mark.parametrize("seconds", [HOUR_S, -2 * HOUR_S, 2 * DAY_S, -3 * DAY_S])
def test_who_is_on_a_channel_gets_all_of_it_when_redis_clock_is_set(node, clock, seconds):
    client = node.connect()
    position = position_of(subscribe(client))
    for number in range(3):
        push(node, number)
    assert [client.receive()["data"] for _ in range(3)] == [0, 1, 2]
    clock.jump(seconds)
    for number in range(3, 6):
        push(node, number)
    assert [client.receive()["data"] for _ in range(3)] == [3, 4, 5]
    back = node.connect()
    recovered = subscribe(back, recover=position)["recovered"]
    assert recovered is (seconds != 2 * DAY_S), "after two days Redis knows nothing of what was before, and that is said"
    assert not recovered or [back.receive()["data"] for _ in range(6)] == list(range(6))


def test_epoch_is_not_used_again_where_redis_clock_goes_forward_and_back(node, clock):
    """A meta was over while the clock was ahead; in the same half of the day the epoch was the same, with numbers from 1."""
    client = node.connect()
    subscribe(client)
    for number in range(3):
        push(node, number)
    assert [client.receive()["data"] for _ in range(3)] == [0, 1, 2]
    epoch = node.history("chat.1")["epoch"]
    with node.redis.client() as looking:
        kept = looking.keys("*chat.1*")
        clock.jump(2 * DAY_S)
        assert not looking.exists(*kept)
    subscribe(node.connect(), "chat.2")
    clock.jump(-2 * DAY_S)
    push(node, 3)
    assert client.receive()["data"] == 3
    assert node.history("chat.1")["epoch"] != epoch


def test_event_stream_that_comes_back_misses_nothing_when_redis_clock_was_set_back(node, clock):
    streams = [Stream(node.port, "chat.1,chat.2")]
    streams[0].opened(1, 2)
    push(node, 1)
    assert streams[0].receive()["data"] == 1
    streams[0].close()
    clock.jump(-2 * HOUR_S)
    push(node, 2)
    push(node, 3, "chat.2")
    wait_until(lambda: node.history("chat.2")["serial"] == 1, PATIENCE_S)
    back = Stream(node.port, "chat.1,chat.2", {"Last-Event-ID": streams[0].last_event_id})
    assert [answer["recovered"] for answer in back.opened(1, 2)] == [True, True]
    assert sorted(back.receive()["data"] for _ in range(2)) == [2, 3]
    back.close()


def test_a_server_whose_clock_is_ahead_of_redis_keeps_what_is_to_be_kept(start, clock):
    """It took what came for as old as the clocks were apart, and forgot what was to be given to those who come back."""
    clock.jump(HOUR_S)
    with running_redis() as redis:
        server = start(more=FLEET % (redis.url, LEASE_S), **clock.environment)
        client = server.connect()
        position = position_of(subscribe(client, "kept"))
        server.do("WebSocket.to_channel('kept').push({'event': 'brief', 'data': 1}, ttl=60)")
        assert client.receive()["data"] == 1
        back = server.connect()
        assert subscribe(back, "kept", recover=position)["recovered"] is True
        assert back.receive()["data"] == 1


# All workers of a server


def test_a_server_of_several_workers_whose_clock_is_set_loses_nobody_and_nothing(start, clock):
    server = start(2, more="", **clock.environment)  # histories of several workers are in Redis
    pids = server.pids
    everybody = [Follower(server, f"user-{n}", pids[n % 2]) for n in range(4)]
    there = [f"user-{n}" for n in range(4)]
    all_see(there, [(server, pid) for pid in pids])
    for pid in pids:
        server.do(f"publish({pid})", pid)
    for seconds in JUMPS:
        clock.jump(seconds)
        live_on(2.5, server)
        assert all(roster(server, pid) == there for pid in pids)
        assert is_well(server)
    sent = {pid: server.do("pause()", pid) for pid in pids}
    for follower in everybody:
        follower.has_missed_nothing(sent)
        assert follower.code is None
        assert not follower.named("member_removed", "error")
        assert follower.pings
    assert server.pids == pids, "no worker was taken for one that stands still"
    assert "Traceback" not in server.program.output, server.program.output


def test_tokens_expire_by_the_wall_clock(start, clock):
    server = start(**clock.environment)
    short, long = Follower(server, "short", exp=clock.now() + HOUR_S / 2), Follower(server, "long")
    clock.jump(-2 * HOUR_S)
    live_on(2.0, server)
    assert (short.code, long.code) == (None, None)
    clock.jump(3 * HOUR_S)
    wait_until(lambda: short.code == 4009, PATIENCE_S, "the one whose token has expired to be closed")
    wait_until(lambda: [event["data"]["user"]["id"] for event in long.named("member_removed")] == ["short"], PATIENCE_S)
    live_on(2.0, server)
    assert long.code is None


def test_revoked_token_stays_so_for_as_long_as_it_is_valid(start, clock):
    server = start(**clock.environment)
    revoked = bearer("7", jti="stolen", exp=clock.now() + 1)
    server.do("WebSocket.revoke('stolen', 1)")
    clock.jump(-HOUR_S)
    live_on(1.5, server)
    with pytest.raises(Refused) as refused:
        server.connect(revoked)
    assert "revoked" in refused.value.body


def test_history_is_kept_for_its_time(start, clock):
    server = start(**clock.environment)
    client = server.connect()
    position = position_of(subscribe(client, "kept"))
    for seconds in (0, *JUMPS):
        clock.jump(seconds)
        server.do("WebSocket.to_channel('kept').push({'event': 'brief', 'data': 1}, ttl=60)")
    back = server.connect()
    assert subscribe(back, "kept", recover=position)["recovered"] is True
    assert [back.receive()["serial"] for _ in range(3)] == [1, 2, 3]


def test_limits_count_seconds_and_not_what_the_clock_shows(start, clock):
    server = start(**clock.environment)
    follower = Follower(server, "7")

    def flood():
        """Send more than two seconds' messages at once, and return how many were answered."""
        follower.events.clear()
        for _ in range(130):
            follower.send("ping")
        wait_until(lambda: follower.named("error"), PATIENCE_S)
        return len(follower.named("pong"))

    for seconds in (0, *JUMPS):
        clock.jump(seconds)
        live_on(1.5, server)
        assert 45 <= flood() <= 100, seconds  # pongs count, too; and a second may end meanwhile


def test_requests_are_signed_by_the_wall_clock(start, clock):
    server = start(**clock.environment)

    def status(now):
        query = sign_request("app-key", "app-secret", "GET", "/apps/1/channels", {}, b"", now)
        address = f"http://127.0.0.1:{server.port}/apps/1/channels?{urllib.parse.urlencode(query)}"
        try:
            with urllib.request.urlopen(address, timeout=PATIENCE_S) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            with error:
                return error.code

    for seconds in JUMPS:
        before = clock.now()
        assert status(before) == 200
        clock.jump(seconds)
        assert (status(before), status(clock.now())) == (401, 200)
