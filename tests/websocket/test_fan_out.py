"""One push to many: what the rows of descriptors must never get wrong, with each writer."""

from __future__ import annotations

import os
import socket

import gevent
import pytest

from alphavel.websocket.channels.audience import Audience
from tests.support import nothing_switches, wait_until
from tests.websocket.conftest import SECRET
from tests.websocket.tokens import bearer

pytestmark = pytest.mark.usefixtures("writer")

RESET = b"\1\0\0\0\0\0\0\0"  # SO_LINGER: close with a reset


@pytest.fixture
def one_at_a_time(monkeypatch):
    """A fan-out looks at the clock after each subscriber."""
    monkeypatch.setattr("alphavel.websocket.transports.batch.BYTES_AT_ONCE", 1)


def subscribers(server, count, channel="a", **options):
    clients = [server.connect(**options) for _ in range(count)]
    for client in clients:
        assert client.subscribe(channel)["event"] == "subscribed"
    return clients


def connection_of(server, client):
    return server.connections.connections[client.socket_id]


def numbers(client, until="end"):
    return [event["data"] for event in client.events(until)[:-1]]


def test_many_get_everything_in_order_without_a_switch(serve):
    server = serve()
    clients = subscribers(server, 150)
    with nothing_switches():
        for number in range(50):
            server.to_channel("a").push({"event": "n", "data": number})
        server.to_channel("a").push({"event": "end"})
        server.reactor.flush(within=None)
    assert [numbers(client) for client in clients] == [list(range(50))] * 150


def test_those_with_something_waiting_get_it_first(serve):
    server = serve()
    clients = subscribers(server, 40)
    for client in clients[::3]:
        connection_of(server, client).send({"event": "n", "data": "own"})
    server.to_channel("a").push({"event": "n", "data": "all"})
    server.to_channel("a").except_([client.socket_id for client in clients[::2]]).push({"event": "n", "data": "odd"})
    server.to_all().push({"event": "end"})
    for index, client in enumerate(clients):
        expected = ["own"] * (index % 3 == 0) + ["all"] + ["odd"] * (index % 2)
        assert numbers(client) == expected


def test_a_full_socket_waits_and_the_others_do_not(serve):
    server = serve(max_outbox=64 << 20)
    slow = subscribers(server, 3, receive_buffer=4096)
    fast = subscribers(server, 20)
    big = "x" * 300_000
    readers = [gevent.spawn(numbers, client) for client in fast]
    for number in range(20):
        server.to_channel("a").push({"event": "n", "data": [number, big]})
        gevent.sleep(0.001)
    server.to_channel("a").push({"event": "end"})
    for reader in readers:
        assert [number for number, _ in reader.get(timeout=30)] == list(range(20))
    assert {transport.connection.socket_id for transport in server.reactor.blocked} == {client.socket_id for client in slow}
    for client in slow:
        assert [number for number, _ in numbers(client)] == list(range(20))
    assert server.drain(below=0, timeout=60)
    assert server.counters.slow_consumers == 0


def test_resets_during_a_fan_out_cost_nobody_else_a_message(serve):
    """Each reset makes a presence channel tell the others, while the batch that met it is being written."""

    def rooms(server):
        server.channel("presence-a")(lambda user: {})

    server = serve(rooms, secret=SECRET, max_outbox=64 << 20)
    clients = [server.connect("/", bearer(str(number))) for number in range(60)]
    for client in clients:
        assert client.subscribe("presence-a")["event"] == "subscribed"
    gone, staying = clients[5:45:2], clients[:5] + clients[6:45:2] + clients[45:]
    for client in gone:
        connection_of(server, client).transport.pause()  # the reset is met by writing, not by reading
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        client.sock.close()
    for number in range(30):
        server.to_channel("presence-a").push({"event": "n", "data": number})
        if number % 3 == 0:
            server.reactor.flush(within=None)
    server.to_channel("presence-a").push({"event": "end"})
    for client in staying:
        events = client.events("end")
        assert [event["data"] for event in events if event["event"] == "n"] == list(range(30))
        left = [event["data"]["user"]["id"] for event in events if event["event"] == "member_removed"]
        assert sorted(left, key=int) == [str(number) for number in range(5, 45, 2)]
        kinds = [event["event"] for event in events if event["event"] != "member_added"]
        assert kinds[0] == "n", "what was pushed before comes before what the resets caused"
    assert server.reactor.sockets == len(staying)


@pytest.mark.usefixtures("one_at_a_time")
def test_a_descriptor_that_is_somebody_elses_by_now_is_not_written_to(serve):
    server = serve()
    clients = subscribers(server, 20)
    stranger = server.connect()
    theirs = connection_of(server, stranger).transport
    reactor, leaving = server.reactor, connection_of(server, clients[15]).transport
    server.to_channel("a").push({"event": "n", "data": "for subscribers"})
    reactor.flush(within=0)
    assert reactor._batches, "some are left"
    fd = leaving.fd
    leaving.abort()
    os.dup2(theirs.fd, fd)  # what accept() does next; gevent closes it with the loop's turn
    reactor.descriptors.transports[fd] = theirs
    reactor.descriptors.ready[fd] = reactor.descriptors.ready[theirs.fd]
    server.to_channel("a").push({"event": "end"})
    reactor.flush(within=None)
    reactor.descriptors.transports[fd] = None
    reactor.descriptors.ready[fd] = 0
    assert stranger.silent()
    assert [numbers(client) for client in clients if client is not clients[15]] == [["for subscribers"]] * 19


@pytest.mark.usefixtures("one_at_a_time")
def test_who_joins_or_leaves_between_two_slices_is_treated_as_before_it(serve):
    server = serve()
    clients = subscribers(server, 20)
    late = server.connect()
    server.to_channel("a").push({"event": "n", "data": 1})
    server.reactor.flush(within=0)
    assert server.reactor._batches, "some are left"
    clients[10].send("unsubscribe", {"channel": "a"})
    late.subscribe("a")
    server.to_channel("a").push({"event": "n", "data": 2})
    server.to_all().push({"event": "end"})
    assert numbers(late) == [2]
    assert [event.get("data") for event in clients[10].events("end")] == [1, None, None]
    assert [numbers(client) for client in clients if client is not clients[10]] == [[1, 2]] * 19


@pytest.mark.usefixtures("one_at_a_time")
def test_a_slow_consumer_that_is_closed_in_the_middle_of_a_fan_out(serve):
    server = serve(max_outbox=100_000)
    clients = subscribers(server, 20)
    (slow,) = subscribers(server, 1, receive_buffer=4096)
    readers = [gevent.spawn(numbers, client) for client in clients]
    number = 0
    while server.counters.slow_consumers == 0:
        server.to_channel("a").push({"event": "n", "data": [number, "x" * 50_000]})
        number += 1
        gevent.sleep(0)
        server.drain(below=90_000, timeout=0.05)
    server.to_channel("a").push({"event": "end"})
    for reader in readers:
        assert [index for index, _ in reader.get(timeout=30)] == list(range(number))
    assert slow.closed().code == 4200


def test_clients_that_close_while_they_are_written_to(serve):
    server = serve(max_outbox=64 << 20)
    staying, leaving = subscribers(server, 30), subscribers(server, 30)
    for number in range(60):
        server.to_channel("a").push({"event": "n", "data": number})
        if number % 2:
            leaving[number // 2].sock.close()
        gevent.sleep(0)
    server.to_channel("a").push({"event": "end"})
    assert [numbers(client) for client in staying] == [list(range(60))] * 30
    wait_until(lambda: server.reactor.sockets == 30)
    assert [transport for transport in server.reactor.descriptors.transports if transport] == sorted(
        (connection.transport for connection in server.connections.connections.values()), key=lambda transport: transport.fd
    )


def test_answers_of_one_turn_leave_together(serve):
    """Different bytes for each: what waits in outboxes is handed to the writer at once, too."""

    def routes(server):
        server.route("/echo", auth=False)(lambda connection, message: connection.send(message))

    server = serve(routes, max_messages_per_second=None)
    clients = [server.connect("/echo", greeted=False) for _ in range(40)]
    for number in range(20):
        for index, client in enumerate(clients):
            client.text(f"{index} {number} " + "x" * (index * number))
        for index, client in enumerate(clients):
            assert client.receive_frame()[1] == f"{index} {number} {'x' * (index * number)}".encode()


def test_a_row_is_forgotten_when_the_audience_changes(serve):
    server = serve()
    clients = [server.connect() for _ in range(3)]
    everybody = [connection_of(server, client) for client in clients]
    audience = Audience()
    for connection in everybody:
        audience[connection.socket_id] = connection
    row = audience.row()
    assert audience.row() is row
    assert row.size == 3
    assert list(memoryview(row.fds).cast("i")) == [connection.transport.fd for connection in everybody]
    del audience[everybody[1].socket_id]
    assert audience.row().size == 2
    assert audience.pop(everybody[0].socket_id) is everybody[0]
    assert audience.pop("9.9") is None
    assert list(memoryview(audience.row().fds).cast("i")) == [everybody[2].transport.fd]
