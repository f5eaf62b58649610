"""Log lines of servers that work, and of servers under attack."""

from __future__ import annotations

import io
import json
import logging
import re
import time

import pytest

from alphavel.websocket import logs
from alphavel.websocket.logs import BURST, WINDOW_S, ConnectionFilter, JsonFormatter, Limiter, TextFormatter, get_logger
from alphavel.websocket.settings import LoggingSettings
from tests.support import Program, script, wait_until
from tests.websocket.clients import Client, Refused
from tests.websocket.conftest import SECRET
from tests.websocket.pusher import PusherClient, app
from tests.websocket.test_event_stream import Stream

LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (DEBUG|INFO|WARNING|ERROR) alphavel[.a-z]*: .*")
TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl"
INJECTION = f"innocent\n2026-01-01T00:00:00.000Z ERROR alphavel.websocket: forged\r\x1b[2J\u2028\u202e token={TOKEN}"


@pytest.fixture(params=["text", "json"])
def form(request):
    """Both forms, for what must hold in both."""
    return request.param


@pytest.fixture
def written():
    """`written(form)` has a handler of that form write what `alphavel` loggers say; call the result for the lines so far."""
    handlers = []

    def written(form):
        stream = io.StringIO()
        handler = logging.StreamHandler(stream)
        handler.setFormatter(TextFormatter() if form == "text" else JsonFormatter())
        logging.getLogger("alphavel").addHandler(handler)
        logging.getLogger("alphavel").setLevel(logging.INFO)
        handlers.append(handler)

        def lines():
            return stream.getvalue().splitlines()

        return lines

    yield written
    for handler in handlers:
        logging.getLogger("alphavel").removeHandler(handler)
    logging.getLogger("alphavel").setLevel(logging.NOTSET)


def entries(lines, message):
    return [entry for entry in map(json.loads, lines()) if message in entry["message"]]


def test_whatever_is_put_into_a_line_it_stays_one_line_of_ours(written, form):
    lines = written(form)
    get_logger("alphavel.test").warning("It said: %s", INJECTION, extra={"path": INJECTION})
    (line,) = lines()
    assert "\x1b" not in line
    assert "\u2028" not in line
    assert TOKEN not in line
    if form == "text":
        assert LINE.fullmatch(line)
        assert line.count("ERROR alphavel.websocket: forged") == 2  # told, and not on a line of its own
    else:
        assert json.loads(line)["message"] == f"It said: {INJECTION.replace(f'token={TOKEN}', 'token=***')}"


def test_a_traceback_cannot_forge_a_line_either(written, form):
    lines = written(form)
    try:
        raise ValueError(INJECTION)
    except ValueError:
        get_logger("alphavel.test").exception("It failed")
    first, *rest = lines()
    assert TOKEN not in "".join(lines())
    if form == "text":
        assert LINE.fullmatch(first)
        assert all(line.startswith(" | ") for line in rest)
        assert any("ValueError: innocent" in line for line in rest)
    else:
        assert rest == []
        assert "ValueError: innocent" in json.loads(first)["exception"]


def test_json_stays_json_whatever_is_masked_in_it(written):
    lines = written("json")
    get_logger("alphavel.test").warning('token=abc\\" "quoted" %s', 'secret=a\\b"c', extra={"number": 1.5, "what": {"token=x"}})
    (entry,) = map(json.loads, lines())
    assert entry["message"] == 'token=***" "quoted" secret=***"c'
    assert entry["number"] == 1.5
    assert "token=x" not in entry["what"]


@pytest.mark.parametrize(
    "secret",
    [
        f"/?token={TOKEN}",
        "/?token=opaque-token",
        "/app/key?auth_signature=0123456789abcdef",
        f"Authorization: Bearer {TOKEN}",
        f"alphavel.v1, bearer.{TOKEN}",
        "access_token=opaque",
    ],
)
def test_no_token_stands_in_a_line(written, form, secret):
    lines = written(form)
    get_logger("alphavel.test").info(secret)
    assert "***" in lines()[0]
    for part in (TOKEN, "opaque", "0123456789abcdef"):
        assert part not in lines()[0]


# What matters has its line, with the connection


def test_refused_handshakes_and_subscriptions(serve, written):
    lines = written("json")
    server = serve(
        lambda server: server.channel("private-{name}")(lambda user, name: False), secret=SECRET, anonymous=True, apps=(app(),)
    )
    with pytest.raises(Refused):
        server.connect(f"/?token={TOKEN}", {"Origin": "https://evil.example"})
    (refused,) = wait_until(lambda: entries(lines, "A handshake is refused"))
    assert (refused["reason"], refused["address"], refused["path"]) == ("origin", "127.0.0.1", "/")
    stream = Stream(server.port, "news", {"Origin": "https://evil.example"})
    stream.close()
    assert stream.status == 403
    (refused,) = wait_until(lambda: entries(lines, "A handshake is refused")[1:])
    assert (refused["reason"], refused["address"], refused["path"]) == ("origin", "127.0.0.1", "/sse")
    client = server.connect()
    client.subscribe("private-room")
    (denied,) = wait_until(lambda: entries(lines, "A subscription is refused"))
    assert (denied["connection"], denied["channel"]) == (client.socket_id, "private-room")
    pusher = PusherClient(server.port)
    pusher.send("pusher:subscribe", {"channel": "private-room", "auth": "app-key:wrong"})
    pusher.receive()
    wait_until(lambda: [entry for entry in entries(lines, "A subscription") if entry["connection"] == pusher.socket_id])
    pusher.close()
    assert TOKEN not in "".join(lines())


def test_a_failing_handler_has_its_connection_its_user_and_its_traceback(serve, written):
    lines = written("json")

    def set_up(server):
        @server.event("break")
        def handler(connection):
            get_logger("alphavel.shop").warning("About to break")
            raise OSError("the shop's own problem")

    client = serve(set_up).connect()
    client.send("break")
    client.receive()
    (failed,) = wait_until(lambda: entries(lines, "A handler failed"))
    assert failed["connection"] == client.socket_id
    assert failed["address"] == "127.0.0.1"
    assert "the shop's own problem" in failed["exception"]
    (own,) = entries(lines, "About to break")
    assert own["connection"] == client.socket_id  # nobody told it


def test_the_applications_own_lines_can_name_the_connection(serve):
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(connection)s %(message)s"))
    handler.addFilter(ConnectionFilter())
    shop = logging.getLogger("shop")
    shop.addHandler(handler)

    def set_up(server):
        @server.event("buy")
        def handler(connection):
            shop.warning("bought")
            connection.send({"event": "bought"})

    try:
        client = serve(set_up).connect()
        client.send("buy")
        client.receive()
        shop.warning("elsewhere")
    finally:
        shop.removeHandler(handler)
    assert stream.getvalue() == f"{client.socket_id} bought\n- elsewhere\n"


# How often


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def record(text, *arguments):
    return logging.LogRecord("alphavel.test", logging.WARNING, "", 0, text, arguments, None)


def test_so_many_lines_of_a_kind_pass_and_the_next_says_how_many_did_not():
    clock = Clock()
    limiter = Limiter(clock)
    assert [limiter.filter(record("refused: %s", number)) for number in range(BURST + 1234)].count(True) == BURST
    assert limiter.filter(record("another kind"))
    clock.now = WINDOW_S
    told = record("refused: %s", "100 %d")
    assert limiter.filter(told)
    assert told.getMessage() == "refused: 100 %d (1,234 more like this one were suppressed)"
    assert told.suppressed == 1234
    again = record("refused: %s", 1)
    assert limiter.filter(again)
    assert again.getMessage() == "refused: 1"


def test_what_a_message_says_already_is_not_said_twice():
    """A circuit's change brings its pairs as fields too, for JSON."""
    change = record("circuit changed service=%r from=%s to=%s", "shop", "closed", "open")
    vars(change).update(circuit_service="shop", circuit_from="closed", circuit_to="open", suppressed=7, connection="1.2")
    text = TextFormatter().format(change)
    assert text.endswith(": circuit changed service='shop' from=closed to=open connection=1.2")
    assert json.loads(JsonFormatter().format(change))["circuit_to"] == "open"


def test_what_strangers_send_makes_no_new_kind():
    limiter = Limiter(Clock())
    for number in range(10_000):
        limiter.filter(record("refused: %s", f"name {number}"))
    assert len(limiter._windows) == 1


def test_lines_that_the_hub_would_leave_out_need_no_greenlet():
    clock = Clock()
    limiter = Limiter(clock)
    assert not limiter.is_full("alphavel.test", "slow")
    for _ in range(BURST):
        assert limiter.filter(record("slow"))
    assert limiter.is_full("alphavel.test", "slow")
    clock.now = WINDOW_S
    assert not limiter.is_full("alphavel.test", "slow")
    told = record("slow")
    assert limiter.filter(told)
    assert "(1 more like this one" in told.getMessage()


def test_a_flood_of_bad_handshakes_writes_a_few_lines(serve, written):
    lines = written("text")
    server = serve()
    for number in range(60):
        with pytest.raises(Refused):
            server.connect(headers={"Origin": f"https://evil{number}.example"})
    seen = [line for line in lines() if "A handshake is refused" in line]
    # As many windows may have begun as the loop took; in each at most so many lines.
    assert BURST <= len(seen) < 60


# As the command sets it up


def serving(folder, **environment):
    return Program(script("alpha"), "websocket:serve", "--host", "127.0.0.1", "--port", "0", cwd=folder, **environment)


def test_the_command_writes_json_into_a_file_that_may_be_rotated(tmp_path):
    (tmp_path / "config").mkdir()
    file = tmp_path / "alphavel.log"
    (tmp_path / "config/websocket.yaml").write_text(f"logging: {{format: json, file: {file}, access: true}}\n")
    with serving(tmp_path) as program:
        port = int(re.search(r"ws://127.0.0.1:(\d+)/", program.wait_for("listening"))[1])
        with pytest.raises(Refused):
            Client(port, f"/?token={TOKEN}", {"Origin": "https://evil.example"})
        wait_until(lambda: "refused" in file.read_text())
        file.rename(tmp_path / "old.log")
        with pytest.raises(Refused):
            Client(port, headers={"Origin": "https://evil.example"})
        wait_until(lambda: file.exists() and "refused" in file.read_text())
        assert program.stop() == 0
    text = (tmp_path / "old.log").read_text() + file.read_text()
    entries = [json.loads(line) for line in text.splitlines()]
    assert TOKEN not in text
    assert {"time", "level", "logger", "message", "pid"} <= set(entries[0])
    assert any(entry["logger"] == "alphavel.http.access" and "403" in entry["message"] for entry in entries)
    assert entries[-1]["message"] == "Stopped"


def test_the_access_log_is_not_limited(written):
    lines = written("text")
    for _ in range(5 * BURST):
        logging.getLogger(logs.ACCESS).info("%s", "GET / HTTP/1.1")
    assert len(lines()) == 5 * BURST


def test_setting_up_again_replaces_what_was_there(tmp_path):
    logger = logging.getLogger("alphavel")
    before = list(logger.handlers), logger.level, logger.propagate
    try:
        logs.set_up(LoggingSettings(file=str(tmp_path / "one.log")))
        logs.set_up(LoggingSettings(file=str(tmp_path / "two.log"), format="json", level="warning"))
        assert len(logger.handlers) == 1
        get_logger("alphavel.test").info("not important")
        get_logger("alphavel.test").warning("important")
        assert (tmp_path / "one.log").read_text() == ""
        (line,) = (tmp_path / "two.log").read_text().splitlines()
        written_at = time.strptime(json.loads(line)["time"].partition(".")[0], "%Y-%m-%dT%H:%M:%S")
        assert abs(time.mktime(written_at) - time.mktime(time.gmtime())) < 3600
    finally:
        for handler in logger.handlers:
            handler.close()
        logger.handlers, logger.level, logger.propagate = before
        logger.setLevel(before[1])
