"""The application's own code: when it runs, in which order, and what happens when it fails."""

from __future__ import annotations

import itertools
import logging
import random
import statistics
import time

import gevent
import pytest

from alphavel.websocket import WebSocketServer
from alphavel.websocket.frames import Opcode
from alphavel.websocket.hooks import taking
from tests.support import wait_until
from tests.websocket.conftest import SECRET
from tests.websocket.tokens import bearer


def test_life_cycle_handlers_see_a_connections_whole_life_in_order(serve, transport):
    seen = []

    def hooks(server):
        server.on("worker_start")(lambda: seen.append("worker_start"))

        @server.on("open")
        def opened(connection):
            connection.state["name"] = "Ada"
            gevent.sleep(0.02)
            seen.append(("open", connection.socket_id))

        @server.on("message")
        def message(connection, event):
            seen.append(("message", event))

        @server.event("hello")
        def hello(connection, data):
            seen.append(("event", data, connection.state["name"]))

        @server.on("close")
        def closed(connection, code, reason):
            seen.append(("close", connection.socket_id, code, reason, connection.is_open))

    server = serve(hooks)
    with server.connect() as client:
        client.send("hello", 1)
        client.frame(Opcode.CLOSE, b"\x0f\xa1bye")
        client.closed()
    wait_until(lambda: len(seen) == 5)
    assert seen == [
        "worker_start",
        ("open", client.socket_id),
        ("message", {"event": "hello", "data": 1}),
        ("event", 1, "Ada"),
        ("close", client.socket_id, 4001, "bye", False),
    ]


def test_events_of_one_connection_stay_in_order_and_connections_do_not_wait_for_each_other(serve):
    seen, go_on = [], gevent.event.Event()

    def hooks(server):
        @server.event("n")
        def handler(connection, data):
            gevent.sleep(random.uniform(0, 0.01))
            seen.append((connection.socket_id, data))

        @server.event("stuck")
        def stuck(connection):
            go_on.wait()
            seen.append("stuck ended")

    server = serve(hooks, max_messages_per_second=None)
    one, two = server.connect(), server.connect()
    one.send("stuck")
    for number in range(30):
        one.send("n", number)
        two.send("n", number)
    wait_until(lambda: len(seen) == 30, what="the second connection, which does not wait for the first")
    go_on.set()
    wait_until(lambda: len(seen) == 61)
    for client in (one, two):
        assert [entry[1] for entry in seen if entry[0] == client.socket_id] == list(range(30))
    assert seen.index("stuck ended") == 30


def test_a_ping_behind_a_busy_handler_waits_for_its_turn(serve):
    def hooks(server):
        @server.event("slow")
        def slow(connection):
            gevent.sleep(0.1)
            connection.send({"event": "done"})

    with serve(hooks).connect() as client:
        client.send("slow")
        client.send("ping")
        assert [client.receive()["event"], client.receive()["event"]] == ["done", "pong"]


def test_reading_pauses_while_too_much_waits_for_a_handler(serve, transport):
    gate = gevent.event.Event()
    handled = []

    def hooks(server):
        @server.event("n")
        def handler(connection, data):
            gate.wait()
            handled.append(data)

    server = serve(hooks, max_waiting_messages=10, max_messages_per_second=None)
    with server.connect() as client:
        connection = server.connections.connections[client.socket_id]

        def send_all():
            for number in range(2000):
                client.send("n", {"number": number, "fill": "x" * 5000})

        sender = gevent.spawn(send_all)
        gevent.sleep(0.5)
        assert not sender.ready(), "the client has to wait"
        assert len(connection.waiting) < 200
        gate.set()
        sender.get(timeout=60)
        wait_until(lambda: len(handled) == 2000)
        assert [data["number"] for data in handled] == list(range(2000))


@pytest.mark.usefixtures("transport")
def test_a_failing_handler_is_logged_answered_and_hurts_nobody(serve, caplog):
    def hooks(server):
        @server.event("bad")
        def bad(connection, data):
            raise RuntimeError("the handler's own problem")

    server = serve(hooks)
    with server.connect() as client, server.connect() as other, caplog.at_level(logging.ERROR):
        client.send("bad")
        assert client.receive() == {
            "event": "error", "code": 4500, "message": "The server failed to handle this event.", "data": {"event": "bad"}
        }  # fmt: skip
        for it in (client, other):
            it.send("ping")
            assert it.receive()["event"] == "pong"
    assert "the handler's own problem" in caplog.text
    assert "Traceback" in caplog.text
    assert server.counters.errors == 1


def test_faults_anywhere_leave_the_books_clean(serve, caplog):
    """Handlers, authorizers and timers fail at random while clients come and go, some without a goodbye."""
    dice, faults = random.Random(5), [True]

    def sometimes():
        gevent.sleep(dice.choice([0, 0, 0.001]))
        if faults and dice.random() < 0.3:
            raise RuntimeError("injected")

    def hooks(server):
        for name in ("open", "close", "message"):
            server.on(name)(lambda connection: sometimes())
        server.event("n")(lambda connection, data: sometimes())
        server.every(0.01)(sometimes)

        @server.channel("presence-{x}")
        def join(user, x):
            sometimes()
            return dice.choice([True, False, {}, {"name": "x"}, "nonsense", {"bad": object()}])

    server = serve(hooks, secret=SECRET)

    def visit(number):
        with server.connect("/", bearer(str(number % 7))) as client:
            for channel in ("a", "presence-1", "presence-2"):
                client.send("subscribe", {"channel": channel})
                client.send("n", 1)
            server.to_all().push({"event": "x"})
            gevent.sleep(dice.uniform(0, 0.05))
            if dice.random() < 0.3:
                client.raw(b"\xff\xff\xff")
            elif dice.random() < 0.3:
                client.frame(Opcode.CLOSE)
                client.closed()

    with caplog.at_level(logging.CRITICAL):
        gevent.joinall([gevent.spawn(visit, number) for number in range(60)], raise_error=True, timeout=30)
        wait_until(lambda: not server.connections.connections and not server.reactor.sockets and not len(server.tasks))
    assert server.connections.channels == {}
    assert server.connections.users == {}
    assert server.reactor.blocked == set()
    assert list(server.reactor.heartbeat.transports()) == []
    assert server.counters.errors > 0
    faults.clear()
    with server.connect("/", bearer()) as client:
        assert client.subscribe("fine")["event"] == "subscribed"


def test_timers_run_by_the_clock_and_survive_their_errors(serve, caplog):
    ticks = []

    def hooks(server):
        @server.every(0.1)
        def tick():
            ticks.append(time.monotonic())
            if len(ticks) == 2:
                raise RuntimeError("once")
            gevent.sleep(0.09)

    serve(hooks)
    wait_until(lambda: len(ticks) >= 12)
    apart = statistics.median(after - before for before, after in itertools.pairwise(ticks))
    assert 0.05 < apart < 0.15, "0.1 s apart, not 0.19"
    assert "once" in caplog.text


def test_a_raw_route_gets_messages_as_they_are(serve, transport):
    def hooks(server):
        @server.route("/echo", auth=False)
        def echo(connection, message):
            connection.send(message)

        @server.route("/guarded")
        def guarded(connection, message):
            connection.send(connection.user.id)

    server = serve(hooks, secret=SECRET)
    with server.connect("/echo") as client:
        client.text("hé")
        assert client.receive_frame() == (Opcode.TEXT, "hé".encode())
        client.frame(Opcode.BINARY, b"\x00\xff")
        assert client.receive_frame() == (Opcode.BINARY, b"\x00\xff")
        server.to_all().push({"event": "not for raw routes"})
        assert client.silent(0.1)
    with server.connect("/guarded", bearer("9")) as client:
        client.text("who am I")
        assert client.receive_frame() == (Opcode.TEXT, b"9")
    from tests.websocket.clients import Refused

    for path, status in (("/guarded", 401), ("/nowhere", 404)):
        with pytest.raises(Refused) as caught:
            server.connect(path)
        assert caught.value.status == status


def test_registering_nonsense_is_refused():
    server = WebSocketServer()
    with pytest.raises(ValueError, match="no life-cycle event 'opened'"):
        server.on("opened")(print)
    with pytest.raises(ValueError, match="belongs to the protocol"):
        server.event("subscribe")(print)
    with pytest.raises(ValueError, match="slash"):
        server.route("echo")(print)
    with pytest.raises(ValueError, match="positive"):
        server.every(0)(print)
    with pytest.raises(TypeError, match=r"every\(\) takes a number of seconds; got '1'"):
        server.every("1")(print)
    with pytest.raises(TypeError, match="asks for"):
        server.event("x")(lambda a, b, c, d: None)

    async def handler(connection):
        """Would never be awaited."""

    for register in (server.on("open"), server.event("x"), server.route("/async"), server.every(1)):
        with pytest.raises(TypeError, match="async def"):
            register(handler)
    server.route("/a")(lambda connection: None)
    with pytest.raises(ValueError, match="registered already"):
        server.route("/a")(lambda connection: None)


@pytest.mark.parametrize(
    ("handler", "result"),
    [
        (lambda connection, code, reason: (connection, code, reason), (1, 2, 3)),
        (lambda connection: connection, 1),
        (lambda reason: reason, 3),
        (lambda c: c, 1),
        (lambda a, b: (a, b), (1, 2)),
        (lambda: "none", "none"),
        (lambda *all_: all_, (1, 2, 3)),
        (lambda code, extra="default": (code, extra), (2, "default")),
        (lambda c, reason: (c, reason), (1, 3)),
        (lambda reason, c: (reason, c), (3, 1)),
        (lambda c, anything, *, connection=None: (c, anything), (1, 2)),
    ],
)
def test_a_handler_may_name_fewer_parameters_than_it_is_offered(handler, result):
    assert taking(handler, ("connection", "code", "reason"), "here")(1, 2, 3) == result
