"""
Webhooks of several workers whose leader ends before it has told what it has to tell, and of servers that start without Redis:
processes of their own, on one machine or with a real Redis between them.
"""

from __future__ import annotations

import os
import signal
import time
from types import SimpleNamespace

import pytest

from tests.redis_server import running_redis
from tests.support import wait_until
from tests.websocket.receiver import Receiver
from tests.websocket.several_workers import PATIENCE_S, Server

ROOM = "presence-room"
LEADS = "WebSocket.siblings.leader.leads"
REDIS = 'broadcasting: {{driver: redis, redis: {{url: "{url}", prefix: "{prefix}:", lease: 2, timeout: 1}}}}\n'


@pytest.fixture(scope="module")
def redis():
    with running_redis() as server:
        yield server


@pytest.fixture(params=["memory", "redis"])
def server(request, tmp_path, receiver):
    """A server of three workers with a room that its `watcher` is on, of which webhooks have been told."""
    more = ""
    if request.param == "redis":
        more = REDIS.format(url=request.getfixturevalue("redis").url, prefix=tmp_path.name)
    server = Server(tmp_path, workers=3, webhooks=receiver, more=more)
    server.leading, *server.others = leader_first(server)
    server.watcher = join(server, "watcher", server.others[0])
    wait_until(lambda: told(receiver, "watcher") == ["member_added"], PATIENCE_S)
    yield server
    server.close()


def leader_first(server):
    wait_until(lambda: any(server.do(LEADS, pid) for pid in server.pids), PATIENCE_S, "one that leads")
    return sorted(server.pids, key=lambda pid: not server.do(LEADS, pid))


def join(server, user, worker=None):
    client = server.connect(user, worker)
    client.subscribe(ROOM)
    return client


def told(receiver, user):
    """What the receiver has taken about a user."""
    return [event["name"] for event in receiver.taken if event.get("user_id") == user]


def end(server, pid, how):
    """End a worker, and wait until another is in its place."""
    os.kill(pid, how)
    wait_until(lambda: pid not in server.pids and len(server.pids) == 3, PATIENCE_S, f"a new worker of {server.program.output}")


def seen(server, event, user):
    got = server.watcher.receive()
    assert (got["event"], got["data"]["user"]["id"]) == (event, user)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_what_a_receiver_refuses_until_the_leader_has_ended_the_next_one_tells(server, receiver, how):
    leaving = join(server, "leaving", server.others[1])
    wait_until(lambda: told(receiver, "leaving") == ["member_added"], PATIENCE_S)
    receiver.refuses = True
    staying = join(server, "staying", server.others[1])
    brief = join(server, "brief", server.others[1])
    for user in ("leaving", "staying", "brief"):
        seen(server, "member_added", user)
    brief.close()
    leaving.close()
    wait_until(lambda: any("staying" in str(each.events) for each in receiver.deliveries), PATIENCE_S, "an attempt")
    server.agree(f"[member['id'] for member in WebSocket.get_presence('{ROOM}')]", ["watcher", "staying"], server.pids)
    time.sleep(3.5)  # the leader holds nothing back any more
    end(server, server.leading, how)
    assert told(receiver, "staying") == []
    receiver.refuses = False
    wait_until(lambda: told(receiver, "staying") == ["member_added"], PATIENCE_S, "who came")
    wait_until(lambda: told(receiver, "leaving") == ["member_added", "member_removed"], PATIENCE_S, "who left")
    wait_until(lambda: told(receiver, "brief") == ["member_added", "member_removed"], PATIENCE_S, "who came and left")
    server.agree("len(WebSocket.siblings.webhooks.ledger)", 0, server.pids)
    staying.close()
    wait_until(lambda: told(receiver, "staying") == ["member_added", "member_removed"], PATIENCE_S)
    assert [event["name"] for event in receiver.taken if event["name"].startswith("channel")] == ["channel_occupied"]
    assert told(receiver, "watcher") == ["member_added"]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_what_a_leader_holds_back_when_it_ends_is_told_once(server, receiver, how):
    leaving = join(server, "leaving", server.others[1])
    back = join(server, "back", server.others[1])
    wait_until(lambda: told(receiver, "back") == ["member_added"], PATIENCE_S)
    seen(server, "member_added", "leaving")
    seen(server, "member_added", "back")
    back.close()
    seen(server, "member_removed", "back")
    back = join(server, "back", server.others[1])
    leaving.close()
    seen(server, "member_added", "back")
    seen(server, "member_removed", "leaving")
    wait_until(lambda: server.do("WebSocket.webhooks.waiting", server.leading) == 1, 3.0, "the leader to hold it back")
    end(server, server.leading, how)
    wait_until(lambda: told(receiver, "leaving") == ["member_added", "member_removed"], PATIENCE_S)
    server.agree("len(WebSocket.siblings.webhooks.ledger)", 0, server.pids)
    assert told(receiver, "back") == ["member_added"]
    assert told(receiver, "leaving") == ["member_added", "member_removed"]


def test_a_newcomer_that_leads_next_tells_what_was_untold_when_it_came(server, receiver):
    receiver.refuses = True
    staying = join(server, "staying", server.others[0])
    wait_until(lambda: any("staying" in str(each.events) for each in receiver.deliveries), PATIENCE_S, "an attempt")
    end(server, server.others[1], signal.SIGKILL)
    (newcomer,) = set(server.pids) - {server.leading, *server.others}
    server.agree("len(WebSocket.siblings.webhooks.ledger) > 0", True, [newcomer])
    server.do("setattr(WebSocket.siblings.leader, '_not_before', 1e99)", staying.pid)  # who was there does not want to
    end(server, server.leading, signal.SIGKILL)
    wait_until(lambda: any(server.do(LEADS, pid) for pid in server.pids), PATIENCE_S, "that one of the newcomers leads")
    receiver.refuses = False
    wait_until(lambda: told(receiver, "staying") == ["member_added"], PATIENCE_S, "who came")


@pytest.mark.parametrize("server", ["redis"], indirect=True)
def test_who_leads_next_tells_of_those_whose_worker_it_never_met(server, receiver):
    join(server, "leaving", server.others[1])
    seen(server, "member_added", "leaving")
    wait_until(lambda: told(receiver, "leaving") == ["member_added"], PATIENCE_S)
    server.do("setattr(WebSocket.siblings.leader, '_not_before', 1e99)", server.others[0])  # who was there does not want to
    for pid in (server.leading, server.others[1]):
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: told(receiver, "leaving") == ["member_added", "member_removed"], PATIENCE_S)
    server.agree("len(WebSocket.siblings.webhooks.ledger)", 0, server.pids)
    assert told(receiver, "watcher") == ["member_added"]


def test_what_one_of_two_receivers_refuses_is_kept_and_neither_is_told_what_it_does_not_want(tmp_path, receiver):
    other = Receiver()
    both = SimpleNamespace(url=f'{receiver.url}"}}, {{url: "{other.url}", events: [member_removed]}}, {{url: "{other.url}/2')
    server = Server(tmp_path, workers=2, webhooks=both)
    try:
        server.leading, *server.others = leader_first(server)
        server.watcher = join(server, "watcher", server.others[0])
        other.refuses = True
        leaving = join(server, "leaving", server.others[0])
        seen(server, "member_added", "leaving")
        leaving.close()
        wait_until(lambda: told(receiver, "leaving") == ["member_added", "member_removed"], PATIENCE_S)
        wait_until(lambda: len(other.deliveries) > 1, PATIENCE_S, "an attempt")
        os.kill(server.leading, signal.SIGKILL)
        wait_until(lambda: server.do(LEADS, server.others[0]), PATIENCE_S, "the next one")
        other.refuses = False
        wait_until(lambda: "member_removed" in told(other, "leaving"), PATIENCE_S)
        server.agree("len(WebSocket.siblings.webhooks.ledger)", 0, server.pids)
        assert told(receiver, "leaving")[:2] == ["member_added", "member_removed"]
        of_first = [each.events for each in other.deliveries if each.path == "/webhooks"]
        assert {event["name"] for events in of_first for event in events} == {"member_removed"}
    finally:
        server.close()
        other.stop()


@pytest.mark.parametrize("server", ["redis"], indirect=True)
def test_a_leader_that_stood_still_tells_nothing_that_is_not_so_any_more(server, receiver):
    leaving = join(server, "leaving", server.others[1])
    seen(server, "member_added", "leaving")
    wait_until(lambda: told(receiver, "leaving") == ["member_added"], PATIENCE_S)
    back = server.connect("leaving", server.others[0])  # now: later it might be accepted by the one that stands still
    leaving.close()
    seen(server, "member_removed", "leaving")
    wait_until(lambda: server.do("WebSocket.webhooks.waiting", server.leading) == 1, 3.0, "the leader to hold it back")
    os.kill(server.leading, signal.SIGSTOP)
    try:
        wait_until(lambda: any(server.do(LEADS, pid) for pid in server.others), PATIENCE_S, "the next one")
        wait_until(lambda: told(receiver, "leaving") == ["member_added", "member_removed"], PATIENCE_S)
        back.subscribe(ROOM)
        wait_until(lambda: told(receiver, "leaving")[2:] == ["member_added"], PATIENCE_S)
    finally:
        os.kill(server.leading, signal.SIGCONT)
    server.agree("len(WebSocket.siblings.bus.membership.nodes)", 2, server.pids)
    server.agree("len(WebSocket.siblings.webhooks.ledger)", 0, server.pids)
    wait_until(lambda: server.do("WebSocket.webhooks.waiting", server.leading) == 0, PATIENCE_S)
    assert told(receiver, "leaving")[2:] == ["member_added"]


def test_servers_that_start_while_redis_is_away_tell_what_happened_to_each_before(tmp_path, receiver):
    with running_redis() as redis:
        redis.stop()
        more, servers, clients = REDIS.format(url=redis.url, prefix=tmp_path.name), [], []
        try:
            for number in range(3):
                folder = tmp_path / f"server-{number}"
                folder.mkdir()
                servers.append(Server(folder, workers=1, webhooks=receiver, more=more))
            for number, server in enumerate(servers):
                clients += [server.connect(f"stays-{number}"), server.connect(f"leaves-{number}"), server.connect("all")]
                for client in clients[-3:]:
                    client.subscribe(ROOM)
                clients[-1].subscribe(f"channel-{number}")
                clients[-2].close()
            redis.start()
            came_and_left = ["member_added", "member_removed"]
            for number in range(3):
                wait_until(lambda n=number: told(receiver, f"stays-{n}") == ["member_added"], PATIENCE_S, f"who is on {number}")
                wait_until(lambda n=number: told(receiver, f"leaves-{n}") == came_and_left, PATIENCE_S, f"who left {number}")
            occupied = [event["channel"] for event in receiver.taken if event["name"] == "channel_occupied"]
            assert sorted(occupied) == ["channel-0", "channel-1", "channel-2", ROOM]
            assert told(receiver, "all") == ["member_added"]
            for server in servers:
                server.agree("len(WebSocket.siblings.webhooks.ledger)", 0, [None])
        finally:
            for server in servers:
                server.close()
