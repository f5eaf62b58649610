"""Processes that only send, each a program of its own: without gevent, which they cannot even import here."""

from __future__ import annotations

import json
import socket
import sys
import textwrap
import time
import urllib.request

import pytest

from alphavel.foundation import Container
from alphavel.websocket import WebSocketServer
from alphavel.websocket.factory import serving
from alphavel.websocket.senders import Sender
from alphavel.websocket.settings import (
    AppLimits,
    AppSettings,
    BroadcastingSettings,
    ChannelSettings,
    HistorySettings,
    RedisSettings,
    WebSocketSettings,
)
from tests.redis_server import running_redis
from tests.support import ROOT, Program, free_port, run, script, wait_until
from tests.websocket.conftest import SECRET
from tests.websocket.tokens import bearer

APP = AppSettings("1", "app-key", "app-secret")
OTHER = AppSettings("2", "other-key", "other-secret")
APPS = [{"id": "1", "key": "app-key", "secret": "app-secret"}, {"id": "2", "key": "other-key", "secret": "other-secret"}]

# Begins every program here: what a server needs is as good as not installed.
WITHOUT = """
import sys
from importlib.machinery import PathFinder

HIDDEN = ("gevent", "geventwebsocket", "psutil", "jwt")

class Finder(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        hidden = name.partition(".")[0] in HIDDEN or name == "alphavel.websocket.server"
        return None if hidden else super().find_spec(name, path, target)

sys.meta_path[:] = [Finder if finder is PathFinder else finder for finder in sys.meta_path]
from alphavel.websocket import WebSocket, BroadcastError
"""


@pytest.fixture
def sender(tmp_path):
    """`sender(code, broadcasting)` runs a program in a folder with such a configuration; what it prints is JSON."""

    def start(code, broadcasting, apps=APPS, begin=WITHOUT, **more):
        (tmp_path / "config").mkdir(exist_ok=True)
        settings = {"broadcasting": broadcasting, "apps": apps, **more}
        (tmp_path / "config/websocket.yaml").write_text(json.dumps(settings))  # JSON is YAML
        (tmp_path / "program.py").write_text(begin + textwrap.dedent(code))
        done = run(sys.executable, "program.py", cwd=tmp_path, PYTHONPATH=str(ROOT), PYTHONWARNINGS="error")
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    start.folder = tmp_path
    return start


@pytest.fixture(scope="module")
def redis():
    with running_redis() as server:
        yield server


def over_http(server, **http):
    return {"driver": "http", "http": {"url": f"http://127.0.0.1:{server.port}", **http}}


PUSHES = r"""
import json, uuid, datetime

def say(value):
    print(json.dumps(value))

say(WebSocket.to_channel("a").push({"event": "new", "data": {"n": 1, "id": uuid.UUID(int=1)}, "more": [1]}))
say(WebSocket.to_channels(["a", "b"]).push({"event": "App\\Events\\OrderShipped", "data": "plain"}))
say(WebSocket.to_user(7).push({"event": "to 7", "data": None}))
say(WebSocket.to_users([7, "8"]).push({"event": "to 7 and 8"}))
say(WebSocket.to_all().push({"event": "to all", "data": 1.5}))
say(WebSocket.to_channel("a").except_([EIGHT, "undefined", None]).push({"event": "but 8"}))
say(WebSocket.to_channel("a").except_([SEVEN, EIGHT]).push({"event": "nobody"}))
say(WebSocket.app(2).to_channel("a").push({"event": "other app"}))
say(WebSocket.to_channel("a").to_others().push({"event": "end"}))
"""


def pushes_arrive(sender, server, broadcasting, returned):
    with server.connect("/", bearer("7")) as seven, server.connect("/", bearer("8")) as eight:
        seven.subscribe("a")
        eight.subscribe("a")
        named = f"SEVEN, EIGHT = {seven.socket_id!r}, {eight.socket_id!r}"
        assert sender(named + PUSHES, broadcasting) == returned
        new = {"event": "new", "channel": "a", "data": {"n": 1, "id": "00000000-0000-0000-0000-000000000001"}, "more": [1]}
        shipped = {"event": "App\\Events\\OrderShipped", "channel": "a", "data": "plain"}
        assert [seven.receive(), eight.receive()] == [new, new]
        assert [seven.receive(), eight.receive()] == [shipped, shipped]
        assert seven.receive() == {"event": "to 7", "data": None}
        assert [event["event"] for event in seven.events("end")] == ["to 7 and 8", "to all", "but 8", "end"]
        assert [event["event"] for event in eight.events("end")] == ["to 7 and 8", "to all", "end"]


def test_pushes_over_http_arrive_like_local_ones_and_tell_how_many_connections_they_were_queued_for(sender, serve):
    server = serve(apps=(APP, OTHER), secret=SECRET)
    pushes_arrive(sender, server, over_http(server), [2, 2, 1, 2, 2, 1, 0, 0, 2])


def test_pushes_over_redis_arrive_like_local_ones_and_tell_how_many_servers_took_them(sender, serve, redis):
    settings = BroadcastingSettings("redis", RedisSettings(redis.url, prefix="senders:", secret="fleet"))
    server = serve(apps=(APP, OTHER), secret=SECRET, broadcasting=settings)
    broadcasting = {"driver": "redis", "redis": {"url": redis.url, "prefix": "senders:", "secret": "fleet"}}
    pushes_arrive(sender, server, broadcasting, [1, 1, 1, 1, 1, 1, 1, 0, 1])
    assert server.counters.bus_refused == 0


def test_questions_over_http(sender, serve):
    def allow(server):
        @server.channel("presence-room")
        def room(user):
            return {"name": user.id}

    server = serve(allow, apps=(APP,), secret=SECRET)
    code = """
    import json
    print(json.dumps([WebSocket.get_channels(), WebSocket.get_presence("presence-room"), WebSocket.get_presence("presence-x"),
        WebSocket.get_channel_stats("presence-room"), WebSocket.get_channel_stats("b"), WebSocket.drain()]))
    """
    with server.connect("/", bearer("7")) as client:
        client.subscribe("presence-room")
        client.subscribe("a,b@c=d;e")
        channels, members, nobody, stats, unknown, drained = sender(code, over_http(server))[0]
        assert channels == ["presence-room", "a,b@c=d;e"]
        assert members == server.get_presence("presence-room")
        assert stats == server.get_channel_stats("presence-room")
        assert unknown == server.get_channel_stats("b")
        assert (nobody, drained) == ([], True)


@pytest.mark.parametrize("driver", ["http", "redis"])
def test_what_was_granted_is_taken_back_by_who_only_sends(sender, serve, redis, driver):
    allowed = {"7", "8"}
    prefix = f"revoking-{driver}:"
    settings = BroadcastingSettings("redis", RedisSettings(redis.url, prefix=prefix)) if driver == "redis" else None
    server = serve(
        lambda server: server.channel("private-a")(lambda user: user.id in allowed),
        apps=(APP,), secret=SECRET, **({"broadcasting": settings} if settings else {}),
    )  # fmt: skip
    code = """
    import json
    told = [WebSocket.reauthorize("private-*"), WebSocket.disconnect_user(8), WebSocket.revoke("id", 60)]
    print(json.dumps(told))
    """
    broadcasting = {"driver": "redis", "redis": {"url": redis.url, "prefix": prefix}} if settings else over_http(server)
    with (
        server.connect("/", bearer("7")) as seven, server.connect("/", bearer("8")) as eight,
        server.connect("/", bearer("9", jti="id")) as nine,
    ):  # fmt: skip
        seven.subscribe("private-a")
        allowed.remove("7")
        assert sender(code, broadcasting) == [[0, 0, 0]]
        assert seven.receive() == {"event": "unsubscribed", "channel": "private-a", "code": 4009, "message": "Unauthorized"}
        assert eight.closed().code == 4009
        assert nine.closed().code == 4009


def test_a_history_is_read_and_a_key_is_used_once_over_http(sender, serve):
    server = serve(apps=(APP,), channels={"chat.*": ChannelSettings(HistorySettings(size=10))})
    code = """
    import json
    room = WebSocket.to_channel("chat.1")
    queued = [room.push({"event": "m", "data": 1}, idempotency_key="k") for _ in range(2)]
    room.push({"event": "short", "data": 2}, ttl=0.001)
    room.push({"event": "m", "data": 3, "more": 4})
    answer = WebSocket.history("chat.1", limit=5)
    since = {"epoch": answer["epoch"], "serial": 2}
    print(json.dumps([queued, answer, WebSocket.history("chat.1", since=since)]))
    """
    with server.connect() as client:
        client.subscribe("chat.1")
        queued, answer, rest = sender(code, over_http(server))[0]
        assert [client.receive()["serial"] for _ in range(3)] == [1, 2, 3]
    assert queued == [1, 0]
    assert answer == server.history("chat.1")
    assert [message["data"] for message in answer["messages"]] == [1, 3]
    assert ([message["serial"] for message in rest["messages"]], rest["recovered"]) == ([3], True)


def test_a_history_in_redis_takes_what_is_sent_by_who_only_sends(sender, serve, redis):
    settings = BroadcastingSettings("redis", RedisSettings(redis.url, prefix="kept:", secret="fleet"))
    server = serve(apps=(APP,), broadcasting=settings, channels={"chat.*": ChannelSettings(HistorySettings(size=10))})
    code = """
    import json
    room = WebSocket.to_channels(["chat.1", "news"])
    print(json.dumps([room.push({"event": "m", "data": 1}, idempotency_key="k") for _ in range(2)]))
    print(json.dumps(room.push({"event": "m", "data": 2})))
    """
    with server.connect() as client:
        position = client.subscribe("chat.1")["data"]
        client.subscribe("news")
        broadcasting = {"driver": "redis", "redis": {"url": redis.url, "prefix": "kept:", "secret": "fleet"}}
        assert sender(code, broadcasting, channels={"chat.*": {"history": {"size": 10}}}) == [[1, 0], 1]
        events = [client.receive() for _ in range(4)]
    assert [(event["data"], event["serial"]) for event in events if event["channel"] == "chat.1"] == [(1, 1), (2, 2)]
    assert [event["data"] for event in events if event["channel"] == "news"] == [1, 2]
    with server.connect() as client:
        client.send("subscribe", {"channel": "chat.1", "recover": position | {"serial": 1}})
        assert client.receive()["recovered"] is True
        assert client.receive()["data"] == 2
    assert server.counters.bus_refused == 0


ERRORS = """
import json

def attempt(function):
    try:
        print(json.dumps(["done", None, function()]))
    except Exception as error:
        print(json.dumps([type(error).__name__, getattr(error, "status", None), str(error)]))

"""


def test_what_goes_wrong_over_http_is_told(sender, serve):
    server = serve(apps=(APP,))
    code = """
    attempt(lambda: WebSocket.to_channel("a").push({"event": "x", "data": "y" * 10240}))
    attempt(lambda: WebSocket.to_channel("a b").push({"event": "x"}))
    attempt(lambda: WebSocket.to_channel("a").push({"event": ""}))
    attempt(lambda: WebSocket.app(3))
    attempt(lambda: WebSocket.app(2).to_channel("a").push({"event": "x"}))
    attempt(lambda: WebSocket.to_channels([]).push({"event": "x"}))
    """
    wrong = [{"id": "1", "key": "app-key", "secret": "wrong"}]
    too_large, name, event, app, unknown_app, nobody = sender(ERRORS + textwrap.dedent(code), over_http(server))
    assert too_large[:2] == ["BroadcastError", 413]
    assert "at most 10240 bytes" in too_large[2]
    assert (name[0], event[0], app[0]) == ("ValueError", "ValueError", "LookupError")
    assert unknown_app[:2] == ["BroadcastError", 404]
    assert nobody == ["done", None, 0]
    one_push = ERRORS + 'attempt(lambda: WebSocket.to_channel("a").push({"event": "x"}))'
    ((kind, status, text),) = sender(one_push, over_http(server), wrong)
    assert (kind, status) == ("BroadcastError", 401)
    assert f"http://127.0.0.1:{server.port}/apps/1/events was answered 401: Invalid signature" in text
    ((kind, _, text),) = sender(one_push, over_http(server), [])
    assert (kind, "apps[0].id is missing" in text) == ("ConfigurationError", True)


def test_a_server_that_is_away_does_not_answer_or_is_none_is_told(sender):
    one_push = ERRORS + 'attempt(lambda: WebSocket.to_channel("a").push({"event": "x"}))'
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        ((kind, status, text),) = sender(one_push, {"driver": "http", "http": {"url": url}})
        assert (kind, status, f"The WebSocket server at {url} cannot be reached" in text) == ("BroadcastError", None, True)
        deaf.listen()
        started = time.monotonic()
        ((kind, _, text),) = sender(one_push, {"driver": "http", "http": {"url": url, "timeout": 0.5}})
        assert (kind, "timed out" in text.lower()) == ("BroadcastError", True), text
        assert time.monotonic() - started < 30
    redis = {"driver": "redis", "redis": {"url": f"redis://:hidden@127.0.0.1:{url.rpartition(':')[2]}/0", "timeout": 0.5}}
    ((kind, _, text),) = sender(one_push, redis)
    assert (kind, "Redis at 127.0.0.1:" in text, "hidden" in text) == ("BroadcastError", True, False)


def test_over_redis_nothing_can_be_asked_and_without_a_server_nobody_takes_a_push(sender, redis):
    code = """
    attempt(lambda: WebSocket.get_channels())
    attempt(lambda: WebSocket.to_channel("a").push({"event": "x"}))
    """
    broadcasting = {"driver": "redis", "redis": {"url": redis.url, "prefix": "nobody:"}}
    question, push = sender(ERRORS + textwrap.dedent(code), broadcasting)
    assert (question[0], "set broadcasting.driver to http" in question[2]) == ("BroadcastError", True)
    assert push == ["done", None, 0]


def test_forked_workers_and_threads_each_send_over_connections_of_their_own(sender, serve):
    server = serve(apps=(APP,))
    code = """
    import os, threading
    WebSocket.to_channel("a").push({"event": "parent"})  # the parent's connection is open when it forks

    def work():
        for number in range(20):
            assert WebSocket.to_channel("a").push({"event": "n", "data": number}) == 1

    children = []
    for _ in range(3):
        child = os.fork()
        if not child:
            threads = [threading.Thread(target=work) for _ in range(3)]
            [thread.start() for thread in threads]
            [thread.join() for thread in threads]
            os._exit(0)
        children.append(child)
    for child in children:
        assert os.waitpid(child, 0)[1] == 0
    WebSocket.to_channel("a").push({"event": "end"})
    """
    with server.connect() as client:
        client.subscribe("a")
        sender(code, over_http(server))
        events = client.events("end")
        assert len(events) == 3 * 3 * 20 + 2


def test_more_channels_than_one_event_may_have_go_in_portions(sender, serve):
    limits = {"channels_per_event": 3}
    server = serve(apps=(AppSettings("1", "app-key", "app-secret", limits=AppLimits(channels_per_event=3)),))
    code = 'print(WebSocket.to_channels([f"c{number}" for number in range(10)]).push({"event": "x"}))'
    with server.connect() as client:
        for number in range(10):
            client.subscribe(f"c{number}")
        assert sender(code, over_http(server), [{**APPS[0], "limits": limits}]) == [10]
        assert {client.receive()["channel"] for _ in range(10)} == {f"c{number}" for number in range(10)}


def test_an_application_registers_everything_and_only_its_authorizers_are_used(sender, serve):
    server = serve(apps=(APP,))
    code = """
    import json
    from flask import Flask
    from alphavel.foundation import Alphavel

    @WebSocket.channel("private-user.{user_id}")
    def own(user, user_id):
        return user.id == user_id

    @WebSocket.on("open")
    def opened(connection):
        raise AssertionError

    @WebSocket.event("typing")
    def typing(connection, data):
        raise AssertionError

    @WebSocket.route("/echo")
    def echo(connection, message):
        raise AssertionError

    @WebSocket.every(0.01)
    def tick():
        raise AssertionError

    @WebSocket.user_loader
    def who():
        return 7

    app = Flask(__name__)
    Alphavel(app)

    @app.post("/orders")
    def create():
        return {"queued": WebSocket.to_channel("a").to_others().push({"event": "x"})}

    client = app.test_client()
    asked = {"socket_id": "1.2", "channel_name": "private-user.7"}
    print(json.dumps(client.post("/broadcasting/auth", data=asked).json))
    print(json.dumps(client.post("/orders").json))
    print(json.dumps(client.post("/orders", headers={"X-Socket-ID": SOCKET_ID}).json))
    print(json.dumps(client.get("/health").json))
    print(client.get("/apps/1/channels").status_code)
    print(client.get("/", headers={"Upgrade": "websocket"}).status_code)
    """
    with server.connect() as client:
        client.subscribe("a")
        code = f"SOCKET_ID = {client.socket_id!r}\n" + textwrap.dedent(code)
        auth, everybody, others, health, api, upgrade = sender(code, over_http(server))
        assert auth["auth"].startswith("app-key:")
        assert (everybody, others) == ({"queued": 1}, {"queued": 0})
        assert (health, api, upgrade) == ({"status": "ready"}, 404, 404)


def test_flask_under_a_plain_wsgi_server_sends(serve, tmp_path):
    server = serve(apps=(APP,))
    (tmp_path / "config").mkdir()
    (tmp_path / "config/websocket.yaml").write_text(json.dumps({"broadcasting": over_http(server), "apps": APPS}))
    (tmp_path / "shop.py").write_text(
        WITHOUT + "from flask import Flask\nfrom alphavel.websocket import blueprint\napp = Flask('shop')\n"
        "app.register_blueprint(blueprint)\n"
        "@app.get('/push')\ndef push():\n    return {'queued': WebSocket.to_channel('a').push({'event': 'x'})}\n"
    )
    port = free_port()
    gunicorn = Program(
        script("gunicorn"), "-b", f"127.0.0.1:{port}", "-k", "sync", "shop:app", cwd=tmp_path, PYTHONPATH=str(ROOT)
    )
    with gunicorn, server.connect() as client:
        client.subscribe("a")
        gunicorn.wait_for("Booting worker")

        def pushed():
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/push", timeout=30) as response:
                    return json.load(response)
            except OSError:
                return None

        assert wait_until(pushed, 20) == {"queued": 1}
        assert client.receive()["event"] == "x"


def test_a_program_under_gevent_that_does_not_serve_sends_over_redis(sender, serve, redis):
    settings = BroadcastingSettings("redis", RedisSettings(redis.url, prefix="patched:"))
    server = serve(apps=(APP,), broadcasting=settings)
    begin = "from gevent import monkey\nmonkey.patch_all()\nfrom alphavel.websocket import WebSocket, WebSocketServer\n"
    code = """
    import json
    print(json.dumps(isinstance(WebSocket._resolve(), WebSocketServer)))
    print(WebSocket.to_channel("a").push({"event": "x"}))
    """
    with server.connect() as client:
        client.subscribe("a")
        broadcasting = {"driver": "redis", "redis": {"url": redis.url, "prefix": "patched:"}}
        assert sender(code, broadcasting, begin=begin) == [True, 1]
        assert client.receive()["event"] == "x"


def test_a_process_that_turns_out_to_serve_takes_what_was_registered_before_it_was_patched(redis):
    bindings = Container()
    sender = Sender(WebSocketSettings(broadcasting=BroadcastingSettings("redis", RedisSettings(redis.url))))
    bindings.instance("websocket", sender)
    sender.channel("private-a")(lambda user: True)
    sender.route("/echo")(lambda connection, message: None)
    sender.user_loader(lambda: 7)
    server = serving(bindings)
    assert isinstance(server, WebSocketServer)
    assert bindings.make("websocket") is server
    assert server.authorizers.patterns() == ["private-a"]
    assert server.hooks.routes["/echo"].protocol.app is server.apps.default
    assert server.load_user() == 7
    assert serving(bindings) is server


def test_a_server_cannot_be_started_where_the_configuration_is_a_senders(sender):
    assert sender("print(int(WebSocket.drain()))", {"driver": "http"}) == [1]
    done = run(script("alpha"), "websocket:serve", cwd=sender.folder)
    assert done.returncode == 1
    assert "broadcasting.driver: with http this process only sends" in done.stderr
    assert "ALPHAVEL_BROADCAST_DRIVER" in done.stderr


def test_without_what_a_server_needs_it_says_what_to_install(sender):
    code = """
    import json
    from alphavel.foundation.console import main
    sys.argv = ["alpha", "websocket:serve"]
    sys.stderr = sys.stdout
    main()
    """
    with pytest.raises(AssertionError):
        sender(code, {"driver": "memory"})
    done = run(sys.executable, "program.py", cwd=sender.folder, PYTHONPATH=str(ROOT))
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.startswith("alpha: The WebSocket server needs gevent, jwt, psutil: pip install")
    push = ERRORS + 'attempt(lambda: WebSocket.to_channel("a").push({"event": "x"}))'
    ((kind, _, text),) = sender(push, {"driver": "memory"})
    assert (kind, "set broadcasting.driver to http or redis" in text) == ("ConfigurationError", True)
