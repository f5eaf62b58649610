"""Server-Sent Events: the same channels, authorizers and histories for clients that cannot have a WebSocket."""

from __future__ import annotations

import json
import socket
import subprocess
import time
import urllib.parse
import urllib.request

import pytest
from flask import Flask

from alphavel.websocket.settings import ChannelSettings, EventStreamSettings, HistorySettings
from alphavel.websocket.transports import ParkedTransport
from tests.support import wait_until
from tests.websocket.conftest import SECRET
from tests.websocket.tokens import bearer, token

KEEPING = {"chat.*": ChannelSettings(HistorySettings(size=100))}


class Stream:
    """A reader of an event stream, as the specification has it, on a plain socket."""

    def __init__(self, port, channels="chat.1", headers=None, path="/sse", method="GET", **query):
        self.last_event_id = ""
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=20)
        query = urllib.parse.urlencode({"channels": channels, **query}, safe=",")
        fields = {"Host": f"127.0.0.1:{port}", "Accept": "text/event-stream", **(headers or {})}
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        self.sock.sendall(f"{method} {path}?{query} HTTP/1.1\r\n{lines}\r\n".encode())
        self.file = self.sock.makefile("rb")
        self.status = int(self.file.readline().split()[1])
        self.headers = {}
        while line := self.file.readline().strip():
            name, _, value = line.decode().partition(": ")
            self.headers[name] = value
        if self.status != 200:
            self.body = self.file.read().decode()

    def block(self):
        """Return the fields of the next block, None at the end of the stream."""
        fields = []
        while line := self.file.readline():
            if line == b"\n":
                return fields
            name, _, value = line.decode().rstrip("\n").partition(":")
            fields.append((name, value.removeprefix(" ")))
        return None

    def receive(self):
        """Return the next event, None at the end."""
        while (fields := self.block()) is not None:
            data = [value for name, value in fields if name == "data"]
            self.last_event_id = dict(fields).get("id", self.last_event_id)
            if data:
                return json.loads("\n".join(data))
        return None

    def opened(self, *channels):
        """Read the greeting and the answers about channels; return those."""
        assert self.receive()["event"] == "connected"
        return [self.receive() for _ in channels or ("chat.1",)]

    def close(self):
        self.file.close()
        self.sock.close()


@pytest.fixture
def stream():
    opened = []

    def open_one(*arguments, **options):
        opened.append(Stream(*arguments, **options))
        return opened[-1]

    yield open_one
    for one in opened:
        one.close()


def push(server, data, channel="chat.1", **more):
    return server.to_channel(channel).push({"event": "m", "data": data}, **more)


@pytest.mark.usefixtures("transport")
def test_stream_is_an_http_response_that_goes_on(serve, stream):
    server = serve()
    one = stream(server.port, "news,sport")
    assert one.headers["Content-Type"] == "text/event-stream"
    assert one.headers["Cache-Control"] == "no-store"
    assert one.headers["X-Accel-Buffering"] == "no"
    assert one.block() == [("retry", "1000")]
    assert [answer["channel"] for answer in one.opened("news", "sport")] == ["news", "sport"]
    with server.connect() as other:
        other.subscribe("news")
        assert push(server, {"text": "hi\nthere"}, "news") == 2
        assert one.receive() == other.receive() == {"event": "m", "channel": "news", "data": {"text": "hi\nthere"}}
        other.subscribe("sport")
    push(server, 2, "sport")
    assert one.receive()["channel"] == "sport"


def test_a_handler_of_messages_has_nothing_to_do_with_a_stream_which_sends_none(serve, stream):
    """It was called with what the stream's request was taken for, and that failed: nobody could listen to anything."""
    server, seen = serve(), []
    server.on("message")(lambda connection, event: seen.append(event))
    one = stream(server.port, "news")
    assert [answer["event"] for answer in one.opened("news")] == ["subscribed"]
    push(server, 1, "news")
    assert one.receive()["data"] == 1
    with server.connect() as client:
        client.send("ping")
        assert client.receive()["event"] == "pong"
    assert seen == [{"event": "ping"}]
    assert server.counters.errors == 0


def test_curl_can_listen(serve):
    server = serve(channels=KEEPING)
    curl = ["curl", "-sN", "--max-time", "20", f"http://127.0.0.1:{server.port}/sse?channels=chat.1"]
    with subprocess.Popen(curl, stdout=subprocess.PIPE, text=True) as process:
        wait_until(lambda: server.get_channels() == ["chat.1"])
        push(server, "hi")
        lines = iter(process.stdout.readline, "")
        line = next(line for line in lines if '"m"' in line)
        assert json.loads(line.removeprefix("data: "))["data"] == "hi"
        process.kill()
    wait_until(lambda: server.get_channels() == [])


def test_stream_is_parked_like_a_websocket(serve, stream):
    server = serve()
    one = stream(server.port)
    one.opened()
    connection = next(iter(server.connections.connections.values()))
    assert type(connection.transport) is ParkedTransport
    assert (connection.transport.outbox, connection.waiting) == (None, None)


def test_members_and_authorizers_are_the_same(serve, stream):
    def set_up(server):
        server.channel("presence-{room}")(lambda user: {"name": user.id})
        server.channel("private-user.{user_id}")(lambda user, user_id: user.id == user_id)

    server = serve(set_up, secret=SECRET)
    one = stream(server.port, "presence-a,private-user.8,private-user.7", bearer("7"))
    answers = {answer["channel"]: answer for answer in one.opened(1, 2, 3)}
    assert [member["id"] for member in answers["presence-a"]["data"]["members"]] == ["7"]
    assert (answers["private-user.8"]["event"], answers["private-user.8"]["code"]) == ("error", 4009)
    assert answers["private-user.7"]["event"] == "subscribed"
    with server.connect("/", bearer("8")) as other:
        other.subscribe("presence-a")
        assert one.receive()["event"] == "member_added"
    assert one.receive()["event"] == "member_removed"
    assert server.to_user("7").push({"event": "mine"}) == 1
    assert one.receive() == {"event": "mine"}
    one.close()
    wait_until(lambda: server.get_presence("presence-a") == [])


def test_stream_of_no_channels_is_told_what_is_pushed_to_its_user(serve, stream):
    server = serve(secret=SECRET)
    one = stream(server.port, "", bearer())
    assert one.receive()["event"] == "connected"
    assert server.to_user("7").push({"event": "mine"}) == 1
    assert one.receive() == {"event": "mine"}


@pytest.mark.parametrize(
    ("query", "headers", "status", "text"),
    [
        ({}, {}, 401, "A token is needed"),
        ({"token": "x"}, {}, 401, "malformed"),
        ({"channels": ",".join(f"c{n}" for n in range(101))}, bearer(), 400, "got 101"),
        ({"recover": "{"}, bearer(), 400, "unexpected end"),
        ({"recover": "[]"}, bearer(), 400, "recover: expected"),
        ({"rewind": "x"}, bearer(), 400, "unexpected character"),
        ({"last_event_id": "x"}, bearer(), 400, "an event's id"),
        ({}, bearer() | {"Last-Event-ID": "5-é"}, 400, "an event's id"),
        ({}, bearer() | {"Origin": "https://evil.example"}, 403, "origin"),
        ({"method": "POST"}, bearer() | {"Content-Length": "0"}, 405, "for GET"),
    ],
)
def test_bad_requests_are_refused_with_a_status(serve, stream, query, headers, status, text):
    server = serve(secret=SECRET)
    one = stream(server.port, headers=headers, **query)
    assert (one.status, text in one.body) == (status, True), one.body
    assert server.counters.handshakes_refused == 1


def test_page_of_another_origin_that_may_connect_may_read(serve, stream):
    server = serve(allowed_origins=("https://app.example",))
    one = stream(server.port, headers={"Origin": "https://app.example"})
    assert one.headers["Access-Control-Allow-Origin"] == "https://app.example"
    assert one.headers["Vary"] == "Origin"
    assert "Access-Control-Allow-Credentials" not in one.headers


def test_token_in_the_query_counts(serve, stream):
    server = serve(secret=SECRET)
    one = stream(server.port, token=token("7"))
    one.opened()
    assert next(iter(server.connections.connections.values())).user.id == "7"


def test_bad_channels_are_told_in_the_stream(serve, stream):
    server = serve()
    one = stream(server.port, "a b,good")
    bad, good = one.opened(1, 2)
    assert (bad["event"], good["event"]) == ("error", "subscribed")


def test_who_comes_back_goes_on_after_the_last_event(serve, stream):
    server = serve(channels=KEEPING)
    one = stream(server.port, "chat.1,chat.2,news")
    one.opened(1, 2, 3)
    push(server, 1)
    assert one.receive()["serial"] == 1
    seen = one.last_event_id
    one.close()
    wait_until(lambda: server.get_channels() == [])
    for number in range(2, 8):
        push(server, number, f"chat.{1 + number % 2}")
    back = stream(server.port, "chat.1,chat.2,news", {"Last-Event-ID": seen})
    answers = {answer["channel"]: answer.get("recovered") for answer in back.opened(1, 2, 3)}
    assert answers == {"chat.1": True, "chat.2": True, "news": None}
    assert [back.receive()["data"] for _ in range(6)] == [2, 3, 4, 5, 6, 7]  # in the order they were said, on whatever channel
    push(server, 8)
    assert back.receive()["data"] == 8


@pytest.mark.parametrize("wish", ["rewind", "recover"])
def test_browser_that_comes_back_goes_on_though_its_address_is_that_of_the_first_time(serve, stream, wish):
    """EventSource asks for the same address each time, with the last id: it was given once more what it wanted at first."""
    server = serve(channels=KEEPING)
    position = stream(server.port).opened()[0]["data"]
    for number in (1, 2):
        push(server, number)
    asked = {wish: {"rewind": "2", "recover": json.dumps({"chat.1": position})}[wish]}
    one = stream(server.port, **asked)
    one.opened()
    assert [one.receive()["data"] for _ in range(2)] == [1, 2]
    push(server, 3)
    back = stream(server.port, headers={"Last-Event-ID": one.last_event_id}, **asked)
    assert back.opened()[0]["recovered"] is True
    assert back.receive()["data"] == 3


def test_each_channel_can_be_rewound_by_its_own_number(serve, stream):
    server = serve(channels=KEEPING)
    for number in range(6):
        push(server, number, f"chat.{1 + number % 2}")
    one = stream(server.port, "chat.1,chat.2,chat.3", rewind='{"chat.1":1,"chat.2":2}')
    one.opened(1, 2, 3)
    assert [one.receive()["data"] for _ in range(3)] == [3, 4, 5]
    bad = stream(server.port, "chat.1,chat.2", rewind='{"chat.1":"all"}')
    assert [answer["event"] for answer in bad.opened(1, 2)] == ["error", "subscribed"]


def test_authorizer_that_fails_keeps_a_stream_off_its_channel_only(serve, stream, caplog):
    """All others stayed unanswered."""

    def broken(user):
        raise RuntimeError("the database is away")

    server = serve(lambda server: server.channel("guarded")(broken))
    bad, good = stream(server.port, "guarded,news").opened(1, 2)
    assert (bad["event"], bad["channel"], bad["code"]) == ("error", "guarded", 4500)
    assert (good["event"], good["channel"]) == ("subscribed", "news")
    assert "the database is away" in caplog.text
    assert server.counters.errors == 1


def test_id_comes_before_the_first_message(serve, stream):
    """Who is cut off before anything was said goes on from there, too."""
    server = serve(channels=KEEPING)
    push(server, 0)
    one = stream(server.port)
    one.opened()
    one.block()
    push(server, 1, "other")
    push(server, 1)
    assert one.receive()["data"] == 1
    first = stream(server.port)
    first.opened()
    fields = first.block()
    assert [name for name, _ in fields] == ["id"]
    push(server, 2)
    back = stream(server.port, last_event_id=dict(fields)["id"])
    back.opened()
    assert back.receive()["data"] == 2


def test_each_channel_can_be_recovered_by_its_own_position(serve, stream):
    server = serve(channels=KEEPING)
    one = stream(server.port, "chat.1")
    position = one.opened()[0]["data"]
    push(server, 1)
    push(server, 2, "chat.2")
    back = stream(server.port, "chat.1,chat.2", recover=json.dumps({"chat.1": position}))
    answers = back.opened(1, 2)
    assert [answer.get("recovered") for answer in answers] == [True, None]
    assert back.receive()["data"] == 1
    push(server, 3, "chat.2")
    assert back.receive()["data"] == 3


def test_what_is_lost_is_told(serve, stream):
    server = serve(channels={"chat.*": ChannelSettings(HistorySettings(size=1))})
    one = stream(server.port)
    one.opened()
    push(server, 1)
    one.receive()
    for number in (2, 3):
        push(server, number)
    back = stream(server.port, last_event_id=one.last_event_id)
    assert back.opened()[0]["recovered"] is False
    other = serve(channels=KEEPING)
    assert stream(other.port, last_event_id=one.last_event_id).opened()[0]["recovered"] is False
    epoch = one.last_event_id.split("-")[0]
    assert stream(server.port, last_event_id=f"{epoch}-999").opened()[0]["event"] == "error"


def test_history_that_was_forgotten_whole_is_not_recovered(serve, stream):
    server = serve(channels=KEEPING)
    one = stream(server.port)
    one.opened()
    push(server, 1, "chat.2")
    push(server, 2)
    one.receive()
    seen = one.last_event_id
    push(server, 3, "chat.2")
    server.apps.default.histories.forget("chat.2")
    back = stream(server.port, "chat.1,chat.2", last_event_id=seen)
    assert [answer["recovered"] for answer in back.opened(1, 2)] == [True, False]


def test_peer_that_talks_is_cut_off(serve, stream):
    server = serve()
    one = stream(server.port)
    one.opened()
    one.sock.sendall(b"\r\n")
    push(server, 1)
    assert one.receive()["data"] == 1
    one.sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
    assert one.receive() is None
    wait_until(lambda: server.connections.connections == {})


def test_stream_is_told_why_it_ends(serve, stream):
    server = serve()
    one = stream(server.port)
    one.opened()
    next(iter(server.connections.connections.values())).close(4100, "go away")
    assert one.receive() == {"event": "closed", "code": 4100, "message": "go away"}
    assert one.receive() is None


def test_silent_streams_are_kept_and_pinged(serve, stream):
    server = serve(heartbeat_check_interval=1, heartbeat_idle_time=2)
    one = stream(server.port)
    one.opened()
    pings = 0
    while pings < 4:  # longer than heartbeat_idle_time: nothing is expected of it
        pings += one.block() == [("", "")]
    push(server, 1)
    assert one.receive()["data"] == 1


def test_slow_reader_is_cut_off_and_costs_no_other(serve, stream):
    server = serve(max_outbox=64 * 1024)
    slow, fast = stream(server.port), stream(server.port)
    fast.opened()
    wait_until(lambda: server.get_channel_stats("chat.1")["subscribers"] == 2)
    sent = 0
    while server.get_channel_stats("chat.1")["subscribers"] == 2:
        push(server, "x" * 50_000)
        sent += 1
        assert fast.receive()["event"] == "m"
    assert server.counters.slow_consumers == 1
    slow.close()


def test_expired_token_ends_the_stream(serve, stream):
    server = serve(secret=SECRET)
    one = stream(server.port, token=token("7", exp=time.time() + 2))
    one.opened()
    event = one.receive()
    assert (event["event"], event["code"]) == ("closed", 4009)


@pytest.mark.parametrize(("path", "query"), [(None, "channels=a"), ("/sse", "page=1"), ("/events", "channels=a")])
def test_page_of_the_application_at_the_same_path_is_served(serve, path, query):
    application = Flask(__name__)
    application.get("/sse")(lambda: "a page")
    server = serve(application=application, event_stream=EventStreamSettings(path=path))
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/sse?{query}", timeout=20) as response:
        assert response.read() == b"a page"
