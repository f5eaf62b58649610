"""One address or one user that wants everything: what each may take, in connections, handshakes and unfinished messages."""

from __future__ import annotations

import socket
import zlib

import pytest

from alphavel.websocket.flooding import Addresses, site_of
from alphavel.websocket.frames import Opcode, frame
from alphavel.websocket.handshake import HandshakeError
from alphavel.websocket.settings import CompressionSettings, OptionsSettings, ProxiesSettings
from tests.support import wait_until
from tests.websocket.clients import MASK, Refused
from tests.websocket.conftest import SECRET, settings
from tests.websocket.pusher import KEY, PusherClient, app
from tests.websocket.tokens import bearer

PROXY = ProxiesSettings(trusted=("127.0.0.1",))


def refused(connect, *arguments, **options):
    with pytest.raises(Refused) as caught:
        connect(*arguments, **options)
    assert int(caught.value.headers["retry-after"]) > 0
    return caught.value.status


def came_from(address):
    return "/", {"X-Forwarded-For": address}


# Connections


def test_an_address_has_so_many_connections_and_others_get_in(serve):
    server = serve(max_connections_per_address=2, proxies=PROXY)
    first, _ = server.connect(*came_from("192.0.2.1")), server.connect(*came_from("192.0.2.1"))
    assert refused(server.connect, *came_from("192.0.2.1")) == 429
    assert server.counters.refusals["address_full"] == 1
    server.connect(*came_from("192.0.2.2"))
    first.close()
    wait_until(lambda: len(server.connections.connections) == 2)
    server.connect(*came_from("192.0.2.1"))


def test_pushers_clients_and_event_streams_of_an_address_count_too(serve):
    server = serve(max_connections_per_address=2, apps=(app(),))
    server.connect()
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as stream:
        stream.sendall(b"GET /sse?channels=news HTTP/1.1\r\nHost: x\r\n\r\n")
        assert stream.recv(1000).startswith(b"HTTP/1.1 200 ")
        wait_until(lambda: len(server.connections.connections) == 2)
        assert refused(server.connect, f"/app/{KEY}?protocol=7", greeted=False) == 429
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as another:
            another.sendall(b"GET /sse?channels=news HTTP/1.1\r\nHost: x\r\n\r\n")
            assert another.recv(1000).startswith(b"HTTP/1.1 429 ")


def test_what_a_client_says_of_its_address_gives_it_no_more(serve):
    server = serve(max_connections_per_address=1)
    server.connect(*came_from("192.0.2.1"))
    assert refused(server.connect, *came_from("192.0.2.2")) == 429


def test_all_addresses_of_an_ipv6_site_are_one(serve):
    server = serve(max_connections_per_address=1, proxies=PROXY)
    server.connect(*came_from("2001:db8::1"))
    assert refused(server.connect, *came_from("2001:db8::ffff:0:0:2")) == 429
    server.connect(*came_from("2001:db8:0:1::1"))


def test_a_limit_that_is_set_later_knows_who_is_there(serve):
    server = serve()
    first = server.connect()
    server.configure(settings(max_connections_per_address=1))
    assert refused(server.connect) == 429
    first.close()
    wait_until(lambda: not server.connections.connections)
    server.connect()
    server.configure(settings())
    server.connect()


def test_a_user_has_so_many_connections_whatever_the_addresses(serve):
    server = serve(max_connections_per_user=2, secret=SECRET, proxies=PROXY)
    clients = [server.connect("/", {**bearer("7"), "X-Forwarded-For": f"192.0.2.{number}"}) for number in range(2)]
    assert refused(server.connect, "/", bearer("7")) == 429
    assert server.counters.refusals["user_full"] == 1
    server.connect("/", bearer("8"))
    clients[0].close()
    wait_until(lambda: len(server.connections.users["7"]) == 1)
    server.connect("/", bearer("7"))


def test_a_user_of_pushers_protocol_who_has_enough_is_closed_with_4004(serve):
    server = serve(max_connections_per_user=1, apps=(app(),))
    with PusherClient(server.port) as first, PusherClient(server.port) as second:
        assert first.sign_in("7")["event"] == "pusher:signin_success"
        assert first.sign_in("7")["event"] == "pusher:signin_success", "signing in again takes no more"
        second.sign_in("7", answer=False)
        assert second.closed().code == 4004


# Handshakes


def test_an_address_may_shake_hands_so_often_in_a_minute_and_bad_ones_count(serve):
    server = serve(max_handshakes_per_address=3, secret=SECRET, proxies=PROXY)
    for _ in range(3):
        with pytest.raises(Refused) as caught:
            server.connect("/", {"Authorization": "Bearer guessed", "X-Forwarded-For": "192.0.2.1"})
        assert caught.value.status == 401
    assert refused(server.connect, "/", {**bearer("7"), "X-Forwarded-For": "192.0.2.1"}) == 429
    assert server.counters.refusals["address_rate"] == 1
    server.connect("/", {**bearer("7"), "X-Forwarded-For": "192.0.2.2"})


def test_after_the_minute_it_may_again():
    now = 0.0
    addresses = Addresses(clock=lambda: now)
    addresses.configure(OptionsSettings(max_handshakes_per_address=1), [])
    addresses.check_handshake("192.0.2.1")
    with pytest.raises(HandshakeError):
        addresses.check_handshake("192.0.2.1")
    now = 60.0
    addresses.check_handshake("192.0.2.1")


def test_what_has_no_limit_is_not_counted():
    addresses = Addresses()
    addresses.configure(OptionsSettings(), ["192.0.2.1"])
    for _ in range(1000):
        addresses.check_handshake("192.0.2.1")
        addresses.opened("192.0.2.1")
    assert not addresses._open
    assert not addresses._handshakes


@pytest.mark.parametrize(
    ("address", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.2", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("2001:db8::1", "2001:db8::2", True),
        ("fe80::1%eth0", "fe80::2%eth0", True),
        ("2001:db8::1", "2001:db8:1::1", False),
        ("not:an:address", "not:another", False),
    ],
)
def test_what_stands_for_an_address(address, other, same):
    assert (site_of(address) == site_of(other)) is same


# Messages that do not end


@pytest.mark.usefixtures("transport")
def test_messages_that_never_end_take_so_much_memory_and_who_began_first_goes(serve, caplog):
    server = serve(max_unfinished_messages=100_000)
    slow = [server.connect() for _ in range(5)]
    whole = frame(Opcode.TEXT, b"x" * 30_000, mask=MASK)
    for number, client in enumerate(slow[:3], 1):
        client.raw(whole[:-1])
        wait_until(lambda number=number: len(server.reactor.unfinished) == number)
    slow[3].raw(whole[:-1])
    assert slow[0].closed().code == 1013
    for client in slow[1:4]:
        client.raw(whole[-1:])
        assert client.receive()["code"] == 4400, "the message has come, and is no JSON"
    slow[4].send("ping")
    assert slow[4].receive()["event"] == "pong"
    wait_until(lambda: "messages have begun" in caplog.text)
    wait_until(lambda: len(server.reactor.unfinished) == 0)
    assert server.reactor.unfinished._total == 0


@pytest.mark.parametrize("size", [1, 3, 20_000])
def test_who_goes_away_in_the_middle_of_a_message_takes_no_room_any_more(serve, size):
    server = serve()
    clients = [server.connect() for _ in range(5)]
    for client in clients:
        client.raw(frame(Opcode.TEXT, b"x" * 30_000, mask=MASK)[:size])
    wait_until(lambda: len(server.reactor.unfinished) == 5)
    for client in clients:
        client.close()
    wait_until(lambda: not server.reactor.sockets)
    assert (len(server.reactor.unfinished), server.reactor.unfinished._total) == (0, 0)


def test_fragments_and_what_is_inflated_count_as_what_they_are(serve):
    server = serve(compression=CompressionSettings(enabled=True), max_unfinished_messages=500_000)
    offer = {"Sec-WebSocket-Extensions": "permessage-deflate; client_no_context_takeover"}
    bombs = [server.connect("/", offer) for _ in range(2)]
    deflater = zlib.compressobj(9, zlib.DEFLATED, -12)
    small = deflater.compress(b" " * 400_000) + deflater.flush(zlib.Z_SYNC_FLUSH)
    assert len(small) < 2000
    for bomb in bombs:
        bomb.raw(frame(Opcode.TEXT, small, mask=MASK, fin=False, rsv1=True))
        wait_until(lambda: len(server.reactor.unfinished) == 1)
    assert bombs[0].closed().code == 1013
    bombs[1].frame(Opcode.PING)
    assert bombs[1].receive_frame()[0] == Opcode.PONG
