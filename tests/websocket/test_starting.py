"""The ways to start the server, each as a user would, in a process of its own."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import time
import urllib.error
import urllib.request

import pytest
import websockets.sync.client

from tests.support import Program, run, script, wait_until
from tests.websocket.clients import Client, Closed, Refused
from tests.websocket.tokens import bearer

APP = """
from flask import Flask, request
from alphavel.websocket import WebSocket, blueprint

app = Flask(__name__)
app.register_blueprint(blueprint)

@app.get("/push")
def push():
    to = WebSocket.to_channel("chat").to_others() if "others" in request.args else WebSocket.to_channel("chat")
    return {"queued": to.push({"event": "new-message", "data": {"text": "hi"}})}

@app.get("/slow")
def slow():
    import time
    time.sleep(1.0)
    return "slow but whole"

@WebSocket.channel("private-user.{user_id}")
def own(user, user_id):
    return user.id == user_id

@WebSocket.event("slow")
def slow_event(connection):
    import time
    time.sleep(0.5)
    connection.send({"event": "slow-done"})

@WebSocket.route("/echo", auth=False)
def echo(connection, message):
    connection.send(message)
"""

PYWSGI = """
from gevent import monkey
monkey.patch_all()
import sys
from gevent.pywsgi import WSGIServer
from shop import app

handler = {}
if "geventwebsocket" in sys.argv:
    from geventwebsocket.handler import WebSocketHandler
    handler = {"handler_class": WebSocketHandler}
server = WSGIServer(("127.0.0.1", int(sys.argv[1])), app, log=None, **handler)
server.start()
print("listening", flush=True)
server.serve_forever()
"""


@pytest.fixture
def shop(tmp_path):
    """A folder with an application."""
    (tmp_path / "shop.py").write_text(APP)
    (tmp_path / "main.py").write_text(PYWSGI)
    return tmp_path


@pytest.fixture
def port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def get(port, path, **headers):
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def alpha(shop, port, *options, **environment):
    return Program(
        script("alpha"), "websocket:serve", "--app", "shop:app", "--host", "127.0.0.1", "--port", str(port), *options,
        cwd=shop, **environment,
    )  # fmt: skip


def gunicorn(shop, port, *options):
    return Program(script("gunicorn"), "-b", f"127.0.0.1:{port}", *options, "shop:app", cwd=shop)


def published(shop):
    assert run(script("alpha"), "vendor:publish", "--tag=websocket-config", cwd=shop).returncode == 0
    (shop / "config/websocket.yaml").unlink()


STARTS = {
    "alpha websocket:serve": (lambda shop, port: alpha(shop, port), "listening"),
    "the blueprint under pywsgi": (lambda shop, port: Program(script("python"), "main.py", str(port), cwd=shop), "listening"),
    "the blueprint under gevent-websocket's handler": (
        lambda shop, port: Program(script("python"), "main.py", str(port), "geventwebsocket", cwd=shop),
        "listening",
    ),
    "gunicorn -k egg:alphavel#geventwebsocket": (
        lambda shop, port: gunicorn(shop, port, "-k", "egg:alphavel#geventwebsocket"),
        "Booting worker",
    ),
    "gunicorn -k geventwebsocket with our settings": (
        lambda shop, port: published(shop) or gunicorn(shop, port, "-c", "config/gunicorn.conf.py", "-k", "geventwebsocket"),
        "Booting worker",
    ),
    "gunicorn with the stock worker": (
        lambda shop, port: gunicorn(shop, port, "-k", "geventwebsocket.gunicorn.workers.GeventWebSocketWorker"),
        "Booting worker",
    ),
}


@pytest.mark.parametrize("way", STARTS)
def test_each_way_to_start_serves_flask_and_websockets_on_one_port(way, shop, port):
    start, started = STARTS[way]
    with start(shop, port) as program:
        program.wait_for(started)
        wait_until(lambda: answers(port), 20)
        assert get(port, "/push") == (200, '{"queued":0}\n')
        assert get(port, "/health") == (200, '{"status":"ready"}\n')
        with websockets.sync.client.connect(f"ws://127.0.0.1:{port}/") as one, Client(port) as two:
            socket_id = json.loads(one.recv())["socket_id"]
            one.send('{"event":"subscribe","data":{"channel":"chat"}}')
            assert json.loads(one.recv())["event"] == "subscribed"
            two.subscribe("chat")
            assert get(port, "/push") == (200, '{"queued":2}\n')
            assert json.loads(one.recv())["data"] == {"text": "hi"}
            assert two.receive()["data"] == {"text": "hi"}
            assert get(port, "/push?others=1", **{"X-Socket-ID": socket_id}) == (200, '{"queued":1}\n')
            assert two.receive()["event"] == "new-message"
            one.send('{"event":"ping"}')
            assert json.loads(one.recv())["event"] == "pong", "it did not get its own push"
        assert one.close_code == 1000
        with Client(port, "/echo") as client:
            client.text("x" * 100_000)
            assert client.receive_frame()[1] == b"x" * 100_000
        if "gevent-websocket" not in way and "stock" not in way:
            with pytest.raises(Refused) as caught:
                Client(port, "/nowhere")
            assert caught.value.status == 404
        else:
            with Client(port, "/nowhere", greeted=False) as client:
                assert client.closed().code in (4004, None)
        assert program.stop() in (0, -signal.SIGTERM)
        assert "Traceback" not in program.output
        assert "Warning" not in program.output, program.output


def answers(port):
    try:
        return get(port, "/health")
    except OSError:
        return False


def test_the_banner_tells_where_workers_driver_and_auth(shop, port):
    with alpha(shop, port) as program:
        output = program.wait_for("auth")
        assert f"ws://127.0.0.1:{port}/" in output
        assert re.search(r"workers +1", output)
        assert re.search(r"driver +memory", output)
        assert "no key is set" in output
        assert "may open" in output, "100,000 connections are more than this machine's limit of files"


def test_without_an_application_it_serves_websockets_alone(shop, port):
    with Program(script("alpha"), "websocket:serve", "--host", "127.0.0.1", "--port", str(port), cwd=shop) as program:
        program.wait_for("auth")
        assert get(port, "/health") == (200, '{"status":"ready"}\n')
        assert get(port, "/anything")[0] == 404
        with Client(port) as client:
            assert client.subscribe("a")["event"] == "subscribed"
        assert program.stop() == 0


def test_a_port_in_use_is_one_clear_line(shop, port):
    with socket.create_server(("127.0.0.1", port)):
        result = run(script("alpha"), "websocket:serve", "--host", "127.0.0.1", "--port", str(port), cwd=shop)
    assert result.returncode == 1
    assert result.stderr == (f"Error: Port {port} of 127.0.0.1 is in use. Stop what uses it, or choose another with --port.\n")


@pytest.mark.parametrize(
    ("options", "config", "sentence"),
    [
        (["--app", "nothing:app"], "", "no module 'nothing'"),
        (["--app", "shop:nothing"], "", "no application 'nothing'"),
        (["--workers", "4"], "", "Run one worker"),
        (["--certfile", "shop.py"], "", "go together"),
        ([], "auth:\n  enabled: true\n", "auth.enabled is true but there is no key"),
        ([], "options:\n  max_conections: 5\n", "Did you mean `max_connections`?"),
        ([], "options:\n  max_connections: many\n", "config/websocket.yaml: options.max_connections: expected a whole number"),
        ([], "port: 1\nport: 2\n", "stands here twice"),
    ],
)
def test_a_start_that_cannot_be_says_why_in_one_line(shop, options, config, sentence):
    (shop / "config").mkdir()
    (shop / "config/websocket.yaml").write_text(config)
    result = run(script("alpha"), "websocket:serve", *options, cwd=shop)
    assert result.returncode in (1, 2)
    assert sentence in result.stderr
    assert "Traceback" not in result.stderr


def test_sigterm_drains(shop, port):
    """Clients are told to come back, outboxes are written, a running handler and a running request finish."""
    with alpha(shop, port) as program:
        program.wait_for("auth")
        client, idle = Client(port), Client(port)
        client.send("slow")
        with socket.create_connection(("127.0.0.1", port), timeout=10) as request:
            request.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            time.sleep(0.2)
            program.process.terminate()
            closed = idle.closed()
            assert (closed.code, closed.reason) == (4200, "server is restarting, reconnect")
            response = b""
            while piece := request.recv(1000):
                response += piece
            assert response.endswith(b"slow but whole")
        assert client.closed().code == 4200
        client.close()
        idle.close()
        assert program.wait() == 0
        with pytest.raises(ConnectionRefusedError):
            Client(port)


def test_while_draining_health_says_so_and_handshakes_get_503(shop, port):
    (shop / "config").mkdir()
    (shop / "config/websocket.yaml").write_text("options:\n  drain_timeout: 3\n")
    with alpha(shop, port) as program:
        program.wait_for("auth")
        client = Client(port)
        client.send("slow")
        time.sleep(0.1)
        program.process.terminate()
        wait_until(lambda: get(port, "/health") == (503, '{"status":"draining"}\n'))
        with pytest.raises(Refused) as caught:
            Client(port)
        assert caught.value.status == 503
        assert "retry-after" in caught.value.headers
        assert client.closed().code == 4200
        client.close()
        assert program.wait() == 0


def test_a_client_that_never_leaves_does_not_hold_up_the_end(shop, port):
    (shop / "config").mkdir()
    (shop / "config/websocket.yaml").write_text("options:\n  drain_timeout: 1\n")
    with alpha(shop, port) as program:
        program.wait_for("auth")
        client = Client(port)
        started = time.monotonic()
        program.process.terminate()
        assert program.wait() == 1
        assert time.monotonic() - started < 4
        client.close()


def test_sighup_reads_the_configuration_anew_and_keeps_the_old_one_where_the_new_is_wrong(shop, port):
    (shop / "config").mkdir()
    config = shop / "config/websocket.yaml"
    config.write_text("options:\n  max_message_size: 1000\n")
    with alpha(shop, port) as program:
        program.wait_for("auth")
        client = Client(port)
        config.write_text("options:\n  max_message_size: 100\n")
        program.process.send_signal(signal.SIGHUP)
        program.wait_for("Configuration reloaded")
        config.write_text("options:\n  max_message_size: nonsense\n")
        program.process.send_signal(signal.SIGHUP)
        program.wait_for("was not taken")
        assert "options.max_message_size" in program.output
        client.text('{"event":"ping","fill":"' + "x" * 200 + '"}')
        assert client.closed().code == 1009
        client.close()
        assert program.stop() == 0


def test_daemon_says_how_its_start_went_and_leaves_a_pid_file(shop, port):
    options = ["websocket:serve", "--app", "shop:app", "--host", "127.0.0.1", "--port", str(port), "--daemon"]
    result = run(script("alpha"), *options, cwd=shop)
    assert result.returncode == 0, result.stderr
    assert f"ws://127.0.0.1:{port}/" in result.stdout
    pid_file = shop / "alphavel-websocket.pid"
    pid = int(pid_file.read_text())
    try:
        assert get(port, "/health")[0] == 200
        again = run(script("alpha"), *options, cwd=shop)
        assert again.returncode == 1
        assert f"running already, process {pid}" in again.stderr
    finally:
        os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not pid_file.exists())
    wait_until(lambda: not answers(port))


def test_stats_from_a_running_server(shop, port, tmp_path_factory):
    folder = tmp_path_factory.mktemp("private")
    folder.chmod(0o700)
    environment = {"ALPHAVEL_RUN_DIR": str(folder), "ALPHAVEL_JWT_SECRET": "k" * 40}
    nobody = run(script("alpha"), "websocket:stats", cwd=shop, **environment)
    assert (nobody.returncode, len(nobody.stderr.splitlines())) == (1, 1)
    assert "alpha websocket:serve" in nobody.stderr
    with alpha(shop, port, **environment) as program:
        program.wait_for("auth")
        with Client(port, "/", bearer("7", key="k" * 40)) as client:
            client.subscribe("chat")
            client.subscribe("private-user.7")
            table = run(script("alpha"), "websocket:stats", cwd=shop, **environment).stdout
            for words in (
                r"state +ready",
                r"connections +1 of 100,000",
                r"users +1",
                r"private-user.7 +private +1",
                r"memory +\d",
            ):
                assert re.search(words, table), (words, table)
            stats = json.loads(run(script("alpha"), "websocket:stats", "--json", cwd=shop, **environment).stdout)
            assert stats["connections"] == stats["users"] == 1
            assert {channel["name"]: channel["subscribers"] for channel in stats["channels"]} == {
                "chat": 1,
                "private-user.7": 1,
            }
            assert stats["workers"][0]["pid"] == program.process.pid
            with Program(script("alpha"), "websocket:stats", "--watch", "--json", cwd=shop, **environment) as watcher:
                wait_until(lambda: watcher.output.count("uptime") >= 2)
        (sock,) = folder.glob("*.sock")
        assert sock.stat().st_mode & 0o777 == 0o600
        assert program.stop() == 0
        assert not list(folder.glob("*.sock"))


def test_gunicorn_hands_clients_over_when_it_stops(shop, port):
    with gunicorn(shop, port, "-k", "egg:alphavel#geventwebsocket") as program:
        program.wait_for("Booting worker")
        wait_until(lambda: answers(port), 20)
        with Client(port) as client:
            program.process.terminate()
            assert client.closed().code == 4200
        assert program.wait() == 0


def test_gunicorn_warns_of_workers_that_cannot_reach_each_other(shop, port):
    with gunicorn(shop, port, "-k", "egg:alphavel#geventwebsocket", "-w", "2") as program:
        program.wait_for("a push reaches the clients of one worker only")
        program.stop()


def test_flasks_own_development_server_answers_with_what_to_do(shop, port):
    with Program(script("flask"), "--app", "shop", "run", "--port", str(port), cwd=shop) as program:
        wait_until(lambda: answers(port), 20)
        assert get(port, "/health") == (503, '{"status":"stopped"}\n')
        status, _ = get(port, "/push")
        assert status == 500
        assert "alpha websocket:serve" in program.output
        with pytest.raises((Refused, Closed)) as caught:
            Client(port)
        if isinstance(caught.value, Refused):
            assert caught.value.status == 501
            assert "alpha websocket:serve" in caught.value.body
