"""Behind proxies: who is believed about where a client is, and what the PROXY protocol's headers say."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alphavel.foundation.errors import ConfigurationError
from alphavel.websocket.proxies import Proxies
from alphavel.websocket.proxy_protocol import SIGNATURE, ProxyProtocolError, parse_v1, parse_v2, read_header
from alphavel.websocket.settings import LoggingSettings, ProxiesSettings
from tests.support import wait_until
from tests.websocket.clients import Client
from tests.websocket.pusher import KEY, app

TRUSTED = ProxiesSettings(trusted=("127.0.0.1", "10.0.0.0/8", "2001:db8::/32"))


def addresses(server):
    return [connection.remote_addr for connection in server.connections.connections.values()]


def restated(peer, forwarded=None, proto=None, trusted=TRUSTED.trusted):
    environ = {"REMOTE_ADDR": peer, "REMOTE_PORT": "4711", "wsgi.url_scheme": "http"}
    if forwarded is not None:
        environ["HTTP_X_FORWARDED_FOR"] = forwarded
    if proto is not None:
        environ["HTTP_X_FORWARDED_PROTO"] = proto
    Proxies(ProxiesSettings(trusted=trusted)).restate(environ)
    assert ("REMOTE_PORT" in environ) == (environ["REMOTE_ADDR"] == peer), "a port belongs to its address"
    return environ["REMOTE_ADDR"], environ["wsgi.url_scheme"]


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("192.0.2.1", "198.51.100.7", "192.0.2.1"),  # a stranger says what he likes
        ("127.0.0.1", None, "127.0.0.1"),  # a proxy that says nothing, or a person on the machine itself
        ("127.0.0.1", "198.51.100.7", "198.51.100.7"),
        ("127.0.0.1", "6.6.6.6, 198.51.100.7", "198.51.100.7"),  # the client forged the first
        ("127.0.0.1", "6.6.6.6, 198.51.100.7, 10.1.2.3", "198.51.100.7"),  # two proxies
        ("127.0.0.1", "10.9.9.9, 10.1.2.3", "10.9.9.9"),  # all of them ours: the farthest
        ("127.0.0.1", "198.51.100.7:4711", "198.51.100.7"),
        ("127.0.0.1", "[2001:4860::1]:4711", "2001:4860::1"),
        ("127.0.0.1", "2001:4860::1", "2001:4860::1"),
        ("127.0.0.1", "::ffff:198.51.100.7", "198.51.100.7"),
        ("::ffff:127.0.0.1", "198.51.100.7", "198.51.100.7"),  # a socket that listens on ::
        ("2001:db8::5", "198.51.100.7", "198.51.100.7"),
        ("127.0.0.1", "unknown", "127.0.0.1"),
        ("127.0.0.1", "198.51.100.7, <script>, 10.1.2.3", "10.1.2.3"),
        ("127.0.0.1", "", "127.0.0.1"),
        ("127.0.0.1", ", ,", "127.0.0.1"),
        ("nonsense", "198.51.100.7", "nonsense"),
        ("", "198.51.100.7", ""),  # a Unix socket, which is not named among the trusted
    ],
)
def test_the_client_is_the_last_one_that_no_proxy_of_ours_is(peer, forwarded, client):
    assert restated(peer, forwarded)[0] == client


def test_a_unix_sockets_peer_is_trusted_where_it_is_named():
    assert restated("", "198.51.100.7", "https", trusted=("unix",)) == ("198.51.100.7", "https")


@pytest.mark.parametrize(
    ("peer", "proto", "scheme"),
    [
        ("192.0.2.1", "https", "http"),
        ("127.0.0.1", "https", "https"),
        ("127.0.0.1", "WSS", "https"),
        ("127.0.0.1", "https, http", "http"),
        ("127.0.0.1", "gopher", "http"),
        ("127.0.0.1", None, "http"),
    ],
)
def test_the_scheme_is_what_the_nearest_proxy_says(peer, proto, scheme):
    assert restated(peer, "198.51.100.7", proto)[1] == scheme


@pytest.mark.parametrize("trusted", ["localhost", "10.0.0.1/8", "10.0.0.0/33", "*"])
def test_what_is_trusted_has_to_be_an_address(trusted):
    with pytest.raises(ConfigurationError, match=r"proxies\.trusted"):
        Proxies(ProxiesSettings(trusted=(trusted,)))


def test_the_proxy_protocol_with_nobody_to_speak_it_is_a_mistake():
    with pytest.raises(ConfigurationError, match="nobody is trusted"):
        Proxies(ProxiesSettings(proxy_protocol=True))


FORWARDED = {"X-Forwarded-For": "198.51.100.7", "X-Forwarded-Proto": "https"}


def test_by_default_nobody_is_believed(serve):
    server = serve(apps=(app(tls_only=True),))
    server.connect("/", FORWARDED)
    assert addresses(server) == ["127.0.0.1"]
    client = server.connect(f"/app/{KEY}?protocol=7", FORWARDED)
    assert client.closed().code == 4000, "TLS that only the client itself speaks of is none"


def test_a_trusted_proxys_word_reaches_connections_the_application_and_the_log(serve, caplog):
    seen = []

    def application(environ, start_response):
        seen.append((environ["REMOTE_ADDR"], environ["wsgi.url_scheme"]))
        start_response("200 OK", [("Content-Length", "0")])
        return []

    with caplog.at_level("INFO", "alphavel.http"):
        server = serve(application=application, proxies=TRUSTED, logging=LoggingSettings(access=True))
        server.connect("/", FORWARDED)
        assert addresses(server) == ["198.51.100.7"]
        with socket.create_connection(("127.0.0.1", server.port)) as proxy:  # two clients' requests on one connection
            for client in ("198.51.100.8", "198.51.100.9"):
                proxy.sendall(f"GET /page HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: {client}\r\n\r\n".encode())
                assert proxy.recv(4096).startswith(b"HTTP/1.1 200")
            proxy.sendall(b"nonsense\r\n\r\n")
            assert proxy.recv(4096).startswith(b"HTTP/1.1 400")
        wait_until(lambda: "nonsense" in caplog.text)
    assert seen == [("198.51.100.8", "http"), ("198.51.100.9", "http")]
    lines = {message.split()[0]: message for message in caplog.messages}
    assert '"GET / HTTP/1.1" 101' in lines["198.51.100.7"]
    assert "/page" in lines["198.51.100.8"] and "/page" in lines["198.51.100.9"]
    assert "nonsense" in lines["127.0.0.1"], "nobody knows whose it was"


# The PROXY protocol


def v2(source="198.51.100.7", port=4711, command=0x21, family=None, more=b""):
    address = ipaddress.ip_address(source)
    rest = address.packed * 2 + struct.pack("!HH", port, 443) + more
    kind = (0x11 if address.version == 4 else 0x21) if family is None else family
    return SIGNATURE + bytes([command, kind]) + struct.pack("!H", len(rest)) + rest


LONG = ":".join(["ffff"] * 8)
HEADERS = {
    "version 1": (b"PROXY TCP4 198.51.100.7 192.0.2.2 4711 443\r\n", "198.51.100.7"),
    "version 1, the longest": (f"PROXY TCP6 {LONG} {LONG} 65535 65535\r\n".encode(), LONG),
    "version 1, from the proxy itself": (b"PROXY UNKNOWN\r\n", "127.0.0.1"),
    "version 1, with what need not be understood": (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", "127.0.0.1"),
    "version 2": (v2(), "198.51.100.7"),
    "version 2 over IPv6": (v2("2001:4860::1"), "2001:4860::1"),
    "version 2 with more to tell": (v2(more=b"\x04\x00\x01x" * 300), "198.51.100.7"),
    "version 2, from the proxy itself": (v2(command=0x20), "127.0.0.1"),
    "version 2, of a Unix socket": (v2(family=0x31, more=b"x" * 216), "127.0.0.1"),
}  # fmt: skip


@pytest.mark.parametrize("kind", HEADERS)
@pytest.mark.parametrize("at_a_time", [1, 1000])
def test_a_header_tells_the_clients_address_and_nothing_after_it_is_lost(serve, kind, at_a_time):
    header, address = HEADERS[kind]
    server = serve(proxies=ProxiesSettings(trusted=("127.0.0.1",), proxy_protocol=True))
    client = _Proxied(server.port, header, at_a_time)
    assert addresses(server) == [address]
    client.send("ping")
    assert client.receive()["event"] == "pong"
    client.close()


@pytest.mark.parametrize(
    "header",
    [
        b"PROXY TCP4 198.51.100.7 192.0.2.2 4711\r\n",
        b"PROXY TCP4 2001:db8::1 192.0.2.2 4711 443\r\n",
        b"PROXY TCP4 198.51.100.7 192.0.2.2 0 443\r\n",
        b"PROXY TCP4 198.51.100.7 192.0.2.2 99999 443\r\n",
        b"PROXY TCP4 198.51.100.\xff 192.0.2.2 4711 443\r\n",
        b"PROXY " + b"x" * 200,
        b"",
        SIGNATURE + b"\x31\x11\x00\x0c" + b"x" * 12,
        SIGNATURE + b"\x21\x11\x00\x04" + b"x" * 4,
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
)
def test_without_a_header_that_makes_sense_a_proxys_connection_is_closed_and_it_is_said_why(serve, caplog, header):
    server = serve(proxies=ProxiesSettings(trusted=("127.0.0.1",), proxy_protocol=True))
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as client:
        client.sendall(header)
        client.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError):  # how what the server had not read is answered
            assert client.recv(1000) == b""
    wait_until(lambda: "A proxy's connection is closed, from 127.0.0.1" in caplog.text)
    assert len(caplog.records) == 1


def test_a_proxy_that_says_nothing_is_let_go(serve):
    server = serve(proxies=ProxiesSettings(trusted=("127.0.0.1",), proxy_protocol=True), handshake_timeout=0.2)
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as client:
        assert client.recv(1000) == b""


def test_who_is_not_trusted_speaks_http_only(serve):
    server = serve(proxies=ProxiesSettings(trusted=("10.0.0.0/8",), proxy_protocol=True))
    server.connect()
    assert addresses(server) == ["127.0.0.1"]
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as client:
        client.sendall(HEADERS["version 1"][0] + b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.recv(1000).startswith(b"HTTP/1.1 400")


@given(st.binary(max_size=300))
def test_no_bytes_do_more_than_be_refused(data):
    for start in (b"", b"PROXY ", b"PROXY TCP4 ", SIGNATURE, SIGNATURE + b"\x21"):
        near, far = socket.socketpair()
        with near, far:
            near.sendall(start + data)
            near.shutdown(socket.SHUT_WR)
            try:
                read_header(far)
            except ProxyProtocolError:
                pass


def test_parsers_return_address_and_port():
    assert parse_v1(b"PROXY TCP4 198.51.100.7 192.0.2.2 4711 443\r\n") == ("198.51.100.7", 4711)
    header = v2("2001:4860::1", 4711)
    assert parse_v2(header[12:16], header[16:]) == ("2001:4860::1", 4711)


class _Proxied(Client):
    """A client behind a proxy that begins with a header."""

    def __init__(self, port, header, at_a_time):
        self._header, self._at_a_time = header, at_a_time
        super().__init__(port)

    def _handshake(self, port, path, headers):
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start in range(0, len(self._header), self._at_a_time):
            self.sock.sendall(self._header[start : start + self._at_a_time])
        return super()._handshake(port, path, headers)
