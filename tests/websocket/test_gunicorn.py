"""Workers of one gunicorn arbiter, which are one server without anything else running."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import urllib.request

import pytest

from tests.support import wait_until
from tests.websocket.several_workers import APP, PATIENCE_S, Server

OURS = ["-k", "egg:alphavel#geventwebsocket"]
STOCK = ["-k", "geventwebsocket.gunicorn.workers.GeventWebSocketWorker"]


@pytest.fixture
def start(tmp_path):
    started = []

    def start_one(*options, **more):
        started.append(Server(tmp_path, gunicorn=options or OURS, **more))
        return started[-1]

    yield start_one
    for server in started:
        server.close()


def speak_to_each_other(server, pids):
    """A push, a user and a roster reach across."""
    clients = [server.connect(f"user-{pid}", worker=pid) for pid in pids]
    for client in clients:
        client.subscribe("presence-room")
    server.agree("len(WebSocket.get_presence('presence-room'))", len(pids), pids)
    for client in clients:
        client.send("ping")
        client.events("pong")  # member_added of the others came before it, or comes now
    server.do('WebSocket.to_channel("presence-room").push({"event": "n"})', pids[0])
    for client in clients:
        client.events("n")
    server.do(f'WebSocket.to_user("user-{pids[-1]}").push({{"event": "yours"}})', pids[0])
    clients[-1].events("yours")
    return clients


def test_gunicorns_workers_are_one_server(start):
    server = start(workers=3)
    assert server.program.process.pid not in server.pids
    meeting = server.folder / f"run/workers-{server.program.process.pid}"
    assert meeting.stat().st_mode & 0o777 == 0o700
    clients = speak_to_each_other(server, server.pids)
    wait_until((server.folder / "ticks").exists, PATIENCE_S)
    wait_until(lambda: len((server.folder / "ticks").read_text().split()) > 10, PATIENCE_S)
    assert len(set((server.folder / "ticks").read_text().split())) == 1, "timers run on one worker"
    server.program.process.terminate()
    assert [client.closed().code for client in clients] == [4200] * 3
    for client in clients:
        client.close()
    assert server.program.wait(PATIENCE_S) == 0
    assert not meeting.exists()
    assert "Traceback" not in server.program.output
    assert "Warning" not in server.program.output, server.program.output


def test_gunicorns_workers_have_about_as_many_connections_each(start):
    """They share a socket, and the kernel often wakes the same one first: who has more lets the others accept."""
    server = start(workers=4)
    pids = server.pids
    full = server.connect(worker=pids[0])
    for _ in range(4):
        server.connect(worker=full.pid)
    for number in range(5, 100):
        server.connect()
        if number % 10 == 0:
            server.agree("WebSocket.connections.total", number + 1, pids)
    server.agree("WebSocket.connections.total", 100, pids)
    counts = {pid: server.do("len(WebSocket.connections.connections)", pid) for pid in pids}
    assert sum(counts.values()) == 100
    assert min(counts.values()) >= 8, counts  # 25 but for a machine so busy that the others do not wake in time
    for pid, count in counts.items():
        assert server.do("WebSocket.has_more_than_its_share", pid) == (count >= 26), counts


def test_a_worker_of_gunicorn_that_is_killed_takes_its_members_out(start):
    server = start()
    here, there = server.pids
    watcher, gone = speak_to_each_other(server, [here, there])
    os.kill(there, signal.SIGKILL)
    event = watcher.events("member_removed")[-1]
    assert event["data"]["user"]["id"] == f"user-{there}"
    gone.close()
    wait_until(lambda: len(server.pids) == 2 and there not in server.pids, PATIENCE_S)
    (new,) = set(server.pids) - {here}
    server.agree("len(WebSocket.get_presence('presence-room'))", 1, [here, new])
    assert watcher.silent()


def test_gunicorns_reload_hands_everybody_to_new_workers_with_new_code(start):
    server = start()
    old = server.pids
    client = server.connect("7")
    client.subscribe("presence-room")
    (server.folder / "shop.py").write_text(APP.replace("VERSION = 1", "VERSION = 1000"))
    server.program.process.send_signal(signal.SIGHUP)
    assert client.closed().code == 4200
    client.close()

    def new():
        pids = server.pids
        return pids if len(pids) == 2 and not set(pids) & set(old) else None

    pids = wait_until(new, PATIENCE_S)
    assert [server.do("VERSION", pid) for pid in pids] == [1000, 1000]
    speak_to_each_other(server, pids)
    assert server.program.stop(PATIENCE_S) == 0


def test_a_worker_that_has_served_its_max_requests_hands_over_to_another(start):
    server = start(*OURS, "--max-requests", "20", workers=1)
    old = server.pids
    client = server.connect("7")
    for _ in range(30):  # those that the old one does not take wait for the new one
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/health", timeout=PATIENCE_S) as answer:
            assert answer.status == 200
    assert client.closed().code == 4200
    assert "Autorestarting worker" in server.program.output
    wait_until(lambda: len(server.pids) == 1 and server.pids != old, PATIENCE_S)


class StockServer(Server):
    """Stock workers do not answer `websocket:stats`, and start with their first request: many at once, for each to get one."""

    @property
    def pids(self):
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            address = ("127.0.0.1", self.port)
            requests = [stack.enter_context(socket.create_connection(address, PATIENCE_S)) for _ in range(20)]
            for request in requests:
                request.sendall(b"GET /hello HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            for request in requests:
                request.recv(1000)
        started = [int(place.name[3:]) for place in self.folder.glob("do-*")]
        return sorted(pid for pid in started if os.path.exists(f"/proc/{pid}"))


@pytest.mark.parametrize("preloaded", [[], ["--preload"]])
def test_the_stock_workers_are_one_server_too_from_their_first_request_on(tmp_path, preloaded):
    server = StockServer(tmp_path, gunicorn=[*STOCK, *preloaded])
    try:
        here, there = server.pids
        watcher, gone = speak_to_each_other(server, [here, there])
        assert watcher.socket_id.split(".")[0] != gone.socket_id.split(".")[0]
        os.kill(there, signal.SIGKILL)
        event = watcher.events("member_removed")[-1]
        assert event["data"]["user"]["id"] == f"user-{there}"
        wait_until(lambda: len(server.pids) == 2, PATIENCE_S)
        server.agree("len(WebSocket.get_presence('presence-room'))", 1, server.pids)
        assert "Traceback" not in server.program.output
    finally:
        server.close()
