"""A restart that keeps every socket: a new process of the server goes on with what the old one had."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import threading
import urllib.request

import gevent
import pytest

from alphavel.websocket.frames import Opcode, frame
from alphavel.websocket.frames.parser import Parser
from alphavel.websocket.handover import giving
from alphavel.websocket.handover.pipe import HandoverError, Pipe
from tests.support import Program, free_port, run, script, wait_until
from tests.websocket.clients import MASK, Client, Closed
from tests.websocket.conftest import SECRET
from tests.websocket.pusher import PusherClient, succeeded
from tests.websocket.test_event_stream import Stream
from tests.websocket.tokens import bearer

APP = """
import os
import time
from datetime import date
from uuid import UUID
from flask import Flask, request
from alphavel.websocket import WebSocket, blueprint

VERSION = 1
app = Flask(__name__)
app.register_blueprint(blueprint)

@app.post("/do")
def do():
    return {"result": eval(request.get_data(as_text=True))}

@app.get("/slow")
def slow():
    time.sleep(1.0)
    return {"queued": WebSocket.to_channel("news").push({"event": "late", "data": VERSION})}

@WebSocket.channel("presence-{room}")
def room(user, room):
    return {"name": user.id}

@WebSocket.event("remember")
def remember(connection, data):
    connection.state["said"] = data

@WebSocket.event("recall")
def recall(connection):
    connection.send({"event": "recalled", "data": [connection.state.get("said"), VERSION]})

@WebSocket.event("sleep")
def sleep(connection):
    time.sleep(1.0)
    connection.send({"event": "slept", "data": VERSION})

@WebSocket.event("keep")
def keep(connection, data):
    connection.state["kept"] = {"lock": object(), "date": date(2026, 1, 1), "pair": (1, 2), "id": UUID(int=1)}[data]

@WebSocket.on("close")
def closed(connection, code):
    with open("closed", "a") as file:
        file.write(f"{VERSION} {code}\\n")

@WebSocket.route("/echo", auth=False)
def echo(connection, message):
    connection.send(message)

@WebSocket.every(0.05)
def tick():
    with open("ticks", "a") as ticks:
        ticks.write(f"{VERSION}\\n")
"""

CONFIG = """
auth: {anonymous: true}
# As much may wait as is pushed while nobody reads: on a machine that does little else that is much.
options: {drain_timeout: 5, compression: {enabled: true}, max_outbox: 64 MiB}
apps: [{id: 1, key: app-key, secret: app-secret, client_events: true}]
channels: {"chat.*": {history: {size: 1000}}, "numbers": {history: {size: 100000}}, "ticks": {delta: true}}
"""


class Server:
    """`alpha websocket:serve` with an application of the tests, and its successors."""

    def __init__(self, folder, *options):
        (folder / "shop.py").write_text(APP)
        (folder / "config").mkdir()
        (folder / "config/websocket.yaml").write_text(CONFIG)
        self.folder, self.port = folder, free_port()
        self.environment = {"ALPHAVEL_RUN_DIR": str(folder / "run"), "ALPHAVEL_JWT_SECRET": SECRET}
        self.program = Program(
            script("alpha"), "websocket:serve", "--app", "shop:app", "--host", "127.0.0.1", "--port", str(self.port), *options,
            cwd=folder, **self.environment,
        )  # fmt: skip
        self.stack = contextlib.ExitStack()

    def connect(self, *arguments, kind=Client, **options):
        return self.stack.enter_context(kind(self.port, *arguments, **options))

    def do(self, code):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/do", code.encode(), timeout=60) as response:
            return json.loads(response.read())["result"]

    def write_version(self, number):
        (self.folder / "shop.py").write_text(APP.replace("VERSION = 1", f"VERSION = {number}"))

    def reload(self):
        return run(script("alpha"), "websocket:reload", cwd=self.folder, **self.environment)

    def upgrade(self):
        """Reload to version 2; return what the command said."""
        self.write_version(2)
        done = self.reload()
        assert done.returncode == 0, done.stderr + self.program.output
        assert self.do("VERSION") == 2
        return done.stdout

    def lines(self, name):
        path = self.folder / name
        return path.read_text().splitlines() if path.exists() else []

    def close(self):
        self.stack.close()
        self.program.__exit__()


@pytest.fixture
def start(tmp_path):
    started = []

    def start_one(*options):
        started.append(Server(tmp_path, *options))
        started[-1].program.wait_for("auth  ")
        return started[-1]

    yield start_one
    for server in started:
        server.close()


def push(server, event, channel="news"):
    return server.do(f"WebSocket.to_channel({channel!r}).push({event!r})")


def test_every_kind_of_client_goes_on_where_it_was(start):
    server = start()
    native, member = server.connect("/", bearer("7")), server.connect("/", bearer("8"))
    pusher, raw = server.connect(kind=PusherClient), server.connect("/echo")
    stream = Stream(server.port, "news,chat.1")
    server.stack.callback(stream.close)
    stream.opened("news", "chat.1")
    for client in (native, member):
        client.subscribe("presence-room")
    assert native.receive()["event"] == "member_added"
    native.subscribe("news")
    pusher.sign_in("u1", watchlist=["8", "9"])
    assert pusher.receive()["event"] == "pusher_internal:watchlist_events"
    assert pusher.join("news") == succeeded("news")
    native.send("remember", {"a": 1})
    native.send("ping")
    assert native.receive()["event"] == "pong"
    roster = server.do("WebSocket.get_presence('presence-room')")
    half = frame(Opcode.TEXT, b'{"event":"ping"}', mask=MASK)
    member.raw(half[:7])
    long = "€" * 50_000
    whole = frame(Opcode.TEXT, long.encode(), mask=MASK)
    raw.raw(whole[:100_001])

    said = server.upgrade()
    assert re.fullmatch(r"Process \d+ goes on with 5 connections\.\n", said)

    member.raw(half[7:])
    assert member.receive()["event"] == "pong"
    raw.raw(whole[100_001:])
    assert raw.receive_frame()[1].decode() == long
    native.send("recall")
    assert native.receive() == {"event": "recalled", "data": [{"a": 1}, 2]}
    assert push(server, {"event": "m", "data": 1}) == 3
    assert [client.receive()["data"] for client in (native, pusher, stream)] == [1, 1, 1]
    assert server.do("WebSocket.get_presence('presence-room')") == roster
    assert server.do("WebSocket.to_user('u1').push({'event': 'mine'})") == 1
    assert pusher.receive()["event"] == "mine"
    member.close()
    assert native.receive()["event"] == "member_removed"
    assert pusher.receive()["data"] == {"events": [{"name": "offline", "user_ids": ["8"]}]}
    wait_until(lambda: server.lines("closed") == ["2 1006"])  # nobody was closed by the old one
    assert "Traceback" not in server.program.output


def test_nothing_is_lost_or_doubled_while_one_publishes_flat_out(start):
    server = start()
    clients = [server.connect() for _ in range(50)]
    positions = [client.send("subscribe", {"channel": "numbers"}) or client.receive()["data"] for client in clients]
    slow = server.connect(receive_buffer=4096)
    slow.subscribe("numbers")
    count, stop = 0, threading.Event()

    def publish():
        nonlocal count
        while not stop.is_set():
            event = "{'event': 'n', 'data': n, 'more': 'x' * 500}"
            server.do(f"[WebSocket.to_channel('numbers').push({event}) for n in range({count}, {count + 20})]")
            count += 20

    publisher = gevent.spawn(publish)
    wait_until(lambda: count >= 400)
    server.upgrade()
    reached = count
    wait_until(lambda: count >= reached + 400)
    stop.set()
    publisher.get()
    for client in (*clients, slow):
        events = [client.receive() for _ in range(count)]
        assert [event["data"] for event in events] == list(range(count))
        assert [event["serial"] for event in events] == list(range(1, count + 1))
        assert client.silent(0.05)
    assert len({position["epoch"] for position in positions}) == 1
    back = server.connect()
    back.send("subscribe", {"channel": "numbers", "recover": positions[0] | {"serial": count - 3}})
    assert back.receive()["recovered"] is True
    assert [back.receive()["data"] for _ in range(3)] == [count - 3, count - 2, count - 1]


def test_who_follows_by_deltas_gets_a_whole_message_first(start):
    server = start()
    follower = server.connect("/?delta=true")
    follower.send("subscribe", {"channel": "ticks"})
    assert follower.receive()["data"] == {"delta": True}
    told = [{"pair": "EURUSD", "bid": bid} for bid in range(4)]
    for data in told[:2]:
        push(server, {"event": "tick", "data": data}, "ticks")
    server.upgrade()
    for data in told[2:]:
        push(server, {"event": "tick", "data": data}, "ticks")
    came = [follower.receive() for _ in told]
    assert [(event.get("data"), event.get("delta")) for event in came] == [
        (told[0], None), (None, {"bid": 1}), (told[2], None), (None, {"bid": 3})
    ]  # fmt: skip


def test_who_connects_meanwhile_waits_and_is_not_refused(start):
    server = start()
    stop, connected = threading.Event(), 0

    def connect():
        nonlocal connected
        while not stop.is_set():
            with Client(server.port, timeout_s=60) as client:
                client.send("ping")
                assert client.receive()["event"] == "pong"
                connected += 1

    connecting = [gevent.spawn(connect) for _ in range(4)]
    wait_until(lambda: connected > 20)
    server.upgrade()
    reached = connected
    wait_until(lambda: connected > reached + 20)
    stop.set()
    gevent.joinall(connecting, raise_error=True)


def test_new_code_that_cannot_start_changes_nothing(start):
    server = start()
    client = server.connect()
    client.subscribe("news")
    (server.folder / "shop.py").write_text("raise RuntimeError('broken')")
    done = server.reload()
    assert done.returncode == 1
    assert "goes on" in done.stderr
    assert "broken" in done.stderr
    (server.folder / "config/websocket.yaml").write_text("no_such_key: 1")
    done = server.reload()
    assert (done.returncode, "no_such_key" in done.stderr) == (1, True), done.stderr
    (server.folder / "config/websocket.yaml").write_text(CONFIG)
    assert push(server, {"event": "m", "data": 1}) == 1
    assert client.receive()["data"] == 1
    assert server.do("VERSION") == 1
    ticks = len(server.lines("ticks"))
    wait_until(lambda: len(server.lines("ticks")) > ticks)
    server.upgrade()
    assert push(server, {"event": "m", "data": 2}) == 1
    assert client.receive()["data"] == 2


def test_old_process_takes_everything_back_where_the_new_one_dies_with_all_of_it(start):
    server = start()
    client = server.connect("/", bearer("7"))
    client.subscribe("news")
    client.subscribe("presence-a")
    half = frame(Opcode.TEXT, b'{"event":"ping"}', mask=MASK)
    client.raw(half[:9])
    dying = (
        "import alphavel.websocket.handover.snapshot as snapshot\n"
        "def die(*arguments): raise RuntimeError('no room')\n"
        "snapshot.Entering.connection = die\n"
    )
    (server.folder / "shop.py").write_text(APP + dying)
    done = server.reload()
    assert (done.returncode, "goes on" in done.stderr) == (1, True)
    client.raw(half[9:])
    assert client.receive()["event"] == "pong"
    assert push(server, {"event": "m", "data": 1}) == 1
    assert client.receive()["data"] == 1
    server.upgrade()
    assert push(server, {"event": "m", "data": 2}) == 1
    assert client.receive()["data"] == 2


def test_those_that_cannot_be_taken_along_are_asked_to_come_back(start):
    server = start()
    stays = server.connect()
    compressed = server.connect("/", {"Sec-WebSocket-Extensions": "permessage-deflate"}, greeted=False)
    compressed.receive_frame()
    busy, *keepers = (server.connect() for _ in range(5))
    for keeper, kept in zip(keepers, ("lock", "date", "pair", "id"), strict=True):
        keeper.send("keep", kept)
        keeper.send("ping")
        assert keeper.receive()["event"] == "pong"
    busy.send("sleep")
    gevent.sleep(0.1)
    said = server.upgrade()
    assert "goes on with" in said
    assert "asked to connect again" in said
    assert [keeper.closed().code for keeper in keepers] == [4200] * 4
    assert compressed.closed().code == 4200
    stays.send("ping")
    assert stays.receive()["event"] == "pong"


def test_request_that_runs_is_finished_and_its_push_arrives(start):
    server = start()
    client = server.connect()
    client.subscribe("news")

    def ask():
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/slow", timeout=60) as response:
            return json.loads(response.read())

    asking = gevent.spawn(ask)
    gevent.sleep(0.2)
    server.upgrade()
    event = client.receive()
    assert event["event"] == "late"
    assert event["data"] in (1, 2)  # by whichever process took the request
    asking.get(timeout=60)


def test_timers_and_the_pid_file_go_over_and_it_can_be_done_again_and_again(start):
    server = start("--pid-file", "server.pid")
    client = server.connect()
    client.subscribe("news")
    pids = {int((server.folder / "server.pid").read_text())}
    for version in (2, 3, 4):
        server.write_version(version)
        assert server.reload().returncode == 0
        wait_until(lambda: server.do("VERSION") == version)  # noqa: B023
        pid = int((server.folder / "server.pid").read_text())
        assert server.do("os.getpid()") == pid
        pids.add(pid)
        wait_until(lambda: server.lines("ticks")[-1] == str(version))  # noqa: B023
        assert push(server, {"event": "m", "data": version}) == 1
        assert client.receive()["data"] == version
    assert len(pids) == 4
    last = int((server.folder / "server.pid").read_text())
    wait_until(lambda: not any(_runs(pid) for pid in pids - {last}))
    os.kill(last, 15)
    assert client.closed().code == 4200
    wait_until(lambda: not (server.folder / "server.pid").exists())


def test_of_two_reloads_at_once_one_is_refused(start):
    server = start()
    client = server.connect()
    client.subscribe("news")
    server.write_version(2)
    done = [reloading.get(timeout=120) for reloading in [gevent.spawn(server.reload) for _ in range(2)]]
    assert sorted(each.returncode for each in done) == [0, 1], done
    assert "just taking over" in done[0].stderr + done[1].stderr
    assert server.do("VERSION") == 2
    assert push(server, {"event": "m", "data": 1}) == 1
    assert client.receive()["data"] == 1


def _is_served(client):
    """Whether a connection goes on."""
    try:
        client.send("ping")
        return client.receive()["event"] == "pong"
    except (Closed, OSError):
        return False


@pytest.mark.parametrize("word", ["go", "serving"])
def test_old_process_serves_again_where_the_new_one_dies_at_the_last_moment(start, word):
    server = start("--pid-file", "server.pid")
    pid = int((server.folder / "server.pid").read_text())
    before = server.connect()
    before.subscribe("news")
    dying = (
        "import os\n"
        "from alphavel.websocket.handover.pipe import Pipe\n"
        "for of in ('expect', 'send'):\n"
        "    def die(self, kind, *more, do=getattr(Pipe, of)):\n"
        f"        return os._exit(9) if kind == {word!r} else do(self, kind, *more)\n"
        "    setattr(Pipe, of, die)\n"
    )
    (server.folder / "shop.py").write_text(APP + dying)
    notify = "__import__('alphavel.websocket.notify', fromlist=['main_pid'])"
    server.do(f"setattr({notify}, 'main_pid', lambda pid: time.sleep(1.0))")  # in which it dies, where it dies before `go`
    done = server.reload()
    assert done.returncode == 1, done.stdout
    assert int((server.folder / "server.pid").read_text()) == pid
    client = server.connect()
    client.subscribe("news")
    is_served = _is_served(before)
    assert is_served is (word == "go")  # else all who had moved died with it
    assert push(server, {"event": "m", "data": 1}) == 1 + is_served
    assert client.receive()["data"] == 1
    ticks = len(server.lines("ticks"))
    wait_until(lambda: len(server.lines("ticks")) > ticks)
    server.upgrade()
    assert push(server, {"event": "m", "data": 2}) == 1 + is_served
    assert client.receive()["data"] == 2


def test_programs_that_the_new_process_starts_hold_no_sockets_of_clients():
    sending, other = Pipe.pair()
    receiving = Pipe(other)
    with other:
        sending.send("connections", ["x" * 200_000], [other.fileno()])
        kind, content, fds = receiving.receive()
        sending.close()
    assert (kind, content, len(fds)) == ("connections", ["x" * 200_000], 1)
    assert not os.get_inheritable(fds[0])
    os.close(fds[0])


def _runs(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_new_process_that_cannot_even_be_started_is_a_handover_that_failed(monkeypatch, tmp_path):
    """An upgrade may have removed the Python that the old process runs on; HandoverError is what is promised."""
    monkeypatch.setattr(sys, "executable", str(tmp_path / "removed"))
    ours, theirs = Pipe.pair()
    with contextlib.closing(ours), pytest.raises(HandoverError, match="cannot be started"):
        giving._start(theirs)
    assert theirs.fileno() == -1


def test_without_a_server_the_command_says_so(tmp_path):
    done = run(script("alpha"), "websocket:reload", cwd=tmp_path, ALPHAVEL_RUN_DIR=str(tmp_path / "run"))
    assert (done.returncode, done.stderr.startswith("Error: No running WebSocket server")) == (1, True)


@pytest.mark.parametrize("size", [0, 1, 125, 126, 70_000])
@pytest.mark.parametrize("opcode", [Opcode.TEXT, Opcode.BINARY])
def test_parser_goes_on_in_another_process_wherever_it_was(size, opcode):
    payload = ("é" * size).encode()
    data = frame(opcode, payload, mask=MASK) + frame(Opcode.PING, b"x", mask=MASK)
    if size > 1:
        middle = len(payload) // 2 + 1  # within a character
        data = (
            frame(opcode, payload[:middle], mask=MASK, fin=False)
            + frame(Opcode.CONTINUATION, payload[middle:], mask=MASK)
            + frame(Opcode.PING, b"x", mask=MASK)
        )
    whole = Parser(2**20).feed(data)
    for cut in {*range(min(16, len(data))), len(data) // 2, len(data) - 9, len(data) - 3}:
        first, second = Parser(2**20), Parser(2**20)
        events = first.feed(data[:cut])
        second.resume(json.loads(json.dumps(first.suspended())))
        assert events + second.feed(data[cut:]) == whole
