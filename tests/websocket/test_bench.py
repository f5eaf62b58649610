"""`alpha websocket:bench` against servers that work, that refuse, and that vanish."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import socket
import time

import gevent
import jwt
import pytest

from alphavel.websocket.bench.client import BenchError, Client, Target
from alphavel.websocket.bench.load import Result
from alphavel.websocket.frames import Opcode, frame
from alphavel.websocket.handshake import accept_value
from tests.support import Program, run, script, wait_until
from tests.websocket.conftest import SECRET

CONFIG = """
apps: [{id: shop, key: shop-key, secret: a-secret-of-the-shop}]
"""


@pytest.fixture
def bench(tmp_path):
    """`bench(url, …)` runs the command and returns its exit code and what it found."""

    def bench(url, *options, **environment):
        result = run(script("alpha"), "websocket:bench", url, *options, "--json", cwd=tmp_path, **environment)
        assert result.stdout, result.stderr
        return result.returncode, json.loads(result.stdout)

    return bench


def quick(connections=20, rate=200, seconds=1):
    return ["--connections", str(connections), "--rate", str(rate), "--seconds", str(seconds)]


@pytest.fixture
def start(tmp_path):
    """`start()` starts a server in a process of its own, as the command measures it; `.port` is where."""
    started = []

    def start(*options, config="", **environment):
        if config:
            (tmp_path / "config").mkdir(exist_ok=True)
            (tmp_path / "config/websocket.yaml").write_text(config)
        program = Program(
            script("alpha"), "websocket:serve", "--host", "127.0.0.1", "--port", "0", *options, cwd=tmp_path, **environment
        )
        started.append(program)
        program.port = int(re.search(r"ws://127.0.0.1:(\d+)/", program.wait_for("listening"))[1])
        return program

    yield start
    for program in started:
        with program:
            program.stop()


@pytest.mark.parametrize("path", ["/", "/app/shop-key", "/app/shop-key?protocol=7&client=bench"])
def test_pings_in_both_protocols(start, bench, path):
    code, found = bench(f"ws://127.0.0.1:{start(config=CONFIG).port}{path}", *quick())
    assert code == 0, found
    assert (found["connected"], found["failed"], found["lost"]) == (20, 0, 0)
    assert 100 < found["sent"] == found["received"] == found["expected"]
    assert found["lasted"] == pytest.approx(1.0, abs=0.9)
    latency = found["latency"]
    assert 0 < latency["p50"] <= latency["p90"] <= latency["p99"] <= latency["p99.9"] <= latency["max"] < 10
    assert found["reasons"] == {}


@pytest.mark.parametrize("path", ["/", "/app/shop-key"])
def test_pushes_through_the_http_api_to_all_clients(start, bench, path):
    port = start(config=CONFIG).port
    code, found = bench(f"ws://127.0.0.1:{port}{path}", "--publish", "--size", "500", *quick(rate=20))
    assert code == 0, found
    assert found["received"] == found["expected"] == 20 * found["sent"] > 100


def test_for_people_there_is_a_summary(start, tmp_path):
    url = f"ws://127.0.0.1:{start().port}/"
    result = run(script("alpha"), "websocket:bench", url, *quick(seconds=0.5), cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    rows = dict(line.split(maxsplit=1) for line in result.stdout.splitlines() if not line.startswith("latency"))
    assert rows["connections"].startswith("20 in ")
    assert re.fullmatch(r"(\d+) of \1, \d+ a second", rows["received"].replace(",", "", 0))
    for name in ("p50", "p90", "p99", "p99.9", "max"):
        assert re.search(rf"^latency {re.escape(name)} +[\d,.]+ ms$", result.stdout, re.MULTILINE)


def test_a_token_is_shown_where_the_server_asks_for_one(start, bench):
    port = start(ALPHAVEL_JWT_SECRET=SECRET).port
    code, found = bench(f"ws://127.0.0.1:{port}/", *quick(connections=3))
    assert (code, found["connected"], found["failed"]) == (1, 0, 1)
    assert found["reasons"] == {"The handshake was answered 401 Unauthorized: A token is needed to connect.": 1}
    token = jwt.encode({"sub": "1", "exp": time.time() + 600}, SECRET, "HS256")
    assert bench(f"ws://127.0.0.1:{port}/", *quick(connections=3), ALPHAVEL_BENCH_TOKEN=token)[0] == 0


def test_where_there_is_nothing_at_the_path(start, bench):
    code, found = bench(f"ws://127.0.0.1:{start().port}/app/nobodys-key", *quick())
    assert (code, found["reasons"]) == (1, {"The handshake was answered 404 NOT FOUND": 1})


def test_connections_from_several_addresses(start, bench):
    sources = ["--source", "127.0.0.2", "--source", "127.0.0.3"]
    assert bench(f"ws://127.0.0.1:{start().port}/", *quick(connections=4), *sources)[0] == 0


def test_a_server_that_is_full_is_told_of(start, bench):
    port = start(config="options: {max_connections: 5}\n").port
    code, found = bench(f"ws://127.0.0.1:{port}/", *quick(connections=8))
    assert (code, found["connected"], found["failed"]) == (1, 5, 3)
    assert any("503" in reason for reason in found["reasons"])


def test_connections_that_end_are_told_of(start, tmp_path):
    server = start()
    command = [script("alpha"), "websocket:bench", f"ws://127.0.0.1:{server.port}/", *quick(seconds=3600), "--json"]
    with Program(*command, cwd=tmp_path) as program:
        stats = [script("alpha"), "websocket:stats", "--json"]
        wait_until(lambda: json.loads(run(*stats, cwd=tmp_path).stdout)["connections"] == 20, 30)
        server.process.send_signal(signal.SIGKILL)
        server.process.wait()
        program.wait_for("\n", 60)
        found = json.loads(program.output)
        assert program.wait() == 1
    assert found["lost"] == 20


def test_who_has_seen_enough_gets_the_summary(start, tmp_path):
    command = [script("alpha"), "websocket:bench", f"ws://127.0.0.1:{start().port}/", *quick(seconds=3600)]
    with Program(*command, cwd=tmp_path) as program:
        stats = [script("alpha"), "websocket:stats", "--json"]
        wait_until(lambda: json.loads(run(*stats, cwd=tmp_path).stdout)["messages_in"] > 20, 30)
        program.process.send_signal(signal.SIGINT)
        program.wait_for("latency max", 60)
        assert program.wait() in (0, 1)  # an answer may have been on its way


def test_where_nobody_listens(bench):
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    code, found = bench(f"ws://127.0.0.1:{port}/", *quick(connections=2))
    assert (code, found["failed"]) == (1, 1), "what is wrong with the first is told before others are tried"
    assert any("refused" in reason for reason in found["reasons"])


def test_people_are_told_at_once_what_is_wrong(tmp_path):
    result = run(script("alpha"), "websocket:bench", "ws://nowhere.invalid/", *quick(connections=500), cwd=tmp_path)
    assert (result.returncode, result.stdout) == (1, "")
    assert "Error: No connection could be made: The name nowhere.invalid cannot be looked up: " in result.stderr


def test_pushes_need_an_app(start, tmp_path):
    result = run(script("alpha"), "websocket:bench", f"ws://127.0.0.1:{start().port}/", "--publish", cwd=tmp_path)
    assert result.returncode == 1
    assert "signs as an app of config/websocket.yaml" in result.stderr


@pytest.mark.parametrize("url", ["http://127.0.0.1/", "ws://", "127.0.0.1:9501", "ws://127.0.0.1:99999/", "ws://127.0.0.1:0/"])
def test_what_is_no_url(url, tmp_path):
    result = run(script("alpha"), "websocket:bench", url, cwd=tmp_path)
    assert result.returncode == 1
    assert "Expected a URL such as" in result.stderr
    with pytest.raises(BenchError):
        Target.of(url)


def test_what_a_target_knows():
    target = Target.of("wss://example.com/app/key")
    assert (target.address, target.resource, target.is_pusher) == (("example.com", 443), "/app/key?protocol=7", True)
    assert Target.of("ws://[::1]:9501").address == ("::1", 9501)
    assert Target.of("ws://example.com?token=x").resource == "/?token=x"


def test_percentiles():
    result = Result()
    assert result.percentiles() == {}
    result.latencies.extend(number / 1000 for number in range(1000))
    assert result.percentiles() == {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999, "max": 0.999}


@contextlib.contextmanager
def answering(*frames, accept=accept_value):
    """A server that shakes hands with whoever comes and sends these texts; the value is its URL."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer():
            peer, _ = listener.accept()
            with peer:
                key = re.search(rb"Sec-WebSocket-Key: (\S+)", peer.recv(65536))[1].decode()
                head = f"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: {accept(key)}\r\n\r\n"
                peer.sendall(head.encode() + b"".join(frame(Opcode.TEXT, text) for text in frames))

        greenlet = gevent.spawn(answer)
        yield f"ws://127.0.0.1:{listener.getsockname()[1]}/"
        greenlet.join()


def test_a_server_that_is_no_websocket_server():
    with answering(accept=lambda key: "nonsense") as url:
        client = Client(Target.of(url), lambda *told: None)
        with pytest.raises(BenchError, match="not answered by a WebSocket server"):
            client.connect(None)


@pytest.mark.parametrize("text", [b"[1, 2]", b"7", b"null", b"{"])
def test_what_is_no_event_ends_the_connection_and_is_told_of(text):
    with answering(text) as url, pytest.raises(BenchError):
        Client(Target.of(url), lambda *told: None).connect(None)
    with answering(b'{"event":"connected"}', text) as url:
        client = Client(Target.of(url), lambda *told: None)
        client.connect(None)
        wait_until(lambda: client.ended)
        client.close()
