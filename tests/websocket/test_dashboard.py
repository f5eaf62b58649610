"""The dashboard over HTTP: who may see it, what it tells, what it does. tests/browser looks at it as people do."""

from __future__ import annotations

import base64
import http.client
import json
import socket
import urllib.error
import urllib.request

import pytest

from alphavel.foundation.errors import ConfigurationError
from alphavel.websocket import WebSocketServer
from alphavel.websocket.settings import DashboardSettings, WebSocketSettings
from alphavel.websocket.transports.reactor import Reactor
from alphavel.websocket.watching import watching
from tests.support import Program, script, wait_until
from tests.websocket.clients import Client
from tests.websocket.pusher import PusherClient, app

PASSWORD = "a password that is long enough"
SHOP = """
from flask import Flask, request
from alphavel.circuit_breaker import CircuitBreaker
from alphavel.foundation import Alphavel
from alphavel.websocket import WebSocket

app = Flask(__name__)
Alphavel(app)

@WebSocket.channel("presence-{room}")
def anybody(user, room):
    return {"name": user.claims["name"]}

@app.get("/call/<outcome>")
def call(outcome):
    def service():
        if outcome == "fail":
            raise OSError("away")
    try:
        CircuitBreaker.call("payment-api", service)
    except Exception as error:
        return type(error).__name__
    return "ok"

@app.get("/push")
def push():
    return {"queued": WebSocket.to_channel("news").push({"event": "headline", "data": {"text": "<b>hi</b>"}})}
"""
GUARDED = f"""{SHOP}
@WebSocket.dashboard_guard
def is_operator():
    return request.headers.get("X-Operator") == "yes"
"""
WRITES = {"X-Alphavel-Dashboard": "1", "Content-Type": "application/json"}


def basic(password=PASSWORD, name="anybody"):
    return {"Authorization": "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()}


def get(port, path="", content=None, headers=None):
    data = None if content is None else content if isinstance(content, bytes) else json.dumps(content).encode()
    given = basic() if headers is None else headers
    request = urllib.request.Request(f"http://127.0.0.1:{port}/alphavel/dashboard/{path}", data, given)
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, response.read().decode(), response.headers
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode(), error.headers


def state(port, query=""):
    status, text, _ = get(port, f"state{query}")
    assert status == 200, text
    return json.loads(text)


def total(seen, name):
    return sum(sample[2] for family in seen["metrics"] if family[0] == f"alphavel_websocket_{name}" for sample in family[2])


@pytest.fixture
def start(tmp_path):
    """`start(code, *options, NAME="value")` starts the shop and returns the port."""
    started = []

    def start(code=SHOP, *options, **environment):
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            port = sock.getsockname()[1]
        (tmp_path / "shop.py").write_text(code)
        environment = {"ALPHAVEL_DASHBOARD_PASSWORD": PASSWORD, "ALPHAVEL_RUN_DIR": str(tmp_path / "run"), **environment}
        program = Program(
            script("alpha"), "websocket:serve", "--app", "shop:app", "--host", "127.0.0.1", "--port", str(port), *options,
            cwd=tmp_path, **environment,
        )  # fmt: skip
        started.append(program)
        program.wait_for("Alphavel WebSocket server")
        return port

    yield start
    for program in started:
        with program:
            assert program.stop() == 0


# Who may


def test_without_a_guard_there_is_nothing_and_nothing_is_measured(start, serve):
    port = start(ALPHAVEL_DASHBOARD_PASSWORD="")
    for path in ("", "state", "dashboard.js"):
        assert get(port, path)[0] == 404
    assert type(serve().reactor) is Reactor


@pytest.mark.parametrize("path", ["", "dashboard.js", "state", "events?channel=news", "nothing"])
def test_with_a_password_every_path_asks_for_it(start, path):
    port = start()
    for headers in ({}, basic("wrong"), basic(""), {"Authorization": f"Bearer {PASSWORD}"}):
        status, text, answered = get(port, path, headers=headers)
        assert (status, answered["WWW-Authenticate"].partition(" ")[0]) == (401, "Basic")
        assert "alphavel_websocket" not in text
    status, text, _ = get(port, "push", {"channel": "news", "event": "x"}, headers=WRITES)
    assert status == 401


def test_a_guard_of_the_applications_own_goes_before_the_password(start):
    port = start(GUARDED)
    assert get(port, "state")[0] == 403
    assert get(port, "state", headers={"X-Operator": "yes"})[0] == 200
    assert get(port, headers={"X-Operator": "yes"})[0] == 200


def test_a_short_password_stops_the_start():
    with pytest.raises(ConfigurationError, match=r"dashboard.password: expected at least 12 characters"):
        WebSocketServer(WebSocketSettings(dashboard=DashboardSettings(password="guess me")))


def test_the_page_and_its_files_allow_nothing_from_elsewhere(start):
    port = start()
    for path, kind in (("", "text/html"), ("dashboard.js", "text/javascript"), ("chart.js", "text/javascript"),
                       ("dashboard.css", "text/css")):  # fmt: skip
        status, text, headers = get(port, path)
        assert (status, headers["Content-Type"].partition(";")[0]) == (200, kind)
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert headers["Cache-Control"] == "no-store"
        assert "http://" not in text.replace("http://www.w3.org/2000/svg", "")
        assert "https://" not in text
        assert "innerHTML" not in text
    for path in ("../alphavel.js", "..%2falphavel.js", "index.html", "state/", "%00"):
        assert get(port, path)[0] == 404


def test_the_address_without_its_slash_leads_to_the_page(start):
    connection = http.client.HTTPConnection("127.0.0.1", start(), timeout=30)
    connection.request("GET", "/alphavel/dashboard")
    answer = connection.getresponse()
    assert (answer.status, answer.headers["Location"]) == (308, "/alphavel/dashboard/")
    connection.close()


@pytest.mark.parametrize(
    "changed",
    [
        {"X-Alphavel-Dashboard": None},
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_a_page_of_another_site_cannot_use_an_operators_password(start, changed):
    port = start()
    headers = {name: value for name, value in {**WRITES, **basic(), **changed}.items() if value is not None}
    for path, content in (
        ("push", {"channel": "news", "event": "x"}),
        ("circuit", {"service": "payment-api", "action": "open"}),
    ):
        assert get(port, path, content, headers)[0] == 403
    assert (
        get(port, "push", {"channel": "news", "event": "x"}, {**WRITES, **basic(), "Origin": f"http://127.0.0.1:{port}"})[0]
        == 200
    )


def test_nothing_is_changed_by_reading(start):
    port = start()
    for path in ("push?channel=news&event=x", "circuit?service=payment-api&action=open"):
        assert get(port, path, headers={**WRITES, **basic()})[0] == 404


# What it tells


def test_figures_channels_and_members_of_all_workers(start):
    import time

    import jwt

    key = "k" * 40
    port = start(SHOP, "--workers", "2", ALPHAVEL_JWT_SECRET=key)
    clients = []
    for number in range(6):
        claims = {"sub": str(number % 3), "name": f"Name {number % 3}", "exp": time.time() + 600}
        clients.append(Client(port, f"/?token={jwt.encode(claims, key, 'HS256')}"))
        clients[-1].subscribe("presence-lobby")
        clients[-1].subscribe(f"news.{number}")
    wait_until(lambda: total(state(port), "subscriptions") == 12, 20)
    seen = state(port)
    assert total(seen, "connections") == 6
    assert total(seen, "users") == 3
    assert seen["channels_found"] == 7
    assert seen["channels"][0] == {"name": "presence-lobby", "subscribers": 6, "type": "presence", "members": 3, "app": ""}
    assert {channel["name"] for channel in state(port, "?filter=s.4")["channels"]} == {"news.4"}
    channel = json.loads(get(port, "channel?channel=presence-lobby")[1])
    assert [(member["id"], member["info"]) for member in channel["members"]] == [
        (str(number), {"name": f"Name {number}"}) for number in range(3)
    ]
    for client in clients:
        client.close()


@pytest.mark.parametrize(
    ("path", "status"),
    [("channel", 400), ("channel?app=none&channel=x", 404), ("events", 400), ("channel?channel=nobody", 200)],
)
def test_questions_that_make_no_sense(start, path, status):
    assert get(start(), path)[0] == status


# The console


class Events:
    """An open stream of events."""

    def __init__(self, port, channel):
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        self.connection.request("GET", f"/alphavel/dashboard/events?channel={channel}", headers=basic())
        self.response = self.connection.getresponse()
        assert self.response.headers["Content-Type"].startswith("text/event-stream")
        assert self.response.readline() == b": watching\n"

    def receive(self):
        while True:
            line = self.response.readline()
            assert line, "the stream has ended"
            if line.startswith(b"data: "):
                return json.loads(line[6:])

    def close(self):
        self.response.close()
        self.connection.close()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_what_is_sent_on_a_channel_is_seen_with_nobody_on_it_and_on_whichever_worker(start, workers):
    port = start(SHOP, "--workers", workers)
    events = Events(port, "news")
    for _ in range(5):  # each on a connection of its own, to either worker
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/push", timeout=30) as answer:
            assert json.loads(answer.read())["queued"] == 0
        event = events.receive()
        assert (event["event"], event["from"]) == ("headline", "server")
        assert json.loads(event["data"]) == {"text": "<b>hi</b>"}
    assert state(port)["channels_found"] == 0  # who watches is not on it
    events.close()


def test_an_event_sent_from_the_dashboard_reaches_the_clients(start):
    port = start()
    client = Client(port)
    client.subscribe("news")
    events = Events(port, "news")
    content = {"channel": "news", "event": "headline", "data": {"text": "hello"}}
    status, text, _ = get(port, "push", content, {**WRITES, **basic()})
    assert (status, json.loads(text)) == (200, {"queued": 1})
    assert client.receive() == {"event": "headline", "channel": "news", "data": {"text": "hello"}}
    assert events.receive()["event"] == "headline"
    for wrong in ({}, {"channel": "news"}, {"channel": "no\x00", "event": "x"}, b"[1]", b"nonsense"):
        assert get(port, "push", wrong, {**WRITES, **basic()})[0] == 400
    events.close()
    client.close()


@pytest.mark.parametrize(("chunked", "status"), [(False, 413), (True, 411)])
def test_an_action_larger_than_the_limit_is_refused_whether_it_tells_its_length_or_not(start, chunked, status):
    """Only Content-Length was looked at: a body in chunks tells none, and was read whole."""
    port = start()
    content = json.dumps({"channel": "news", "event": "x", "data": "x" * 256 * 1024}).encode()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        body = iter([content[:1000], content[1000:]]) if chunked else content
        headers = {**WRITES, **basic()}
        connection.request("POST", "/alphavel/dashboard/push", body, headers, encode_chunked=chunked)
        assert connection.getresponse().status == status
    finally:
        connection.close()


def test_events_of_clients_and_of_histories_are_seen_and_the_tap_comes_off(serve):
    from alphavel.websocket.settings import ChannelSettings, HistorySettings

    server = serve(apps=(app(client_events=True),), channels={"chat.*": ChannelSettings(HistorySettings(size=10))})
    seen, default = [], server.apps.default
    plain = default.deliver
    pusher = PusherClient(server.port)
    pusher.join("private-room")
    with watching(default, "private-room", seen.append), watching(default, "chat.1", seen.append):
        assert default.deliver != plain
        pusher.send("client-typing", {"who": "Ada"}, channel="private-room")
        wait_until(lambda: len(seen) == 1)
        server.to_channel("chat.1").push({"event": "said", "data": "x" * 100_000})
        server.to_channel("other").push({"event": "unseen"})
    assert [(event["event"], event["from"]) for event in seen] == [("client-typing", "client"), ("said", "server")]
    assert len(seen[1]["data"]) < seen[1]["size"] == 100_002
    server.to_channel("private-room").push({"event": "after"})
    assert len(seen) == 2
    assert default.deliver == plain
    assert "deliver" not in vars(default)
    pusher.close()


# Circuits


def test_circuits_are_shown_and_switched_in_all_workers(start):
    port = start(SHOP, "--workers", "2")

    def call(outcome="succeed"):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/call/{outcome}", timeout=30) as answer:
            return answer.read().decode()

    def act(action, service="payment-api"):
        return get(port, "circuit", {"service": service, "action": action}, {**WRITES, **basic()})

    for _ in range(40):  # so that both workers know the service
        call()
    assert state(port)["circuits"]["payment-api"]["total_successes"] == 40
    for action, shown, called in (("isolate", "isolated", "CircuitOpenError"), ("close", "closed", "ok"),
                                  ("open", "open", "CircuitOpenError"), ("reset", "closed", "ok")):  # fmt: skip
        status, text, _ = act(action)
        assert status == 200, text
        assert {call() for _ in range(20)} == {called}
        assert state(port)["circuits"]["payment-api"]["state"] == shown
    assert act("explode")[0] == 400
    assert act("open", "no-such-service")[0] == 404
