"""Several workers of one server, in processes of their own: to a client and to the application nothing tells them apart."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import time
from pathlib import Path

import pusher
import pytest

from tests.support import run, script, wait_until
from tests.websocket import several_workers
from tests.websocket.clients import Client, Closed, Refused
from tests.websocket.pusher import PusherClient
from tests.websocket.receiver import Receiver
from tests.websocket.several_workers import APP, PATIENCE_S, Server
from tests.websocket.tokens import bearer


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A server of two workers that the tests leave as they found it."""
    server = Server(tmp_path_factory.mktemp("two"))
    server.both = server.pids
    yield server
    server.close()


@pytest.fixture
def start(tmp_path):
    started = []

    def start_one(**options):
        started.append(Server(tmp_path, **options))
        return started[-1]

    yield start_one
    for server in started:
        server.close()


# One port


def test_the_banner_and_the_statistics_show_all_workers(two):
    assert len(two.both) == 2
    assert f"2 (processes {two.both[0]}, {two.both[1]})" in two.program.output
    assert two.program.process.pid not in two.both
    table = run(script("alpha"), "websocket:stats", cwd=two.folder, **two.run_dir).stdout
    assert all(f"{pid} (" in table for pid in two.both)


def test_connections_are_spread_evenly_over_the_workers(two):
    """Two hundred connections: with odds of a half fewer than sixty on one worker come once in a hundred million runs."""
    with contextlib.ExitStack() as stack:
        for _ in range(200):
            stack.enter_context(Client(two.port, timeout_s=PATIENCE_S))
        counts = [two.do("len(WebSocket.connections.connections)", pid) for pid in two.both]
    assert sum(counts) >= 200
    assert min(counts) >= 60, counts


def test_socket_ids_of_two_workers_never_begin_alike(two):
    parts = [two.connect(worker=pid).socket_id.split(".")[0] for pid in two.both]
    assert parts[0] != parts[1]


# Pushing


def test_a_push_reaches_the_clients_of_all_workers_once_and_in_order(two):
    clients = [two.connect(worker=pid) for pid in two.both]
    for client in clients:
        client.subscribe("room")
    push = '[WebSocket.to_channel("room").push({"event": "n", "data": n}) for n in range(500)] and None'
    for pid in two.both:
        two.do(push, pid)
        for client in clients:
            assert [client.receive()["data"] for _ in range(500)] == list(range(500))
    assert all(client.silent() for client in clients)


def test_who_has_just_subscribed_misses_nothing_that_another_worker_pushes(two):
    """The answer to the subscription is the promise; that worker must know of it by then."""
    here, there = two.both
    client = two.connect(worker=here)
    for number in range(30):
        assert client.subscribe(f"new-{number}")["event"] == "subscribed"
        two.do(f'WebSocket.to_channel("new-{number}").push({{"event": "n", "data": {number}}})', there)
        assert client.receive()["data"] == number


def test_a_push_that_no_other_worker_needs_goes_to_none(two):
    here, there = two.both
    count = "WebSocket.get_stats()['bus_received']"
    two.connect(worker=here).subscribe("only-here")
    before = two.do(count, there)
    two.do('[WebSocket.to_channel("only-here").push({"event": "n"}) for _ in range(100)] and None', here)
    two.do('WebSocket.to_all().push({"event": "everybody"}) and None', here)
    wait_until(lambda: two.do(count, there) > before, PATIENCE_S)  # links keep the order: what came before has come
    assert two.do(count, there) == before + 1


def test_users_everybody_and_exceptions_mean_the_same_on_all_workers(two):
    here, there = two.both
    client, other = two.connect("7", worker=there), two.connect("8", worker=there)
    two.do('WebSocket.to_user(7).push({"event": "yours"})', here)
    assert client.receive()["event"] == "yours"
    two.do(f'WebSocket.to_all().except_("{client.socket_id}").push({{"event": "not yours"}})', here)
    assert other.receive()["event"] == "not yours"
    two.do('WebSocket.to_all().push({"event": "everybody"})', here)
    assert client.receive()["event"] == "everybody"
    two.do('WebSocket.apps.default.terminate_user("8")', here)
    closed = other.closed()
    assert closed.code == 4009
    assert client.silent()


def test_what_a_pusher_client_sends_reaches_the_others_on_all_workers(two):
    one, other = (two.connect_pusher(two.connect(worker=pid).socket_id.split(".")[0]) for pid in two.both)
    one.join("presence-talk", {"user_id": "1"})
    assert two.do("WebSocket.get_presence('presence-talk')[0]['id']", two.both[0]) == "1"
    wait_until(lambda: two.do("WebSocket.get_presence('presence-talk')", two.both[1]), PATIENCE_S)
    answer = other.join("presence-talk", {"user_id": "2"})
    assert answer["data"]["presence"]["ids"] == ["1", "2"]
    assert one.receive()["event"] == "pusher_internal:member_added"
    one.whisper("presence-talk", data={"n": 1})
    event = other.receive()
    assert (event["event"], event["data"], event["user_id"]) == ("client-typing", {"n": 1}, "1")
    other.close()
    assert one.receive()["event"] == "pusher_internal:member_removed"
    assert one.silent(), "its own event did not come back"


def test_a_cache_channel_keeps_its_event_on_all_workers(two):
    here, there = two.both
    two.do('WebSocket.to_channel("cache-news").push({"event": "last", "data": 5})', here)
    wait_until(lambda: two.do("WebSocket.app(1).cache.get('cache-news') is not None", there), PATIENCE_S)
    client = two.connect(worker=there)
    client.subscribe("cache-news")
    assert client.receive()["data"] == 5


def test_what_was_granted_is_taken_back_on_all_workers(two):
    here, there = two.both
    clients = [two.connect("banned", worker=pid) for pid in two.both]
    for client in clients:
        client.subscribe("private-orders.1")
    for pid in two.both:
        two.do("BANNED.add('banned')", pid)
    two.do("WebSocket.reauthorize('private-orders.*')", here)
    for client in clients:
        assert client.receive() == {
            "event": "unsubscribed",
            "channel": "private-orders.1",
            "code": 4009,
            "message": "Unauthorized",
        }
    assert two.do("WebSocket.disconnect_user('banned')", here) == 1
    assert [client.closed().code for client in clients] == [4009, 4009]
    revoked = two.connect(bearer("7", jti="stolen"), worker=there)
    assert two.do("WebSocket.revoke('stolen')", here) == 0
    assert revoked.closed().reason == "the token was revoked"


def test_a_key_that_one_worker_has_used_is_dropped_by_the_others(two):
    here, there = two.both
    client = two.connect(worker=there)
    client.subscribe("keyed")
    said = "WebSocket.to_channel('keyed').push({'event': 'm', 'data': %d}, idempotency_key='order-7')"
    two.do(said % 1, here)
    assert client.receive()["data"] == 1
    assert two.do(said % 2, there) == 0
    assert client.silent()


def test_the_http_api_counts_the_clients_of_all_workers(two):
    clients = [two.connect(worker=pid) for pid in (*two.both, two.both[0])]
    for client in clients:
        client.subscribe("counted")
    three = {"name": "counted", "subscribers": 3, "type": "public"}
    two.agree("WebSocket.get_channel_stats('counted')", three, two.both)
    two.agree("'counted' in WebSocket.get_channels()", True, two.both)
    library = pusher.Pusher(app_id="1", key="app-key", secret="app-secret", ssl=False, host="127.0.0.1", port=two.port)
    answer = library.channel_info("counted", ["subscription_count"])
    assert (answer["occupied"], answer["subscription_count"]) == (True, 3)
    for client in clients:
        client.close()
    two.agree("WebSocket.get_channels().count('counted')", 0, two.both)


def test_an_app_takes_as_many_connections_as_it_may_on_all_workers_together(start):
    server = start(more="    limits: {connections: 6}\n")
    here, there = server.pids
    parts = {pid: server.connect(worker=pid).socket_id.split(".")[0] for pid in (here, there)}
    server.agree("WebSocket.app(1).connections.total", 2, (here, there))
    clients = [server.connect_pusher(parts[pid]) for pid in (here, here, here, there)]
    server.agree("WebSocket.app(1).connections.total", 6, (here, there))
    for _ in range(10):  # whichever worker they come to
        with PusherClient(server.port, greeted=False, timeout_s=PATIENCE_S) as refused:
            assert refused.closed().code == 4004
    clients.pop().close()
    server.agree("WebSocket.app(1).connections.total", 5, (here, there))
    server.connect_pusher(parts[here])
    os.kill(here, signal.SIGKILL)
    server.agree("WebSocket.app(1).connections.total", 1, (there,))


def test_what_one_user_and_one_address_may_have_holds_over_all_workers(start):
    server = start(options="max_connections_per_user: 6, max_connections_per_address: 10,")
    here, there = server.pids
    theirs = [server.connect("7") for _ in range(6)]
    server.agree("WebSocket.connections.connections_of('7')", 6, (here, there))
    for _ in range(10):  # whichever worker it comes to
        with pytest.raises(Refused, match="This user has too many"):
            server.connect("7")
    others = [server.connect(f"other-{number}") for number in range(4)]
    server.agree("WebSocket.connections.total", 10, (here, there))
    for _ in range(10):
        with pytest.raises(Refused, match="This address has too many"):
            server.connect("late")
    for client in (theirs.pop(), *others):
        client.close()
    server.agree("WebSocket.connections.connections_of('7')", 5, (here, there))
    os.kill(there, signal.SIGKILL)
    server.agree("WebSocket.connections.connections_of('7')", sum(one.pid == here for one in theirs), (here,))
    server.connect("7")


def test_a_publisher_that_drains_waits_for_the_other_workers_too(two):
    """Forty messages of a megabyte are more than a link holds; without the wait most of them would be dropped."""
    here, there = two.both
    client = two.connect(worker=there)
    client.subscribe("big")
    counts = "[WebSocket.relay.bus.dropped, WebSocket.get_stats()['bus_received']]"
    dropped, received = two.do(counts, here)[0], two.do(counts, there)[1]
    # Not for the client itself, which need not read so much: what matters is the way to its worker.
    push = f'WebSocket.to_channel("big").except_("{client.socket_id}").push({{"event": "n", "data": "x" * 1_000_000}})'
    assert two.do(f"[({push}, WebSocket.drain(timeout=60))[1] for n in range(40)]", here) == [True] * 40
    two.do('WebSocket.to_channel("big").push({"event": "last"})', here)
    assert client.receive()["event"] == "last"
    assert two.do(counts, there)[1] == received + 41
    assert two.do(counts, here)[0] == dropped


def test_the_statistics_count_a_user_on_two_workers_once(two):
    for pid in two.both:
        two.connect("twice", worker=pid)
    two.agree("len(WebSocket.connections.everywhere.users.get('twice', ()))", 2, two.both)
    stats = json.loads(run(script("alpha"), "websocket:stats", "--json", cwd=two.folder, **two.run_dir).stdout)
    online = two.do("len(WebSocket.connections.everywhere.users)")
    assert stats["users"] == online
    assert sum(worker["users"] for worker in stats["workers"]) > online


# Presence


def test_a_user_on_two_workers_comes_once_and_goes_once(two):
    here, there = two.both
    watchers = [two.connect(f"watcher-{pid}", worker=pid) for pid in two.both]
    watchers[0].subscribe("presence-one")
    wait_until(lambda: two.do("WebSocket.get_presence('presence-one')", there), PATIENCE_S)
    assert len(watchers[1].subscribe("presence-one")["data"]["members"]) == 2
    assert watchers[0].receive()["event"] == "member_added"

    first = two.connect("7", worker=here)
    assert [member["id"] for member in first.subscribe("presence-one")["data"]["members"]][-1] == "7"
    for watcher in watchers:
        event = watcher.receive()
        assert (event["event"], event["data"]["user"]) == ("member_added", {"id": "7", "info": {"name": "7"}})
    second = two.connect("7", worker=there)
    second.subscribe("presence-one")
    two.agree("len(WebSocket.connections.everywhere.members['presence-one']['7'])", 2, two.both)
    rosters = [two.do("WebSocket.get_presence('presence-one')", pid) for pid in two.both]
    assert rosters[0] == rosters[1]
    assert [member["id"] for member in rosters[0]] == [f"watcher-{here}", f"watcher-{there}", "7"]

    first.close()
    members = "len(WebSocket.connections.everywhere.members['presence-one']['7'])"
    two.agree(members, 1, two.both)
    assert all(watcher.silent() for watcher in watchers), "the user is still there"
    second.close()
    for watcher in watchers:
        event = watcher.receive()
        assert (event["event"], event["data"]["user"]["id"]) == ("member_removed", "7")
        assert watcher.silent()
    two.agree("len(WebSocket.get_presence('presence-one'))", 2, two.both)


def test_a_worker_that_is_killed_takes_its_members_out_and_another_takes_its_place(start):
    receiver = Receiver()
    try:
        server = start(workers=3, webhooks=receiver)
        pids = server.pids
        wait_until((server.folder / "ticks").exists, PATIENCE_S)
        leading = int((server.folder / "ticks").read_text().split()[0])
        watchers = [server.connect(f"watcher-{pid}", worker=pid) for pid in pids if pid != leading]
        gone = [server.connect(f"gone-{number}", worker=leading) for number in range(5)]
        stays = [server.connect("gone-0", worker=watchers[0].pid)]
        for client in (*watchers, *gone, *stays):
            client.subscribe("presence-room")
        living = [pid for pid in pids if pid != leading]
        server.agree("len(WebSocket.get_presence('presence-room'))", 7, pids)
        for watcher in watchers:
            watcher.send("ping")
            watcher.events("pong")
        wait_until(lambda: "channel_occupied" in {event["name"] for event in receiver.events}, PATIENCE_S)
        server.agree("len(WebSocket.siblings.webhooks.ledger)", 0, living)  # else it is told once more
        os.kill(leading, signal.SIGKILL)
        killed_at = time.monotonic()
        for watcher in watchers:
            removed = [watcher.receive() for _ in range(4)]
            assert {event["event"] for event in removed} == {"member_removed"}
            assert {event["data"]["user"]["id"] for event in removed} == {f"gone-{number}" for number in range(1, 5)}
        # Two seconds were asked for. The kernel tells at once; the rest is for a machine with other things to do.
        assert time.monotonic() - killed_at < 10
        assert all(watcher.silent() for watcher in watchers), "once each, and the user who is on another worker stays"

        wait_until(lambda: len(server.pids) == 3, PATIENCE_S)
        (new,) = set(server.pids) - set(living)
        assert "was ended by SIGKILL; starting another" in server.program.output
        roster = server.do("WebSocket.get_presence('presence-room')", living[0])
        server.agree("WebSocket.get_presence('presence-room')", roster, [*living, new])
        assert server.do("len(WebSocket.get_presence('presence-room'))", new) == 3
        wait_until(lambda: int((server.folder / "ticks").read_text().split()[-1]) != leading, PATIENCE_S)
        wait_until(lambda: len([e for e in receiver.events if e["name"] == "member_removed"]) == 4, PATIENCE_S)
        client = server.connect("late", worker=new)
        client.subscribe("presence-room")
        assert watchers[0].receive()["event"] == "member_added"
        server.program.stop(PATIENCE_S)
        told = [event["name"] for event in receiver.events if event["channel"] == "presence-room"]
        assert told.count("channel_occupied") == 1
    finally:
        receiver.stop()


def test_workers_meet_once_there_are_files_to_open_again(start):
    """One that was at its limit when another was started never heard of it again."""
    server = start(workers=2)
    full, dies = server.pids
    watcher = server.connect("watcher", worker=full)
    watcher.subscribe("presence-room")
    few = "(r := __import__('resource')).setrlimit(r.RLIMIT_NOFILE, (3, (hard := r.getrlimit(r.RLIMIT_NOFILE)[1])))"
    later = "__import__('gevent').spawn_later(4, r.setrlimit, r.RLIMIT_NOFILE, (hard, hard))"
    server.do(f"({few}, {later}) and None", full)
    os.kill(dies, signal.SIGKILL)
    wait_until(lambda: dies not in server.pids and len(server.pids) == 2, PATIENCE_S)
    (new,) = set(server.pids) - {full}
    late = server.connect("late", worker=new)
    late.subscribe("presence-room")
    server.agree("[member['id'] for member in WebSocket.get_presence('presence-room')]", ["watcher", "late"], [full, new])
    server.do('WebSocket.to_channel("presence-room").push({"event": "hello"})', full)
    assert late.receive()["event"] == "hello"


def test_nobody_waits_for_a_worker_that_ends_each_time_it_is_started(start):
    """The kernel gave it every second newcomer, who waited until it came up: minutes, or for ever."""
    server = start()
    stays, dies = server.pids
    code = (server.folder / "shop.py").read_text()
    (server.folder / "shop.py").write_text("import os\nos._exit(3)\n")
    os.kill(dies, signal.SIGKILL)
    server.program.wait_for("with exit code 3 before it had started", PATIENCE_S)
    for _ in range(20):
        client = server.connect()
        assert client.pid == stays
    (server.folder / "shop.py").write_text(code)
    wait_until(lambda: len(server.pids) == 2, PATIENCE_S)
    (new,) = set(server.pids) - {stays}
    assert server.connect(worker=new).subscribe("a")["event"] == "subscribed"
    assert server.program.stop(PATIENCE_S) == 0


# A worker that hangs


@pytest.fixture
def waking():
    """Process ids that go on when the test ends, however it does."""
    pids = []
    yield pids
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def test_members_of_a_worker_that_is_stopped_leave_and_come_back_once_when_it_goes_on(start, waking):
    server = start(options="worker_silence: 2, worker_timeout: null", workers=3)
    hung, *others = server.pids
    watchers = [server.connect(f"watcher-{pid}", worker=pid) for pid in others]
    theirs = [server.connect(f"theirs-{number}", worker=hung) for number in range(3)]
    both = server.connect("theirs-0", worker=others[0])
    for client in (*watchers, *theirs, both):
        client.subscribe("presence-room")
    everybody = [f"watcher-{pid}" for pid in others] + [f"theirs-{number}" for number in range(3)]
    ids = "sorted(member['id'] for member in WebSocket.get_presence('presence-room'))"
    server.agree(ids, sorted(everybody), server.pids)
    for client in (*watchers, *theirs):
        client.send("ping")
        client.events("pong")

    late = server.connect("late", worker=others[1])
    waking.append(hung)
    os.kill(hung, signal.SIGSTOP)
    for watcher in watchers:
        gone = [watcher.receive() for _ in range(2)]
        assert {event["event"] for event in gone} == {"member_removed"}
        assert {event["data"]["user"]["id"] for event in gone} == {"theirs-1", "theirs-2"}
    server.agree(ids, sorted({*everybody} - {"theirs-1", "theirs-2"}), others)
    server.do('WebSocket.to_channel("presence-room").push({"event": "meanwhile"})', others[0])
    late.subscribe("presence-room")
    for watcher in watchers:
        assert {watcher.receive()["event"] for _ in range(2)} == {"meanwhile", "member_added"}

    os.kill(hung, signal.SIGCONT)
    for watcher in watchers:
        back = [watcher.receive() for _ in range(2)]
        assert {event["event"] for event in back} == {"member_added"}
        assert {event["data"]["user"]["id"] for event in back} == {"theirs-1", "theirs-2"}
    for client in theirs:  # they have missed nothing, and for them nobody has left
        assert {client.receive()["event"] for _ in range(2)} == {"meanwhile", "member_added"}
    server.agree(ids, sorted([*everybody, "late"]), server.pids)
    assert all(client.silent() for client in (*watchers, *theirs))


def test_what_waits_for_a_worker_that_does_not_read_is_bounded_and_what_is_dropped_is_counted(start, waking):
    server = start(options="max_outbox: 33554432")
    here, hung = server.pids
    client = server.connect(worker=hung)
    client.subscribe("room")
    waking.append(hung)
    os.kill(hung, signal.SIGSTOP)
    push = '[WebSocket.to_channel("room").push({{"event": "n", "data": [n, "x" * 2**18]}}) for n in range({}, {})] and None'
    for start_at in range(0, 80, 8):  # 20 MiB; 16 may wait, and a little is the kernel's
        server.do(push.format(start_at, start_at + 8), here)
    dropped = server.do("WebSocket.get_stats()['bus_dropped']", here)
    assert 0 < dropped < 20
    assert "are lost: it does not read" in server.program.output
    os.kill(hung, signal.SIGCONT)
    assert [client.receive()["data"][0] for _ in range(80 - dropped)] == list(range(80 - dropped))
    server.do(push.format(99, 100), here)
    assert client.receive()["data"][0] == 99


def test_a_worker_whose_loop_is_blocked_is_ended_replaced_and_tells_where_it_stood(start):
    server = start(options="worker_silence: 1, worker_timeout: 3")
    here, there = server.pids
    client = server.connect("7", worker=there)
    client.subscribe("presence-room")
    server.agree("len(WebSocket.get_presence('presence-room'))", 1, [here])
    server.do("WebSocket.tasks.spawn(block_the_loop) and None", there)
    server.program.wait_for(f"Worker {there} has stood still", PATIENCE_S)
    assert client.closed().code is None
    client.close()
    server.program.wait_for("was ended by SIGABRT; starting another", PATIENCE_S)
    assert "Fatal Python error: Aborted" in server.program.output
    assert "in block_the_loop" in server.program.output
    wait_until(lambda: len(server.pids) == 2 and there not in server.pids, PATIENCE_S)
    server.agree("WebSocket.get_presence('presence-room')", [], server.pids)
    assert server.connect(worker=server.pids[1]).subscribe("a")["event"] == "subscribed"


def test_a_worker_that_is_stopped_for_good_is_replaced_and_its_webhooks_are_told(start):
    """It leads: the kernel keeps its lock, and the members that left meanwhile are told of by the one that leads next."""
    receiver = Receiver()
    try:
        server = start(options="worker_silence: 3, worker_timeout: 6", webhooks=receiver)
        wait_until(lambda: any(server.do("WebSocket.siblings.leader.leads", pid) for pid in server.pids), PATIENCE_S)
        (leading,) = [pid for pid in server.pids if server.do("WebSocket.siblings.leader.leads", pid)]
        (other,) = set(server.pids) - {leading}
        watcher, client = server.connect("watcher", worker=other), server.connect("7", worker=leading)
        watcher.subscribe("presence-room")
        client.subscribe("presence-room")
        assert watcher.receive()["event"] == "member_added"
        wait_until(lambda: [e["name"] for e in receiver.events].count("member_added") == 2, PATIENCE_S)
        server.agree("len(WebSocket.siblings.webhooks.ledger)", 0, [other])  # else it is told once more
        os.kill(leading, signal.SIGSTOP)
        assert watcher.receive()["event"] == "member_removed"
        server.program.wait_for("was ended by SIGKILL; starting another", PATIENCE_S)
        wait_until(lambda: [e for e in receiver.events if e["name"] == "member_removed"], PATIENCE_S)
        wait_until(lambda: len(server.pids) == 2 and leading not in server.pids, PATIENCE_S)
        assert watcher.silent()
        told = [(event["name"], event.get("user_id")) for event in receiver.events if "member" in event["name"]]
        assert sorted(told) == [("member_added", "7"), ("member_added", "watcher"), ("member_removed", "7")]
    finally:
        receiver.stop()


def test_a_server_that_was_stopped_as_a_whole_goes_on_with_all_of_its_workers(start, waking):
    server = start(options="worker_silence: 1, worker_timeout: 2")
    pids = server.pids
    client = server.connect("7", worker=pids[0])
    client.subscribe("presence-room")
    waking += [server.program.process.pid, *pids]
    for pid in waking:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(4.0)  # longer than either time
    for pid in waking:
        os.kill(pid, signal.SIGCONT)
    server.agree("len(WebSocket.get_presence('presence-room'))", 1, pids)
    count = "len(open('ticks').read().split())"
    before = server.do(count)
    wait_until(lambda: server.do(count) > before + 40, PATIENCE_S)  # four seconds of going on
    assert server.pids == pids
    assert "stood still" not in server.program.output


def test_worker_that_starts_later_knows_which_tokens_were_taken_back(start):
    server = start()
    first, second = server.pids
    server.do("WebSocket.revoke('stolen')", first)
    server.agree("'stolen' in WebSocket.reauthorization.revocations", True, [first, second])
    server.do("WebSocket.siblings.leader.stop()", second)  # who leads may just have ended when another one comes
    for gone in (first, second):
        os.kill(gone, signal.SIGKILL)
        wait_until(lambda: len(server.pids) == 2 and gone not in server.pids, PATIENCE_S)  # noqa: B023
    for worker in server.pids:
        assert server.do("'stolen' in WebSocket.reauthorization.revocations", worker) is True
    with pytest.raises(Refused):
        Client(server.port, headers=bearer("7", jti="stolen"), timeout_s=PATIENCE_S)


FORKS = """
def fork_a_child():
    if os.fork() == 0:
        monkey.get_original("time", "sleep")(600)
"""


def test_timers_are_taken_over_from_a_worker_whose_children_live_on(start):
    """multiprocessing forks: what its children inherited must not keep the lead, which nobody had then."""
    server = start(app=FORKS)
    ticks = server.folder / "ticks"
    wait_until(lambda: ticks.exists() and ticks.read_text(), PATIENCE_S)
    leading = int(ticks.read_text().split()[-1])
    # Not in the greenlet of the question: its child would have the connection that the answer ends with.
    server.do("__import__('gevent').spawn_later(0.2, fork_a_child) and None", leading)
    wait_until(Path(f"/proc/{leading}/task/{leading}/children").read_text, PATIENCE_S)
    os.kill(leading, signal.SIGKILL)
    wait_until(lambda: int(ticks.read_text().split()[-1]) != leading, PATIENCE_S / 2, "another that runs the timers")


def test_timers_run_on_one_worker(two):
    wait_until((two.folder / "ticks").exists, PATIENCE_S)
    wait_until(lambda: len((two.folder / "ticks").read_text().split()) > 10, PATIENCE_S)
    assert len(set((two.folder / "ticks").read_text().split())) == 1


# Signals


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR2])
def test_a_rolling_restart_brings_new_workers_with_new_code_and_refuses_nobody(start, number):
    server = start()
    old = server.pids
    client = server.connect("7")
    client.subscribe("presence-room")
    server.do('WebSocket.to_channel("cache-news").push({"event": "last", "data": 5})')
    # Of another size: two files of one size and one second are the same to Python's cache of compiled modules.
    (server.folder / "shop.py").write_text(APP.replace("VERSION = 1", "VERSION = 1000"))
    server.program.process.send_signal(number)

    def done():
        # Nobody is refused or reset; who comes to an old worker just before it drains is told to come back.
        with Client(server.port, timeout_s=PATIENCE_S) as another:
            try:
                another.subscribe("a")
            except Closed as closed:
                assert closed.code == 4200, closed
        return server.do("VERSION") == 1000 and "The new workers accept" in server.program.output

    wait_until(done, PATIENCE_S)
    assert client.closed().code == 4200
    client.close()
    wait_until(lambda: len(server.pids) == 2 and not set(server.pids) & set(old), PATIENCE_S)
    assert [server.do("VERSION", pid) for pid in server.pids] == [1000, 1000]
    late = server.connect()
    late.subscribe("cache-news")
    assert late.receive()["data"] == 5, "the new workers have been told what the old ones had kept"
    assert server.program.stop(PATIENCE_S) == 0


def test_who_publishes_over_one_http_connection_does_not_notice_a_rolling_restart(start):
    """A worker that drains still reaches the others, and asks its publisher to come back, after the answer."""
    server = start()
    old = server.pids
    silent = [server.connect(worker=pid) for pid in old]  # they do not answer to the goodbye, so that the draining lasts
    api = pusher.Pusher(app_id="1", key="app-key", secret="app-secret", host="127.0.0.1", port=server.port, ssl=False)
    api.trigger("news", "n", {"n": 0})
    server.program.process.send_signal(signal.SIGHUP)
    server.program.wait_for("are handed over", PATIENCE_S)
    client = server.connect()
    client.subscribe("news")
    assert client.pid not in old
    api.trigger("news", "n", {"n": 1})
    assert client.receive()["data"] == {"n": 1}
    for pid, there in zip(old, silent, strict=True):
        os.kill(pid, 0)  # it was there all the time
        assert there.closed().code == 4200


def test_a_rolling_restart_that_cannot_be_leaves_the_old_workers_as_they_are(start):
    server = start()
    old = server.pids
    client = server.connect()
    (server.folder / "shop.py").write_text("1 / 0\n")
    server.program.process.send_signal(signal.SIGHUP)
    server.program.wait_for("The old workers go on", PATIENCE_S)
    assert "ZeroDivisionError" in server.program.output
    assert server.pids == old
    assert client.subscribe("a")["event"] == "subscribed"


ONE_FAILS = """
import time
if os.path.exists("first"):
    while not os.path.exists("go"):
        time.sleep(0.1)
    os._exit(3)
open("first", "w").close()
"""


def test_clients_of_a_new_worker_are_handed_over_where_another_one_cannot_start(start):
    """It accepts as soon as it is up, and was killed with whom it had when the rest of its set could not come up."""
    server = start()
    old = server.pids
    (server.folder / "shop.py").write_text(APP + ONE_FAILS)
    server.program.process.send_signal(signal.SIGHUP)
    new = wait_until(lambda: set(server.pids) - set(old), PATIENCE_S)
    client = server.connect(worker=new.pop())
    (server.folder / "go").touch()
    server.program.wait_for("The old workers go on", PATIENCE_S)
    assert client.closed().code == 4200
    wait_until(lambda: server.pids == old, PATIENCE_S)
    assert server.program.stop(PATIENCE_S) == 0


def test_sigterm_drains_all_workers_and_leaves_nothing_behind(start):
    server = start()
    meeting = server.folder / f"run/workers-{server.program.process.pid}"
    assert meeting.stat().st_mode & 0o777 == 0o700
    clients = [server.connect(worker=pid) for pid in server.pids]
    server.program.process.terminate()
    assert [client.closed().code for client in clients] == [4200, 4200]
    for client in clients:
        client.close()
    assert server.program.wait(PATIENCE_S) == 0
    assert not meeting.exists()
    assert "Traceback" not in server.program.output
    assert "Warning" not in server.program.output, server.program.output


def test_a_second_sigterm_ends_all_workers_at_once(start, monkeypatch):
    monkeypatch.setattr(several_workers, "CONFIG", several_workers.CONFIG.replace("drain_timeout: 5", "drain_timeout: 120"))
    server = start()
    silent = [server.connect(worker=pid) for pid in server.pids]  # they do not answer to the goodbye
    pids = server.pids
    server.program.process.terminate()
    server.program.wait_for("are handed over", PATIENCE_S)
    server.program.process.terminate()
    assert server.program.wait(PATIENCE_S) == 1
    assert not any(os.path.exists(f"/proc/{pid}") for pid in pids)
    assert len(silent) == 2


def test_workers_drain_and_end_when_their_parent_is_killed(start):
    server = start()
    client, pids = server.connect(), server.pids
    server.program.process.kill()
    assert client.closed().code == 4200
    client.close()
    for pid in pids:
        wait_until(lambda pid=pid: not os.path.exists(f"/proc/{pid}"), PATIENCE_S)


# Starting


@pytest.mark.parametrize(
    ("app", "words"),
    [("import nothing_like_this\n", "No module named 'nothing_like_this'"), ("1 / 0\n", "ZeroDivisionError")],
)
def test_workers_that_cannot_start_say_why_and_end_with_an_error(tmp_path, app, words):
    (tmp_path / "bad.py").write_text(app)
    options = ["--app", "bad", "--host", "127.0.0.1", "--port", "0", "--workers", "2"]
    result = run(script("alpha"), "websocket:serve", *options, cwd=tmp_path)
    assert result.returncode == 1
    assert result.stderr.count(words) == 1, result.stderr


def test_a_port_in_use_is_one_clear_line_also_where_another_server_shares_its_port(tmp_path):
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        options = ["--host", "127.0.0.1", "--port", str(port), "--workers", "2"]
        result = run(script("alpha"), "websocket:serve", *options, cwd=tmp_path)
    assert result.returncode == 1
    assert result.stderr == f"Error: Port {port} of 127.0.0.1 is in use. Stop what uses it, or choose another with --port.\n"


def test_a_daemon_is_the_parent(tmp_path):
    options = ["websocket:serve", "--host", "127.0.0.1", "--port", "0", "--workers", "2", "--daemon"]
    result = run(script("alpha"), *options, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    pid_file = tmp_path / "alphavel-websocket.pid"
    pid = int(pid_file.read_text())
    try:
        assert "2 (processes" in result.stdout
        assert f"{pid}," not in result.stdout
        again = run(script("alpha"), *options, cwd=tmp_path)
        assert again.returncode == 1
        assert f"running already, process {pid}" in again.stderr
    finally:
        os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not pid_file.exists(), PATIENCE_S)
