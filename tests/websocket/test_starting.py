"""The ways to start the server, each as a user would, in a process of its own."""

from __future__ import annotations

import contextlib
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

from tests.support import Program, free_port, run, script, wait_until
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
    print("a slow request began", flush=True)
    time.sleep(1.0)
    return "slow but whole"

@WebSocket.channel("private-user.{user_id}")
def own(user, user_id):
    return user.id == user_id

@WebSocket.event("slow")
def slow_event(connection):
    import time
    print("a slow handler began", flush=True)
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
    return free_port()


def get(port, path, **headers):
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
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


GUNICORN = {
    "gunicorn -k egg:alphavel#geventwebsocket": lambda shop: ["-k", "egg:alphavel#geventwebsocket"],
    "gunicorn -k geventwebsocket with our settings": lambda shop: (
        published(shop) or ["-c", "config/gunicorn.conf.py", "-k", "geventwebsocket"]
    ),
    "gunicorn with the stock worker": lambda shop: ["-k", "geventwebsocket.gunicorn.workers.GeventWebSocketWorker"],
}
STARTS = {
    "alpha websocket:serve": (alpha, "listening"),
    "the blueprint under pywsgi": (lambda shop, port: Program(script("python"), "main.py", str(port), cwd=shop), "listening"),
    "the blueprint under gevent-websocket's handler": (
        lambda shop, port: Program(script("python"), "main.py", str(port), "geventwebsocket", cwd=shop),
        "listening",
    ),
    **{
        way: (lambda shop, port, options=options: gunicorn(shop, port, *options(shop)), "Booting worker")
        for way, options in GUNICORN.items()
    },
}


@pytest.mark.parametrize("way", STARTS)
def test_each_way_to_start_serves_flask_and_websockets_on_one_port(way, shop, port):
    start, started = STARTS[way]
    with start(shop, port) as program:
        program.wait_for(started)
        wait_until(lambda: answers(port))
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
        with websockets.sync.client.connect(f"ws://127.0.0.1:{port}/", subprotocols=["alphavel.v1"]) as client:
            assert client.subprotocol == "alphavel.v1"  # a browser that asked for it goes away without
        with Client(port, "/echo") as client:
            client.text("x" * 100_000)
            assert client.receive_frame()[1] == b"x" * 100_000
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/sse?channels=chat", timeout=20) as stream:
            wait_until(lambda: get(port, "/push") == (200, '{"queued":1}\n'))
            line = next(line for line in iter(stream.readline, b"") if b"new-message" in line)
            assert json.loads(line.removeprefix(b"data: "))["data"] == {"text": "hi"}
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


@pytest.mark.parametrize("way", STARTS)
def test_who_is_refused_gets_nothing_more_whichever_way_it_was_started(way, shop, port, monkeypatch):
    """Neither the request behind a refused handshake is answered, nor the frames; the socket is closed."""
    monkeypatch.setenv("ALPHAVEL_JWT_SECRET", "k" * 40)
    start, started = STARTS[way]
    log_requests = ["--access-logfile", "-"] if "gunicorn" in way else []
    with start(shop, port) if not log_requests else gunicorn(shop, port, *GUNICORN[way](shop), *log_requests) as program:
        program.wait_for(started)
        wait_until(lambda: answers(port))
        for path, extra in (("/", ""), ("/", "Origin: http://evil.test\r\n"), ("/?token=opaque-secret", "")):
            request = (
                f"GET {path} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                f"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{extra}\r\nGET /push HTTP/1.1\r\nHost: x\r\n\r\n"
            )
            received = b""
            with socket.create_connection(("127.0.0.1", port), timeout=30) as sock, contextlib.suppress(ConnectionError):
                sock.sendall(request.encode())
                while piece := sock.recv(65536):  # to the end: it is closed
                    received += piece
                    sock.sendall(b'\x81\x90\x00\x00\x00\x00{"event":"ping"}')
            assert received.count(b"HTTP/1.1") == 1, received
            assert b"queued" not in received
            assert b"pong" not in received
        with socket.create_connection(("127.0.0.1", port), timeout=30) as sock:
            sock.sendall(b"nonsense\r\n\r\n")
            assert b" 400 " in sock.recv(1000)
        if log_requests and "stock" not in way:  # that one writes no access log of its own
            program.wait_for('"GET / HTTP/1.1" 401' if "our settings" in way else '"GET /?token=***')  # ours leave queries out
            program.wait_for('" 401 ')
            program.wait_for('" 400 ')
        program.stop()
        assert "opaque-secret" not in program.output
        assert "Traceback" not in program.output


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
        assert re.search(r"writer +(io_uring|send|python)", output)
        assert re.search(r"driver +memory", output)
        assert "no key is set" in output
        assert "may open" in output, "100,000 connections are more than this machine's limit of files"


def test_the_banner_tells_what_was_decided_and_by_whom(shop, port, monkeypatch):
    (shop / "config").mkdir()
    (shop / "config/websocket.yaml").write_text(
        "allowed_origins: [https://app.example]\n"
        "auth: {leeway: 5, user_id_claim: '${CLAIM:-sub}'}\n"
        "apps: [{id: 1, key: app-key, secret: app-secret}]\n"
    )
    monkeypatch.setenv("ALPHAVEL_JWT_SECRET", "k" * 40)
    monkeypatch.setenv("CLAIM", "name")
    with alpha(shop, port) as program:
        output = program.wait_for("leeway")
    assert re.search(r"origins +https://app.example\n", output)
    assert re.search(r"pusher +/app/app-key\n", output)
    assert re.search(r"settings +\S*config/websocket.yaml\n", output)
    assert re.search(r"leeway = 5\S* \(\S*config/websocket.yaml\)", output)
    assert "auth.user_id_claim = name (environment variable CLAIM)" in output
    assert "auth.secret = *** (environment variable ALPHAVEL_JWT_SECRET)" in output
    assert f"port = {port} (command line)" in output
    assert "apps = 1 configured" in output
    assert "k" * 40 not in output
    assert "app-secret" not in output


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
        (["--app", "shop.py"], "", "Expected MODULE:APP, such as shop:app for shop.py; got 'shop.py'."),
        (["--app", "./shop.py:app"], "", "Expected MODULE:APP"),
        (["--app", ":app"], "", "Expected MODULE:APP"),
        (["--app", "shop:make"], "", "'make' is no application. If it makes one, write shop:make()."),
        (["--app", "shop:create_app"], "", "'create_app' is no application. If it makes one, write shop:create_app()."),
        (["--app", "shop:make('blue')"], "", "A factory is called without arguments, make(); got"),
        (["--pid-file", "none/here.pid"], "", "The pid file none/here.pid cannot be written: No such file or directory."),
        (["--host", "192.0.2.1"], "", "Cannot listen on 192.0.2.1, port 9501: Cannot assign requested address.\n"),
        (["--tls-cert", "shop.py"], "", "go together"),
        (["--tls-cert", "shop.py", "--tls-key", "none"], "# a file\n", "config/websocket.yaml: tls: none cannot be read"),
        ([], "auth: {secret: short}\n", "config/websocket.yaml: auth.secret is too short"),
        ([], "auth: {jwks_url: 'ftp://issuer/keys'}\n", "config/websocket.yaml: auth.jwks_url: expected https://ISSUER/PATH"),
        ([], "auth: {public_key: key.der}\n", "config/websocket.yaml: auth.public_key: expected PEM text or the path of a PEM"),
        ([], "logging: {file: none/server.log}\n", "logging.file: none/server.log cannot be written: No such file"),
        ([], "path: ws\n", "config/websocket.yaml: path: a path begins with a slash; got 'ws'."),
        ([], "metrics: {path: figures}\n", "config/websocket.yaml: metrics.path: a path begins with a slash"),
        ([], "event_stream: {path: sse}\n", "config/websocket.yaml: event_stream.path: a path begins with a slash"),
        (
            [],
            "allowed_origins: ['https://shop.example.com/chat']\n",
            "config/websocket.yaml: allowed_origins: expected https://",
        ),
        ([], "options: {heartbeat_idle_time: 60}\n", "options.heartbeat_idle_time: expected more than the 60 seconds"),
        ([], "auth:\n  enabled: true\n", "auth.enabled is true but there is no key"),
        ([], "options:\n  max_conections: 5\n", "Did you mean `max_connections`?"),
        ([], "options:\n  max_connections: many\n", "config/websocket.yaml: options.max_connections: expected a whole number"),
        ([], "port: 1\nport: 2\n", "stands here twice"),
    ],
)
def test_a_start_that_cannot_be_says_why_in_one_line(shop, options, config, sentence):
    (shop / "config").mkdir()
    (shop / "config/websocket.yaml").write_text(config)
    (shop / "key.der").write_bytes(b"0\x82\x01\x22\xff")
    with open(shop / "shop.py", "a") as source:
        source.write("def make(): return app\ndef create_app(name='shop', debug=False): return app\n")
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
        with socket.create_connection(("127.0.0.1", port), timeout=30) as request:
            request.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            program.wait_for("a slow handler began")
            program.wait_for("a slow request began")
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


def test_a_request_that_runs_is_answered_where_no_websocket_keeps_the_server_waiting(shop, port):
    """gevent's server waits for the requests of a pool, and there was none: the page was cut off."""
    with alpha(shop, port) as program:
        program.wait_for("auth")
        with socket.create_connection(("127.0.0.1", port), timeout=30) as request:
            request.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
            program.wait_for("a slow request began")
            program.process.terminate()
            response = b""
            while piece := request.recv(1000):
                response += piece
            assert response.endswith(b"slow but whole")
        assert program.wait() == 0


def test_while_draining_health_says_so_and_handshakes_get_503(shop, port):
    (shop / "config").mkdir()
    (shop / "config/websocket.yaml").write_text("options:\n  drain_timeout: 60\n")  # less, when the client has left
    with alpha(shop, port) as program:
        program.wait_for("auth")
        client = Client(port)
        client.send("slow")
        program.wait_for("a slow handler began")
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
        assert time.monotonic() - started < 9.5  # the default is 10
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
        # What is no use in one respect is not taken in any.
        config.write_text("options:\n  max_message_size: 1000\nlogging:\n  file: none/server.log\n")
        program.process.send_signal(signal.SIGHUP)
        program.wait_for("config/websocket.yaml: logging.file: none/server.log cannot be written")
        client.text('{"event":"ping","fill":"' + "x" * 200 + '"}')
        assert client.closed().code == 1009
        client.close()
        assert program.stop() == 0


def test_the_log_goes_where_the_settings_say_and_holds_no_token(shop, port):
    (shop / "config").mkdir()
    config, log = shop / "config/websocket.yaml", shop / "server.log"
    config.write_text("logging: {file: server.log, level: error}\n")
    with alpha(shop, port) as program:
        program.wait_for("auth")
        program.process.send_signal(signal.SIGHUP)
        config.write_text("logging: {file: server.log, level: info}\n")
        wait_until(lambda: program.process.send_signal(signal.SIGHUP) or "Configuration reloaded" in log.read_text())
        log.rename(shop / "server.log.1")  # as logrotate does
        assert program.stop() == 0
        assert "Stopped" in log.read_text()
        assert "INFO" not in program.output
    config.write_text("logging: {file: server.log, access: true}\n")
    with alpha(shop, port) as program:
        program.wait_for("auth")
        assert get(port, "/push?token=opaque-secret")[0] == 200
        Client(port, "/?token=opaque-secret").close()
        wait_until(lambda: log.read_text().count("token=***") == 2)
        assert program.stop() == 0
    assert "opaque-secret" not in log.read_text() + program.output


def test_daemon_says_how_its_start_went_and_leaves_a_pid_file(shop, port):
    options = ["websocket:serve", "--app", "shop:app", "--host", "127.0.0.1", "--port", str(port), "--daemon"]
    result = run(script("alpha"), *options, cwd=shop)
    assert result.returncode == 0, result.stderr
    assert f"ws://127.0.0.1:{port}/" in result.stdout
    assert "what is logged is lost. Set logging.file." in result.stdout
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


@pytest.mark.parametrize(
    ("options", "app", "words"),
    [
        (["--app", "nothing:app"], "", "There is no module 'nothing' here."),
        (["--workers", "0"], "", "0 is not in the range"),
        (["--app", "bad"], "import nothing_like_this\n", "No module named 'nothing_like_this'"),
        (["--app", "bad"], "1 / 0\n", "ZeroDivisionError"),
    ],
)
def test_a_daemon_that_cannot_start_says_why_once_and_ends_with_an_error(shop, port, options, app, words):
    (shop / "bad.py").write_text(app)
    result = run(script("alpha"), "websocket:serve", "--host", "127.0.0.1", "--port", str(port), "--daemon", *options, cwd=shop)
    assert result.returncode in (1, 2)
    assert result.stderr.count(words) == 1
    assert result.stdout == ""
    assert not (shop / "alphavel-websocket.pid").exists()


def test_a_second_signal_stops_at_once(shop, port):
    with alpha(shop, port) as program:
        program.wait_for("auth")
        with Client(port) as client:
            client.send("slow")
            program.wait_for("a slow handler began")
            program.process.terminate()
            program.wait_for("Stopping")
            program.process.terminate()
            assert program.wait() == 1
            assert "Traceback" not in program.output


def test_it_listens_on_ipv6(shop):
    with Program(script("alpha"), "websocket:serve", "--host", "::1", "--port", "0", cwd=shop) as program:
        output = program.wait_for("auth")
        url = re.search(r"ws://\[::1\]:\d+/", output).group()
        with websockets.sync.client.connect(url) as client:
            assert json.loads(client.recv())["event"] == "connected"
        assert program.stop() == 0


def test_watching_ends_with_ctrl_c_and_without_complaint(shop, port, tmp_path_factory):
    with alpha(shop, port) as program:
        program.wait_for("auth")
        with Program(script("alpha"), "websocket:stats", "--watch", cwd=shop) as watcher:
            watcher.wait_for("connections")
            watcher.process.send_signal(signal.SIGINT)
            assert watcher.wait() == -signal.SIGINT
            assert "Abort" not in watcher.output
            assert "Traceback" not in watcher.output
        with Program(script("alpha"), "websocket:stats", "--watch", "--json", cwd=shop) as watcher:
            watcher.wait_for("uptime")
            assert program.stop() == 0
            assert watcher.wait() == 1, "there is nobody to watch any more"
            assert "No running WebSocket server" in watcher.output.splitlines()[-1]


def test_of_several_servers_the_port_says_which_one_is_meant(shop, port, tmp_path_factory):
    folder = tmp_path_factory.mktemp("private")
    folder.chmod(0o700)
    environment = {"ALPHAVEL_RUN_DIR": str(folder), "ALPHAVEL_JWT_SECRET": "k" * 40}

    def ask(*words):
        return run(script("alpha"), *words, cwd=shop, **environment)

    other = free_port()
    with alpha(shop, port, **environment) as program, alpha(shop, other, **environment) as another:
        for each in (program, another):
            each.wait_for("auth")
        stats = json.loads(ask("websocket:stats", "--json", "--port", port).stdout)
        assert [worker["pid"] for worker in stats["workers"]] == [program.process.pid]
        assert len(json.loads(ask("websocket:stats", "--json").stdout)["workers"]) == 2
        unsure = ask("websocket:reload")
        assert unsure.returncode == 2
        assert "--port" in unsure.stderr
        assert f":{port}/" in unsure.stderr
        assert f":{other}/" in unsure.stderr
        nobody = ask("websocket:reload", "--port", "1")
        assert (nobody.returncode, len(nobody.stderr.splitlines())) == (1, 1)
        assert f":{port}/" in nobody.stderr
        done = ask("websocket:reload", "--port", str(port))
        assert done.returncode == 0, done.stderr

        def pids():
            return [worker["pid"] for worker in json.loads(ask("websocket:stats", "--json").stdout)["workers"]]

        wait_until(lambda: program.process.pid not in pids() and len(pids()) == 2)
        assert another.process.pid in pids()
        for pid in pids():
            os.kill(pid, signal.SIGTERM)
        wait_until(lambda: ask("websocket:stats").returncode == 1)


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
                r"connections +1 of [\d,]+",
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


def test_gunicorn_hands_clients_over_when_it_stops(shop, port, tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("private")
    folder.chmod(0o700)
    monkeypatch.setenv("ALPHAVEL_RUN_DIR", str(folder))
    with gunicorn(shop, port, "-k", "egg:alphavel#geventwebsocket") as program:
        program.wait_for("Booting worker")
        wait_until(lambda: answers(port))
        (worker,) = json.loads(run(script("alpha"), "websocket:stats", "--json", cwd=shop).stdout)["workers"]
        assert worker["listening"] == [f"ws://127.0.0.1:{port}/"]
        with Client(port) as client:
            program.process.terminate()
            assert client.closed().code == 4200
        assert program.wait() == 0


def test_gunicorn_does_not_wait_for_connections_that_are_kept_alive_for_nothing(shop, port):
    (shop / "config").mkdir()
    (shop / "config/websocket.yaml").write_text("options: {handshake_timeout: 1 h}")
    with gunicorn(shop, port, "-k", "egg:alphavel#geventwebsocket", "--graceful-timeout", "3600") as program:
        wait_until(lambda: answers(port))
        with socket.create_connection(("127.0.0.1", port)) as idle:
            idle.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            assert idle.recv(12) == b"HTTP/1.1 200"
            assert program.stop() == 0


def test_gevents_server_in_a_process_that_is_not_patched_answers_with_what_to_do(shop, port):
    """It had answered 500, and logged that the app should be served by gevent, which it was."""
    (shop / "main.py").write_text(PYWSGI.replace("from gevent import monkey\nmonkey.patch_all()\n", ""))
    with Program(script("python"), "main.py", str(port), cwd=shop) as program:
        program.wait_for("listening")
        with pytest.raises(Refused) as caught:
            Client(port)
        assert caught.value.status == 501
        assert "monkey.patch_all()" in caught.value.body
        assert get(port, "/sse?channels=chat")[0] == 501
        assert get(port, "/push")[0] == 500
        assert "monkey.patch_all()" in program.output


def test_flasks_own_development_server_answers_with_what_to_do(shop, port):
    with Program(script("flask"), "--app", "shop", "run", "--port", str(port), cwd=shop) as program:
        wait_until(lambda: answers(port))
        assert get(port, "/health") == (503, '{"status":"stopped"}\n')
        status, _ = get(port, "/push")
        assert status == 500
        assert "alpha websocket:serve" in program.output
        with pytest.raises((Refused, Closed)) as caught:
            Client(port)
        if isinstance(caught.value, Refused):
            assert caught.value.status == 501
            assert "alpha websocket:serve" in caught.value.body
