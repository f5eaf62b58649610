"""
Attacks that go through several parts, each made for real, over a socket. docs/security.md lists them with all others; those on
one part are beside that part's tests.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import time

import gevent
import pytest

from alphavel.foundation.errors import ConfigurationError
from alphavel.websocket import WebSocketServer
from alphavel.websocket.auth import AuthenticationError
from alphavel.websocket.auth.jwt import TokenVerifier
from alphavel.websocket.auth.origins import OriginRules
from alphavel.websocket.auth.signatures import channel_auth
from alphavel.websocket.handover.pipe import Pipe
from alphavel.websocket.settings import AuthSettings
from tests.support import wait_until
from tests.websocket.clients import Refused
from tests.websocket.conftest import SECRET, settings
from tests.websocket.pusher import KEY, PusherClient, app
from tests.websocket.pusher import SECRET as APP_SECRET
from tests.websocket.several_workers import Server
from tests.websocket.tokens import token

SECOND = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"


# Request smuggling: a request is read in one way, or not at all


class Recorder:
    """An application that notes what it is asked."""

    def __init__(self):
        self.asked = []

    def __call__(self, environ, start_response):
        body = environ["wsgi.input"].read()
        self.asked.append((environ["REQUEST_METHOD"], environ["PATH_INFO"], body))
        start_response("200 OK", [("Content-Length", "2")])
        return [b"ok"]


def exchange(port, request):
    """Send bytes and no more, and return all that is answered."""
    received = b""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as sock, contextlib.suppress(ConnectionResetError):
        sock.sendall(request)
        sock.shutdown(socket.SHUT_WR)
        while piece := sock.recv(65536):
            received += piece
    return received


AMBIGUOUS = {
    "two lengths": b"Content-Length: 0\r\nContent-Length: 36\r\n",
    "two lengths that are the same": b"Content-Length: 0\r\nContent-Length: 0\r\n",
    "a list of lengths": b"Content-Length: 0, 36\r\n",
    "a length with a sign": b"Content-Length: +0\r\n",
    "a negative length": b"Content-Length: -1\r\n",
    "a length as Python writes it": b"Content-Length: 3_6\r\n",
    "a length in other digits": "Content-Length: ٣\r\n".encode(),
    "a length without an end": b"Content-Length: " + b"9" * 4000 + b"\r\n",
    "no length": b"Content-Length:\r\n",
    "a length and a coding": b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
    "a coding and a length": b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
    "an unknown coding": b"Transfer-Encoding: xchunked\r\n",
    "two codings": b"Transfer-Encoding: gzip, chunked\r\n",
    "a coding twice": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
    "a space before the colon": b"Transfer-Encoding : chunked\r\n",
    "a tab before the colon": b"Content-Length\t: 36\r\n",
    "a vertical tab in a coding": b"Transfer-Encoding: \x0bchunked\r\n",
    "a folded line": b"X-A: b\r\n Content-Length: 36\r\n",
    "a first line that is folded": b" X-A: b\r\n",
    "a line that ends with LF": b"X-A: b\nContent-Length: 36\r\n",
    "a CR in a value": b"X-A: b\rContent-Length: 36\r\n",
    "a NUL in a value": b"X-A: b\x00\r\n",
    "a line without a colon": b"Content-Length 36\r\n",
    "a line without a name": b": 36\r\n",
    "a name with a bracket": b"X[A]: b\r\n",
    "two hosts": b"Host: elsewhere\r\n",
}


@pytest.mark.parametrize("header", AMBIGUOUS.values(), ids=AMBIGUOUS)
def test_a_request_that_can_be_read_in_two_ways_is_refused_and_so_is_what_follows_it(serve, header):
    """pywsgi takes the first of two lengths, int() for a length, and an unknown coding for none: `SECOND` was answered."""
    application = Recorder()
    server = serve(application=application, apps=(app(),))
    for path in (b"/page", b"/apps/1/events?auth_key=x"):
        answered = exchange(server.port, b"POST " + path + b" HTTP/1.1\r\nHost: x\r\n" + header + b"\r\n" + SECOND)
        assert answered.startswith(b"HTTP/1.1 400 ")
        assert answered.count(b"HTTP/1.1") == 1
    assert application.asked == []


@pytest.mark.parametrize(
    "line",
    [
        b"GET /page\r\n",  # HTTP/0.9 has no headers
        b"GET /page HTTP/1.1\n",
        b"GET  /page HTTP/1.1\r\n",
        b"GET\t/page HTTP/1.1\r\n",
        b"GET /page HTTP/1.1 \r\n",
        b"GET /page HTTP/1.2\r\n",
        b"GET /page HTTP/2.0\r\n",
        b"GET /pa\x00ge HTTP/1.1\r\n",
        b"G(T /page HTTP/1.1\r\n",
        b"\r\nGET /page HTTP/1.1\r\n",
    ],
)
def test_a_first_line_is_as_it_should_be_or_refused(serve, line):
    application = Recorder()
    server = serve(application=application)
    assert exchange(server.port, line + b"Host: x\r\n\r\n" + SECOND).startswith(b"HTTP/1.1 400 ")
    assert application.asked == []


def test_headers_that_end_with_the_connection_are_no_request(serve):
    application = Recorder()
    server = serve(application=application)
    assert exchange(server.port, b"GET /page HTTP/1.1\r\nHost: x\r\n").startswith(b"HTTP/1.1 400 ")
    assert application.asked == []


def test_chunks_of_http_1_0_are_refused(serve):
    server = serve(application=Recorder())
    request = b"POST /page HTTP/1.0\r\nTransfer-Encoding: chunked\r\nConnection: keep-alive\r\n\r\n0\r\n\r\n"
    assert exchange(server.port, request).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize("chunks", [b"1\r\nZ\r\n0\r\n\r\n", b"1;\nxx\r\nZ\r\n0\r\n\r\n"], ids=["plain", "LF in an extension"])
def test_after_a_body_in_chunks_no_other_request_is_read_from_the_connection(serve, chunks):
    """pywsgi takes a line feed within a chunk's extension, which others take for the end of the line."""
    application = Recorder()
    server = serve(application=application)
    head = b"POST /page HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    answered = exchange(server.port, head + chunks + SECOND)
    assert answered.startswith(b"HTTP/1.1 200 ")
    assert application.asked == [("POST", "/page", b"Z")]


def test_requests_that_are_in_order_are_answered_one_after_the_other(serve):
    application = Recorder()
    server = serve(application=application)
    first = b'POST /page HTTP/1.1\r\nhost: x\r\nX-Empty:\r\nX-Any: \t\xc3\xa9 "quoted"; a=b \r\nContent-Length: 2\r\n\r\nab'
    answered = exchange(server.port, first + SECOND)
    assert answered.count(b"HTTP/1.1 200 ") == 2
    assert application.asked == [("POST", "/page", b"ab"), ("GET", "/smuggled", b"")]


def test_a_header_with_an_underscore_does_not_stand_for_one_with_a_dash(serve):
    seen = []

    def application(environ, start_response):
        seen.append(environ.get("HTTP_X_FORWARDED_FOR"))
        start_response("200 OK", [("Content-Length", "0")])
        return []

    server = serve(application=application)
    exchange(server.port, b"GET /page HTTP/1.1\r\nHost: x\r\nX_Forwarded_For: 192.0.2.1\r\n\r\n")
    assert seen == [None]


# A body that never ends


@pytest.mark.parametrize(
    "begun",
    [b"Content-Length: 100\r\n\r\nabc", b"Transfer-Encoding: chunked\r\n\r\n5\r\nabc", b"Transfer-Encoding: chunked\r\n\r\n5"],
)
def test_a_body_that_stops_coming_ends_the_connection_and_not_the_server(serve, begun):
    application = Recorder()
    server = serve(application=application, body_timeout=0.3)
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as sock:
        sock.sendall(b"POST /page HTTP/1.1\r\nHost: x\r\n" + begun)
        assert sock.recv(1000) == b""
    assert application.asked == []
    assert exchange(server.port, SECOND).startswith(b"HTTP/1.1 200 ")


def test_a_body_that_keeps_coming_may_take_its_time(serve):
    application = Recorder()
    server = serve(application=application, body_timeout=5.0)
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.putrequest("POST", "/page")
    connection.putheader("Content-Length", "10")
    connection.endheaders()
    for _ in range(10):
        connection.send(b"x")
        gevent.sleep(0.02)
    assert connection.getresponse().status == 200
    connection.close()
    assert application.asked == [("POST", "/page", b"x" * 10)]


def test_who_does_not_take_an_answer_is_let_go_and_who_takes_it_slowly_is_not(serve):
    """Each held a greenlet and an open file for as long as it liked."""
    ended = []

    class Answer:
        def __init__(self, path):
            self.path = path

        def __iter__(self):
            yield b"x" * 8_000_000

        def close(self):
            ended.append(self.path)

    def application(environ, start_response):
        start_response("200 OK", [("Content-Length", "8000000")])
        return Answer(environ["PATH_INFO"])

    server = serve(application=application, body_timeout=3.0)
    slow, silent = (socket.socket() for _ in range(2))
    with slow, silent:
        for sock, path in ((slow, b"/slow"), (silent, b"/silent")):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.settimeout(30)
            sock.connect(("127.0.0.1", server.port))
            sock.sendall(b"GET " + path + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        while ended != ["/silent"]:
            assert slow.recv(4096), "who reads is not let go"
            gevent.sleep(0.1)
        received = len(slow.recv(4096))
        while piece := slow.recv(1_000_000):
            received += len(piece)
        assert received > 1_000_000
    assert ended == ["/silent", "/slow"]
    with server.connect() as client:
        connection = server.connections.connections[client.socket_id]
        with socket.socket(fileno=os.dup(connection.transport.fd)) as held:
            assert held.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 0, "a WebSocket has an outbox for that"


# Pages of other sites


@pytest.mark.parametrize(
    "origin", ["https://evil.test", "null", "file://", "https://127.0.0.1.evil.test", "http://127.0.0.1:1"]
)
def test_a_page_from_elsewhere_gets_neither_a_socket_nor_a_stream_whatever_cookies_come_along(serve, origin):
    """The Origin header is all that tells it from the application's own page: the browser sends the cookies anyway."""
    server = serve(lambda server: server.route("/raw")(print), apps=(app(),))
    hijack = {"Origin": origin, "Cookie": "session=of-who-looks-at-it"}
    for path in ("/", "/raw"):
        with pytest.raises(Refused) as caught:
            server.connect(path, hijack, greeted=False)
        assert caught.value.status == 403
    with PusherClient(server.port, headers=hijack, greeted=False) as client:
        assert client.closed().code == 4009
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.request("GET", "/sse?channels=news", headers=hijack)
    with connection.getresponse() as answer:
        assert (answer.status, answer.headers["Access-Control-Allow-Origin"]) == (403, None)
    connection.close()
    assert server.connections.connections == {}


def test_a_cookie_is_nobodys_token(serve):
    server = serve(secret=SECRET)
    for cookie in (f"token={token()}", f"Authorization=Bearer {token()}", "session=x"):
        with pytest.raises(Refused) as caught:
            server.connect("/", {"Cookie": cookie})
        assert caught.value.status == 401


@pytest.mark.parametrize("rule", ["https://*.example.com", "https://*.*.example.com", "*.*", "https://**"])
def test_no_origin_takes_long_to_be_looked_at(rule):
    """Three wildcards and a header of a few kilobytes took a minute, in the hub."""
    rules = OriginRules([rule])
    began = time.process_time()
    for origin in ("https://" + "a." * 4000 + "x", "https://" + "a." * 120 + "!", "https://" + "a" * 280 + "@", "a" * 16000):
        rules.allows(origin, "x", "http")
    assert time.process_time() - began < 2


def test_an_origin_with_many_wildcards_stops_the_start():
    for given in ({"allowed_origins": ("https://*.*.*.test",)}, {"apps": (app(allowed_origins=("https://*.*.*.test",)),)}):
        with pytest.raises(ConfigurationError, match=r"at most 2 \* in an origin"):
            WebSocketServer(settings(**given))


# Signatures and tokens


def test_a_signature_is_worth_nothing_on_another_connection(serve):
    """Whoever has seen one on the wire of somebody else."""
    server = serve(apps=(app(),))
    with PusherClient(server.port) as owner, PusherClient(server.port) as thief:
        seen = channel_auth(KEY, APP_SECRET, owner.socket_id, "private-orders")
        assert owner.join("private-orders", auth=seen)["event"] == "pusher_internal:subscription_succeeded"
        assert thief.join("private-orders", auth=seen)["event"] == "pusher:subscription_error"
    with PusherClient(server.port) as later:
        assert later.join("private-orders", auth=seen)["event"] == "pusher:subscription_error"
    assert server.counters.auth_failures["channel"] == 2


@pytest.mark.parametrize(
    "header",
    [
        {"kid": "../../../../dev/null"},
        {"kid": "' UNION SELECT 'key"},
        {"kid": "http://127.0.0.1:1/key"},
        {"jku": "http://127.0.0.1:1/keys.json"},
        {"x5u": "http://127.0.0.1:1/certificate.pem"},
        {"jwk": {"kty": "oct", "k": "AAAA"}},
        {"x5c": ["AAAA"]},
    ],
)
def test_no_key_is_taken_from_where_a_token_says(header):
    verifier = TokenVerifier(AuthSettings(secret=SECRET))
    assert verifier.verify(token(headers=header)).id == "7", "what it says is not looked at"
    with pytest.raises(AuthenticationError):
        verifier.verify(token(headers=header, key="another secret, as long as it has to be to be one"))


def test_no_member_and_no_event_has_a_name_that_is_something_else_to_javascript(serve):
    """Others may keep by it what they know, in a plain object."""

    def rooms(server):
        server.channel("presence-room")(lambda user: {})

    server = serve(rooms, secret=SECRET)
    with server.connect(f"/?token={token('7')}") as client, server.connect(f"/?token={token('__proto__')}") as other:
        assert client.subscribe("presence-room")["event"] == "subscribed"
        assert other.subscribe("presence-room")["message"] == "A user's id cannot be __proto__."
        client.send("broadcast", {"channel": "presence-room", "message": {"event": "__proto__"}})
        assert client.receive()["message"] == "An event's name cannot be __proto__."


def test_a_token_that_demands_what_is_not_understood_is_refused():
    """RFC 7515, section 4.1.11: who does not understand what stands in `crit` must not take the token."""
    verifier = TokenVerifier(AuthSettings(secret=SECRET))
    for critical in (["b64"], ["exp"], [], "x"):
        with pytest.raises(AuthenticationError):
            verifier.verify(token(headers={"crit": critical, "b64": True}))


# One client's data on another's page


def test_what_a_member_says_of_itself_is_passed_on_as_data_and_adds_no_member(serve):
    evil = {"name": '"}},"x":{"</script><img src=x onerror=alert(1)>', "__proto__": {"admin": True}, "id": "1", "user_id": "1"}

    def rooms(server):
        @server.channel("presence-room")
        def join(user):
            return evil if user.id == "7" else {}

    server = serve(rooms, secret=SECRET)
    with server.connect(f"/?token={token('8')}") as watcher, server.connect(f"/?token={token('7')}") as client:
        watcher.subscribe("presence-room")
        client.subscribe("presence-room")
        assert watcher.receive()["data"]["user"] == {"id": "7", "info": evil}
        assert [member["id"] for member in server.get_presence("presence-room")] == ["8", "7"]


def test_a_connection_that_is_flooded_with_pings_costs_no_other_and_waits_for_no_memory(serve):
    """It reads none of the pongs: they are bounded like all that waits, and pings like all that comes."""
    server = serve(max_messages_per_second=None, max_outbox=65536)
    ping = b"\x89\xfd\x00\x00\x00\x00" + b"x" * 125
    with server.connect(receive_buffer=4096) as flood, server.connect() as other:
        with contextlib.suppress(OSError):
            while server.counters.slow_consumers == 0:
                flood.raw(ping * 200)
                gevent.sleep(0)
        other.send("ping")
        assert other.receive()["event"] == "pong"
        wait_until(lambda: len(server.connections.connections) == 1)


def test_many_subscriptions_that_are_refused_cost_the_one_who_asks(serve):
    """Subscribing is a message like any other: bounded by the second, and by connection, and by what a name may be."""
    server = serve(max_channels_per_connection=10, max_messages_per_second=50)
    with server.connect() as greedy, server.connect() as other:
        with contextlib.suppress(OSError):
            for number in range(2000):
                greedy.text(json.dumps({"event": "subscribe", "data": {"channel": f"c{number}"}}))
        wait_until(lambda: len(server.connections.connections) == 1)
        assert len(server.connections.channels) == 0
        other.send("ping")
        assert other.receive()["event"] == "pong"


# Other users of the machine


def test_what_workers_meet_over_is_for_their_user_alone(tmp_path):
    """Whoever can open one of these could speak to all clients, or have the server do what `alpha` can."""
    with contextlib.closing(Server(tmp_path)) as server:
        wait_until(lambda: len(server.pids) == 2, 60)
        found = [tmp_path / "run", *(tmp_path / "run").rglob("*")]
        sockets = [path for path in found if path.is_socket()]
        assert len(sockets) >= 4, "two that commands talk to, and two that the workers meet over"
        for path in found:
            mode = path.stat().st_mode & 0o777
            assert mode & 0o077 == 0 or path.parent.stat().st_mode & 0o077 == 0, f"{path}: {mode:o}"
        assert all(path.stat().st_mode & 0o077 == 0 for path in found if path.is_dir())


def test_the_way_to_the_next_process_has_no_name():
    """A socket with a name could be found, and connected to first, by others."""
    pipe, theirs = Pipe.pair()
    with contextlib.closing(theirs), contextlib.closing(pipe._sock):
        assert theirs.getsockname() == pipe._sock.getsockname() == ""
        assert not theirs.get_inheritable(), "only the one child that it is passed to has it"
